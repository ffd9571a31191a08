"""``python -m benchmarks``: measures, prints, and writes ``benchmarks/results.json``."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import plan, report, targets
from benchmarks.load import LoadError, Wrk, WrkMissing

_RESULTS = Path(__file__).with_name("results.json")


def main(
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds; each measures everything once.")] = 3,
    seconds: Annotated[int, typer.Option(min=1, max=60, help="Seconds for each measurement in a round.")] = 3,
    connections: Annotated[int, typer.Option(min=1, max=1024, help="Keep-alive clients.")] = 64,
    output: Annotated[
        Path, typer.Option(dir_okay=False, show_default=False, help="Where to write the JSON.")
    ] = _RESULTS,
) -> None:
    """Measures the service beside a conventional one and beside bare uvicorn, in interleaved rounds."""
    console, err = Console(highlight=False), Console(stderr=True, highlight=False)
    try:
        wrk = Wrk(connections)
        machine = report.machine(wrk.version())
        with ExitStack() as stack:
            measurements = plan.measurements(
                stack.enter_context(targets.meanwhile()),
                stack.enter_context(targets.conventional()),
                stack.enter_context(targets.bare()),
            )
            with err.status("starting") as status:
                for title in plan.run(measurements, wrk, rounds, seconds):
                    status.update(title)
    except LoadError as error:
        err.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, WrkMissing) else 1) from None
    settings = {"rounds": rounds, "seconds": seconds, "connections": connections}
    found = report.results(measurements, machine, settings)
    report.show(found, console)
    report.write(found, output)
    console.print(f"Written to {output.name}.")


if __name__ == "__main__":
    typer.run(main)
