"""Large JSON texts in pieces, so that other threads run while one is decoded.

A decoder in C holds the interpreter lock from the first byte to the last, and 8 MiB take it a tenth of a second. So an
object is cut between two of its members and an array between two of its items, into texts of the same kind. The place
of a cut is a guess by the characters around it, which decoding proves: the piece starts at the right place, so if it
decodes as whole members, it ends where a member ends. A wrong guess is inside a string, and the next one is further on.

A number or a name of several megabytes cannot be cut, and every pass over it would take a hundredth of a second. So a
text with such a run is refused first.
"""

import re
from collections.abc import Iterator

import msgspec

from meanwhile.core.errors import Invalid
from meanwhile.formats.strict_json import Malformed

SMALL = 64 * 1024  # Bytes of a body that is decoded whole, and in the event loop: it takes a few milliseconds.
PIECE = 48 * 1024  # Bytes of a piece, unless it is one member or item.
MAX_RUN = 1024 * 1024  # Bytes of a number or a name.
_SPACE = rb"[ \t\r\n]*+"
_BETWEEN_MEMBERS = re.compile(rb"\}%b(,)%b\"[^\"\\]*+(?>(?:\\.[^\"\\]*+)*)\"%b:%b\{" % ((_SPACE,) * 4), re.DOTALL)
_BETWEEN_ITEMS = {
    b"[": re.compile(rb"\]%b(,)%b\[" % (_SPACE, _SPACE)),
    b"{": re.compile(rb"\}%b(,)%b\{" % (_SPACE, _SPACE)),
}
_BETWEEN_NUMBERS = re.compile(rb"(,)")
_BREAKS = (b"[", b"]", b"{", b"}", b",", b":", b" ", b"\t", b"\r", b"\n")
_RUN = re.compile(rb"[^\[\]{},: \t\r\n]*+")
_WHITE = b" \t\r\n"
_CONSTANT = re.compile(rb"NaN|Infinity")

_skip = msgspec.json.Decoder(msgspec.Raw).decode


def check_runs(text: bytes) -> None:
    """Raises ``Invalid`` if the text has more than ``MAX_RUN`` bytes without a bracket, comma, colon or space.

    Such a run has a byte whose number is a multiple of half as many, and as many bytes after it. So only a run that is
    as long after such a byte needs a look at its start.
    """
    half = MAX_RUN // 2
    for at in range(0, len(text), half):
        run = _RUN.match(text, at, at + half)
        if run is not None and run.end() - at == half:
            start = max(text.rfind(mark, 0, at) for mark in _BREAKS) + 1
            whole = _RUN.match(text, start, start + MAX_RUN + 1)
            if whole is not None and whole.end() - start > MAX_RUN:
                raise Invalid(f"Expected at most {MAX_RUN} bytes without a bracket, comma, colon or space.", "")


def of_object(text: bytes) -> Iterator[bytes]:
    """An object whose members are objects, as several objects with some of its members each."""
    return _pieces(text.strip(_WHITE), _BETWEEN_MEMBERS)


def of_array(text: bytes) -> Iterator[bytes]:
    """An array of arrays, of objects or of numbers, as several arrays with some of its items each."""
    text = text.strip(_WHITE)
    first = text[1:].lstrip(_WHITE)[:1]
    return _pieces(text, _BETWEEN_ITEMS.get(first, _BETWEEN_NUMBERS))


def _pieces(text: bytes, boundary: re.Pattern[bytes]) -> Iterator[bytes]:
    start, size = 1, PIECE
    while (found := boundary.search(text, start + size)) is not None:
        piece = text[:1] + text[start : found.start(1)] + text[-1:]
        if _is_json(piece):
            yield piece
            start, size = found.end(1), PIECE
        else:
            size = (found.start(1) - start) * 5 // 4 + 1
    yield text[:1] + text[start:] if start > 1 else text


def _is_json(text: bytes) -> bool:
    try:
        _skip(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def check(text: bytes) -> None:
    """Raises ``Malformed`` if this is not JSON; builds nothing from it.

    Raises ``Invalid`` if it would be JSON if NaN and Infinity were numbers, as strict JSON does.
    """
    try:
        text.decode()
        _skip(text)
    except UnicodeDecodeError as error:
        raise Malformed(f"Expected UTF-8; byte {error.start} is not.") from None
    except RecursionError:
        raise Malformed("Expected JSON that is not nested this deeply.") from None
    except msgspec.DecodeError as error:
        found = re.search(r"\(byte (\d+)\)", str(error))
        at = len(text) if found is None else int(found[1])
        if _CONSTANT.match(text, at):
            check(_without_constants(text))
            raise Invalid("Expected numbers; NaN and Infinity are none.", "") from None
        line, column = text.count(b"\n", 0, at) + 1, at - text.rfind(b"\n", 0, at)
        raise Malformed(f"Expected JSON; line {line}, column {column} is not.") from None


def _without_constants(text: bytes) -> bytes:
    """The text with a 0 in place of each NaN and Infinity, and the rest where it was; strings may change, too."""
    return text.replace(b"NaN", b"0  ").replace(b"Infinity", b"0       ")
