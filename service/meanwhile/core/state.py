"""The state of a stream and its encoding in Redis: a MessagePack array

    [format, shape, count, first, last, minimums, maximums, sums, squares,
     producers?, retired?, timestamps?, batches?]

``format`` is 1 and ``shape`` is ``Shape.text``. The fields from ``count`` to ``squares`` are those of ``Summary``:
arrays have one entry per component, and the entries of ``sums`` and ``squares`` are canonical expansions. A float that
is whole or fits in 32 bits may be stored as an integer or a 32-bit float, which does not change its value. The state of
a scalar stream takes about 110 bytes. ``producers`` is present once the stream has counted an idempotency key and takes
about 40 bytes per producer; the members after it are present once a producer has retired or a timestamp has been
counted. Only ``idempotency.lua`` reads these four. Readers ignore further members, so later versions may append some;
any other change of the format changes the version.

A delta has the same form as a state: to record readings is to merge their summary into the stored one.
"""

from typing import Any, NamedTuple

import msgspec

from meanwhile.core.exact_sums import LARGEST, Expansion
from meanwhile.core.shapes import Shape, shape_from_text
from meanwhile.core.summary import Summary
from meanwhile.core.times import EARLIEST, LATEST

VERSION = 1
MAX_COUNT = 2**53 - 1
_HALF_ULP = 2.0**-53  # At most half a unit in the last place of a double, relative to the double.
_SLACK = 1 + 2.0**-40  # Allows for rounding where doubles that approximate exact sums are compared.


class Unreadable(Exception):
    """The key of a stream holds a value that this version cannot read. Nothing was changed."""


class State(NamedTuple):
    """The stored state of a stream, without what it remembers of keys and timestamps."""

    shape: Shape
    summary: Summary


class _Stored(msgspec.Struct, array_like=True):
    format: int | float  # This and the next numbers are whole, in either type: Lua does not distinguish them.
    shape: str
    count: int | float
    first: int | float
    last: int | float
    minimums: tuple[float, ...]
    maximums: tuple[float, ...]
    sums: tuple[Expansion, ...]
    squares: tuple[Expansion, ...]


# The members of a state in order; the script uses the same names. Only idempotency.lua reads the last four.
MEMBERS = (*_Stored.__struct_fields__, "producers", "retired", "timestamps", "batches")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode
_raw = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def to_record(state: State) -> tuple[Any, ...]:
    """Returns a state as an array, to be encoded alone or with others."""
    return (VERSION, state.shape.text, *state.summary)


def encode(state: State) -> bytes:
    """Returns the stored form of a state; ``decode`` is the inverse."""
    return _encode(to_record(state))


def encode_sums(summary: Summary) -> bytes:
    """Returns the members from ``minimums`` to ``squares``, concatenated as in a stored state."""
    return b"".join(map(_encode, summary[3:]))


def dedupe_offset(stored: bytes) -> int:
    """Returns the offset in bytes of the members after ``squares``. ``stored`` is a readable state."""
    members = _raw(stored)
    return len(_header(stored)) + sum(len(memoryview(member)) for member in members[:9])


def _header(stored: bytes) -> bytes:
    """Returns the MessagePack header of the array, which gives its type and length."""
    return stored[: {0xDC: 3, 0xDD: 5}.get(stored[0], 1)]


def decode(stored: bytes, *, is_checked: bool = False) -> State:
    """Decodes a stored state. Raises ``Unreadable``.

    ``is_checked`` says that the state comes from ``commit.lua``, which has checked that its numbers are possible.
    """
    try:
        it = _decode(stored)
        shape = shape_from_text(it.shape)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Unreadable from error
    sizes_agree = len(it.minimums) == len(it.maximums) == len(it.sums) == len(it.squares) == shape.components
    if it.format != VERSION or not sizes_agree:
        raise Unreadable
    if not (is_checked or _is_possible(it)):
        raise Unreadable
    return State(
        shape, Summary(int(it.count), int(it.first), int(it.last), it.minimums, it.maximums, it.sums, it.squares)
    )


def _is_possible(it: _Stored) -> bool:
    """Returns whether any readings can have these numbers, as far as doubles can tell. Returns False for NaN.

    The highest part of an expansion is its rounded sum, and rounding is monotonic, so the limit of the sum needs no
    slack. ``commit.lua`` makes the same comparisons: both must accept and refuse the same states.
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
