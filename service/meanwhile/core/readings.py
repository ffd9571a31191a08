"""Readings: values of one shape, within the limits of a request and the domain of the exact sums."""

from collections.abc import Sequence
from itertools import chain
from math import isfinite
from typing import NamedTuple, TypeGuard

from meanwhile.core.errors import Invalid
from meanwhile.core.exact_sums import LARGEST, SMALLEST
from meanwhile.core.shapes import NUMBER, Shape, Value, is_member_name, shape_of
from meanwhile.core.stream_names import MAX_NAME_LENGTH
from meanwhile.core.summary import Summary, summarize


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
    _check_limits(values[0], limits)  # Before shape_of, which caches shapes: refused ones must not be cached.
    shape = shape_of(values[0])
    odd = next((i for i, value in enumerate(values) if not shape.fits(value)), None)
    if odd is not None:
        raise Invalid(f"Expected the shape of the first value, {shape}.", f"/{odd}")
    numbers = list(chain.from_iterable(map(shape.flatten, values)))
    _check_domain(numbers, shape)
    return Readings(shape, numbers, first, last, latest)


def is_plain_number(value: object) -> TypeGuard[float]:
    """Returns whether ``value`` is a double inside the domain and not zero.

    >>> is_plain_number(21.5), is_plain_number(0.0), is_plain_number(1e-300)
    (True, False, False)
    """
    return type(value) is float and SMALLEST <= abs(value) <= LARGEST


def collect_numbers(values: list[float], first: int, last: int) -> Readings:
    """Does the same as ``collect`` for values that are known to be doubles. Takes ownership of the list."""
    if not values:
        raise Invalid("Expected at least one reading.", "")
    _check_domain(values, NUMBER)
    return Readings(NUMBER, values, first, last)


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
    lowest, highest = min(numbers), max(numbers)
    if isfinite(sum(numbers)) and lowest >= -LARGEST and highest <= LARGEST:
        if lowest >= SMALLEST or highest <= -SMALLEST or min(map(abs, numbers)) >= SMALLEST:
            return
        numbers[:] = [x or 0.0 for x in numbers]
    wrong = next((i for i, x in enumerate(numbers) if not (x == 0 or SMALLEST <= abs(x) <= LARGEST)), None)
    if wrong is not None:
        row, component = divmod(wrong, shape.components)
        place = f"/{row}{shape.pointer(component)}"
        raise Invalid(f"Expected 0 or a number with a magnitude from {SMALLEST} to {LARGEST}.", place)
