"""The service's own JSON: ``{"value": v, "time"?: t}`` or ``{"values": [v, ...]}``, and an object of those by stream.

A reading that is misread stays in the average, so the reader must be strict; it must also be fast, and no fast parser
is strict enough. So there are two:

1. *msgspec* decodes into typed values in C. It refuses wrong types, unknown fields and anything but JSON. It accepts
   two things that it should not: of duplicate keys it takes the last one, and a literal such as 1e-400 becomes 0.
2. *Strict JSON* keeps the pairs and literals of the text (``strict_json.py``, ``json_bodies.py``). It decides when
   msgspec refuses a body, and then also finds the exact place of the error, and when what msgspec accepted needs a
   strict parse.

It is cheap to tell when it does. A duplicate key has its colon in the body but no entry in the result, so without a
backslash in the body nothing is hidden if there are as many colons in the body as decoded keys and colons inside
decoded strings. And a literal can only have become 0 if it has a negative exponent or a long run of zeros.

A test gives both readers the same bodies and demands the same answer. A **large** body is read in pieces, each as if it
were a whole body (``json_pieces.py``), so neither reader takes long without a break, and a body with too many readings
is refused before all of it is in memory.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from meanwhile.core import times
from meanwhile.core.errors import Invalid, escape
from meanwhile.core.readings import Limits, Readings, check_size, collect, collect_numbers, is_plain_number
from meanwhile.core.shapes import NUMBER, Value
from meanwhile.core.stream_names import is_name
from meanwhile.formats import json_bodies, json_pieces
from meanwhile.formats.json_bodies import Body, Numbers, bad_name
from meanwhile.formats.json_pieces import SMALL
from meanwhile.formats.strict_json import DUPLICATE_KEY, Malformed

_RUN_OF_ZEROS = b"0" * 100
_ESCAPED_COLON = re.compile(rb"\\u003[aA]")
_MAX_STRICT = 256 * 1024  # Bytes of a text that msgspec refuses, in which strict JSON finds the place of the error.

_Decoders = Sequence["msgspec.json.Decoder[Any]"]


class _Outline(msgspec.Struct, forbid_unknown_fields=True):
    """A body whose members are not decoded yet."""

    value: msgspec.Raw | UnsetType = UNSET
    values: msgspec.Raw | UnsetType = UNSET
    time: msgspec.Raw | UnsetType = UNSET

    def parts(self) -> dict[str, bytes]:
        parts = {"value": self.value, "values": self.values, "time": self.time}
        return {key: bytes(part) for key, part in parts.items() if part is not UNSET}


_one: _Decoders = [msgspec.json.Decoder(Numbers), msgspec.json.Decoder(Body)]
_many: _Decoders = [msgspec.json.Decoder(dict[str, Numbers]), msgspec.json.Decoder(dict[str, Body])]
_outline: _Decoders = [msgspec.json.Decoder(_Outline)]
_outlines: _Decoders = [msgspec.json.Decoder(dict[str, _Outline])]


def decode(body: bytes, now: int, limits: Limits) -> Readings:
    """The readings of a body for one stream. ``now`` (ms since 1970) is the time of a reading without one.

    Raises ``Malformed``, ``Invalid`` with a pointer, or ``TooMany``.
    """
    if len(body) > SMALL:
        json_pieces.check_runs(body)
        try:
            return _readings(_read_large(body, limits), "", now, limits)
        except Malformed:
            json_pieces.check(body)
            raise Invalid(json_bodies.FORM, "") from None
    parsed: Body | None = _first_result(_one, body)
    if isinstance(parsed, Numbers) and is_plain_number(parsed.value) and body.count(b":") == 1:
        # Almost every request is one plain number and no other key, which needs no strict parse.
        return Readings(NUMBER, [parsed.value], now, now)
    parsed = _strictly(parsed, body)
    check_size(parsed.size(), parsed.numbers(), limits)
    return _readings(parsed, "", now, limits)


def decode_batch(body: bytes, now: int, limits: Limits) -> dict[str, Readings]:
    """The readings of a body for many streams, by stream name. Otherwise like ``decode``."""
    batch: dict[str, Readings] = {}
    readings = numbers = 0
    try:
        for some in _members(body, limits):
            for name in some:
                if not is_name(name):
                    raise bad_name(name)
            if not batch.keys().isdisjoint(some):
                raise Invalid(DUPLICATE_KEY, "")
            readings += sum(one.size() for one in some.values())
            numbers += sum(one.numbers() for one in some.values())
            check_size(readings, numbers, limits)
            for name, one in some.items():
                try:
                    batch[name] = _readings(one, "", now, limits)
                except Invalid as error:
                    raise error.under(f"/{escape(name)}") from None
    except Malformed:
        if len(body) <= SMALL:
            raise
        json_pieces.check(body)
        raise Invalid(json_bodies.STREAMS, "") from None
    if not batch:
        raise Invalid("Expected at least one stream.", "")
    return batch


def _members(body: bytes, limits: Limits) -> Iterator[dict[str, Body]]:
    """The bodies by stream, some at a time."""
    if len(body) <= SMALL:
        yield _read_many(body)
        return
    json_pieces.check_runs(body)
    for piece in json_pieces.of_object(body):
        yield _read_many(piece) if len(piece) <= SMALL else _read_many_large(piece, limits)


def _read_one(text: bytes) -> Body:
    return _strictly(_first_result(_one, text), text)


def _strictly(parsed: Body | None, text: bytes) -> Body:
    """The body that a text is. ``parsed`` is what msgspec made of it, None if it refused it.

    Raises ``Malformed`` or ``Invalid``.
    """
    if parsed is None and len(text) > _MAX_STRICT:
        raise Invalid(json_bodies.NUMBERS, "/value")
    return json_bodies.one(text) if parsed is None or _needs_strict_parse(text, [parsed], "") else parsed


def _read_many(text: bytes) -> dict[str, Body]:
    parsed: dict[str, Body] | None = _first_result(_many, text)
    if parsed is None or _needs_strict_parse(text, list(parsed.values()), "".join(parsed), len(parsed)):
        return json_bodies.many(text)
    return parsed


def _read_large(text: bytes, limits: Limits) -> Body:
    outline: _Outline | None = _first_result(_outline, text)
    if outline is None:
        raise Malformed(json_bodies.FORM)
    if text.count(b":") != _colons(outline):
        raise Invalid(DUPLICATE_KEY, "")
    return _fill(outline, limits)


def _read_many_large(text: bytes, limits: Limits) -> dict[str, Body]:
    """The bodies by stream of an object with a large member, which cannot be cut into smaller ones."""
    outlines: dict[str, _Outline] | None = _first_result(_outlines, text)
    if outlines is None:
        raise Malformed(json_bodies.STREAMS)
    if _ESCAPED_COLON.search(text):  # Then colons cannot be counted.
        if _first_result(_many, text) is None:
            raise Malformed(json_bodies.STREAMS)
        return json_bodies.many(text)
    in_names = "".join(outlines).count(":")
    if text.count(b":") != len(outlines) + in_names + sum(map(_colons, outlines.values())):
        raise Invalid(DUPLICATE_KEY, "")
    filled = {}
    for name, outline in outlines.items():
        try:
            filled[name] = _fill(outline, limits)
        except Invalid as error:
            raise (error.under(f"/{escape(name)}") if is_name(name) else bad_name(name)) from None
    return filled


def _colons(outline: _Outline) -> int:
    return sum(1 + part.count(b":") for part in outline.parts().values())


def _fill(outline: _Outline, limits: Limits) -> Body:
    """The body with this outline."""
    parts = outline.parts()
    values = parts.pop("values", None)
    if values is None:
        return _read_one(b"{%b}" % b",".join(b'"%b":%b' % (key.encode(), part) for key, part in parts.items()))
    if parts:
        raise Invalid(json_bodies.FORM, "")
    return _read_values(values, limits)


def _read_values(array: bytes, limits: Limits) -> Body:
    """The body that has these values, an array."""
    if not array.startswith(b"["):
        raise Invalid(json_bodies.VALUES, "/values")
    parts: list[Body] = []
    readings = numbers = 0
    for piece in json_pieces.of_array(array):
        try:
            parts.append(_read_one(b'{"values":%b}' % piece))
        except Invalid as error:
            raise Invalid(error.detail, _moved(error.pointer or "", readings)) from None
        readings += parts[-1].size()
        numbers += parts[-1].numbers()
        check_size(readings, numbers, limits)
    body = Numbers() if all(isinstance(part, Numbers) for part in parts) else Body()
    body.values = list(chain.from_iterable(part.contents() for part in parts))
    return body


def _moved(pointer: str, by: int) -> str:
    """A pointer into the values of a piece as one into all values, of which ``by`` are before the piece."""
    _, _, rest = pointer.partition("/values/")
    index, slash, inside = rest.partition("/")
    return f"/values/{by + int(index)}{slash}{inside}" if index.isdigit() else "/values"


def _first_result(decoders: _Decoders, body: bytes) -> Any:
    """What the first of these decoders makes of a body that does not refuse it; None if all refuse it."""
    for decoder in decoders:
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return None


def readings_of(node: Any, now: int, limits: Limits) -> Readings:
    """The readings of a body for one stream, as ``load`` made it; otherwise like ``decode``."""
    parsed = json_bodies.body_of(node, "")
    check_size(parsed.size(), parsed.numbers(), limits)
    return _readings(parsed, "", now, limits)


def _readings(body: Body, pointer: str, now: int, limits: Limits) -> Readings:
    """The readings of one decoded body, which stands at ``pointer``."""
    if (body.value is UNSET) == (body.values is UNSET) or (body.value is UNSET and body.time is not UNSET):
        raise Invalid(json_bodies.FORM, pointer)
    time = now if body.time is UNSET else times.parse(body.time)
    if time is None:
        raise Invalid(json_bodies.TIME, f"{pointer}/time")
    try:
        if isinstance(body, Numbers):
            return collect_numbers(body.contents(), time, time)
        return collect(body.contents(), time, time, limits)
    except Invalid as error:
        if body.values is not UNSET:
            raise error.under(f"{pointer}/values") from None
        inside = (error.pointer or "").removeprefix("/0")
        raise Invalid(error.detail, f"{pointer}/value{inside}") from None


def _needs_strict_parse(body: bytes, parsed: list[Body], names: str, keys: int = 0) -> bool:
    """Whether msgspec may have dropped a pair or made a literal 0 (see the essay above)."""
    if b"\\" in body:
        return True
    colons = keys + names.count(":")
    may_underflow = b"e-" in body or b"E-" in body or _RUN_OF_ZEROS in body
    for one in parsed:
        colons += (one.value is not UNSET) + (one.values is not UNSET) + (one.time is not UNSET)
        if isinstance(one.time, str):
            colons += one.time.count(":")
        elif one.time == 0 and may_underflow:
            return True
        if isinstance(one, Numbers):
            if may_underflow and 0 in one.contents():
                return True
            continue
        for value in one.contents():
            if isinstance(value, dict):
                colons += len(value) + "".join(value).count(":")
            if may_underflow and has_zero(value):
                return True
    return body.count(b":") != colons


def has_zero(value: Value) -> bool:
    """Whether a value has a 0."""
    if isinstance(value, dict):
        return any(map(has_zero, value.values()))
    return value == 0 or (isinstance(value, list) and 0 in value)
