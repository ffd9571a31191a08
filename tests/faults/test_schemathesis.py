"""The document at /openapi.json against the real process: schemathesis reads it, and tries what it allows and forbids.

All of its checks, in four phases; at least 5,000 cases in all.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Row
from tests.support.servers import service

pytestmark = pytest.mark.faults

CASES = 5_000
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
ROOT = CONFIGURATION.parents[2]


def test_what_the_document_says_is_true_in_five_thousand_cases(tmp_path: Path, report: Callable[[Row], None]) -> None:
    with service() as server:
        ran = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("st")), "--no-color", "--config-file", str(CONFIGURATION)),
                *("run", f"{server.url}/openapi.json"),
                *("--exclude-operation-id-regex", "^watch_"),  # Streams of events have no end to wait for.
                *("--checks", "all", "--max-examples", "600", "--seed", "1", "--continue-on-failure", "--no-shrink"),
            ],
            capture_output=True,
            text=True,
            timeout=840,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.faults.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
        )
        assert "Traceback" not in server.log
    generated = re.search(r"([\d,]+) generated(?:, (\d+) found (\d+) unique failures)?", ran.stdout)
    assert generated is not None, ran.stdout + ran.stderr
    cases, failures = int(generated[1].replace(",", "")), int(generated[3] or 0)
    report(
        Row(
            *("schemathesis, all checks", f"{cases} cases", 0, 0, 0, 0),
            note=f"{failures} violations, {ran.stdout.count('Server error')} server errors",
        )
    )
    assert 0 == ran.returncode, ran.stdout[-20_000:]
    assert cases >= CASES
