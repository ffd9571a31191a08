"""Binary vectors: the numbers of readings as little-endian IEEE 754, one after another, with nothing between them.

This is what numpy's ``array.astype("<f8").tobytes()`` and Python's ``array.array("d").tobytes()`` return. The body does
not say what its numbers are, so four parameters do:

    dtype=float64      or float32, which becomes the same double
    components=N       each reading is an array of N numbers; a number if N is 1
    members=a:2,b      each reading is an object: a is an array of 2 numbers, b is a number; in the order of the body
    time=t             the time of all readings

Without ``components`` and ``members``, the whole body is one reading: a number if it has one number, else an array.

The numbers become one flat list, as ``Readings`` has it, without a value per reading. The names in a shape are sorted,
so the numbers of each reading are reordered if the members of the body are not.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import itemgetter
from struct import unpack
from typing import NamedTuple

from meanwhile.core import times
from meanwhile.core.errors import Invalid
from meanwhile.core.readings import Limits, Readings, check_size, collect_numbers, limited_shape
from meanwhile.core.shapes import NUMBER, Shape

PARAMETERS = ("dtype", "components", "members", "time")
TIME = "Expected time to be RFC 3339 with a zone, such as 2026-01-01T00:00:00Z, or Unix seconds. In a URL, + is %2B."
MEMBERS = (
    "Expected members to be names that occur once, without colons, each with the length of its array or, for a number, "
    "alone, such as key:64,value:64."
)

_TYPES = {"float64": ("d", 8), "float32": ("f", 4)}  # By dtype: the code of the struct module, and bytes.
_PIECE = 8_192  # Numbers that are decoded at once: no other thread runs meanwhile.
_SECONDS = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LENGTH = re.compile(r"[1-9][0-9]{0,8}")
_MAX_CACHED_LENGTH = 1_024  # Characters; longer parameters are not cached.

_Reorder = Callable[[list[float]], tuple[float, ...]]


class _Layout(NamedTuple):
    """The shape of each reading. ``reorder`` sorts the numbers of a reading by member; None if they are sorted."""

    shape: Shape
    reorder: _Reorder | None = None


def decode(body: bytes, now: int, limits: Limits, parameters: Mapping[str, str]) -> Readings:
    """Returns the readings of a body. ``now`` (ms since 1970) is their time if ``parameters`` has none.

    Raises ``Invalid``, with a pointer of the form /<reading>/<component> for a number in the body, or ``TooMany``.

    >>> decode(bytes.fromhex("0000803f 00000040"), 0, Limits(), {"dtype": "float32"}).numbers
    [1.0, 2.0]
    """
    dtype = parameters.get("dtype", "float64")
    if dtype not in _TYPES:
        raise Invalid("Expected dtype to be float64 or float32.")
    code, size = _TYPES[dtype]
    time = _parse_time(parameters["time"]) if "time" in parameters else now
    layout = _layout(parameters, limits)
    components = 1 if layout is None else layout.shape.components
    if not body or len(body) % (components * size):
        raise Invalid(
            f"Expected a body of one or more readings of {components * size} bytes: {components} {dtype} number"
            f"{'s' * (components > 1)} of {size} bytes."
            if layout is not None
            else f"Expected a body of one or more {dtype} numbers of {size} bytes.",
            "",
        )
    count = len(body) // size
    if layout is None:
        layout = _layout_of_one(count, limits)
    check_size(count // layout.shape.components, count, limits)
    return collect_numbers(_numbers(body, code, size, layout), time, time, layout.shape)


def _numbers(body: bytes, code: str, size: int, layout: _Layout) -> list[float]:
    numbers: list[float] = []
    for start in range(0, len(body), _PIECE * size):
        piece = body[start : start + _PIECE * size]
        numbers += unpack(f"<{len(piece) // size}{code}", piece)
    if layout.reorder is None:
        return numbers
    components = layout.shape.components
    reordered: list[float] = []
    for start in range(0, len(numbers), components):
        reordered += layout.reorder(numbers[start : start + components])
    return reordered


def _layout(parameters: Mapping[str, str], limits: Limits) -> _Layout | None:
    """Returns the layout that the parameters describe; None if they describe none."""
    if "members" in parameters:
        if "components" in parameters:
            raise Invalid("Expected components or members, not both.")
        members = parameters["members"]
        return _cached_layout(members, limits) if len(members) <= _MAX_CACHED_LENGTH else _members(members, limits)
    if "components" not in parameters:
        return None
    text = parameters["components"]
    if not _LENGTH.fullmatch(text) or int(text) > limits.components:
        raise Invalid(f"Expected components to be an integer from 1 to {limits.components}.")
    return _Layout(NUMBER if text == "1" else limited_shape([0.0] * int(text), limits))


def _layout_of_one(count: int, limits: Limits) -> _Layout:
    if count > limits.components:
        raise Invalid(
            f"Expected at most {limits.components} numbers in a value. The body is one reading, unless the parameter "
            "components or members says how many numbers a reading has.",
            "/0",
        )
    return _Layout(NUMBER if count == 1 else limited_shape([0.0] * count, limits))


def _members(text: str, limits: Limits) -> _Layout:
    items = text.split(",")
    if len(items) > limits.names:
        raise Invalid(f"Expected at most {limits.names} members.")
    value: dict[str, float | list[float]] = {}
    starts: dict[str | None, int] = {}
    components = 0
    for item in items:
        name, colon, length = item.partition(":")
        if name in value or (colon and not _LENGTH.fullmatch(length)):
            raise Invalid(MEMBERS)
        starts[name] = components
        components += int(length or 1)
        if components > limits.components:
            raise Invalid(f"Expected members of at most {limits.components} numbers together.")
        value[name] = [0.0] * int(length) if colon else 0.0
    try:
        shape = limited_shape(value, limits)
    except Invalid as error:
        raise Invalid(error.detail) from None  # It is about a name, so the place is not in the body.
    order = [starts[name] + i for name, length in shape.members for i in range(length or 1)]
    return _Layout(shape, None if order == sorted(order) else itemgetter(*order))


_cached_layout = lru_cache(maxsize=64)(_members)


def _parse_time(text: str) -> int:
    time = times.parse(float(text) if _SECONDS.fullmatch(text) else text)
    if time is None:
        raise Invalid(TIME)
    return time
