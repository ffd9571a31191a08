"""The grammar of InfluxDB line protocol: the text of a body into lines, and a line into series, fields and timestamp.

One regular expression finds the parts of all lines in one pass: those of a usual line, which has numbers only and no
escapes, or any other line as a whole, which other expressions then read by the whole grammar. All quantifiers are
possessive or in atomic groups, so no text makes one try twice. (A possessive quantifier of a group with alternatives
matches too much before CPython 3.11.5, which Debian 12 and Raspberry Pi OS do not have: python/cpython#106052.)

The package line-protocol-parser, in C, was measured too: it needs a call for each line and reads the tags of each
again, which with the names of the streams takes longer, and of duplicate fields it takes the last silently.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate

_PIECE = 16 * 1024  # Characters of lines that one call of an expression reads.
_MAX_LINE = 64 * 1024  # Characters of a point; InfluxDB's longest string is as long.
_MAX_SERIES = 1024  # Characters: more than fit into a name.

_NAME = r"[^ ,=\\\"\t\r\n]++"
_INTEGER, _FLOAT = r"[-+]?+[0-9]++", r"[-+.0-9eE]++"  # What float() refuses of the latter is found when it is called.
_STAMP = r"-?+[0-9]{1,19}+"
_LINE = re.compile(  # A usual line in the first five groups, or any other in the last one.
    rf"^(?:([^ ,=\\\"#\t\r\n][^ \\\"\t\r\n]*+ {_NAME})=(?:({_INTEGER})[iu]|({_FLOAT}))"
    rf"((?>(?:,{_NAME}=(?:{_INTEGER}[iu]|{_FLOAT}))*))(?: ({_STAMP}))?\r?+|(.*))$",
    re.MULTILINE,
)
_TEXT = r"(?>(?:[^\\\n,= ]|\\[^\n])+)"
_MEASUREMENT = re.compile(r"(?>(?:[^\\\n, ]|\\[^\n])+)")
_TAG = re.compile(rf",({_TEXT})=({_TEXT})")
_POINT = re.compile(
    r" *+((?>(?:[^\\\r\n ]|\\[^\r\n])+))"
    r" ++((?>(?:\"(?>(?:[^\"\\]|\\.)*)\"|[^\"\\\r\n ]|\\[^\r\n])+))"
    r"(?: ++(-?+[0-9]{1,19}+))? *+\r?+(?=\n|\Z)",
    re.DOTALL,
)
_FIELD = re.compile(rf"({_TEXT})=(\"(?>(?:[^\"\\]|\\.)*)\"|[^\",=\\]++)(?:,(?!\Z)|\Z)", re.DOTALL)
_NUMERIC = re.compile(rf"({_INTEGER})[iu]|{_FLOAT}")
_BOOLEANS = frozenset({"t", "T", "true", "True", "TRUE", "f", "F", "false", "False", "FALSE"})

_FORM = "expected measurement[,tag=value...] field=value[,field=value...] [timestamp]"

Fields = list[tuple[str, str]]


class BadPoint(Exception):
    """A line that is not a point. The message says what was expected."""


def pieces(text: str) -> Iterator[tuple[int, list[tuple[str, ...]], Callable[[int], int]]]:
    """The lines, some at a time: the number of the first, the groups of each, and where in the text a line starts.

    The groups are series and field, an integer or a decimal, the other fields, and the timestamp; or in the last one a
    line that is not usual. So no call of the expression takes long, and too long a line is refused before it is read.
    """
    first, at = 1, 0
    while at <= len(text):
        end = text.rfind("\n", at, at + _PIECE)
        if end < 0:
            end = text.find("\n", at)
        end = len(text) if end < 0 else end
        piece = text[at:end]
        if end - at > _MAX_LINE:  # It is a single line.
            lines: list[tuple[str, ...]] = [("", "", "", "", "", "" if piece[0] == "#" else "-")]
        else:
            lines = _LINE.findall(piece)
        yield first, lines, _starts(first, at, piece)
        first, at = first + len(lines), end + 1


def _starts(first: int, at: int, piece: str) -> Callable[[int], int]:
    """Where in the text each line of a piece starts, computed at the first call."""
    starts = cache(lambda: [*accumulate(map(len, piece.split("\n")), _next_start, initial=at)])
    return lambda number: starts()[number - first]


def _next_start(start: int, length: int) -> int:
    return start + length + 1


def fields_of(more: str) -> Fields:
    """The fields in the fourth group of a usual line: names and numbers."""
    return [(name, value.rstrip("iu")) for name, value in (pair.split("=") for pair in more[1:].split(","))]


def parse(line: str, text: str, start_of: Callable[[int], int], number: int) -> tuple[str, Fields, str, int]:
    """Series, numeric fields and timestamp of a point in the whole grammar, and how many line feeds its strings have.

    ``line`` is what stands in the text up to the next line feed. Raises ``BadPoint``.
    """
    point = _POINT.match(line) or ('"' in line and _point_at(text, start_of(number))) or None
    if point is None:
        raise BadPoint(_FORM)
    series, fields, stamp = point.groups("")
    numeric: Fields = []
    at = 0
    while at < len(fields):
        field = _FIELD.match(fields, at)
        if field is None:
            raise BadPoint(_FORM)
        key, value = field.groups()
        if _NUMERIC.fullmatch(value):
            numeric.append((_unescape(key), value.rstrip("iu")))
        elif not value.startswith('"') and value not in _BOOLEANS:
            raise BadPoint("expected a number, a boolean or a string in quotes as the value of a field")
        at = field.end()
    return series, numeric, stamp, point[0].count("\n")


def _point_at(text: str, start: int) -> re.Match[str] | None:
    """The point that starts there and may have line feeds in its strings, if it is not too long."""
    point = _POINT.match(text, start, start + _MAX_LINE)
    return point if point is None or point.end() < start + _MAX_LINE or point.end() == len(text) else None


def check_once(fields: Fields) -> None:
    """Raises ``BadPoint`` if a field is there twice."""
    if len({field for field, _ in fields}) < len(fields):
        raise BadPoint("expected every field once")


def parse_series(series: str) -> tuple[str, list[tuple[str, str]]]:
    """The measurement and the tags of a series. Raises ``BadPoint``."""
    measurement = _MEASUREMENT.match(series)
    if measurement is None or len(series) > _MAX_SERIES:
        raise BadPoint(_FORM)
    tags = []
    at = measurement.end()
    while at < len(series):
        tag = _TAG.match(series, at)
        if tag is None:
            raise BadPoint(_FORM)
        tags.append((_unescape(tag[1]), _unescape(tag[2])))
        at = tag.end()
    if len({key for key, _ in tags}) < len(tags):
        raise BadPoint("expected every tag once")
    return re.sub(r"\\([, ])", r"\1", measurement[0]), tags


def _unescape(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text) if "\\" in text else text
