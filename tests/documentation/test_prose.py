"""The prose linter of ``make lint``: it finds planted phrases with their lines, and leaves code alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytest.importorskip("proselint", reason="proselint cannot be installed on this system")

PLANTED = {
    "module.py": (
        '''"""Waits for
ever."""

import anew  # Whoever imports it.

upon = f"shall {anew} wait beside"  # noqa: S101  # A stream of
# its own: ``shall`` is code.
print("so many " "seconds", "for", "ever")
''',
        [
            '1: "for ever": permanently',
            '4: "Whoever": anyone who',
            '6: "beside": next to',
            '6: "of its own": separate',
            '6: "shall": must',
            '8: "so many seconds": this many',
        ],
    ),
    "page.md": (
        "# Shall\n\n```sh\nshall\n```\n\nCode `shall`, and the\nthe rest: for\n\never\n",
        ['1: "Shall": must', '7: "the the": There\'s a lexical illusion'],
    ),
    "page.html": ('<p title="shall we" class="upon">for</p>\n<p>ever, upon</p>', ['1: "shall": must', '2: "upon": on']),
    "script.js": (
        'let upon; // It waits for\n// ever.\nf(`so ${1} many`, "shall we"); /* a\n lest */\n',
        ['1: "for ever": permanently', '3: "shall": must', '4: "lest": so that'],
    ),
    "script.lua": ("-- Whilst\nlocal shall = 1 - 2 -- upon\n", ['1: "Whilst": while', '2: "upon": on']),
    "Makefile": ("run: shall  ## Run it anew\n", ['1: "anew": again']),
}


def lint(*files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / ".ci" / "prose.py", *files], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("name", PLANTED)
def test_planted_phrases_are_found_in_texts_and_not_in_code(tmp_path: Path, name: str) -> None:
    content, expected = PLANTED[name]
    (tmp_path / name).write_text(content)
    ran = lint(tmp_path / name)
    lines = [line.removeprefix(f"{tmp_path / name}:") for line in ran.stdout.splitlines()]
    assert (1, "") == (ran.returncode, ran.stderr)
    missing = [one for one in expected if not any(line.startswith(one) for line in lines)]
    surplus = [line for line in lines if not line.startswith(tuple(expected)) and "archaic" not in line]
    assert ([], []) == (missing, surplus)


def test_plain_prose_has_no_findings(tmp_path: Path) -> None:
    (tmp_path / "plain.md").write_text("The service counts every reading once.\n")
    ran = lint(tmp_path / "plain.md")
    assert (0, "", "") == (ran.returncode, ran.stdout, ran.stderr)
