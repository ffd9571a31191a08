"""InfluxDB line protocol: ``measurement,tag=value field=1.5,other=2i 1767225600000000000``.

Every numeric field is a reading; strings and booleans are skipped. ``line_protocol_names.py`` names its stream. A point
is good or bad as a whole, and a bad one says nothing about the others: what comes out is all that the good ones hold,
and what is wrong with the others.

One regular expression finds the parts of all lines in one pass: those of the usual line, which has numbers only and no
escapes, or any other line as a whole, which is then read by others that know the whole grammar. All quantifiers are
possessive or in atomic groups, so no text makes one try twice. (A possessive quantifier of a group with alternatives
matches too much before CPython 3.11.5, which Debian 12 and Raspberry Pi OS do not have: python/cpython#106052.) Numbers
and times stay text until everything is sorted by stream, and become numbers a column at a time; ``float`` would take
``1_000`` and ``nan``, but the expression does not. What a series (measurement and tags) and a field are named is worked
out once and kept from one body to the next, if it is short.

The package line-protocol-parser, in C, was measured too: it needs a call for each line and reads the tags of each anew,
which with the names of the streams takes longer, and of a field given twice it takes the last without a word.
"""

import re
from collections.abc import Callable, Collection, Iterator
from functools import cache, lru_cache
from itertools import accumulate
from math import nan
from typing import Any, NamedTuple

from meanwhile.core import times
from meanwhile.core.errors import TooMany
from meanwhile.core.exact_sums import LARGEST, SMALLEST
from meanwhile.core.readings import Limits, Readings
from meanwhile.core.stream_names import is_name
from meanwhile.formats import columns
from meanwhile.formats.columns import Columns, Gathered, Misplaced
from meanwhile.formats.line_protocol_names import name_of

# What a unit of a timestamp is in nanoseconds. InfluxDB 1 writes some as n, u, m and h.
PRECISIONS = {
    "ns": 1,
    "n": 1,
    "us": 10**3,
    "u": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_MILLISECOND = 10**6
_STRETCH = 16 * 1024  # Characters of lines that one call of an expression looks at.
_LONGEST_LINE = 64 * 1024  # Characters of a point; InfluxDB's longest string is as long.
_LONGEST_SERIES = 1024  # Characters: more than fit into a name.
_KEPT = 384  # Characters of a series and a field whose stream is remembered.

_NAME = r"[^ ,=\\\"\t\r\n]++"
_INTEGER, _FLOAT = r"[-+]?+[0-9]++", r"[-+.0-9eE]++"  # What float() refuses of the latter is found when it is called.
_STAMP = r"-?+[0-9]{1,19}+"
_LINE = re.compile(  # The usual line in four groups, or any other in the last one.
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
_TIME = "expected a timestamp from the year 1 to 9999, in the unit of precision"
_DOMAIN = "expected numbers: 0, or with a magnitude from 1e-140 to 1e+140"


class Wrong(NamedTuple):
    """A line, from 1, and what was expected of it."""

    line: int
    detail: str


class Points(NamedTuple):
    """What the good lines of a body hold, and what is wrong with the others. Lines are counted from 1.

    ``gathered`` has times in nanoseconds and lines as places; ``untimed`` are the lines that have no time of their own.
    """

    gathered: Gathered
    readings: dict[str, Readings]
    wrong: list[Wrong]
    untimed: frozenset[int]


class _Literals(NamedTuple):
    """What the lines say of one stream, as it is written; a stamp is empty where there is none."""

    values: list[str]
    stamps: list[str]
    lines: list[int]

    def columns(self, unit: int, now: int) -> Columns:
        try:
            values = list(map(float, self.values))
        except ValueError:
            values = list(map(_number, self.values))
        if 0.0 in values:
            values = [value or _number(literal) for value, literal in zip(values, self.values, strict=True)]
        times = [int(stamp) * unit for stamp in self.stamps] if "" not in self.stamps else self._some_times(unit, now)
        return Columns(list(values), times, self.lines)

    def untimed(self) -> list[int]:
        if "" not in self.stamps:
            return []
        return [line for line, stamp in zip(self.lines, self.stamps, strict=True) if not stamp]

    def _some_times(self, unit: int, now: int) -> list[int]:
        return [int(stamp) * unit if stamp else now for stamp in self.stamps]


class _Bad(Exception):
    """A line that is not a point."""


def decode(body: bytes, unit: int, now: int, pattern: str, limits: Limits) -> Points:
    """The points of a body. ``unit`` is what its timestamps count, in nanoseconds; ``now`` (ms) is the time of others.

    Raises ``TooMany``.
    """
    text = body.decode("utf-8", "surrogateescape")
    gathered: dict[str, _Literals] = {}
    known: dict[str, _Literals] = {}  # By series and field, as they are written.
    wrong: list[Wrong] = []
    found = skip = 0

    def literals_of(head: str, field: str) -> _Literals:
        name = _stream(pattern, head, field)
        literals = known[f"{head} {field}"] = gathered.setdefault(name, _Literals([], [], []))
        return literals

    for first, lines, start_of in _pieces(text):
        for number, (key, integer, decimal, more, given, other) in enumerate(lines, start=first):
            if number <= skip:
                continue
            try:
                if key and not more:  # Without this case it takes half as long again.
                    values, stamps, places = known.get(key) or literals_of(*key.split(" "))
                    values.append(integer or decimal)
                    stamps.append(given)
                    places.append(number)
                    found += 1
                    continue
                if key:
                    stamp = given
                    head, field = key.split(" ")
                    pairs = [(field, integer or decimal)]
                    pairs += [(name, value.rstrip("iu")) for name, value in (p.split("=") for p in more[1:].split(","))]
                elif not other.strip() or other.lstrip().startswith("#"):
                    continue
                else:
                    point = _POINT.match(other) or ('"' in other and _point_at(text, start_of(number))) or None
                    head, pairs, stamp = _unusual(point)
                    skip = number + point[0].count("\n") if point is not None else 0
                _check_once(pairs)
                into = [known.get(f"{head} {field}") or literals_of(head, field) for field, _ in pairs]
            except _Bad as error:
                wrong.append(Wrong(number, str(error)))
                continue
            for (_, value), (values, stamps, places) in zip(pairs, into, strict=True):
                values.append(value)
                stamps.append(stamp)
                places.append(number)
            found += len(pairs)
        if found + len(wrong) > limits.readings:
            raise TooMany(f"Expected at most {limits.readings} readings in a request, wrong lines included.")
    known.clear()
    untimed = frozenset(line for one in gathered.values() for line in one.untimed())
    return _points(Points(_to_numbers(gathered, unit, now * _MILLISECOND), {}, wrong, untimed), limits)


def _to_numbers(gathered: dict[str, _Literals], unit: int, now: int) -> Gathered:
    """The columns of what was gathered, which is gone then: both would take too much memory."""
    columns_of = {}
    for name in [*gathered]:
        one = gathered.pop(name)
        if one.lines:
            columns_of[name] = one.columns(unit, now)
    return columns_of


def _pieces(text: str) -> Iterator[tuple[int, list[tuple[str, ...]], Callable[[int], int]]]:
    """The lines, some at a time: the number of the first, the groups of ``_LINE``, and what tells where a line starts.

    So no call of the expression takes long, and too long a line is refused before it sees it.
    """
    first, at = 1, 0
    while at <= len(text):
        end = text.rfind("\n", at, at + _STRETCH)
        if end < 0:
            end = text.find("\n", at)
        end = len(text) if end < 0 else end
        piece = text[at:end]
        if end - at > _LONGEST_LINE:  # It is a single line.
            lines: list[tuple[str, ...]] = [("", "", "", "", "", "" if piece[0] == "#" else "-")]
        else:
            lines = _LINE.findall(piece)
        yield first, lines, _starts(first, at, piece)
        first, at = first + len(lines), end + 1


def _starts(first: int, at: int, piece: str) -> Callable[[int], int]:
    """Where in the text each line of a piece starts; worked out if anybody asks."""
    starts = cache(lambda: [*accumulate(map(len, piece.split("\n")), _next_start, initial=at)])
    return lambda number: starts()[number - first]


def _next_start(start: int, length: int) -> int:
    return start + length + 1


def _point_at(text: str, start: int) -> re.Match[str] | None:
    """The point that starts there and may have line feeds in its strings, if it is not too long."""
    point = _POINT.match(text, start, start + _LONGEST_LINE)
    return point if point is None or point.end() < start + _LONGEST_LINE or point.end() == len(text) else None


def without(points: Points, lines: Collection[int], detail: str, limits: Limits) -> Points:
    """The same without some lines, which are wrong for this reason."""
    gathered = columns.select(points.gathered, lambda line: line not in lines)
    wrong = sorted([*points.wrong, *(Wrong(line, detail) for line in lines)])
    return _points(Points(gathered, {}, wrong, points.untimed), limits)


def _points(points: Points, limits: Limits) -> Points:
    """The same with its readings; without the lines whose values or times are outside the domain."""
    try:
        readings = columns.readings(points.gathered, limits)
    except Misplaced:
        return without(points, _lines_outside(points.gathered, 0, _is_outside), _DOMAIN, limits)
    for name, one in readings.items():
        readings[name] = one._replace(first=one.first // _MILLISECOND, last=one.last // _MILLISECOND)
    if any(one.first < times.EARLIEST or one.last > times.LATEST for one in readings.values()):
        return without(points, _lines_outside(points.gathered, 1, _is_never), _TIME, limits)
    return points._replace(readings=readings)


def _lines_outside(gathered: Gathered, list_number: int, is_outside: Callable[[Any], bool]) -> set[int]:
    return {
        line
        for one in gathered.values()
        for item, line in zip(one[list_number], one.places, strict=True)
        if is_outside(item)
    }


def _is_outside(value: float) -> bool:
    return not (value == 0 or SMALLEST <= abs(value) <= LARGEST)


def _is_never(nanoseconds: int) -> bool:
    return not times.EARLIEST <= nanoseconds // _MILLISECOND <= times.LATEST


def _unusual(point: re.Match[str] | None) -> tuple[str, list[tuple[str, str]], str]:
    """Head, numeric fields and timestamp of a point, in the whole grammar. Raises ``_Bad``."""
    if point is None:
        raise _Bad(_FORM)
    head, fields, stamp = point.groups("")
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(fields):
        field = _FIELD.match(fields, at)
        if field is None:
            raise _Bad(_FORM)
        key, value = field.groups()
        if _NUMERIC.fullmatch(value):
            pairs.append((_unescape(key), value.rstrip("iu")))
        elif not value.startswith('"') and value not in _BOOLEANS:
            raise _Bad("expected a number, a boolean or a string in quotes as the value of a field")
        at = field.end()
    return head, pairs, stamp


def _check_once(pairs: list[tuple[str, str]]) -> None:
    if len({field for field, _ in pairs}) < len(pairs):
        raise _Bad("expected every field once")


def _number(literal: str) -> float:
    """The nearest double; NaN, which is then refused, for what is no number or would become 0 without being it."""
    try:
        value = float(literal)
    except ValueError:
        return nan
    return value if value or not literal.lower().partition("e")[0].strip("+-0.") else nan


def _series(head: str) -> tuple[str, list[tuple[str, str]]]:
    """A measurement and its tags. Raises ``_Bad``."""
    measurement = _MEASUREMENT.match(head)
    if measurement is None or len(head) > _LONGEST_SERIES:
        raise _Bad(_FORM)
    tags = []
    at = measurement.end()
    while at < len(head):
        tag = _TAG.match(head, at)
        if tag is None:
            raise _Bad(_FORM)
        tags.append((_unescape(tag[1]), _unescape(tag[2])))
        at = tag.end()
    if len({key for key, _ in tags}) < len(tags):
        raise _Bad("expected every tag once")
    return re.sub(r"\\([, ])", r"\1", measurement[0]), tags


def _unescape(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text) if "\\" in text else text


def _stream(pattern: str, head: str, field: str) -> str:
    """The stream of a point. Raises ``_Bad``."""
    if len(head) + len(field) > _KEPT:
        return _name(pattern, head, field)
    return _short_name(pattern, head, field)


@lru_cache(maxsize=16_384)  # Of at most _KEPT characters each, and as many in the name: some megabytes.
def _short_name(pattern: str, head: str, field: str) -> str:
    return _name(pattern, head, field)


def _name(pattern: str, head: str, field: str) -> str:
    try:
        name = name_of(pattern, *_series(head), field)
    except UnicodeEncodeError:
        raise _Bad("expected UTF-8") from None
    if not is_name(name):
        raise _Bad("expected measurement, tags and field to make a stream name of at most 255 characters")
    return name
