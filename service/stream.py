"""Streams: their names, and the shape of the values they hold.

A value is a number, an array of numbers, or an object of named numbers and arrays of numbers. All readings of a stream
have the same *shape*, fixed by the first one, and the average has it too: a stream of ``{"key": [...], "value":
[...]}`` pairs averages to one such pair, the cumulative average memory of an attention head. Everything below the
border works on *components*, the numbers of a value in one flat list:

    value                                  shape text               components
    21.5                                   ""                       [21.5]
    [1.0, 2.0]                             "2"                      [1.0, 2.0]
    {"t": 21.5, "key": [1.0, 2.0]}         '{"key":2,"t":0}'        [1.0, 2.0, 21.5]

The text identifies the shape: it is stored with the stream, and the script in the server compares it. Names are
sorted, so the order in which an object lists them means nothing; 0 stands for a plain number.

A stream's name can never be a glob, a hash tag, a control character or a path that a proxy rewrites (see ``_NAME``).
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from math import isfinite
from typing import NamedTuple, TypeGuard

from service.exact import LARGEST, SMALLEST

Value = float | list[float] | dict[str, float | list[float]]

LONGEST_NAME = 255
_KEPT = 1_024  # Characters of a shape that is remembered.
_SHOWN = 8  # Names of an object in its description.
_NAME = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9][A-Za-z0-9._:~-]*(?:/[A-Za-z0-9._:~-]+)*", re.ASCII)
FORM = "^[A-Za-z0-9][A-Za-z0-9._:~-]*(/[A-Za-z0-9._:~-]+)*$"  # For JSON Schema: a name has this form, and is_name.
_PREFIX = re.compile(r"[A-Za-z0-9._:~/-]*", re.ASCII)
RESERVED = frozenset({"readings", "average", "count", "events"})  # Routes below a stream's own path.


class Invalid(ValueError):
    """A request that is understood but says something that cannot be recorded.

    ``detail`` says what was expected, never what came; ``pointer`` is the JSON Pointer (RFC 6901) of the place, or
    None where the place is not in the body.
    """

    def __init__(self, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer

    def under(self, pointer: str) -> "Invalid":
        """The same, seen from above: ``pointer`` leads to where its own pointer starts."""
        return type(self)(self.detail, pointer + (self.pointer or ""))


def escape(key: str) -> str:
    """``key`` as one token of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")


class TooMany(Invalid):
    """A request with more readings, or numbers in them, than the limit."""


class Limits(NamedTuple):
    """How much one request may hold."""

    readings: int = 100_000
    components: int = 1_024
    names: int = 64
    numbers: int = 1_500_000  # In all readings together.


class Shape(NamedTuple):
    """What values of a stream look like. ``members`` are (name, length) pairs in the order of the components.

    A length of 0 is a plain number; a name of None means that the value is not an object and has one member.
    """

    text: str
    members: tuple[tuple[str | None, int], ...]
    components: int

    def __str__(self) -> str:
        """The shape in words, for error messages.

        >>> print(shape_of({"t": 21.5, "key": [1.0, 2.0]}))
        an object of key (an array of 2 numbers), t (a number)
        """
        words = ["a number" if n == 0 else f"an array of {n} number{'s' * (n > 1)}" for _, n in self.members]
        if self.members[0][0] is None:
            return words[0]
        shown = [f"{name} ({w})" for (name, _), w in zip(self.members[:_SHOWN], words, strict=False)]
        more = len(self.members) - _SHOWN
        return "an object of " + ", ".join([*shown, f"and {more} more"] if more > 0 else shown)

    def value(self, components: Sequence[float]) -> Value:
        """The value of this shape that has these components; the inverse of ``components``."""
        if self.text == "":
            return components[0]
        taken = iter(components)
        parts = [[next(taken) for _ in range(n)] if n else next(taken) for _, n in self.members]
        if self.members[0][0] is None:
            return parts[0]
        return {name: part for (name, _), part in zip(self.members, parts, strict=True) if name is not None}

    def flatten(self, value: Value) -> list[float]:
        """The components of a value of this shape."""
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
        """Whether a value has this shape."""
        if isinstance(value, dict):
            return len(value) == len(self.members) and all(
                name is not None and name in value and _length(value[name]) == n for name, n in self.members
            )
        return self.members == ((None, _length(value)),)

    def pointer(self, component: int) -> str:
        """The JSON Pointer of a component inside a value of this shape."""
        for name, length in self.members:
            if component < (length or 1):
                return (f"/{escape(name)}" if name is not None else "") + (f"/{component}" if length else "")
            component -= length or 1
        raise IndexError(component)


def _length(part: float | list[float]) -> int:
    return (len(part) or -1) if isinstance(part, list) else 0


def is_member_name(name: str) -> bool:
    """Whether ``name`` can be one inside an object."""
    return 0 < len(name) <= LONGEST_NAME and name.isprintable()


NUMBER = Shape("", ((None, 0),), 1)


def shape_from_text(text: str) -> Shape:
    """The shape that ``text`` identifies; the inverse of ``Shape.text``. Raises ``ValueError`` if it is none."""
    if text == "":
        return NUMBER
    return _short_shape(text) if len(text) <= _KEPT else _parse(text)


@lru_cache(maxsize=1024)  # Of at most _KEPT characters each: some megabytes.
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
    if sum([len(name) for name, _ in members]) > _KEPT:
        return shape_from_text(_text(dict(members)))
    return _short_shape_of(members)


@lru_cache(maxsize=1024)
def _short_shape_of(members: tuple[tuple[str, int], ...]) -> Shape:
    return shape_from_text(_text(dict(members)))


def shape_of(value: Value) -> Shape:
    """The shape of a value; it has at least one component."""
    if isinstance(value, float):
        return NUMBER
    if isinstance(value, list):
        return shape_from_text(str(len(value)))
    return _shape(tuple([(name, len(part) if isinstance(part, list) else 0) for name, part in value.items()]))


class Readings(NamedTuple):
    """Readings of one stream: their components in one flat list, reading after reading.

    ``first`` and ``last`` are the times of the earliest and the latest, in milliseconds since 1970 (UTC).
    """

    shape: Shape
    numbers: list[float]
    first: int
    last: int

    @property
    def size(self) -> int:
        """How many readings these are."""
        return len(self.numbers) // self.shape.components

    @property
    def columns(self) -> list[list[float]]:
        """One list a component, one entry a reading.

        >>> Readings(shape_of([0.0, 0.0]), [1.0, 2.0, 3.0, 4.0], 0, 0).columns
        [[1.0, 3.0], [2.0, 4.0]]
        """
        components = self.shape.components
        return [self.numbers] if components == 1 else [self.numbers[i::components] for i in range(components)]


def collect(values: Sequence[Value], first: int, last: int, limits: Limits) -> Readings:
    """The readings that are ``values``: of one shape, inside ``limits`` and the domain of ``exact``.

    Raises ``Invalid`` for the first value that is not; its pointer is relative to ``values``.
    """
    if not values:
        raise Invalid("Expected at least one reading.", "")
    _check_limits(values[0], limits)  # First: shapes are kept, and what is refused must not be.
    shape = shape_of(values[0])
    odd = next((i for i, value in enumerate(values) if not shape.fits(value)), None)
    if odd is not None:
        raise Invalid(f"Expected the shape of the first value, {shape}.", f"/{odd}")
    numbers = list(chain.from_iterable(map(shape.flatten, values)))
    _check_domain(numbers, shape)
    return Readings(shape, numbers, first, last)


def is_usual(value: object) -> TypeGuard[float]:
    """Whether this is a number of the domain and not zero.

    >>> is_usual(21.5), is_usual(0.0), is_usual(1e-300)
    (True, False, False)
    """
    return type(value) is float and SMALLEST <= abs(value) <= LARGEST


def collect_numbers(values: list[float], first: int, last: int) -> Readings:
    """The same of numbers that are known to be doubles; takes the list over."""
    if not values:
        raise Invalid("Expected at least one reading.", "")
    _check_domain(values, NUMBER)
    return Readings(NUMBER, values, first, last)


def _check_limits(value: Value, limits: Limits) -> None:
    if isinstance(value, float):
        return
    parts = [value] if isinstance(value, list) else list(value.values())
    if not parts or any(part == [] for part in parts):
        raise Invalid("Expected at least one number in every array and object.", "/0")
    if isinstance(value, dict):
        if len(value) > limits.names:
            raise Invalid(f"Expected at most {limits.names} names in an object.", "/0")
        if not all(map(is_member_name, value)):
            raise Invalid(f"Expected names of 1 to {LONGEST_NAME} printable characters.", "/0")
    if sum(len(part) if isinstance(part, list) else 1 for part in parts) > limits.components:
        raise Invalid(f"Expected at most {limits.components} numbers in a value.", "/0")


def _check_domain(numbers: list[float], shape: Shape) -> None:
    """Refuses what is outside the domain, and makes every zero a positive one: the sign would depend on the order."""
    lowest, highest = min(numbers), max(numbers)
    if isfinite(sum(numbers)) and lowest >= -LARGEST and highest <= LARGEST:
        if lowest >= SMALLEST or highest <= -SMALLEST or min(map(abs, numbers)) >= SMALLEST:
            return
        numbers[:] = [x or 0.0 for x in numbers]
    wrong = next((i for i, x in enumerate(numbers) if not (x == 0 or SMALLEST <= abs(x) <= LARGEST)), None)
    if wrong is not None:
        row, component = divmod(wrong, shape.components)
        place = f"/{row}{shape.pointer(component)}"
        raise Invalid(f"Expected 0 or a number with a magnitude from {SMALLEST} to {LARGEST}.", place)


def check_name(name: str) -> str:
    """``name`` itself if it can be a stream's; raises ``Invalid`` otherwise."""
    if not is_name(name):
        raise Invalid(
            f"A stream name has 1 to {LONGEST_NAME} characters: segments of A-Z a-z 0-9 . _ : ~ - joined by '/', the "
            "first character a letter or a digit, no segment '.' or '..', the last none of "
            + ", ".join(sorted(RESERVED))
            + "."
        )
    return name


def is_name(name: str) -> bool:
    """Whether ``name`` can be a stream's.

    >>> is_name("plant-1/boiler:2/temp"), is_name("a//b"), is_name("../x"), is_name("x/average")
    (True, False, False, False)
    """
    return len(name) <= LONGEST_NAME and _is_short_name(name)


@lru_cache(maxsize=16_384)  # A name comes again with every reading: 60 ns instead of 1.5 us.
def _is_short_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name.rpartition("/")[2] not in RESERVED


def check_prefix(prefix: str) -> str:
    """``prefix`` itself if a stream's name can start with it; raises ``Invalid`` otherwise."""
    if len(prefix) > LONGEST_NAME or _PREFIX.fullmatch(prefix) is None:
        raise Invalid("A prefix is the start of a stream name: at most 255 of A-Z a-z 0-9 . _ : ~ - and '/'.")
    return prefix
