"""The table of faults in ``docs/reliability.md``, made from what runs of all of them measured.

FAULTS_JSON=tests/faults/results.json make test-faults && .venv/bin/python -m tests.faults.results
"""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meanwhile.storage.valkey_server import server_binary

RESULTS = Path(__file__).with_name("results.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
COLUMNS = ("fault", "load", "acknowledged", "lost", "doubled", "unknown", "recovered in", "seen")
_BLOCK = re.compile(r"<!-- faults -->\n.*?<!-- /faults -->", re.DOTALL)


def machine() -> str:
    """What the figures depend on, in words."""
    version = subprocess.run([str(server_binary()), "--version"], capture_output=True, text=True, check=False).stdout
    valkey = re.search(r"v=(\S+)", version)
    cores = os.cpu_count()
    return (
        f"{cores} cores ({platform.machine()}), {platform.system()} {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}, Valkey {valkey[1] if valkey else 'of another kind'}"
    )


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table, as text."""
    recovery = "" if row["recovery"] is None else f"{row['recovery']:.2f} s"
    numbers = [f"{row[name]:,}" for name in ("acknowledged", "lost", "doubled", "unknown")]
    return [row["fault"], row["load"], *numbers, recovery, row["note"]]


def merged(file: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """``result``, and what ``file`` holds of faults that were not measured again: a run may be of a part only."""
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    rows = {(row["fault"], row["load"]): row for row in [*before, *result["rows"]]}
    return {**result, "rows": list(rows.values())}


def block(result: Mapping[str, Any]) -> str:
    """What stands in the document between the markers."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, result["rows"])]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"<!-- faults -->\nMeasured on {result['machine']}, by `{result['command']}`:\n\n{table}\n<!-- /faults -->"


def with_block(readme: str, result: Mapping[str, Any]) -> str:
    """The document with this result in its place."""
    return _BLOCK.sub(lambda _: block(result), readme, count=1)


if __name__ == "__main__":
    DOCUMENT.write_text(with_block(DOCUMENT.read_text(), json.loads(RESULTS.read_text())))
