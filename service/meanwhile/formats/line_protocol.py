"""InfluxDB line protocol: ``measurement,tag=value field=1.5,other=2i 1767225600000000000``.

Every numeric field is a reading; strings and booleans are skipped. ``line_protocol_names.py`` names its stream,
``line_protocol_grammar.py`` reads the lines. A point is good or bad as a whole, and a bad one does not affect the
others: the result is everything in the good ones, and what is wrong with the bad ones.

Numbers and times stay text until everything is sorted by stream, and become numbers a column at a time; ``float`` would
take ``1_000`` and ``nan``, but the grammar does not. The stream of a series (measurement and tags) and a field is
computed once and kept from one body to the next, if both are short.
"""

from collections.abc import Callable, Collection
from functools import lru_cache
from math import nan
from typing import Any, NamedTuple

from meanwhile.core import times
from meanwhile.core.errors import TooMany
from meanwhile.core.exact_sums import LARGEST, SMALLEST
from meanwhile.core.readings import Limits, Readings
from meanwhile.core.stream_names import is_name
from meanwhile.formats import columns
from meanwhile.formats.columns import Columns, Gathered, Misplaced
from meanwhile.formats.line_protocol_grammar import BadPoint, check_once, fields_of, parse, parse_series, pieces
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
_MAX_CACHED = 384  # Characters of a series and a field whose stream is kept.

_TIME = "expected a timestamp from the year 1 to 9999, in the unit of precision"
_DOMAIN = "expected numbers: 0, or with a magnitude from 1e-140 to 1e+140"


class Wrong(NamedTuple):
    """A line, from 1, and what was expected of it."""

    line: int
    detail: str


class Points(NamedTuple):
    """What the good lines of a body hold, and what is wrong with the others. Lines are counted from 1.

    ``gathered`` has times in nanoseconds and lines as places; ``untimed`` are the lines without a timestamp.
    """

    gathered: Gathered
    readings: dict[str, Readings]
    wrong: list[Wrong]
    untimed: frozenset[int]


class _Literals(NamedTuple):
    """The columns of one stream, as text; a stamp is empty where a line has none."""

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


def decode(body: bytes, unit: int, now: int, pattern: str, limits: Limits) -> Points:
    """The points of a body. ``unit`` is what its timestamps count, in nanoseconds; ``now`` (ms) is the time of others.

    Raises ``TooMany``.
    """
    text = body.decode("utf-8", "surrogateescape")
    gathered: dict[str, _Literals] = {}
    known: dict[str, _Literals] = {}  # By series and field, as they are written.
    wrong: list[Wrong] = []
    found = skip = 0

    def literals_of(series: str, field: str) -> _Literals:
        name = _stream(pattern, series, field)
        literals = known[f"{series} {field}"] = gathered.setdefault(name, _Literals([], [], []))
        return literals

    for first, lines, start_of in pieces(text):
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
                    series, field = key.split(" ")
                    fields = [(field, integer or decimal), *fields_of(more)]
                elif not other.strip() or other.lstrip().startswith("#"):
                    continue
                else:
                    series, fields, stamp, feeds = parse(other, text, start_of, number)
                    skip = number + feeds
                check_once(fields)
                into = [known.get(f"{series} {field}") or literals_of(series, field) for field, _ in fields]
            except BadPoint as error:
                wrong.append(Wrong(number, str(error)))
                continue
            for (_, value), (values, stamps, places) in zip(fields, into, strict=True):
                values.append(value)
                stamps.append(stamp)
                places.append(number)
            found += len(fields)
        if found + len(wrong) > limits.readings:
            raise TooMany(f"Expected at most {limits.readings} readings in a request, wrong lines included.")
    known.clear()
    untimed = frozenset(line for one in gathered.values() for line in one.untimed())
    return _points(Points(_to_numbers(gathered, unit, now * _MILLISECOND), {}, wrong, untimed), limits)


def _to_numbers(gathered: dict[str, _Literals], unit: int, now: int) -> Gathered:
    """The columns as numbers; empties ``gathered``, since both together would take too much memory."""
    columns_of = {}
    for name in [*gathered]:
        one = gathered.pop(name)
        if one.lines:
            columns_of[name] = one.columns(unit, now)
    return columns_of


def without(points: Points, lines: Collection[int], detail: str, limits: Limits) -> Points:
    """The same points without some lines, which are wrong for this reason."""
    gathered = columns.select(points.gathered, lambda line: line not in lines)
    wrong = sorted([*points.wrong, *(Wrong(line, detail) for line in lines)])
    return _points(Points(gathered, {}, wrong, points.untimed), limits)


def _points(points: Points, limits: Limits) -> Points:
    """The same points with their readings, without the lines whose values or times are outside the domain."""
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


def _number(literal: str) -> float:
    """The nearest double; NaN, which is then refused, for no number, or for one that is not 0 but would become it."""
    try:
        value = float(literal)
    except ValueError:
        return nan
    return value if value or not literal.lower().partition("e")[0].strip("+-0.") else nan


def _stream(pattern: str, series: str, field: str) -> str:
    """The stream of a series and a field. Raises ``BadPoint``."""
    if len(series) + len(field) > _MAX_CACHED:
        return _name(pattern, series, field)
    return _short_name(pattern, series, field)


@lru_cache(maxsize=16_384)  # Of at most _MAX_CACHED characters each, and as many in the name: some megabytes.
def _short_name(pattern: str, series: str, field: str) -> str:
    return _name(pattern, series, field)


def _name(pattern: str, series: str, field: str) -> str:
    try:
        name = name_of(pattern, *parse_series(series), field)
    except UnicodeEncodeError:
        raise BadPoint("expected UTF-8") from None
    if not is_name(name):
        raise BadPoint("expected measurement, tags and field to make a stream name of at most 255 characters")
    return name
