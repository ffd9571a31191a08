"""The lines of an upload as they come over its connection: whole ones, in blocks, until there is a reason to stop.

What has arrived is inflated and cut into blocks one at a time, and others get their turn between any two. So an upload
holds one block, one piece of what it inflates and the beginning of one line, and it stops within a block, however much
is still to be inflated.

Empty lines say nothing, so they do not count as a sign of life, and there is an end to them: from one line with text to
the end of the next there are at most ``max_line`` bytes. Otherwise 200 KB of gzip data would be 200 MB of empty lines.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

from starlette.types import Message, Receive

from meanwhile.api.connection_hold import Hold
from meanwhile.api.errors import BodyTooLarge, Idle, Stopping
from meanwhile.api.gzip_inflation import Inflater
from meanwhile.api.request_body import Bodies, ClientGone
from meanwhile.api.upload_recording import MAX_BLOCK, split
from meanwhile.formats.ndjson import EMPTY

_LAST_SECONDS = 1.0  # For what has arrived when the service stops.


class Connection:
    """The data of a request: until its end, or until there is a reason not to wait for that.

    ``first`` is a message that was received already; ``hold`` is what holds the connection open, None for a request
    that is complete; ``idle`` is in seconds.
    """

    def __init__(self, first: Message | None, receive: Receive, hold: Hold | None, idle: float) -> None:
        self._first = first
        self._receive = receive
        self._hold = hold
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + idle
        self._ended: asyncio.Future[Exception] = self._loop.create_future()
        self._stops_at: float | None = None

    def end(self, why: Exception) -> None:
        """Lets no more be taken of it."""
        if not self._ended.done():
            self._ended.set_result(why)

    def has_got_a_line(self) -> None:
        """Starts the time until the next line anew."""
        self._deadline = self._loop.time() + self._idle

    def check(self) -> None:
        """Raises what it was ended with; or ``Stopping``, if the service has been stopping for a second."""
        if self._ended.done():
            raise self._ended.result()
        if self._hold is not None and self._hold.stopping.done():
            now = self._loop.time()
            if self._stops_at is None:
                self._stops_at = now + _LAST_SECONDS
            elif now > self._stops_at:
                raise Stopping

    async def data(self) -> AsyncIterator[bytes]:
        """Pieces of the body. Raises ``ClientGone``, ``Stopping`` or ``Idle`` once all that arrived was given."""
        message = self._first or await self._next()
        while message["type"] == "http.request":
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return
            try:
                message = await self._next()
            except Stopping:
                yield self._take_rest()
                raise
        yield self._take_rest()
        raise ClientGone

    def _take_rest(self) -> bytes:
        return b"" if self._hold is None else self._hold.take_rest()

    async def _next(self) -> Message:
        if self._hold is None:
            return await self._receive()
        if self._hold.stopping.done():  # However fast lines come.
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
        raise Idle(f"Expected a whole line with a reading within {self._idle:g} seconds.")


async def blocks(
    connection: Connection, inflater: Inflater | None, max_line: int, bodies: Bodies
) -> AsyncGenerator[bytes, None]:
    """Whole lines, as they come. The last one may lack its end, if the body does not. ``max_line`` is in bytes.

    The beginning of a line that is held counts among ``bodies``. Raises ``BodyTooLarge``, ``Overloaded``, or what the
    connection or the inflater raises.
    """
    held = 0
    try:
        async for block, rest in _blocks(connection, inflater, max_line):
            held = bodies.hold(held, rest)
            if block:
                yield block
    finally:
        bodies.hold(held, 0)


async def _blocks(
    connection: Connection, inflater: Inflater | None, max_line: int
) -> AsyncGenerator[tuple[bytes, int], None]:
    """Whole lines, and how many bytes of the beginning of the next one are held."""
    rest = bytearray()
    empty = 0  # Bytes since the last line with text.
    async for data in connection.data():
        for piece in _pieces(data) if inflater is None else inflater.pieces(data):
            await asyncio.sleep(0)  # Requests get their turn between any two.
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
                        connection.has_got_a_line()
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


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[at : at + MAX_BLOCK] for at in range(0, len(data), MAX_BLOCK))


def _before_a_long_line(block: bytes, max_line: int) -> bytes:
    """The lines before the first that is too long; almost always all."""
    if len(block) <= max_line:
        return block
    lines = [line + b"\n" for line in block.split(b"\n")[:-1]]  # splitlines() knows other ends, too.
    long = next((number for number, line in enumerate(lines) if len(line) > max_line + 1), len(lines))
    return b"".join(lines[:long])


def _too_long(max_line: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"Expected lines of at most {max_line} bytes, empty lines before them included, after inflation."
    )
