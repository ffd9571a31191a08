"""Columns: readings that come one a line or record, gathered by stream, whatever the format.

Each stream has three parallel lists, so a reading costs three appends and no object. The place of a reading
(its line or record, from 0) is kept, so that an error that is found later, in its value or by the store, can name the
place, and the readings before or after a place can be separated.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from meanwhile.core.errors import Invalid
from meanwhile.core.readings import Limits, Readings, collect
from meanwhile.core.shapes import Value


class Columns(NamedTuple):
    """Readings of one stream: values, times in milliseconds since 1970 (UTC), and places."""

    values: list[Value]
    times: list[int]
    places: list[int]


Gathered = dict[str, Columns]


class Misplaced(Exception):
    """A reading that cannot be recorded.

    ``place`` is its line or record; ``error`` says why, with a pointer inside that.
    """

    def __init__(self, place: int, error: Invalid) -> None:
        super().__init__(place)
        self.place = place
        self.error = error


def readings(gathered: Mapping[str, Columns], limits: Limits) -> dict[str, Readings]:
    """The readings by stream. Raises ``Misplaced`` for an invalid one, not always the first."""
    return {name: _readings(columns, limits) for name, columns in gathered.items()}


def _readings(columns: Columns, limits: Limits) -> Readings:
    values, times, places = columns
    try:
        return collect(values, min(times), max(times), limits, _latest(times))
    except Invalid as error:
        row, slash, inside = (error.pointer or "/0").removeprefix("/").partition("/")
        raise Misplaced(places[int(row)], Invalid(error.detail, slash + inside)) from None


def select(gathered: Mapping[str, Columns], is_wanted: Callable[[int], bool]) -> Gathered:
    """The readings at the places that are wanted."""
    selected: Gathered = {}
    for name, columns in gathered.items():
        rows = [row for row in zip(*columns, strict=True) if is_wanted(row[2])]
        if rows:
            values, times, places = zip(*rows, strict=True)
            selected[name] = Columns(list(values), list(times), list(places))
    return selected


def rows_between(gathered: Mapping[str, Columns], start: int, stop: int, starts: Mapping[str, int]) -> dict[str, slice]:
    """The rows at places from ``start`` to before ``stop``; those of a stream in ``starts`` begin there instead."""
    rows = {}
    for name, one in gathered.items():
        low = bisect_left(one.places, starts.get(name, start))
        high = bisect_left(one.places, stop)
        if low < high:
            rows[name] = slice(low, high)
    return rows


def of_rows(
    gathered: Mapping[str, Columns], whole: Mapping[str, Readings], rows: Mapping[str, slice]
) -> dict[str, Readings]:
    """Copies of the readings in some rows, out of the readings ``whole`` that were made of ``gathered``."""
    return {
        name: Readings(
            whole[name].shape,
            whole[name].numbers[some.start * whole[name].shape.components : some.stop * whole[name].shape.components],
            min(gathered[name].times[some]),
            max(gathered[name].times[some]),
            _latest(gathered[name].times[some]),
        )
        for name, some in rows.items()
    }


def _latest(times: list[int]) -> int:
    """Returns the position of the latest time; of equal ones, the last. Counts from the end."""
    return -1 - times[::-1].index(max(times))


def first_place(gathered: Mapping[str, Columns], names: Collection[str]) -> int:
    """The place of the first reading of these streams."""
    return min(gathered[name].places[0] for name in names)


def size(gathered: Mapping[str, Columns]) -> int:
    """The number of readings."""
    return sum(len(columns.values) for columns in gathered.values())
