"""The live table of streams in a terminal: ``meanwhile watch``."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from meanwhile.cli.http_client import Client, Unsent
from meanwhile.cli.reply_checks import printable

_SMOOTHING = 5.0  # Seconds over which the rate is averaged.
_PAUSES = (0.5, 1.0, 2.0, 5.0)  # Seconds before each attempt to reconnect.
_NUMBERS_SHOWN = 4
_WIDE = 124  # Characters per line that all columns need.


@dataclass
class Row:
    """The last known state of a stream, when it arrived, and readings per second."""

    state: dict[str, Any]
    at: float
    rate: float = 0.0


@dataclass
class Board:
    """The last known states of the streams that start with ``prefix``, and whether they are current."""

    prefix: str | None = None
    rows: dict[str, Row] = field(default_factory=dict)
    is_connected: bool = False
    seen: set[str] = field(default_factory=set)

    def take(self, event: str, data: dict[str, Any], now: float) -> None:
        """Updates the board with an event; ``now`` is in seconds."""
        name = data.get("stream", "")
        if event == "state":
            self.seen.add(name)
            known = self.rows.get(name)
            row = Row(data, now, 0.0 if known is None else known.rate)
            if known is not None and data["count"] > known.state["count"]:
                current = (data["count"] - known.state["count"]) / max(now - known.at, 0.2)
                row.rate = current if known.rate == 0 else known.rate + 0.2 * (current - known.rate)
            self.rows[name] = row
        elif event == "deleted":
            self.rows.pop(name, None)
        elif event == "ready" and not data["resumed"]:
            self.rows = {name: row for name, row in self.rows.items() if name in self.seen}

    def table(self, now: float, width: int, height: int | None = None) -> Table:
        """The streams sorted by name, as many as fit into ``height`` lines."""
        table = Table(box=None, header_style="dim", pad_edge=False)
        # If the table is too wide, rich makes the columns without no_wrap narrower, the widest ones first.
        table.add_column("stream")
        for title in ("average", "latest"):
            table.add_column(title, justify="right", max_width=max(12, width // 6))
        spread = ("minimum", "maximum", "deviation") if width >= _WIDE else ()
        for title in ("count", "per s", "age"):
            table.add_column(title, justify="right", no_wrap=True, min_width=len(title))
        for title in spread:
            table.add_column(title, justify="right", max_width=12)
        names = sorted(self.rows)
        fitting = len(names) if height is None else max(1, height - 3)
        for name in names[:fitting]:
            row = self.rows[name]
            state = row.state
            silence = now - row.at
            rate = 0.0 if silence > 2 * _SMOOTHING and silence * row.rate > _SMOOTHING else row.rate
            table.add_row(
                _one_line(name),
                _one_line(shorten(state["average"]), style="bold"),
                _one_line(shorten(state.get("latest"))),
                f"{state['count']:,}",
                f"{rate:.2f}" if rate >= 0.005 else "-",
                age(now - datetime.fromisoformat(state["last_reading_at"]).timestamp()),
                *(_one_line(shorten(state["standard_deviation" if one == "deviation" else one])) for one in spread),
            )
        if len(names) > fitting:
            table.add_row(Text(f"and {len(names) - fitting} more", style="dim"))
        if not self.is_connected:
            table.caption = "not connected, reconnecting"
        elif not names:
            nothing = "no streams yet: meanwhile demo sends some readings"
            table.caption = f"no stream names start with {self.prefix}" if self.prefix else nothing
        return table


def _one_line(text: str, style: str = "") -> Text:
    """A text that is cut where its column ends."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def shorten(value: Any) -> str:
    """A value as short text.

    >>> shorten(21.496234), shorten({"t": 1.5, "k": [1.0, 2.0]}), shorten(None)
    ('21.4962', 't 1.5, k [1, 2]', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{printable(name)} {shorten(part)}" for name, part in value.items())
    if isinstance(value, list):
        more = f", … {len(value)}" if len(value) > _NUMBERS_SHOWN else ""
        return f"[{', '.join(map(shorten, value[:_NUMBERS_SHOWN]))}{more}]"
    return f"{value:.6g}"


def age(seconds: float) -> str:
    """A duration in its largest fitting unit.

    >>> age(3.2), age(150), age(864000)
    ('3 s', '2 min', '10 d')
    """
    left = max(0.0, seconds)
    for size, unit in ((60, "s"), (60, "min"), (24, "h"), (365.25, "d")):
        if left < size:
            return f"{int(left)} {unit}"
        left /= size
    return f"{int(left)} y"


def once(client: Client, prefix: str | None, console: Console) -> None:
    """Prints the current table. Raises ``Unsent``."""
    board = Board(prefix, is_connected=True)
    now = datetime.now(UTC).timestamp()
    for event, data in client.events(prefix):
        board.take(event, data, now)
        if event == "ready":
            break
    else:
        raise Unsent("The connection ended before all streams were there. Run the command again.", is_temporary=True)
    console.print(board.table(now, console.width))


def forever(client: Client, prefix: str | None, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Shows the table and keeps it current until interrupted; reconnects when the connection is lost."""
    board = Board(prefix)
    failures = 0

    def render() -> Table:
        return board.table(datetime.now(UTC).timestamp(), console.width, console.height)

    with Live(get_renderable=render, console=console, refresh_per_second=2, screen=console.is_terminal):
        while True:
            try:
                board.seen = set()
                for event, data in _current(client.events(prefix), board):
                    failures = 0
                    board.take(event, data, datetime.now(UTC).timestamp())
            except Unsent as error:
                if not error.is_temporary:
                    raise
            board.is_connected = False
            sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
            failures += 1


def _current(events: Iterator[tuple[str, Any]], board: Board) -> Iterator[tuple[str, Any]]:
    for event in events:
        board.is_connected = True
        yield event
