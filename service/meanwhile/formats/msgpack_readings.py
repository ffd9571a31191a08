"""MessagePack with the form of the JSON body: ``{"value": v, "time"?: t}`` or ``{"values": [v, ...]}``.

msgspec decodes it in C, as strictly as JSON: it refuses booleans, texts and nil where a number belongs, unknown keys
and bytes after the end. Floats of 32 bits and integers become doubles. A NaN is refused with the other numbers outside
the domain. Extension types, such as timestamps, are refused.

Of duplicate keys, msgspec takes the last one. But a map says how many pairs it has, so none is hidden if the result has
as many. So the body is decoded in two steps: into the raw bytes of its members, whose heads say what they are and how
long, and then each member into values. This also refuses what is too long before it takes memory.

msgspec does not let other threads run while it decodes. So a body has at most ``MAX_BODY`` bytes, which take less than
0.02 s.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate

import msgspec
from msgspec import UNSET, UnsetType

from meanwhile.core import times
from meanwhile.core.errors import Invalid, TooMany, escape
from meanwhile.core.readings import Limits, Readings, check_size, collect, collect_numbers
from meanwhile.core.shapes import Value, is_member_name
from meanwhile.formats import json_bodies
from meanwhile.formats.strict_json import DUPLICATE_KEY, Malformed

MAX_BODY = 1024 * 1024  # Bytes.
SMALL = 16 * 1024  # Bytes of a body that is decoded in the event loop. In JSON, a number takes more bytes.
_PIECE = 16 * 1024  # Bytes of values that are decoded at once.
_OTHER, _MAP, _ARRAY = 0, 0x80, 0x90  # Kinds of items: the first byte of an empty one.
_LONG = {0xDC: (_ARRAY, 2), 0xDD: (_ARRAY, 4), 0xDE: (_MAP, 2), 0xDF: (_MAP, 4)}  # Kind, and bytes of the length.
_INDEX = re.compile(r"at `\$\[(\d+)\]`")
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Members(msgspec.Struct, forbid_unknown_fields=True):
    """A body whose members are not decoded yet."""

    value: msgspec.Raw | UnsetType = UNSET
    values: msgspec.Raw | UnsetType = UNSET
    time: msgspec.Raw | UnsetType = UNSET


_decode_raw = msgspec.msgpack.Decoder(msgspec.Raw).decode
_decode_body = msgspec.msgpack.Decoder(_Members).decode
_decode_time = msgspec.msgpack.Decoder(float | str).decode
_decode_value = msgspec.msgpack.Decoder(Value).decode
_decode_numbers = msgspec.msgpack.Decoder(list[float]).decode
_decode_array = msgspec.msgpack.Decoder(list[Value]).decode
_decode_member = msgspec.msgpack.Decoder(float | list[float]).decode
_split_array = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_split_map = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode


def decode(body: bytes, now: int, limits: Limits) -> Readings:
    """Returns the readings of a body for one stream. ``now`` (ms since 1970) is the time of a reading without one.

    Raises ``Malformed``, ``Invalid`` with a pointer, or ``TooMany``.

    >>> decode(msgspec.msgpack.encode({"value": [1, 2.5]}), 0, Limits()).numbers
    [1.0, 2.5]
    """
    if len(body) > MAX_BODY:
        raise TooMany(f"Expected at most {MAX_BODY} bytes of MessagePack; application/octet-stream allows more.")
    try:
        members = _decode_body(body)
    except _REFUSED:
        _check(body)
        raise Invalid(json_bodies.FORM, "") from None
    value, values, time = members.value, members.values, members.time
    if _head(body)[1] != (value is not UNSET) + (values is not UNSET) + (time is not UNSET):
        raise Invalid(DUPLICATE_KEY, "")
    if value is not UNSET and values is UNSET:
        return _read_one(value, now if time is UNSET else _read_time(time), limits)
    if values is not UNSET and value is UNSET and time is UNSET:
        return _read_many(values, now, limits)
    raise Invalid(json_bodies.FORM, "")


def _check(body: bytes) -> None:
    """Raises ``Malformed`` if the body is not one MessagePack item."""
    try:
        _decode_raw(body)
    except RecursionError:
        raise Malformed("Expected MessagePack that is not nested this deeply.") from None
    except msgspec.DecodeError:
        raise Malformed("Expected one MessagePack item and nothing after it.") from None


def _head(item: bytes | memoryview) -> tuple[int, int, int]:
    """Returns the kind of an item, how many items or pairs it has, and the size of its head in bytes."""
    first = item[0]
    if _MAP <= first < _ARRAY + 16:
        return first & 0xF0, first & 0x0F, 1
    if first not in _LONG:
        return _OTHER, 0, 0
    kind, size = _LONG[first]
    return kind, int.from_bytes(item[1 : 1 + size]), 1 + size


def _read_time(raw: msgspec.Raw) -> int:
    try:
        time = times.parse(_decode_time(raw))
    except _REFUSED:
        time = None
    if time is None:
        raise Invalid(json_bodies.TIME, "/time")
    return time


def _read_one(raw: msgspec.Raw, time: int, limits: Limits) -> Readings:
    try:
        value = _value(0, raw, limits)
        check_size(1, json_bodies.numbers_of(value), limits)
        return collect([value], time, time, limits)
    except Invalid as error:
        raise _moved(error, "/value", removed="/0") from None


def _read_many(raw: msgspec.Raw, time: int, limits: Limits) -> Readings:
    data = memoryview(raw)
    kind, length, size = _head(data)
    if kind != _ARRAY:
        raise Invalid(json_bodies.VALUES, "/values")
    check_size(length, length, limits)
    try:
        if length and _head(data[size:])[0] == _OTHER:
            with suppress(msgspec.DecodeError):  # Then _values finds the place of the error.
                return collect_numbers(_decode_numbers(raw), time, time)
        values = _values(raw, limits)
        check_size(length, length * json_bodies.numbers_of(values[0]) if values else 0, limits)
        return collect(values, time, time, limits)
    except Invalid as error:
        raise _moved(error, "/values") from None


def _moved(error: Invalid, pointer: str, removed: str = "") -> Invalid:
    """Returns an error with ``pointer`` in front of the one that it has, unless it is about the whole request."""
    if isinstance(error, TooMany):
        return error
    return Invalid(error.detail, pointer + (error.pointer or "").removeprefix(removed))


def _values(raw: msgspec.Raw, limits: Limits) -> list[Value]:
    """Returns the values in an array."""
    items = _split_array(raw)
    if items and _head(memoryview(items[0]))[1:] == (0, 1):
        return [_value(0, items[0], limits)]  # An empty array or object, which is refused: the others do not matter.
    values: list[Value] = []
    for piece in _pieces(items):
        if some := _values_of_piece(piece):
            values += some
            continue
        for item in piece:
            values.append(_value(len(values), item, limits))
            if _outline(values[-1]) != _outline(values[0]):
                return values  # The last one is refused.
    return values


def _outline(value: Value) -> tuple[type, int]:
    """Returns what equal shapes have in common, and is found quickly."""
    return type(value), len(value) if isinstance(value, dict) else 0


def _pieces(items: list[msgspec.Raw]) -> Iterator[list[msgspec.Raw]]:
    """Divides items into lists of about ``_PIECE`` bytes, or of one larger item."""
    ends = [0, *accumulate(map(len, items))]
    start = 0
    while start < len(items):
        stop = max(start + 1, bisect_right(ends, ends[start] + _PIECE) - 1)
        yield items[start:stop]
        start = stop


def _values_of_piece(items: list[msgspec.Raw]) -> list[Value]:
    """Returns the values of items, in less time than one after another. Returns none if that cannot be done safely."""
    data = b"".join(items)
    if len(data) > _PIECE:
        return []
    try:
        values: list[Value] = _decode_array(b"\xdd" + len(items).to_bytes(4) + data)
    except _REFUSED:
        return []
    kinds = set(map(type, values))
    if dict not in kinds:
        return values if len(kinds) == 1 else []
    lengths: set[int] = set(map(len, values)) if len(kinds) == 1 else set()  # type: ignore[arg-type]  # all are objects
    heads = {_MAP + length for length in lengths if length < 16}
    # If the heads have as many names as the results, no name was a duplicate.
    return values if len(lengths) == 1 and heads == {memoryview(item)[0] for item in items} else []


def _value(number: int, raw: msgspec.Raw, limits: Limits) -> Value:
    """Returns the value of one reading. Raises ``Invalid`` with a pointer that starts with the ``number``."""
    kind, length, _ = _head(memoryview(raw))
    if (kind == _ARRAY and length > limits.components) or (kind == _MAP and _has_long_array(raw, limits)):
        raise Invalid(f"Expected at most {limits.components} numbers in a value.", f"/{number}")
    if kind == _MAP and length > limits.names:
        raise Invalid(f"Expected at most {limits.names} names in an object.", f"/{number}")
    try:
        value: Value = _decode_value(raw)
    except _REFUSED as error:
        place = _place_in_object(raw) if kind == _MAP else _place(error)
        raise Invalid(json_bodies.NUMBERS, f"/{number}{place}") from None
    if isinstance(value, dict) and len(value) != length:
        raise Invalid(DUPLICATE_KEY, f"/{number}")
    return value


def _has_long_array(raw: msgspec.Raw, limits: Limits) -> bool:
    """Returns whether a large object has an array that is too long to be decoded at once."""
    if len(raw) > _PIECE:
        with suppress(*_REFUSED):  # _value refuses it, too.
            return any(_head(memoryview(member))[1] > limits.components for member in _split_map(raw).values())
    return False


def _place(error: Exception) -> str:
    """Returns the pointer of the item of an array that msgspec refuses."""
    found = _INDEX.search(str(error))
    return "" if found is None else f"/{found[1]}"


def _place_in_object(raw: msgspec.Raw) -> str:
    """Returns the pointer of the first number that msgspec refuses in an object. An invalid name is left out."""
    with suppress(*_REFUSED):
        for name, member in _split_map(raw).items():
            try:
                _decode_member(member)
            except _REFUSED as error:
                return f"/{escape(name)}{_place(error)}" if is_member_name(name) else ""
    return ""
