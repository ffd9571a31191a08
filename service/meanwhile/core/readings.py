"""Readings: values of one shape, within the limits of a request and the domain of the exact sums."""

from collections.abc import Iterable, Sequence
from itertools import chain
from math import isfinite
from typing import Any, NamedTuple, TypeGuard

from meanwhile.core.errors import Invalid, TooMany
from meanwhile.core.exact_sums import LARGEST, SMALLEST
from meanwhile.core.shapes import NUMBER, Shape, Value, is_member_name, shape_of
from meanwhile.core.stream_names import MAX_NAME_LENGTH
from meanwhile.core.summary import Summary, summarize

_STRIDE = 32_768  # Numbers that are checked at once: no other thread runs during a call such as min().


class Limits(NamedTuple):
    """The limits of one request.

    ``readings`` is per request, ``components`` per value, ``names`` per object, ``numbers`` per request.
    """

    readings: int = 100_000
    components: int = 1_024
    names: int = 64
    numbers: int = 1_500_000  # In all readings of the request.


class Readings(NamedTuple):
    """Readings of one stream.

    ``numbers`` is a flat list of components, one reading after another. ``first`` and ``last`` are the times of the
    earliest and the latest reading, in milliseconds since 1970 (UTC). ``latest`` is the position of the latest reading;
    a negative one counts from the end.
    """

    shape: Shape
    numbers: list[float]
    first: int
    last: int
    latest: int = -1

    @property
    def size(self) -> int:
        """The number of readings."""
        return len(self.numbers) // self.shape.components

    @property
    def columns(self) -> list[list[float]]:
        """One list per component, with one entry per reading.

        >>> Readings(shape_of([0.0, 0.0]), [1.0, 2.0, 3.0, 4.0], 0, 0).columns
        [[1.0, 3.0], [2.0, 4.0]]
        """
        components = self.shape.components
        return [self.numbers[i::components] for i in range(components)]

    def summarize(self) -> Summary:
        """Returns the summary of the readings."""
        return summarize(self.numbers, self.shape.components, self.first, self.last, self.latest)

    def extend(self, more: "Readings") -> "Readings":
        """Returns these readings followed by ``more``. Takes ownership of the numbers of both."""
        shape, numbers, first, last, latest = self
        if more.last >= last:  # Of equal times, the later request has the latest reading.
            last, latest = more.last, self.size + more.latest % more.size
        else:
            latest %= self.size  # From the start, because the end moves.
        numbers.extend(more.numbers)
        return Readings(shape, numbers, min(first, more.first), last, latest)


def collect(values: Sequence[Value], first: int, last: int, limits: Limits, latest: int = -1) -> Readings:
    """Returns ``values`` as readings of one shape. ``latest`` is the position of the latest one.

    Raises ``Invalid`` if a value has another shape than the first one, or is outside ``limits`` or the domain of the
    exact sums. The pointer of the error is relative to ``values``.
    """
    if not values:
        raise Invalid("Expected at least one reading.", "")
    shape = limited_shape(values[0], limits)
    numbers = [*shape.flatten(values[0])] if len(values) == 1 else _flatten_many(values, shape)
    _check_domain(numbers, shape)
    return Readings(shape, numbers, first, last, latest)


def _flatten_many(values: Sequence[Value], shape: Shape) -> list[float]:
    """Returns the components of values. Raises ``Invalid`` for a value that does not have this shape.

    Works on all values at once, member by member: a loop over the values takes four times as long.
    """
    parts: list[Iterable[Sequence[float]]] = []
    for name, length in shape.members:
        part: Sequence[Any] = values
        if name is not None:
            part = [value.get(name) if isinstance(value, dict) else None for value in values]
        if set(map(type, part)) != {list if length else float} or (length and set(map(len, part)) != {length}):
            break
        parts.append(part if length else zip(part, strict=True))
    else:
        if shape.members[0][0] is None:
            return list(chain.from_iterable(parts[0]))
        if set(map(len, values)) == {len(shape.members)}:  # type: ignore[arg-type]  # all are objects
            return list(chain.from_iterable(chain.from_iterable(zip(*parts, strict=True))))
    odd = next(i for i, value in enumerate(values) if not shape.fits(value))
    raise Invalid(f"Expected the shape of the first value, {shape}.", f"/{odd}")


def is_plain_number(value: object) -> TypeGuard[float]:
    """Returns whether ``value`` is a double inside the domain and not zero.

    >>> is_plain_number(21.5), is_plain_number(0.0), is_plain_number(1e-300)
    (True, False, False)
    """
    return type(value) is float and SMALLEST <= abs(value) <= LARGEST


def collect_numbers(numbers: list[float], first: int, last: int, shape: Shape = NUMBER) -> Readings:
    """Does the same as ``collect`` for components that are known to be doubles. Takes ownership of the list."""
    if not numbers:
        raise Invalid("Expected at least one reading.", "")
    _check_domain(numbers, shape)
    return Readings(shape, numbers, first, last)


def check_size(readings: int, numbers: int, limits: Limits) -> None:
    """Raises ``TooMany`` if a request with this many readings, and numbers in them, is outside ``limits``."""
    if readings > limits.readings:
        raise TooMany(f"Expected at most {limits.readings} readings in a request.")
    if numbers > limits.numbers:
        raise TooMany(f"Expected at most {limits.numbers} numbers in a request.")


def limited_shape(value: Value, limits: Limits) -> Shape:
    """Returns the shape of a value. Raises ``Invalid`` with the pointer "/0" if the value is outside ``limits``."""
    _check_limits(value, limits)  # Before shape_of, which caches shapes: refused ones must not be cached.
    return shape_of(value)


def _check_limits(value: Value, limits: Limits) -> None:
    if isinstance(value, float):
        return
    parts = [value] if isinstance(value, list) else list(value.values())
    if not parts or any(part == [] for part in parts):
        raise Invalid("Expected at least one number in every array and object.", "/0")
    if isinstance(value, dict):
        if len(value) > limits.names:
            raise Invalid(f"Expected at most {limits.names} names in an object.", "/0")
        if not all(map(is_member_name, value)):
            raise Invalid(f"Expected names of 1 to {MAX_NAME_LENGTH} printable characters.", "/0")
    if sum(len(part) if isinstance(part, list) else 1 for part in parts) > limits.components:
        raise Invalid(f"Expected at most {limits.components} numbers in a value.", "/0")


def _check_domain(numbers: list[float], shape: Shape) -> None:
    """Raises ``Invalid`` for a number outside the domain. Makes every zero positive: its sign would depend on order."""
    wrong = _first_wrong(numbers) if len(numbers) <= _STRIDE else _first_wrong_of_many(numbers)
    if wrong is not None:
        row, component = divmod(wrong, shape.components)
        place = f"/{row}{shape.pointer(component)}"
        raise Invalid(f"Expected 0 or a number with a magnitude from {SMALLEST} to {LARGEST}.", place)


def _first_wrong(numbers: list[float]) -> int | None:
    """Returns the position of the first number outside the domain. Makes every zero positive."""
    lowest, highest = min(numbers), max(numbers)
    if isfinite(sum(numbers)) and lowest >= -LARGEST and highest <= LARGEST:
        if lowest >= SMALLEST or highest <= -SMALLEST or min(map(abs, numbers)) >= SMALLEST:
            return None
        numbers[:] = [x or 0.0 for x in numbers]
        if min(map(abs, filter(None, numbers)), default=SMALLEST) >= SMALLEST:
            return None
    return next((i for i, x in enumerate(numbers) if not (x == 0 or SMALLEST <= abs(x) <= LARGEST)), None)


def _first_wrong_of_many(numbers: list[float]) -> int | None:
    for start in range(0, len(numbers), _STRIDE):
        some = numbers[start : start + _STRIDE]
        wrong = _first_wrong(some)
        if wrong is not None:
            return start + wrong
        numbers[start : start + _STRIDE] = some
    return None
