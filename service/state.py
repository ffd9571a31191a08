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

from typing import Any, NamedTuple

import msgspec

from service.exact import Expansion
from service.stream import Shape, shape_from_text
from service.summary import Summary

VERSION = 1


class Unreadable(Exception):
    """The key of a stream holds something that this version did not write. Nothing was changed."""


class State(NamedTuple):
    """What is stored of a stream."""

    shape: Shape
    summary: Summary


class _Stored(msgspec.Struct, array_like=True):
    version: int
    shape: str
    count: int
    first: int
    last: int
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
    sizes_agree = len(it.minimums) == len(it.maximums) == len(it.sums) == len(it.squares) == shape.components
    if it.version != VERSION or it.count < 1 or not sizes_agree:
        raise Unreadable
    return State(shape, Summary(it.count, it.first, it.last, it.minimums, it.maximums, it.sums, it.squares))
