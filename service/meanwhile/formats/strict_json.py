"""Strict JSON: each object as its pairs, so that duplicate keys are found, and no literal that becomes 0 by rounding.

This is ``json.loads`` with hooks, which is slow. It decides where a faster reader may have dropped something.
"""

import json
from math import nan
from typing import Any

from meanwhile.core.errors import Invalid

DUPLICATE_KEY = "Expected every key once; one is a duplicate."


class Malformed(ValueError):
    """A body that is not a JSON text. ``detail`` says where the error is."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, including those of duplicate keys."""


def _number(literal: str) -> float:
    """The nearest double; NaN, which is then refused, for a literal that is not 0 but would become it."""
    number = float(literal)
    return nan if number == 0 and literal.lower().partition("e")[0].strip("-0.") else number


# json.loads would make a decoder for each text, which takes as long as a short text.
_decoder = json.JSONDecoder(
    object_pairs_hook=Pairs, parse_int=_number, parse_float=_number, parse_constant=lambda _: nan
)


def load(body: bytes) -> Any:
    """The content of a JSON text; an object is a list of pairs, a number a float. Raises ``Malformed``."""
    try:
        return _decoder.decode(body.decode())
    except UnicodeDecodeError as error:
        raise Malformed(f"Expected UTF-8; byte {error.start} is not.") from None
    except json.JSONDecodeError as error:
        raise Malformed(f"Expected JSON; line {error.lineno}, column {error.colno} is not.") from None
    except RecursionError:
        raise Malformed("Expected JSON that is not nested this deeply.") from None


def members_of(node: Any, expected: str, pointer: str) -> dict[str, Any]:
    """The members of an object, as ``load`` made it. Raises ``Invalid`` for any other node, or duplicate keys."""
    if not isinstance(node, Pairs):
        raise Invalid(expected, pointer)
    members = dict(node)
    if len(members) != len(node):
        raise Invalid(DUPLICATE_KEY, pointer)
    return members


def is_object(node: Any) -> bool:
    """Whether a node, as ``load`` made it, is an object."""
    return isinstance(node, Pairs)


def object_of(members: dict[str, Any]) -> Any:
    """The node that ``load`` would make of an object with these members."""
    return Pairs(members.items())
