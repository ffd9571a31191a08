"""Values and their shapes.

A value is a number, an array of numbers, or an object of named numbers and arrays of numbers. The first reading of a
stream fixes its *shape*: all later readings must have it, and the average has it, too. For example, a stream of
``{"key": [...], "value": [...]}`` pairs averages to one such pair, the cumulative average memory of an attention head.
All computations work on *components*, the numbers of a value in one flat list:

    value                                  shape text               components
    21.5                                   ""                       [21.5]
    [1.0, 2.0]                             "2"                      [1.0, 2.0]
    {"t": 21.5, "key": [1.0, 2.0]}         '{"key":2,"t":0}'        [1.0, 2.0, 21.5]

The text identifies the shape. It is stored with the stream, and the script in the server compares it. Names are sorted,
so the order of the members of an object does not matter; 0 stands for a plain number.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from meanwhile.core.errors import escape
from meanwhile.core.stream_names import MAX_NAME_LENGTH

Value = float | list[float] | dict[str, float | list[float]]
_MAX_CACHED_LENGTH = 1_024  # Characters; a longer shape text is not cached.
_MAX_SHOWN_NAMES = 8  # Names in the description of an object.


class Shape(NamedTuple):
    """The structure of the values of a stream.

    ``text`` identifies the shape. ``members`` are (name, length) pairs in the order of the components: a length of 0
    stands for a plain number, and a name of None means that the value is not an object and has one member.
    ``components`` is the number of components.
    """

    text: str
    members: tuple[tuple[str | None, int], ...]
    components: int

    def __str__(self) -> str:
        """Describes the shape in words, for error messages.

        >>> print(shape_of({"t": 21.5, "key": [1.0, 2.0]}))
        an object of key (an array of 2 numbers), t (a number)
        """
        words = ["a number" if n == 0 else f"an array of {n} number{'s' * (n > 1)}" for _, n in self.members]
        if self.members[0][0] is None:
            return words[0]
        shown = [f"{name} ({w})" for (name, _), w in zip(self.members[:_MAX_SHOWN_NAMES], words, strict=False)]
        more = len(self.members) - _MAX_SHOWN_NAMES
        return "an object of " + ", ".join([*shown, f"and {more} more"] if more > 0 else shown)

    def value(self, components: Sequence[float]) -> Value:
        """Returns the value of this shape that has these components; the inverse of ``flatten``."""
        if self.text == "":
            return components[0]
        parts: dict[str, float | list[float]] = {}
        start = 0
        for name, length in self.members:
            end = start + (length or 1)
            part = list(components[start:end]) if length else components[start]
            if name is None:
                return part
            parts[name] = part
            start = end
        return parts

    def flatten(self, value: Value) -> list[float]:
        """Returns the components of a value of this shape."""
        if isinstance(value, float):
            return [value]
        if isinstance(value, list):
            return value
        components: list[float] = []
        for name, length in self.members:
            part = value[name]  # type: ignore[index]  # an object's members have names
            if length:
                components += part  # type: ignore[arg-type]  # its length says that it is a list
            else:
                components.append(part)  # type: ignore[arg-type]  # its length says that it is a number
        return components

    def fits(self, value: Value) -> bool:
        """Returns whether a value has this shape."""
        if isinstance(value, dict):
            return len(value) == len(self.members) and all(
                name is not None and name in value and _length(value[name]) == n for name, n in self.members
            )
        return self.members == ((None, _length(value)),)

    def pointer(self, component: int) -> str:
        """Returns the JSON Pointer of a component inside a value of this shape. Raises ``IndexError``."""
        for name, length in self.members:
            if component < (length or 1):
                return (f"/{escape(name)}" if name is not None else "") + (f"/{component}" if length else "")
            component -= length or 1
        raise IndexError(component)


def _length(part: float | list[float]) -> int:
    return (len(part) or -1) if isinstance(part, list) else 0


def is_member_name(name: str) -> bool:
    """Returns whether ``name`` is a valid name inside an object."""
    return 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable()


NUMBER = Shape("", ((None, 0),), 1)


def shape_from_text(text: str) -> Shape:
    """Returns the shape that ``text`` identifies; the inverse of ``Shape.text``. Raises ``ValueError`` if malformed."""
    if text == "":
        return NUMBER
    return _short_shape(text) if len(text) <= _MAX_CACHED_LENGTH else _parse(text)


@lru_cache(maxsize=1024)  # A text has at most _MAX_CACHED_LENGTH characters: a few megabytes in total.
def _short_shape(text: str) -> Shape:
    return _parse(text)


def _parse(text: str) -> Shape:
    try:
        described = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    members: tuple[tuple[str | None, int], ...] = ((None, described),)
    if isinstance(described, dict):
        members = tuple(described.items())
    if not members or not all(
        type(n) is int and n >= (name is None) and (name is None or is_member_name(name)) for name, n in members
    ):
        raise ValueError("not a shape")
    if text != _text(described):
        raise ValueError("not the text of this shape")
    return Shape(text, members, sum(length or 1 for _, length in members))


def _text(described: object) -> str:
    return json.dumps(described, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _shape(members: tuple[tuple[str, int], ...]) -> Shape:
    if sum([len(name) for name, _ in members]) > _MAX_CACHED_LENGTH:
        return shape_from_text(_text(dict(members)))
    return _short_shape_of(members)


@lru_cache(maxsize=1024)
def _short_shape_of(members: tuple[tuple[str, int], ...]) -> Shape:
    return shape_from_text(_text(dict(members)))


def shape_of(value: Value) -> Shape:
    """Returns the shape of a value that has at least one component."""
    if isinstance(value, float):
        return NUMBER
    if isinstance(value, list):
        return shape_from_text(str(len(value)))
    return _shape(tuple([(name, len(part) if isinstance(part, list) else 0) for name, part in value.items()]))
