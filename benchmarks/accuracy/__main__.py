"""``python -m benchmarks.accuracy``: measures, prints, and writes ``results.json`` and ``docs/accuracy.md``."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from benchmarks import report
from benchmarks.accuracy import databases, figures, formulas, libraries, monitoring, ours, tables
from benchmarks.accuracy.peer import Peer
from tests.support.servers import valkey

_RESULTS = Path(__file__).with_name("results.json")
_DOCUMENT = Path(__file__).parents[2] / "docs" / "accuracy.md"
_OPTIONAL = {
    "PostgreSQL": databases.postgresql,
    "Prometheus": monitoring.prometheus,
    "InfluxDB": monitoring.influxdb,
}


def main(
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, show_default=False, help="Where to write the JSON instead.")
    ] = None,
) -> None:
    """Compares means and standard deviations with the exact ones."""
    console, err = Console(highlight=False), Console(stderr=True, highlight=False)
    found = []
    with ExitStack() as stack, err.status("computing the exact results") as status:
        asked = figures.groups()
        exact = figures.exact_results(asked)
        for peer in _peers(stack):
            status.update(peer.name)
            found.append(figures.compare(peer, asked, exact))
    measured = {one["name"] for one in found}
    machine = report.machine("")
    results = {
        "measured_on": datetime.now(UTC).date().isoformat(),
        "machine": {name: machine[name] for name in ("processor", "system", "python", "valkey")},
        "missing": [name for name in _OPTIONAL if name not in measured],
        "peers": found,
    }
    tables.show(results, console)
    (output or _RESULTS).write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    if output is None:
        _DOCUMENT.write_text(tables.replace_section(_DOCUMENT.read_text(), results))
    console.print(f"Written to {output or 'benchmarks/accuracy/results.json and docs/accuracy.md'}.")


def _peers(stack: ExitStack) -> Iterator[Peer]:
    """Yields the programs, this service first; starts the servers that keep running, which ``stack`` stops."""
    yield stack.enter_context(ours.meanwhile())
    yield from reversed(formulas.peers())
    yield from libraries.peers()
    yield databases.sqlite()
    yield from databases.duckdb_functions()
    yield stack.enter_context(databases.incrbyfloat(stack.enter_context(valkey("--appendonly", "no"))))
    for optional in _OPTIONAL.values():
        peer = optional()
        if peer is not None:
            yield peer


if __name__ == "__main__":
    typer.run(main)
