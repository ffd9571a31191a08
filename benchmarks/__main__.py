"""``python -m benchmarks``: measures, prints, and writes ``benchmarks/results.json`` and ``docs/performance.md``."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import formats, plan, report, sizes
from benchmarks.load import LoadError, Wrk, WrkMissing

_RESULTS = Path(__file__).with_name("results.json")
_DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"


def main(
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds; each measures everything once.")] = 5,
    seconds: Annotated[int, typer.Option(min=1, max=60, help="Seconds for each measurement in a round.")] = 3,
    connections: Annotated[int, typer.Option(min=1, max=1024, help="Keep-alive clients.")] = 64,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, show_default=False, help="Where to write the JSON instead.")
    ] = None,
) -> None:
    """Measures the service beside what could stand in its place, in interleaved rounds."""
    console, err = Console(highlight=False), Console(stderr=True, highlight=False)
    found: dict[str, dict[str, list[float]]] = {}
    try:
        wrk = Wrk()
        machine = report.machine(wrk.version())
        with ExitStack() as stack, err.status("starting") as status:
            measured = sizes.measure()
            found["sizes"] = {name: [value] for name, value in measured.items()}
            found["formats"] = formats.measure(rounds)
            measurements = plan.measurements(stack, wrk, connections)
            for title in plan.run(measurements, rounds, seconds, found):
                status.update(title)
    except LoadError as error:
        err.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, WrkMissing) else 1) from None
    settings = {"rounds": rounds, "seconds": seconds, "connections": connections}
    results = report.results(measurements, found, machine, settings)
    report.show(results, console)
    report.write(results, output or _RESULTS)
    if output is None:
        _DOCUMENT.write_text(report.replace_section(_DOCUMENT.read_text(), results))
    console.print(f"Written to {output or 'benchmarks/results.json and docs/performance.md'}.")


if __name__ == "__main__":
    typer.run(main)
