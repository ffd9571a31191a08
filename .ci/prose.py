"""Finds phrases that a native technical writer would not use, in the documentation and in the texts of the code.

The phrases are those in ``prose.txt`` and those of some checks of proselint. In Python, it checks docstrings, comments
and string literals of more than one word, so also help texts, log messages and problem texts; in Markdown and HTML,
everything but code and tags; in JavaScript, CSS and Lua, comments and string literals; in other files, comments.

    python .ci/prose.py             checks the project
    python .ci/prose.py FILE ...    checks these files, relative to the project
"""

import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from proselint.checks import __register__
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).resolve().parent.parent
GLOBS = (
    *("README.md", "docs/*.md", "service/meanwhile/**/*.*", "Makefile", "Dockerfile", "docker-compose.yml"),
    *("pyproject.toml", ".ci/*.py", ".ci/run", ".ci/uv.txt", ".pre-commit-config.yaml"),
)
LEFT_OUT = re.compile(r"/(uplot|__pycache__)/|\.(svg|pyc)$")
# Without those about typography, names and dates, and those that misunderstand technical terms.
CHECKS = dict.fromkeys(
    [
        *("archaism", "cliches", "hedging", "industrial_language", "lexical_illusions", "malapropisms"),
        *("mixed_metaphors", "mondegreens", "needless_variants", "nonwords", "oxymorons", "redundancy"),
        *("spelling.misc", "uncomparables", "misc.phrasal_adjectives", "misc.pretension"),
    ],
    True,
)
CODE = r"``[^`]*``|`[^`]*`"
GAP = "\u00b7"  # Takes the place of code, so that no phrase reaches across it.

# The texts of a file, as lines with their numbers. An empty line with the number 0 separates two texts.
Lines = list[tuple[int, str]]


class Finding(NamedTuple):
    """A phrase, its place, and what to write instead."""

    path: str
    line: int
    phrase: str
    advice: str


def phrases(listed: str) -> list[tuple[re.Pattern[str], str]]:
    """The patterns of a word list, with the advice."""
    found = []
    for line in listed.splitlines():
        if line and not line.startswith("#"):
            phrase, _, advice = line.partition(" -> ")
            words = phrase.replace(" ", r"(?:[ \t]+|[ \t]*\n[ \t]*)")  # Not an empty line.
            found.append((re.compile(rf"(?<![\w-])(?:{words})(?![\w-])", re.IGNORECASE), advice))
    return found


def without(pattern: str, text: str) -> str:
    """The text with a gap instead of each match; line breaks stay."""
    return re.sub(pattern, lambda match: GAP + "\n" * match[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)


def of_markdown(text: str) -> Lines:
    """Everything but code and the targets of links."""
    text = without(r"^ *```.*?^ *```$", text)
    return [*enumerate(without(r"\]\([^)]*\)|<!--.*?-->|\|", without(CODE, text)).splitlines(), start=1)]


def of_html(text: str) -> Lines:
    """The texts between tags and in attributes."""
    text = re.sub(r'(?<= )(?:title|placeholder|aria-label|alt)="([^"]*)"', r">\1<", text)
    return [*enumerate(without(r"<[^>]*>", text).splitlines(), start=1)]


def of_script(text: str) -> Lines:
    """The comments and the longer strings of JavaScript, CSS or Lua."""
    found: Lines = []
    comment = r"(?:^|(?<=\s))(?://|--)(?P<comment>[^\n]*)|/\*(?P<block>.*?)\*/"
    string = r"\"(?P<string>[^\"\n]* [^\"\n]*)\"|`(?P<template>[^`]* [^`]*)`"
    previous = -1
    for match in re.finditer(f"{comment}|{string}", text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, match.start()) + 1
        if not (match.lastgroup == "comment" and line == previous + 1):
            found.append((0, ""))
        content = without(rf"\$\{{[^}}]*\}}|{CODE}", re.sub(r"(?m)^ *\* ?", "", match[match.lastgroup or 0]))
        found += enumerate(content.split("\n"), start=line)
        previous = line if match.lastgroup == "comment" else -1
    return found


def of_python(text: str) -> Lines:
    """Docstrings, comments, and string literals of more than one word."""
    found: Lines = []
    previous = (False, -1)  # Whether it was a comment, and its last line.
    depth = 0  # Of f-strings, which are several tokens from Python 3.12 on.
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        depth += {"FSTRING_START": 1, "FSTRING_END": -1}.get(kind, 0)
        if kind == "OP" and depth == 0:
            previous = (False, -1)
        if kind == "COMMENT":
            content = without(rf"{CODE}|\b(noqa|type: ignore)\b.*?(#|$)", token.string.lstrip("# "))
        elif kind == "FSTRING_MIDDLE" or (kind == "STRING" and depth == 0):
            content = re.sub(r"^\w*(\"\"\"|'''|\"|')|(\"\"\"|'''|\"|')$", "", token.string)
            content = without(r"^ *(>>>|\.\.\.).*?$|\\n|\{[^{}]*\}", without(CODE, content))
        else:
            continue
        is_comment, line = kind == "COMMENT", token.start[0]
        if previous[0] is not is_comment or line > previous[1] + 1:
            found.append((0, ""))
            if kind == "STRING" and " " not in content.strip():
                content = GAP
        if kind == "FSTRING_MIDDLE":
            content = GAP + content  # After the start, or after a replacement field.
        found += enumerate(content.split("\n"), start=line)
        previous = (is_comment, token.end[0])
    return found


def of_comments(text: str) -> Lines:
    """The comments after ``#``, and the help of a Makefile after ``##``."""
    comments = (re.search(r"(?:^|\s)#+ (.*)", line) for line in text.splitlines())
    return [(line, without(CODE, found[1]) if found else "") for line, found in enumerate(comments, start=1)]


READERS: dict[str, Callable[[str], Lines]] = {
    ".md": of_markdown,
    ".html": of_html,
    ".py": of_python,
    **dict.fromkeys((".js", ".css", ".lua"), of_script),
}


def findings(path: str, text: str, listed: list[tuple[re.Pattern[str], str]]) -> Iterator[Finding]:
    """What the word list and proselint find in a file."""
    lines = READERS.get(Path(path).suffix, of_comments)(text)
    prose = "\n".join(line for _, line in lines)

    def finding(start: int, phrase: str, advice: str) -> Finding:
        return Finding(path, lines[prose.count("\n", 0, start)][0], " ".join(phrase.split()), advice)

    for pattern, advice in listed:
        for match in pattern.finditer(prose):
            yield finding(match.start(), match[0], advice)
    if prose.strip():
        for result, _ in LintFile(path, prose).lint({"max_errors": 1_000, "checks": CHECKS}):
            start, end = result.span[0] - 1, result.span[1] - 1  # proselint puts a line break before the text.
            phrase = prose[start:end]
            if not (result.check_path == "lexical_illusions" and re.search(r"\n\s*\n|  |\d", phrase)):
                yield finding(start, phrase, " ".join(result.message.split()))


def main(arguments: list[str]) -> int:
    """Prints the findings, and returns 1 if there are any."""
    CheckRegistry().register_many(__register__)
    listed = phrases((ROOT / ".ci" / "prose.txt").read_text())
    names = [str(path.relative_to(ROOT)) for glob in GLOBS for path in ROOT.glob(glob)]
    names = arguments or [name for name in names if not LEFT_OUT.search(name)]
    found: list[Finding] = []
    for name in names:
        found += findings(name, (ROOT / name).read_text(), listed)
    for path, line, phrase, advice in sorted(set(found)):
        sys.stdout.write(f'{path}:{line}: "{phrase}": {advice}\n')
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
