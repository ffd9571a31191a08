"""CBOR (RFC 8949), as much of it as SenML needs, in time and memory that grow with the body only.

A general decoder makes integers and decimals of any size, and a number of 250,000 bytes takes seconds to convert to a
double, for which it is too large in the end. Here a number is a double from the start: integers, bignums (tags 2 and
3), decimal fractions (4) and bigfloats (5) become the nearest double, with integers of at most ``_MAX_BIGNUM`` bytes. A
number beyond the doubles is NaN, and so is one that is not 0 and would become it. Other tags are refused, and so are
duplicate keys.

The result has numbers as doubles, except for keys; strings, bytes, booleans, None, lists and dictionaries.
"""

from collections.abc import Iterator
from math import nan
from struct import Struct, error
from typing import Any

from meanwhile.formats.strict_json import Malformed

_MAX_BIGNUM = 64  # Bytes; the domain of readings ends far below 2**512.
_MAX_DEPTH = 16
_MAX_EXPONENT = 2_400  # Of ten or two: beyond it, no mantissa of that size makes a double but zero.
_BREAK = object()
_FLOATS = {25: Struct(">e"), 26: Struct(">f"), 27: Struct(">d")}
_SIMPLE = {20: False, 21: True, 22: None, 23: None}
_FORM = "Expected CBOR, with every key once and no tags but those of numbers."


def items(body: bytes) -> Iterator[Any] | None:
    """The items of a body that is an array, one at a time; None for any other body. Raises ``Malformed``.

    >>> list(items(bytes.fromhex("82a10201c48220 1819")))
    [{2: 1.0}, 2.5]
    """
    decoder = _Decoder(body)
    major, length = decoder.head()
    if major != 4:
        decoder.at = 0
        decoder.item(0)
        decoder.finish()
        return None
    return _items(decoder, length)


def _items(decoder: "_Decoder", length: int | None) -> Iterator[Any]:
    try:
        yield from decoder.members(length, 1)
    except (error, IndexError, UnicodeDecodeError):
        raise Malformed(_FORM) from None
    decoder.finish()


class _Decoder:
    """Reads ``body``, from the byte ``at`` on."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.at = 0

    def finish(self) -> None:
        """Raises ``Malformed`` if the body is not at its end."""
        if self.at != len(self._body):
            raise Malformed("Expected one CBOR item and nothing after it.")

    def head(self) -> tuple[int, int | None]:
        """The major type and the argument of the next item; None for an indefinite length or a break."""
        if self.at >= len(self._body):
            raise Malformed(_FORM)
        first = self._body[self.at]
        self.at += 1
        major, more = first >> 5, first & 31
        if more < 24:
            return major, more
        if more == 31 and major in (2, 3, 4, 5, 7):
            return major, None
        if more > 27:
            raise Malformed(_FORM)
        return major, int.from_bytes(self._take(1 << (more - 24)))

    def _take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self._body):
            raise Malformed(_FORM)
        taken = self._body[self.at : end]
        self.at = end
        return taken

    def members(self, length: int | None, depth: int) -> Iterator[Any]:
        """The items of an array, after its head."""
        if length is not None and length > len(self._body) - self.at:  # An item has at least one byte.
            raise Malformed(_FORM)
        while length is None or length > 0:
            one = self.item(depth, may_break=length is None)
            if one is _BREAK:
                return
            yield one
            length = None if length is None else length - 1

    def item(self, depth: int, *, may_break: bool = False, is_key: bool = False) -> Any:
        """The next item. ``is_key`` leaves an integer as it is."""
        if depth > _MAX_DEPTH:
            raise Malformed(f"Expected at most {_MAX_DEPTH} levels of CBOR.")
        start = self.at
        major, value = self.head()
        if major == 7:
            return self._simple(start, value, may_break=may_break)
        if major in (2, 3):
            return self._string(major, value)
        if major == 4:
            return list(self.members(value, depth + 1))
        if major == 5:
            return self._map(value, depth + 1)
        argument = value or 0  # Only the types above can be indefinite.
        if major == 6:
            return self._tagged(argument)
        number = argument if major == 0 else -1 - argument
        return number if is_key else float(number)

    def _simple(self, start: int, value: int | None, *, may_break: bool) -> Any:
        if value is None:
            if may_break:
                return _BREAK
            raise Malformed(_FORM)
        more = self._body[start] & 31
        if more in _FLOATS:
            return _FLOATS[more].unpack(self._body[start + 1 : self.at])[0]
        if more == 24 and value < 32:
            raise Malformed(_FORM)
        return _SIMPLE.get(value)

    def _string(self, major: int, length: int | None) -> str | bytes:
        data = self._chunks(major, length)
        return data if major == 2 else _text(data)

    def _chunks(self, major: int, length: int | None) -> bytes:
        """The bytes of a string, after its head; one of indefinite length is joined from its parts."""
        if length is not None:
            return self._take(length)
        parts: list[bytes] = []
        while True:
            kind, size = self.head()
            if kind == 7 and size is None:
                return b"".join(parts)
            if kind != major or size is None:
                raise Malformed(_FORM)
            parts.append(self._take(size))
            if major == 3:
                _text(parts[-1])  # Each part is well-formed by itself.

    def _map(self, length: int | None, depth: int) -> dict[Any, Any]:
        if length is not None and 2 * length > len(self._body) - self.at:
            raise Malformed(_FORM)
        found: dict[Any, Any] = {}
        while length is None or length > 0:
            key = self.item(depth, may_break=length is None, is_key=True)
            if key is _BREAK:
                return found
            if isinstance(key, list | dict) or key in found:
                raise Malformed(_FORM)
            found[key] = self.item(depth)
            length = None if length is None else length - 1
        return found

    def _tagged(self, tag: int) -> float:
        if tag in (2, 3):
            return _to_double(self._bignum(tag))
        if tag not in (4, 5):
            raise Malformed(_FORM)
        major, length = self.head()
        if (major, length) != (4, 2):
            raise Malformed(_FORM)
        exponent, mantissa = self._integer(), self._integer()
        if exponent is None or mantissa is None:
            return nan
        if mantissa == 0:
            return 0.0
        if abs(exponent) > _MAX_EXPONENT:
            return nan
        power = (10 if tag == 4 else 2) ** abs(exponent)
        try:
            number = float(mantissa * power) if exponent >= 0 else mantissa / power  # Both round once, to nearest.
        except OverflowError:
            return nan
        return number or nan

    def _integer(self) -> int | None:
        """An integer or a bignum; None for one that is too large."""
        major, value = self.head()
        if value is None:
            raise Malformed(_FORM)
        if major == 6 and value in (2, 3):
            return self._bignum(value)
        if major > 1:
            raise Malformed(_FORM)
        return value if major == 0 else -1 - value

    def _bignum(self, tag: int) -> int | None:
        major, length = self.head()
        if major != 2:
            raise Malformed(_FORM)
        data = self._chunks(2, length).lstrip(b"\0")
        if len(data) > _MAX_BIGNUM:
            return None
        number = int.from_bytes(data)
        return number if tag == 2 else -1 - number


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Malformed(_FORM) from None


def _to_double(number: int | None) -> float:
    return nan if number is None else float(number)
