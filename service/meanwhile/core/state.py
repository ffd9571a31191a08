"""The state of a stream, and the bytes that it is in Redis: a MessagePack array

    [format, shape, count, first, last, minimums, maximums, sums, squares, producers?, retired?, stamps?, batches?]

The format is 1, shape is ``Shape.text``, the rest are the fields of ``Summary``; arrays have one
entry a component, and the entries of sums and squares are canonical expansions. Floats that are whole or fit in 32
bits may be stored as such, which changes no value. A scalar stream takes about 110 bytes. The tenth entry is there once
idempotency keys were counted, about 40 bytes a producer, those behind it once producers retired or timestamps were
counted; only ``once.lua`` looks into them. What follows is ignored, so later versions may append; anything else about
the form changes the version.

A delta has the same form as a state: recording readings is merging their summary into the stored one.
"""

from typing import Any, NamedTuple

import msgspec

from meanwhile.core.exact_sums import LARGEST, Expansion
from meanwhile.core.shapes import Shape, shape_from_text
from meanwhile.core.summary import Summary
from meanwhile.core.times import EARLIEST, LATEST

VERSION = 1
MAX_COUNT = 2**53 - 1
_HALF_ULP = 2.0**-53  # Of a double, in proportion to it, at most.
_SLACK = 1 + 2.0**-40  # For roundings, where doubles are compared that stand for exact sums.


class Unreadable(Exception):
    """The key of a stream holds something that this version did not write. Nothing was changed."""


class State(NamedTuple):
    """What is stored of a stream."""

    shape: Shape
    summary: Summary


class _Stored(msgspec.Struct, array_like=True):
    format: int | float  # Like those that follow, whole: commit.lua cannot tell a double from an integer either.
    shape: str
    count: int | float
    first: int | float
    last: int | float
    minimums: tuple[float, ...]
    maximums: tuple[float, ...]
    sums: tuple[Expansion, ...]
    squares: tuple[Expansion, ...]


# The members of a state in their order; the script has them by the same names. once.lua alone reads the last four.
MEMBERS = (*_Stored.__struct_fields__, "producers", "retired", "stamps", "batches")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode
_raw = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def to_record(state: State) -> tuple[Any, ...]:
    """The array that stands for a state, to be encoded alone or among others."""
    return (VERSION, state.shape.text, *state.summary)


def encode(state: State) -> bytes:
    """The stored form of a state; ``decode`` is its inverse."""
    return _encode(to_record(state))


def encode_sums(summary: Summary) -> bytes:
    """The members from minimums to squares, one behind the other, as they stand in a state."""
    return b"".join(map(_encode, summary[3:]))


def offset_of_memory(stored: bytes) -> int:
    """Where in a state that can be decoded the members behind its squares start: its producers, if it has any."""
    members = _raw(stored)
    return len(_header(stored)) + sum(len(memoryview(member)) for member in members[:9])


def _header(stored: bytes) -> bytes:
    """What says that an array begins, and of how many members."""
    return stored[: {0xDC: 3, 0xDD: 5}.get(stored[0], 1)]


def decode(stored: bytes, *, is_checked: bool = False) -> State:
    """The state that ``stored`` holds. Raises ``Unreadable``.

    ``is_checked`` says that it comes from ``commit.lua``, which has looked whether its numbers are possible.
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
    """Whether some readings can have these numbers, as far as doubles can tell; false for NaN.

    The highest part of an expansion is its rounded sum, and rounding keeps order, so the bound of the sum holds without
    slack. ``commit.lua`` makes the same comparisons: what one of the two takes for a state, the other one must.
    """
    count = it.count
    is_whole = not (count % 1 or it.first % 1 or it.last % 1)
    if not (is_whole and 1 <= count <= MAX_COUNT and EARLIEST <= it.first <= LATEST and EARLIEST <= it.last <= LATEST):
        return False
    for low, high, total, squares in zip(it.minimums, it.maximums, it.sums, it.squares, strict=True):
        if not -LARGEST <= low <= high <= LARGEST:
            return False
        largest = high if high > -low else -low  # noqa: FURB136  # Half of this function's time would be in max().
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
