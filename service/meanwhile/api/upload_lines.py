"""The lines of an upload: reads complete lines from its connection, in blocks, until the upload ends.

Data is inflated and cut into blocks one at a time, and other requests run between two blocks. So an upload holds one
block, one piece of inflated data and the beginning of one line, and it stops within a block, however much data is still
to be inflated.

Empty lines do not restart the idle timeout, and their number is limited: between one line with text and the end of the
next there are at most ``max_line`` bytes. Otherwise 200 KB of gzip data could be 200 MB of empty lines.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

from starlette.types import Message, Receive

from meanwhile.api.connection_hold import Hold
from meanwhile.api.gzip_inflation import Inflater
from meanwhile.api.large_bodies import BodyMemory
from meanwhile.api.refusals import BodyTooLarge, Idle, Stopping
from meanwhile.api.request_body import ClientGone
from meanwhile.formats.ndjson import EMPTY

MAX_BLOCK = 32 * 1024  # Bytes, unless it is one line: a few hundred readings, decoded in a few milliseconds.
_STOP_DELAY = 1.0  # Seconds to record what has arrived when the service shuts down.


class Connection:
    """The body of an upload, until its end or until the upload has to end early.

    ``first`` is a message that has already been received. ``receive`` is ASGI's. ``hold`` holds the connection open;
    it is None under another ASGI server. ``idle_timeout`` is the time limit for the next line, in seconds.
    """

    def __init__(self, first: Message | None, receive: Receive, hold: Hold | None, idle_timeout: float) -> None:
        self._first = first
        self._receive = receive
        self._hold = hold
        self._idle_timeout = idle_timeout
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + idle_timeout
        self._ended: asyncio.Future[Exception] = self._loop.create_future()
        self._stops_at: float | None = None

    def end(self, error: Exception) -> None:
        """Ends the upload: the next call of ``check`` or wait for data raises ``error``."""
        if not self._ended.done():
            self._ended.set_result(error)

    def restart_idle_timeout(self) -> None:
        """Restarts the time limit for the next line."""
        self._deadline = self._loop.time() + self._idle_timeout

    def check(self) -> None:
        """Raises the error passed to ``end``, or ``Stopping`` if the service has been shutting down for a second."""
        if self._ended.done():
            raise self._ended.result()
        if self._hold is not None and self._hold.stopping.done():
            now = self._loop.time()
            if self._stops_at is None:
                self._stops_at = now + _STOP_DELAY
            elif now > self._stops_at:
                raise Stopping

    async def data(self) -> AsyncIterator[bytes]:
        """Yields pieces of the body. Raises ``ClientGone``, ``Stopping`` or ``Idle`` after all data that arrived."""
        message = self._first or await self._next()
        while message["type"] == "http.request":
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return
            try:
                message = await self._next()
            except Stopping:
                yield self._take_buffered()
                raise
        yield self._take_buffered()
        raise ClientGone

    def _take_buffered(self) -> bytes:
        return b"" if self._hold is None else self._hold.take_buffered()

    async def _next(self) -> Message:
        if self._hold is None:
            return await self._receive()
        if self._hold.stopping.done():  # Even if more data is available.
            raise Stopping
        receiving = asyncio.ensure_future(self._receive())
        ends: set[asyncio.Future[Any]] = {receiving, self._hold.stopping, self._ended}
        await asyncio.wait(
            ends, timeout=max(0.0, self._deadline - self._loop.time()), return_when=asyncio.FIRST_COMPLETED
        )
        if receiving.done() and not self._ended.done():
            return receiving.result()
        receiving.cancel()
        self.check()
        if self._hold.stopping.done():
            raise Stopping
        raise Idle(f"Expected a complete line with a reading within {self._idle_timeout:g} seconds.")


async def blocks(
    connection: Connection, inflater: Inflater | None, max_line: int, memory: BodyMemory
) -> AsyncGenerator[bytes, None]:
    """Yields blocks of complete lines. The last line of the body may have no line feed. ``max_line`` is in bytes.

    ``memory`` counts that of the incomplete line. Raises ``BodyTooLarge``, ``Overloaded``, or what the connection
    or the inflater raises.
    """
    held = 0
    try:
        async for block, rest in _blocks(connection, inflater, max_line):
            held = memory.reserve(held, rest)
            if block:
                yield block
    finally:
        memory.reserve(held, 0)


async def _blocks(
    connection: Connection, inflater: Inflater | None, max_line: int
) -> AsyncGenerator[tuple[bytes, int], None]:
    """Yields complete lines, and the size in bytes of the incomplete line after them."""
    rest = bytearray()
    empty = 0  # Bytes since the last line with text.
    async for data in connection.data():
        for piece in _pieces(data) if inflater is None else inflater.pieces(data):
            await asyncio.sleep(0)  # Lets other requests run.
            connection.check()
            lines, feed, tail = piece.rpartition(b"\n")
            if feed:
                whole = bytes(rest) + lines + feed
                rest = bytearray(tail)
                for block in split(whole, MAX_BLOCK):
                    short = _before_a_long_line(block, max_line)
                    text = short.lstrip(EMPTY)
                    empty += len(short) - len(text)
                    if empty > max_line:
                        raise _too_long(max_line)
                    if text:
                        connection.restart_idle_timeout()
                        empty = len(text) - len(text.rstrip(EMPTY))
                    yield short, len(rest)
                    if len(short) < len(block):
                        raise _too_long(max_line)
                    connection.check()
            else:
                rest += tail
            if empty + len(rest) > max_line:
                raise _too_long(max_line)
            yield b"", len(rest)
    if inflater is not None:
        inflater.finish()
    if rest:
        yield bytes(rest), 0


def split(lines: bytes, size: int) -> Iterator[bytes]:
    """Yields groups of complete lines, of about ``size`` bytes each."""
    start = 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + size) + 1 or lines.find(b"\n", start + size) + 1 or len(lines)
        yield lines[start:end]
        start = end


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[at : at + MAX_BLOCK] for at in range(0, len(data), MAX_BLOCK))


def _before_a_long_line(block: bytes, max_line: int) -> bytes:
    """Returns the lines before the first one that is too long; usually all."""
    if len(block) <= max_line:
        return block
    lines = [line + b"\n" for line in block.split(b"\n")[:-1]]  # splitlines() also splits at other characters.
    long = next((number for number, line in enumerate(lines) if len(line) > max_line + 1), len(lines))
    return b"".join(lines[:long])


def _too_long(max_line: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"Expected lines of at most {max_line} bytes after inflation, including empty lines before them."
    )
