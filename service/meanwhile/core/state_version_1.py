"""States of version 1: they are read, and become version 2 when they are next written.

The array is ``[1, shape, count, first, last, minimums, maximums, sums, squares, producers?, ...]``. Here ``sums`` and
``squares`` have a list of doubles for each component, whose exact sum is the sum of the component (a floating-point
expansion). The latest reading is not known, and there is no
checksum. ``version_1.lua`` does the same in the server.
"""

from collections.abc import Sequence

import msgspec

from meanwhile.core.exact_sums import LARGEST, Sums, sums_of
from meanwhile.core.shapes import Shape, shape_from_text
from meanwhile.core.summary import Summary
from meanwhile.core.times import EARLIEST, LATEST

VERSION = 1
MAX_COUNT = 2**53 - 1
_HALF_ULP = 2.0**-53  # At most half a unit in the last place of a double, relative to the double.
_SLACK = 1 + 2.0**-40  # Allows for rounding where doubles that approximate exact sums are compared.
_SCALE = 1_074  # The smallest double is 2**-1074.

Expansion = tuple[float, ...]


class _Stored(msgspec.Struct, array_like=True):
    format: int | float
    shape: str
    count: int | float
    first: int | float
    last: int | float
    minimums: tuple[float, ...]
    maximums: tuple[float, ...]
    sums: tuple[Expansion, ...]
    squares: tuple[Expansion, ...]


FIELDS = len(_Stored.__struct_fields__)
_decode = msgspec.msgpack.Decoder(_Stored).decode


def decode(stored: bytes) -> tuple[Shape, Summary]:
    """Decodes a stored state. Raises ``ValueError`` or ``RecursionError`` if it is not one of version 1."""
    it = _decode(stored)
    shape = shape_from_text(it.shape)
    sizes_agree = len(it.minimums) == len(it.maximums) == len(it.sums) == len(it.squares) == shape.components
    if it.format != VERSION or not sizes_agree or not _is_possible(it):
        raise ValueError("not a state of version 1")
    sums, squares = _sums(it.sums), _sums(it.squares)
    return shape, Summary(int(it.count), int(it.first), int(it.last), (), it.minimums, it.maximums, sums, squares)


def _is_possible(it: _Stored) -> bool:
    """Returns whether any readings can have these numbers, as far as doubles can tell. Returns False for NaN.

    The highest part of an expansion is its rounded sum, and rounding is monotonic, so the limit of the sum needs no
    slack. ``version_1.lua`` makes the same comparisons: both must accept and refuse the same states.
    """
    count = it.count
    is_whole = not (count % 1 or it.first % 1 or it.last % 1)
    if not (is_whole and 1 <= count <= MAX_COUNT and EARLIEST <= it.first <= LATEST and EARLIEST <= it.last <= LATEST):
        return False
    for low, high, total, squares in zip(it.minimums, it.maximums, it.sums, it.squares, strict=True):
        if not -LARGEST <= low <= high <= LARGEST:
            return False
        largest = high if high > -low else -low  # noqa: FURB136  # max() would take half of the time of this function.
        limit = largest * count
        for part in total[::-1]:  # Each part is much smaller than the one above it, and none is 0.
            if not (0 < part <= limit or 0 > part >= -limit):
                return False
            limit = part * _HALF_ULP if part > 0 else -part * _HALF_ULP
        limit = largest * largest * count * _SLACK
        for part in squares[::-1]:
            if not (0 < part <= limit or 0 > part >= -limit):
                return False
            limit = part * _HALF_ULP if part > 0 else -part * _HALF_ULP
        mean = total[-1] / count if total else 0.0
        if not mean * mean <= (squares[-1] / count if squares else 0.0) * _SLACK:
            return False
    return True


def _sums(expansions: Sequence[Expansion]) -> Sums:
    """Returns the sums of expansions."""
    return sums_of([sum(map(_integer, parts)) for parts in expansions], -_SCALE)


def _integer(number: float) -> int:
    """Returns ``number * 2**_SCALE``, which is an integer."""
    numerator, denominator = number.as_integer_ratio()
    return (numerator << _SCALE) // denominator
