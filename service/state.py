"""The state of a stream, and the bytes that it is in Redis: a MessagePack array

    [1, shape, count, first, last, minimums, maximums, sums, squares, producers?, retired?, stamps?, batches?]

The 1 is the version of the format, shape is ``Shape.text``, the rest are the fields of ``Summary``; arrays have one
entry a component, and the entries of sums and squares are canonical expansions. Floats that are whole or fit in 32
bits may be stored as such, which changes no value. A scalar stream takes about 110 bytes. The tenth entry is there once
idempotency keys were counted, about 40 bytes a producer, those behind it once producers retired or timestamps were
counted; only ``once.lua`` looks into them. What follows is ignored, so later versions may append; anything else about
the form changes the version.

A delta has the same form as a state: recording readings is merging their summary into the stored one.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from service.exact import LARGEST, Expansion
from service.stream import Shape, shape_from_text
from service.summary import Summary
from service.times import EARLIEST, LATEST

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
    version: int | float  # Like those that follow, whole: commit.lua cannot tell a double from an integer either.
    shape: str
    count: int | float
    first: int | float
    last: int | float
    minimums: tuple[float, ...]
    maximums: tuple[float, ...]
    sums: tuple[Expansion, ...]
    squares: tuple[Expansion, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode


def to_record(state: State) -> tuple[Any, ...]:
    """The array that stands for a state, to be encoded alone or among others."""
    return (VERSION, state.shape.text, *state.summary)


def encode(state: State) -> bytes:
    """The stored form of a state; ``decode`` is its inverse."""
    return _encode(to_record(state))


def decode(stored: bytes) -> State:
    """The state that ``stored`` holds. Raises ``Unreadable``."""
    try:
        it = _decode(stored)
        shape = shape_from_text(it.shape)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Unreadable from error
    components = len(it.minimums)
    sizes_agree = components == len(it.maximums) == len(it.sums) == len(it.squares) == shape.components
    if it.version != VERSION or not sizes_agree or not 1 <= it.count <= MAX_COUNT:
        raise Unreadable
    count, first, last = int(it.count), _time(it.first), _time(it.last)
    extremes_and_sums = zip(it.minimums, it.maximums, it.sums, it.squares, strict=True)
    if count != it.count or not all(_is_possible(count, *component) for component in extremes_and_sums):
        raise Unreadable
    return State(shape, Summary(count, first, last, it.minimums, it.maximums, it.sums, it.squares))


def _time(milliseconds: float) -> int:
    if EARLIEST <= milliseconds <= LATEST and int(milliseconds) == milliseconds:
        return int(milliseconds)
    raise Unreadable


def _is_possible(count: int, low: float, high: float, total: Expansion, squares: Expansion) -> bool:
    """Whether ``count`` readings can have these extremes and sums, as far as doubles can tell; false for NaN.

    The highest part of an expansion is its rounded sum, and rounding keeps order, so the bound of the sum holds without
    slack. ``commit.lua`` makes the same comparisons: what one of the two takes for a state, the other one must.
    """
    if not (_is_expansion(total) and _is_expansion(squares) and -LARGEST <= low <= high <= LARGEST):
        return False
    highest, highest_square = total[-1] if total else 0.0, squares[-1] if squares else 0.0
    mean = highest / count
    largest = max(-low, high)
    return (
        abs(highest) <= largest * count
        and mean * mean <= highest_square / count * _SLACK
        and highest_square <= largest * largest * count * _SLACK
    )


def _is_expansion(parts: Expansion) -> bool:
    if len(parts) == 1:
        return parts[0] != 0
    return 0 not in parts and all(abs(low) <= abs(high) * _HALF_ULP for low, high in pairwise(parts))
