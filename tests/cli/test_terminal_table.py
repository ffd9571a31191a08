"""The table in a terminal, and the sensors that play for it."""

import random
import uuid
from collections.abc import Iterator

import pytest
from rich.console import Console

from meanwhile.cli.demo_sensors import DAY, readings
from meanwhile.cli.terminal_table import Board
from meanwhile.core.readings import Limits, collect
from meanwhile.core.stream_names import is_name
from tests.support import processes
from tests.support.event_stream import post
from tests.support.servers import Service, Valkey, clean_environment, eventually, meanwhile, service


@pytest.fixture(scope="module")
def running(shared_valkey: Valkey) -> Iterator[Service]:
    with service(MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=f"test-{uuid.uuid4().hex}") as started:
        yield started


START = 1767225600.0  # 2026-01-01T00:00:00Z


def state(name: str, count: int) -> dict[str, object]:
    value = {"average": 1.5, "latest": 1.25, "minimum": 1.0, "maximum": 2.0, "standard_deviation": None}
    return {"stream": name, "count": count, "last_reading_at": "2026-01-01T00:00:00.000Z"} | value


def shown(board: Board, width: int = 140, height: int | None = None) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(board.table(START + 3, width, height))
    return capture.get()


def test_the_board_shows_what_there_is_and_forgets_what_is_gone() -> None:
    board = Board(is_connected=True)
    board.take("state", state("a", 1), START)
    board.take("state", state("b", 1), START)
    board.take("state", state("a", 3), START + 1)
    assert "2.00" in shown(board)
    assert "3 s" in shown(board)
    board.take("deleted", {"stream": "b"}, 2.0)
    assert {"a"} == board.rows.keys()
    board.seen = set()
    board.take("state", state("c", 1), 3.0)
    board.take("ready", {"streams": 1, "resumed": False}, 3.0)
    assert {"c"} == board.rows.keys()
    board.is_connected = False
    assert "not connected" in shown(board)


def test_the_board_says_what_does_not_fit() -> None:
    board = Board(is_connected=True)
    for number in range(100):
        board.take("state", state(f"s/{number:03}", 1), 0.0)
    assert "and 93 more" in shown(board, height=10)
    assert "minimum" not in shown(board, width=80)
    assert all(len(line) <= 80 for line in shown(board, width=80).splitlines())


def test_the_board_shows_the_latest_value_beside_the_average() -> None:
    board = Board(is_connected=True)
    latest: dict[str, object] = {
        "number": 21.4,
        "array": [1.0, 2.5],
        "object": {"t": 7.0},
        "unknown": None,
        "zero": 0.0,
    }
    for name, value in latest.items():
        board.take("state", state(name, 1) | {"latest": value}, START)
    lines = {line.split()[0]: line for line in shown(board, width=80).splitlines()}
    assert ["stream", "average", "latest", "count", "per", "s", "age"] == lines["stream"].split()
    for name, text in {"number": "21.4", "array": "[1, 2.5]", "object": "t 7", "unknown": "-", "zero": "0"}.items():
        assert f" 1.5 {text} 1 - 3 s" in " ".join(lines[name].split())


@pytest.mark.parametrize("width", [60, 80, 124, 160])
def test_long_names_and_wide_values_leave_room_for_the_other_columns(width: int) -> None:
    board = Board(is_connected=True)
    wide = {name: [1.234567e-5] * 9 for name in ("average", "latest", "minimum", "maximum", "standard_deviation")}
    board.take("state", state("plant/" + "a" * 200, 12_345_678) | wide, START)
    head, line = shown(board, width).splitlines()
    assert max(len(head), len(line)) <= width
    assert "12,345,678      -  3 s" in line
    assert "latest" in head


def test_the_sensors_of_the_demo_send_what_the_service_takes() -> None:
    noise = random.Random(7)
    seen: dict[str, object] = {}
    for at in range(0, int(DAY), 601):
        for name, values in readings(float(at), noise).items():
            assert name.startswith("demo/")
            assert is_name(name)
            shape = collect(values, 0, 0, Limits()).shape
            assert seen.setdefault(name, shape) == shape
    assert len(seen) >= 5


def test_watch_once_prints_what_the_demo_sent(running: Service) -> None:
    post(running.url, "other", 1.0)
    played = meanwhile("demo", "--seconds", "1", "--url", running.url)
    assert (0, "") == (played.returncode, played.stderr)
    assert "readings sent" in played.stdout
    watched = meanwhile("watch", "demo/", "--once", "--url", running.url)
    assert (0, "") == (watched.returncode, watched.stderr)
    assert "demo/house/power" in watched.stdout
    assert "other" not in watched.stdout


def test_watch_says_what_is_wrong(running: Service) -> None:
    away = meanwhile("watch", "--once", "--url", "http://127.0.0.1:1")
    assert (1, "Cannot connect to the service at http://127.0.0.1:1.\n") == (away.returncode, away.stderr)
    refused = meanwhile("watch", "a*", "--url", running.url)
    assert 1 == refused.returncode
    assert refused.stderr.startswith("422")


def test_watch_goes_on_when_the_service_comes_back(shared_valkey: Valkey) -> None:
    with service(MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=f"test-{uuid.uuid4().hex}") as running:
        post(running.url, "before", 1.0)
        with (running.data_dir / "watched").open("w") as output:
            watching = processes.start(
                *("watch", "--url", running.url),
                stdout=output,
                stderr=output,
                env=clean_environment() | {"COLUMNS": "120", "LINES": "20", "FORCE_COLOR": "1", "TERM": "xterm"},
            )
        try:

            def screen() -> str:
                return (running.data_dir / "watched").read_text()

            eventually(lambda: "before" in screen())
            running.stop()
            eventually(lambda: "not connected" in screen())
            running.start(running.port)
            post(running.url, "after", 1.0)
            eventually(lambda: "after" in screen())
        finally:
            watching.send_signal(2)
            assert 0 == watching.wait(10)
