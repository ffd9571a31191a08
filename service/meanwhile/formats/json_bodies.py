"""JSON bodies of the service's own: what they hold, and their strict parse, which finds the place of an error."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from meanwhile.core.errors import Invalid, escape
from meanwhile.core.shapes import Value, is_member_name
from meanwhile.core.stream_names import check_name, is_name
from meanwhile.formats.strict_json import Pairs, load, members_of

T = TypeVar("T")

FORM = 'Expected {"value": v}, with a "time" if you like, or {"values": [v, ...]}.'
NUMBERS = "Expected a number, an array of numbers, or an object of named numbers and arrays of numbers."
VALUES = "Expected an array of values."
STREAMS = 'Expected {"<stream>": {"value": v}, ...}.'
TIME = 'Expected an RFC 3339 time with a zone, such as "2026-01-01T00:00:00Z", or Unix seconds.'


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """A decoded body; its values need not have the same shape, nor a valid one."""

    value: Value | UnsetType = UNSET
    values: list[Value] | UnsetType = UNSET
    time: float | str | UnsetType = UNSET

    def size(self) -> int:
        """How many readings it has."""
        return 1 if self.values is UNSET else len(self.values)

    def contents(self) -> list[Value]:
        """The readings."""
        if self.values is not UNSET:
            return self.values
        return [] if self.value is UNSET else [self.value]

    def numbers(self) -> int:
        """How many numbers it has, if all values have the shape of the first."""
        contents = self.contents()
        return len(contents) * numbers_of(contents[0]) if contents else 0


class Numbers(Body, forbid_unknown_fields=True):
    """A body of numbers alone, as most are; it needs no search for anything else."""

    value: float | UnsetType = UNSET
    values: list[float] | UnsetType = UNSET  # type: ignore[assignment]  # narrower, and never added to

    def contents(self) -> list[float]:  # type: ignore[override]  # likewise
        """The readings."""
        if self.values is not UNSET:
            return self.values
        return [] if self.value is UNSET else [self.value]

    def numbers(self) -> int:
        """How many numbers it has."""
        return self.size()


def numbers_of(value: Value) -> int:
    """How many numbers a value has."""
    if isinstance(value, dict):
        return sum(len(part) if isinstance(part, list) else 1 for part in value.values())
    return len(value) if isinstance(value, list) else 1


def bad_name(name: str) -> Invalid:
    """Why this cannot be the name of a stream."""
    try:
        check_name(name)
    except Invalid as error:
        return Invalid(error.detail, "")  # Without the name, which can be anything.
    raise AssertionError(name)


def one(body: bytes) -> Body:
    """The body for one stream. Raises ``Malformed`` or ``Invalid`` with a pointer."""
    return body_of(load(body), "")


def many(body: bytes) -> dict[str, Body]:
    """The bodies by stream; otherwise like ``one``."""
    pairs = members_of(load(body), STREAMS, "")
    for name in pairs:
        if not is_name(name):
            raise bad_name(name)
    return {name: body_of(one, f"/{escape(name)}") for name, one in pairs.items()}


def body_of(node: Any, pointer: str) -> Body:
    """The body of a node, as ``load`` made it, at ``pointer``."""
    members = members_of(node, FORM, pointer)
    if not members.keys() <= {"value", "values", "time"}:
        raise Invalid(FORM, pointer)
    body = Body()
    if "value" in members:
        body.value = _value(members["value"], f"{pointer}/value")
    if "values" in members:
        body.values = _array(members["values"], f"{pointer}/values", VALUES, _value)
    if "time" in members:
        body.time = members["time"]
        if not isinstance(body.time, float | str):
            raise Invalid(TIME, f"{pointer}/time")
    return body


def _array(node: Any, pointer: str, expected: str, item: Callable[[Any, str], T]) -> list[T]:
    if not isinstance(node, list) or isinstance(node, Pairs):
        raise Invalid(expected, pointer)
    return [item(one, f"{pointer}/{i}") for i, one in enumerate(node)]


def _value(node: Any, pointer: str) -> Value:
    if not isinstance(node, Pairs):
        return _member(node, pointer)
    members = members_of(node, NUMBERS, pointer)
    parts: dict[str, float | list[float]] = {}
    for name, part in members.items():
        try:
            parts[name] = _member(part, f"{pointer}/{escape(name)}")
        except Invalid as error:  # Without an invalid name, which can be anything.
            raise (error if is_member_name(name) else Invalid(error.detail, pointer)) from None
    return parts


def _member(node: Any, pointer: str) -> float | list[float]:
    if isinstance(node, list):
        return _array(node, pointer, NUMBERS, _float)
    return _float(node, pointer, NUMBERS)


def _float(node: Any, pointer: str, expected: str = "Expected a number.") -> float:
    if not isinstance(node, float):
        raise Invalid(expected, pointer)
    return node
