"""The state of a stream and its encoding in Redis: a MessagePack array, followed by a checksum

    format        integer, 2
    shape         string, ``Shape.text``
    count         integer, the number of readings
    first, last   integers, the times of the earliest and the latest reading, in milliseconds since 1970 (UTC)
    latest        array of c doubles, the latest reading; empty if it is not known
    minimums      array of c doubles
    maximums      array of c doubles
    sum_low       integer, the index of the lowest limb of the sums
    sums          array of c * k integers, the limbs of the sums
    square_low    integer, the index of the lowest limb of the sums of squares
    squares       array of c * m integers, the limbs of the sums of squares
    producers     array, see ``idempotency.lua``; only once the stream has counted an idempotency key
    retired       array, this and the next ones only once a producer has retired or a timestamp has been counted
    timestamps    array
    batches       array

    checksum      8 characters after the array: the first 32 bits of its SHA-1 in hexadecimal

for c components, with k limbs in each sum and m in each sum of squares (``exact_sums.py``). The fields from ``count``
to ``squares`` are those of ``Summary``. A double that is whole or fits in 32 bits may be stored as an integer or a
32-bit float, which does not change its value. The state of a scalar stream takes about 100 bytes; each producer takes
about 40 more. Only ``idempotency.lua`` reads the last four fields of the array. Readers ignore further ones, so later
versions may append some; any other change of the format changes the version. ``state_version_1.py`` reads the states of
version 1.

The checksum proves that the service has written the state and that no bit of it has changed since, on disk or in a
backup. So nothing else needs to be checked.

A delta has the same fields as a state, without a checksum: to record readings is to merge their summary into the stored
one. For one reading, ``minimums`` and ``maximums`` are false, because both are ``latest``.
"""

from hashlib import sha1
from typing import Any, NamedTuple

import msgspec

from meanwhile.core import state_version_1
from meanwhile.core.exact_sums import Sums
from meanwhile.core.shapes import Shape, shape_from_text
from meanwhile.core.summary import Summary

VERSION = 2
_CHECKSUM_LENGTH = 8  # Characters.


class Unreadable(Exception):
    """The key of a stream holds a value that this version cannot read. Nothing was changed."""


class State(NamedTuple):
    """The stored state of a stream, without what it remembers of keys and timestamps."""

    shape: Shape
    summary: Summary


class _Fields(msgspec.Struct, array_like=True):
    format: int
    shape: str
    count: int
    first: int
    last: int
    latest: tuple[float, ...]
    minimums: tuple[float, ...]
    maximums: tuple[float, ...]
    sum_low: int
    sums: tuple[int, ...]
    square_low: int
    squares: tuple[int, ...]


# The fields of a state in order; the script uses the same names. Only idempotency.lua reads the last four.
FIELDS = (*_Fields.__struct_fields__, "producers", "retired", "timestamps", "batches")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Fields).decode
_raw = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def to_record(state: State) -> tuple[Any, ...]:
    """Returns a state as an array, to be encoded alone or with others."""
    (text, _, _), (count, first, last, latest, minimums, maximums, sums, squares) = state
    return (VERSION, text, count, first, last, latest, minimums, maximums, *sums, *squares)


def to_delta(state: State) -> tuple[Any, ...]:
    """Returns the summary of readings as an array for ``commit.lua``.

    One reading is its own minimum and maximum, so these are false then.
    """
    record = to_record(state)
    return record if state.summary.count > 1 else (*record[:6], False, False, *record[8:])


def encode(state: State) -> bytes:
    """Returns the stored form of a state; ``decode`` is the inverse."""
    array = _encode(to_record(state))
    return array + _checksum(array)


def _checksum(array: bytes) -> bytes:
    return sha1(array, usedforsecurity=False).hexdigest()[:_CHECKSUM_LENGTH].encode()


def encode_sums(state: State) -> bytes:
    """Returns the members from ``latest`` to ``squares``, concatenated as in a stored state."""
    return b"".join(map(_encode, to_record(state)[5:]))


def dedupe_offset(stored: bytes) -> int:
    """Returns the offset in bytes of the fields after ``squares``. ``stored`` is a readable state."""
    if stored[-_CHECKSUM_LENGTH:] == _checksum(stored[:-_CHECKSUM_LENGTH]):
        stored, fields = stored[:-_CHECKSUM_LENGTH], len(_Fields.__struct_fields__)
    else:
        fields = state_version_1.FIELDS
    header = {0xDC: 3, 0xDD: 5}.get(stored[0], 1)  # The bytes that give the type and the length of the array.
    return header + sum(len(memoryview(field)) for field in _raw(stored)[:fields])


def decode(stored: bytes, *, is_checked: bool = False) -> State:
    """Decodes a stored state. Raises ``Unreadable``.

    ``is_checked`` says that the state comes directly from ``commit.lua``, so its checksum is right.
    """
    array = stored[:-_CHECKSUM_LENGTH]
    try:
        if is_checked or stored[-_CHECKSUM_LENGTH:] == _checksum(array):
            it = _decode(array)
            if it.format != VERSION:
                raise Unreadable
            sums, squares = Sums(it.sum_low, it.sums), Sums(it.square_low, it.squares)
            summary = Summary(it.count, it.first, it.last, it.latest, it.minimums, it.maximums, sums, squares)
            return State(shape_from_text(it.shape), summary)
        return State(*state_version_1.decode(stored))
    except (ValueError, RecursionError) as error:
        raise Unreadable from error
