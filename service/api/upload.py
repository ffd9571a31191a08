"""Uploads: NDJSON bodies of any length, whose lines are committed as they come.

An upload reads what has arrived, records the whole lines in it, and only then reads on. So whatever arrives while a
commit is under way is in the next one, a fast sender fills its socket's buffers and waits, and an upload of any length
takes the memory of one *block*. The lines of a block stand or fall together; those before the first wrong line are
recorded.

With an idempotency key ``p:s``, line i (from 0, empty ones too) has the sequence s + i, and a block has the range of
its lines. An upload that is sent again has other blocks than before; where one was counted in part, it is taken apart.
So the whole file can be sent again with the same key, or what follows the recorded lines with a key that starts there.

A connection may stay open all day, so the time limit of ordinary requests gives way to another: a whole line every
``idle`` seconds. There are at most ``most`` of them at once.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

from starlette.types import Message, Receive, Scope

from service.access import Forbidden, check_prefix_of
from service.api.body import ClientGone, Inflater, is_gzipped
from service.committer import Committer, Overloaded, PartlyCounted, ShapeConflict
from service.formats import columns, ndjson
from service.formats.ndjson import Chunk
from service.idempotency import LARGEST_SEQUENCE, Key
from service.problems import BadKey, BodyTooLarge, Idle, Interrupted, Stopping, TooManyUploads
from service.protocol import HOLD, Hold
from service.stream import Limits

_BLOCK = 256 * 1024  # Bytes: some thousand lines, enough to share a round trip and little to hold.
_PAUSE = 0.05  # Seconds before a block is offered again when too much is waiting.


class Uploads:
    """The uploads of one worker. ``idle`` is in seconds, ``longest_line`` in bytes; ``clock`` gives ms since 1970."""

    def __init__(
        self,
        committer: Committer,
        clock: Callable[[], int],
        limits: Limits,
        *,
        longest_line: int,
        most: int,
        idle: float,
        patience: float,
    ) -> None:
        self._committer = committer
        self._clock = clock
        self._limits = limits
        self._longest_line = longest_line
        self._most = most
        self._idle = idle
        self._patience = patience
        self._open = 0

    async def record(self, scope: Scope, receive: Receive, key: Key | None) -> dict[str, int]:
        """Records an upload and returns the reply. Raises ``Interrupted``, ``TooManyUploads`` or ``ClientGone``."""
        upload = _Upload(self._committer, self._limits, scope["grant"].prefix, key, self._patience)
        inflater = Inflater() if is_gzipped(scope) else None
        message = None if _is_chunked(scope) else await receive()
        is_open = message is None or bool(message.get("more_body", False))
        if is_open and self._open >= self._most:
            raise TooManyUploads
        self._open += is_open
        hold = scope.get("extensions", {}).get(HOLD) if is_open else None
        connection = _Connection(message, receive, hold() if hold is not None else None, self._idle)
        try:
            async with aclosing(self._blocks(connection, inflater)) as blocks:
                async for block in blocks:
                    await upload.add(block, self._clock())
        except (Interrupted, ClientGone):
            raise
        except Exception as error:
            is_about_a_line = isinstance(error, BodyTooLarge)
            raise Interrupted(error, upload.lines, upload.lines + 1 if is_about_a_line else None) from error
        finally:
            self._open -= is_open
        return upload.reply()

    async def _blocks(self, connection: "_Connection", inflater: Inflater | None) -> AsyncGenerator[bytes, None]:
        """Whole lines, as they come. The last one may lack its end, if the body does not."""
        rest = bytearray()
        async for data in connection.data():
            for piece in _slices(data) if inflater is None else inflater.pieces(data):
                lines, feed, tail = piece.rpartition(b"\n")
                if feed:
                    block = bytes(rest) + lines + feed
                    rest = bytearray(tail)
                    short = self._before_a_long_line(block)
                    yield short
                    if len(short) < len(block):
                        raise self._too_long()
                    connection.has_got_a_line()
                else:
                    rest += tail
                if len(rest) > self._longest_line:
                    raise self._too_long()
        if inflater is not None:
            inflater.finish()
        if rest:
            yield bytes(rest)

    def _before_a_long_line(self, block: bytes) -> bytes:
        """The lines before the first that is too long; almost always all."""
        if len(block) <= self._longest_line:
            return block
        lines = [line + b"\n" for line in block.split(b"\n")[:-1]]  # splitlines() knows other ends, too.
        long = next((number for number, line in enumerate(lines) if len(line) > self._longest_line + 1), len(lines))
        return b"".join(lines[:long])

    def _too_long(self) -> BodyTooLarge:
        return BodyTooLarge(f"Expected lines of at most {self._longest_line} bytes, after inflation.")


class _Connection:
    """The data of a request: until its end, or until there is a reason not to wait for that."""

    def __init__(self, first: Message | None, receive: Receive, hold: Hold | None, idle: float) -> None:
        self._first = first
        self._receive = receive
        self._hold = hold
        self._idle = idle
        self._deadline = self._new_deadline()

    def has_got_a_line(self) -> None:
        """Starts the time until the next line anew."""
        self._deadline = self._new_deadline()

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
        ends: set[asyncio.Future[Any]] = {receiving, self._hold.stopping}
        await asyncio.wait(
            ends,
            timeout=max(0.0, self._deadline - asyncio.get_running_loop().time()),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if receiving.done():
            return receiving.result()
        receiving.cancel()
        if self._hold.stopping.done():
            raise Stopping
        raise Idle(f"Expected a whole line within {self._idle:g} seconds.")

    def _new_deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._idle


class _Upload:
    """What one upload has recorded."""

    def __init__(self, committer: Committer, limits: Limits, reach: str, key: Key | None, patience: float) -> None:
        self._committer = committer
        self._limits = limits
        self._reach = reach
        self._key = key
        self._patience = patience
        self.lines = 0  # That are dealt with; the first ones of the body.
        self._readings = 0
        self._duplicates = 0
        self._streams: set[str] = set()

    def reply(self) -> dict[str, int]:
        reply = {"readings": self._readings, "streams": len(self._streams)}
        return reply if self._key is None else reply | {"duplicates": self._duplicates}

    async def add(self, block: bytes, now: int) -> None:
        """Records the lines of a block. Raises ``Interrupted``, or what the committer raises."""
        chunk = ndjson.decode(block, now, self._limits)
        end, wrong = chunk.lines, chunk.wrong
        beyond = [name for name in chunk.gathered if not name.startswith(self._reach)]
        if beyond:
            end = columns.first_place(chunk.gathered, beyond)
            try:
                check_prefix_of(beyond[0], self._reach)
            except Forbidden as error:
                wrong = error
        start = self.lines
        await self._record(chunk, start, 0, end)
        self.lines = start + end
        if wrong is not None:
            raise Interrupted(wrong, self.lines, self.lines + 1)

    async def _record(self, chunk: Chunk, before: int, start: int, end: int) -> None:
        """Records the lines from ``start`` to before ``end`` of a chunk, which has ``before`` lines before it."""
        part = chunk if (start, end) == (0, chunk.lines) else ndjson.part(chunk, start, end, self._limits)
        if part.readings:
            sizes = {name: one.size for name, one in part.readings.items()}
            key = None if self._key is None else _range(self._key, before + start, before + end)
            try:
                _, duplicates = await self._offer(part, key)
            except PartlyCounted as counted:
                cut = counted.highest + 1 - before - (0 if self._key is None else self._key.sequence)
                await self._record(chunk, before, start, cut)
                await self._record(chunk, before, cut, end)
                return
            except ShapeConflict as error:
                line = columns.first_place(part.gathered, [conflict.stream for conflict in error.conflicts])
                if line > start:
                    await self._record(chunk, before, start, line)
                self.lines = before + line
                raise Interrupted(error, self.lines, self.lines + 1) from error
            repeated = sum(sizes[name] for name in duplicates)
            self._readings += sum(sizes.values()) - repeated
            self._duplicates += repeated
            self._streams.update(sizes.keys() - duplicates)
        self.lines = before + end

    async def _offer(self, part: Chunk, key: Key | None) -> Any:
        """Hands readings to the committer; when too much is waiting, waits too, for a while."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while True:
            try:
                return await self._committer.record(part.readings, key)
            except Overloaded:
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(_PAUSE)


def _range(key: Key, start: int, end: int) -> Key:
    """The key of the lines from ``start`` to before ``end`` of an upload with this key."""
    if key.sequence + end - 1 > LARGEST_SEQUENCE:
        raise BadKey("Expected a sequence that leaves room below 2^53 for one more with every line.")
    return Key(key.producer, key.sequence + end - 1, key.sequence + start)


def _is_chunked(scope: Scope) -> bool:
    """Whether the body has no length, so that its first line may take its time, too."""
    return any(name == b"transfer-encoding" for name, _ in scope["headers"])


def _slices(data: bytes) -> Iterator[bytes]:
    return (data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK))
