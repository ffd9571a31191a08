"""The table of faults: every test that breaks something adds its row, and the run ends with all of them.

The rule for every row: acknowledged <= counted <= acknowledged + unknown; and after everything unknown was sent again
with its key, counted = sent. ``Row.check`` holds it, so no test can forget to.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tests.faults.results import COLUMNS, cells, machine, merged
from tests.support.processes import cold

ROWS = pytest.StashKey[list["Row"]]()


@dataclass(frozen=True)
class Row:
    """What a fault did. ``recovery`` is in seconds, None where there is nothing to recover from."""

    fault: str
    load: str
    acknowledged: int
    lost: int
    doubled: int
    unknown: int
    recovery: float | None = None
    note: str = ""

    def check(self) -> None:
        """Nothing acknowledged was lost, and nothing was counted twice."""
        assert (0, 0) == (self.lost, self.doubled), self


@pytest.fixture(autouse=True, scope="module")
def _cold() -> Iterator[None]:
    """Services are started as a user starts them: what is measured of their memory and their start is real."""
    with cold():
        yield


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    """Adds a row to the table, and checks it."""

    def add(row: Row) -> None:
        request.config.stash.setdefault(ROWS, []).append(row)
        row.check()

    return add


def pytest_terminal_summary(config: pytest.Config) -> None:
    """Prints the table, and writes it to the file that FAULTS_JSON names; ``results.py`` makes the README's of it."""
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*cells(asdict(row)))
    Console(width=180).print(table)
    if path := os.environ.get("FAULTS_JSON"):
        result = {"machine": machine(), "command": "make test-faults", "rows": [asdict(row) for row in rows]}
        Path(path).write_text(json.dumps(merged(Path(path), result), indent=2) + "\n")
