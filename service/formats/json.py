"""The service's own JSON: ``{"value": v, "time"?: t}`` or ``{"values": [v, ...]}``, and an object of those by stream.

A reading that is misread is wrong for ever, so the reader must be strict; it must also be fast, and no fast parser is
strict enough. So there are two:

1. *msgspec* decodes into typed values in C. It refuses wrong types, unknown fields and what is not JSON. It lets two
   things pass: of a key given twice the last one wins, and a literal such as 1e-400 becomes 0.
2. *The strict reader* walks over the pairs and literals of the text (``pairs.py``). It decides whenever the first one
   refuses (then it also finds the exact place of the error) or when a doubt is left about what it accepted.

Doubt is cheap to rule out. A key given twice has its colon in the body but not its entry in what was decoded, so
with no backslash in the body, nothing is hidden if the colons in the body are as many as the decoded keys plus the
colons inside decoded strings. And a literal can only have become 0 if it has a negative exponent or a long run of
zeros.

A test feeds both readers the same bodies and demands the same answer.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from service import times
from service.formats.pairs import Pairs, load, members_of
from service.stream import (
    NUMBER,
    Invalid,
    Limits,
    Readings,
    TooMany,
    Value,
    check_name,
    collect,
    collect_numbers,
    escape,
    is_member_name,
    is_name,
    is_usual,
)

T = TypeVar("T")

_FORM = 'Expected {"value": v}, with a "time" if you like, or {"values": [v, ...]}.'
_LINE = 'Expected {"stream": s, "value": v}, with a "time" if you like.'
_NUMBERS = "Expected a number, an array of numbers, or an object of named numbers and arrays of numbers."
_TIME = 'Expected an RFC 3339 time with a zone, such as "2026-01-01T00:00:00Z", or Unix seconds.'
_RUN_OF_ZEROS = b"0" * 100


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    value: Value | UnsetType = UNSET
    values: list[Value] | UnsetType = UNSET
    time: float | str | UnsetType = UNSET

    def size(self) -> int:
        return 1 if self.values is UNSET else len(self.values)

    def contents(self) -> list[Value]:
        if self.values is not UNSET:
            return self.values
        return [] if self.value is UNSET else [self.value]

    def numbers(self) -> int:
        """How many numbers these are, if all values have the shape of the first."""
        contents = self.contents()
        return len(contents) * _numbers_of(contents[0]) if contents else 0


class _Numbers(_Body, forbid_unknown_fields=True):
    """A body of numbers alone. What most are; it need not be looked through for anything else."""

    value: float | UnsetType = UNSET
    values: list[float] | UnsetType = UNSET  # type: ignore[assignment]  # narrower, and nothing is put into it

    def contents(self) -> list[float]:  # type: ignore[override]  # likewise
        if self.values is not UNSET:
            return self.values
        return [] if self.value is UNSET else [self.value]

    def numbers(self) -> int:
        return self.size()


_Decoders = Sequence["msgspec.json.Decoder[Any]"]

_one: _Decoders = [msgspec.json.Decoder(_Numbers), msgspec.json.Decoder(_Body)]
_many: _Decoders = [msgspec.json.Decoder(dict[str, _Numbers]), msgspec.json.Decoder(dict[str, _Body])]


def decode(body: bytes, now: int, limits: Limits) -> Readings:
    """The readings of a body for one stream. ``now`` (ms since 1970) is the time of those that have none.

    Raises ``Malformed``, or ``Invalid`` with a pointer, or ``TooMany``.
    """
    parsed: _Body | None = _first_that_understands(_one, body)
    if isinstance(parsed, _Numbers) and is_usual(parsed.value) and body.count(b":") == 1:
        # Almost every request is one such number, beside no other key: beyond doubt.
        return Readings(NUMBER, [[parsed.value]], now, now)
    if parsed is None or _is_doubtful(body, [parsed], ""):
        parsed = _strict_one(body)
    _check_size([parsed], limits)
    return _readings(parsed, "", now, limits)


def decode_batch(body: bytes, now: int, limits: Limits) -> dict[str, Readings]:
    """The readings of a body for many streams, by stream name. Otherwise as ``decode``."""
    parsed: dict[str, _Body] | None = _first_that_understands(_many, body)
    if parsed is None or _is_doubtful(body, list(parsed.values()), "".join(parsed), len(parsed)):
        parsed = _strict_many(body)
    if not parsed:
        raise Invalid("Expected at least one stream.", "")
    for name in parsed:
        if not is_name(name):
            raise _bad_name(name)
    _check_size(parsed.values(), limits)
    batch: dict[str, Readings] = {}
    for name, one in parsed.items():
        try:
            batch[name] = _readings(one, "", now, limits)
        except Invalid as error:
            raise error.under(f"/{escape(name)}") from None
    return batch


def _first_that_understands(decoders: _Decoders, body: bytes) -> Any:
    for decoder in decoders:
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return None


def decode_line(line: bytes, now: int, limits: Limits) -> tuple[str, Readings]:
    """The stream and the reading of ``{"stream": s, "value": v, "time"?: t}``, by the strict reader. As ``decode``."""
    members = members_of(load(line), _LINE, "")
    name = members.pop("stream", None)
    if not isinstance(name, str) or members.keys() | {"time"} != {"value", "time"}:
        raise Invalid(_LINE, "")
    if not is_name(name):
        raise Invalid(_bad_name(name).detail, "/stream")
    return name, _readings(_strict_body(Pairs(members.items()), ""), "", now, limits)


def _readings(body: _Body, pointer: str, now: int, limits: Limits) -> Readings:
    """The readings of one decoded body, which stands at ``pointer``."""
    if (body.value is UNSET) == (body.values is UNSET) or (body.value is UNSET and body.time is not UNSET):
        raise Invalid(_FORM, pointer)
    time = now if body.time is UNSET else times.parse(body.time)
    if time is None:
        raise Invalid(_TIME, f"{pointer}/time")
    try:
        if isinstance(body, _Numbers):
            return collect_numbers(body.contents(), time, time)
        return collect(body.contents(), time, time, limits)
    except Invalid as error:
        if body.values is not UNSET:
            raise error.under(f"{pointer}/values") from None
        inside = (error.pointer or "").removeprefix("/0")
        raise Invalid(error.detail, f"{pointer}/value{inside}") from None


def _check_size(bodies: Iterable[_Body], limits: Limits) -> None:
    readings = numbers = 0
    for body in bodies:
        readings += body.size()
        numbers += body.numbers()
    if readings > limits.readings:
        raise TooMany(f"Expected at most {limits.readings} readings in a request.")
    if numbers > limits.numbers:
        raise TooMany(f"Expected at most {limits.numbers} numbers in a request.")


def _numbers_of(value: Value) -> int:
    if isinstance(value, dict):
        return sum(len(part) if isinstance(part, list) else 1 for part in value.values())
    return len(value) if isinstance(value, list) else 1


def _bad_name(name: str) -> Invalid:
    try:
        check_name(name)
    except Invalid as error:
        return Invalid(error.detail, "")  # The key itself is not repeated: it can be anything.
    raise AssertionError(name)


def _is_doubtful(body: bytes, parsed: list[_Body], names: str, keys: int = 0) -> bool:
    """Whether the fast reader may have dropped a pair or flushed a literal to zero (see the essay above)."""
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
        if isinstance(one, _Numbers):
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


def _strict_one(body: bytes) -> _Body:
    return _strict_body(load(body), "")


def _strict_many(body: bytes) -> dict[str, _Body]:
    pairs = members_of(load(body), 'Expected {"<stream>": {"value": v}, ...}.', "")
    for name in pairs:
        if not is_name(name):
            raise _bad_name(name)
    return {name: _strict_body(one, f"/{escape(name)}") for name, one in pairs.items()}


def readings_of(node: Any, now: int, limits: Limits) -> Readings:
    """The readings of a body for one stream, as ``load`` made it; otherwise as ``decode``."""
    parsed = _strict_body(node, "")
    _check_size([parsed], limits)
    return _readings(parsed, "", now, limits)


def _strict_body(node: Any, pointer: str) -> _Body:
    members = members_of(node, _FORM, pointer)
    if not members.keys() <= {"value", "values", "time"}:
        raise Invalid(_FORM, pointer)
    body = _Body()
    if "value" in members:
        body.value = _value(members["value"], f"{pointer}/value")
    if "values" in members:
        body.values = _array(members["values"], f"{pointer}/values", "Expected an array of values.", _value)
    if "time" in members:
        body.time = members["time"]
        if not isinstance(body.time, float | str):
            raise Invalid(_TIME, f"{pointer}/time")
    return body


def _array(node: Any, pointer: str, expected: str, item: Callable[[Any, str], T]) -> list[T]:
    if not isinstance(node, list) or isinstance(node, Pairs):
        raise Invalid(expected, pointer)
    return [item(one, f"{pointer}/{i}") for i, one in enumerate(node)]


def _value(node: Any, pointer: str) -> Value:
    if not isinstance(node, Pairs):
        return _member(node, pointer)
    members = members_of(node, _NUMBERS, pointer)
    parts: dict[str, float | list[float]] = {}
    for name, part in members.items():
        try:
            parts[name] = _member(part, f"{pointer}/{escape(name)}")
        except Invalid as error:  # A name that cannot be kept can be anything, so it is not repeated.
            raise (error if is_member_name(name) else Invalid(error.detail, pointer)) from None
    return parts


def _member(node: Any, pointer: str) -> float | list[float]:
    if isinstance(node, list):
        return _array(node, pointer, _NUMBERS, _float)
    return _float(node, pointer, _NUMBERS)


def _float(node: Any, pointer: str, expected: str = "Expected a number.") -> float:
    if not isinstance(node, float):
        raise Invalid(expected, pointer)
    return node
