"""Inflates gzip data, whole or as it arrives, in time and memory proportional to the input and output sizes.

gzip data may consist of several *members*. At the end of a member, zlib copies all data that follows, so it would copy
a body of a hundred thousand members of 20 bytes a hundred thousand times. Here zlib gets one *window* of the data at a
time, so it copies at most one window. The output comes in pieces, between which other requests can run.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterator

from meanwhile.api.refusals import BadEncoding, BodyTooLarge

PIECE = 64 * 1024  # Bytes of output.
_GZIP = 16 + zlib.MAX_WBITS  # Tells zlib to accept only a gzip header and trailer.
_WINDOW = 4 * 1024  # Bytes of input.
_MAX_EMPTY_MEMBERS = 1_000  # In a row.


class Inflater:
    """Inflates gzip data of one or more members as it arrives."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._started = False
        self._has_content = False
        self._empty_members = 0

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Inflates more data, and yields the output in pieces of at most 64 KiB. Raises ``BadEncoding``.

        Some pieces are empty, because the time between two pieces is limited, too.
        """
        view = memoryview(data)
        piece = bytearray()
        for start in range(0, len(data), _WINDOW):
            for part in self._parts(view[start : start + _WINDOW]):
                if len(piece) + len(part) > PIECE:
                    yield bytes(piece)
                    piece.clear()
                piece += part
            if start % PIECE == 0:  # Even if this much input has little output.
                yield b""
        if piece:
            yield bytes(piece)

    def _parts(self, window: bytes | memoryview) -> Iterator[bytes]:
        rest: bytes | memoryview = window
        part = b""
        try:
            while rest or len(part) == PIECE:
                if self._member.eof:
                    self._begin_member()
                self._started = True
                part = self._member.decompress(rest, PIECE)
                rest = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
                if part:
                    self._has_content = True
                    yield part
                if self._member.eof:
                    part = b""
        except zlib.error:
            raise BadEncoding("Expected gzip data, as Content-Encoding says.") from None

    def _begin_member(self) -> None:
        self._empty_members = 0 if self._has_content else self._empty_members + 1
        if self._empty_members > _MAX_EMPTY_MEMBERS:
            raise BadEncoding(f"Expected gzip data with at most {_MAX_EMPTY_MEMBERS} empty members in a row.")
        self._has_content = False
        self._member = zlib.decompressobj(_GZIP)

    def finish(self) -> None:
        """Raises ``BadEncoding`` if the data is incomplete."""
        if not self._started or not self._member.eof:
            raise BadEncoding("Expected gzip data, as Content-Encoding says; it ends too early.")


async def inflate(data: bytes, limit: int, reserve: Callable[[int], None] = lambda size: None) -> bytes:
    """Inflates gzip data. Never holds much more than ``limit`` bytes of output.

    Raises ``BadEncoding`` or ``BodyTooLarge``.
    """
    content = bytearray()
    inflater = Inflater()
    for number, piece in enumerate(inflater.pieces(data)):
        if number > 1:  # Most bodies have one piece.
            await asyncio.sleep(0)
        content += piece
        if len(content) > limit:
            raise too_large(limit)
        reserve(len(content))
    inflater.finish()
    return bytes(content)


def too_large(limit: int) -> BodyTooLarge:
    """Returns the error for a body of more than ``limit`` bytes."""
    return BodyTooLarge(f"Expected at most {limit} bytes, after inflation.")
