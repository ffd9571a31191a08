"""Uploads: NDJSON bodies of any length, whose lines are committed as they arrive.

An upload takes the data that has arrived (``upload_lines.py``), records the complete lines in it, and only then takes
more. So data that arrives during a commit is in the next one, a fast sender fills the buffers of its socket and waits,
and an upload of any length needs the memory of one *block*. The lines before the first invalid line are recorded.

With an idempotency key ``p:s``, line i (from 0, empty lines included) has the sequence s + i, and a block has the range
of its lines. So a client can send the whole file again with the same key, or only the lines that were not recorded,
with a key that starts at the first of them.

A connection may stay open all day, so the timeouts of ordinary requests do not apply: instead, a line with a reading
must arrive every ``idle_timeout`` seconds. At most ``max_uploads`` uploads are open at the same time. When the API keys
are reloaded, an upload ends at once if its key is gone or no longer allows the streams of the lines so far; otherwise
the new grant of the key applies to all further lines.

**The work between two commits is limited**, whatever the lines are. A block is small, and lines that need the strict
reader are parsed in parts of a block; a line that is longer than a block is parsed in a thread. A commit has so few
streams that the script merges them in a few milliseconds, however wide their values are. The lines of a commit succeed
or fail together.

**If an upload is sent again**, its blocks are different, and each stream may have counted a different part of a block.
The committer reports how far each stream has counted, and the rest is sent with a separate range for each stream. So a
block takes two commits, however many streams it has.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from os.path import commonprefix

from meanwhile.api.auth import Forbidden, Guard, Unauthorized, check_allowed_prefix
from meanwhile.api.gzip_inflation import Inflater
from meanwhile.api.key_file import Grant
from meanwhile.api.large_bodies import BodyMemory
from meanwhile.api.refusals import BadKey, BodyTooLarge, Interrupted, TooManyUploads
from meanwhile.api.request import Request
from meanwhile.api.request_body import ClientGone, is_gzipped, require_body
from meanwhile.api.upload_lines import MAX_BLOCK, Connection, blocks, split
from meanwhile.core.errors import Invalid
from meanwhile.core.idempotency_keys import MAX_SEQUENCE, Key
from meanwhile.core.readings import Limits, Readings
from meanwhile.formats import columns, ndjson
from meanwhile.formats.ndjson import Chunk
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.committer import Committer
from meanwhile.storage.rejections import PartlyCounted, ShapeConflict, StreamFull

MAX_STREAMS = 250_000  # In one upload, which has to remember them to count them.
_STRICT_PART = 4 * 1024  # Bytes of lines that are parsed strictly before other requests run.
_MAX_COMPONENTS = 1_500  # In a commit: the script takes about 5 us per component and 35 us per stream.
_STREAM_COST = 7  # A stream takes as long as this many components.
_PAUSE = 0.05  # Seconds before a retry while the committer is overloaded.


@dataclass(kw_only=True, eq=False)
class Uploads:
    """Records the uploads of one worker through ``committer``.

    ``memory`` limits that of incomplete lines, ``guard`` authorizes, and ``limits`` are those of one reading.
    ``clock`` returns milliseconds since 1970. ``max_line`` is the limit of a line in bytes, and ``max_uploads`` the
    limit of open uploads. ``idle_timeout`` is the time limit for the next line, and ``redis_timeout`` limits how long
    a block waits while the committer is overloaded, both in seconds.
    """

    committer: Committer
    memory: BodyMemory
    guard: Guard
    clock: Callable[[], int]
    limits: Limits
    max_line: int
    max_uploads: int
    idle_timeout: float
    redis_timeout: float
    _open: int = field(default=0, init=False)

    async def record(self, request: Request, key: Key | None) -> dict[str, int]:
        """Records an upload and returns the reply.

        Raises ``LengthRequired``, ``UnsupportedMediaType``, ``Interrupted``, ``TooManyUploads``, ``ClientGone``, or
        ``Invalid`` if there are no lines.
        """
        require_body(request.headers)
        recording = Recording(self.committer, self.limits, request.grant, key, self.redis_timeout)
        inflater = Inflater() if is_gzipped(request.headers) else None
        # A body without a length may be slow from its first line on.
        is_chunked = request.headers.get(b"transfer-encoding") is not None
        message = None if is_chunked else await request.receive()
        is_open = message is None or bool(message.get("more_body", False))
        if is_open and self._open >= self.max_uploads:
            raise TooManyUploads
        self._open += is_open
        hold = None if request.connection is None else request.connection.hold(request.scope)
        connection = Connection(message, request.receive, hold, self.idle_timeout)

        def authorize() -> None:
            try:
                recording.grant = self.guard.authorize(request.headers, "write")
            except (Unauthorized, Forbidden) as error:
                connection.end(error)
            else:
                if not recording.is_within(recording.grant.prefix):
                    connection.end(Forbidden("Expected streams that the API key still allows."))

        try:
            with self.guard.watch(authorize):
                authorize()  # The keys may have been reloaded since the request was authorized.
                async with aclosing(blocks(connection, inflater, self.max_line, self.memory)) as lines:
                    async for block in lines:
                        await recording.add(block, self.clock())
        except (Interrupted, ClientGone):
            raise
        except Exception as error:
            is_about_a_line = isinstance(error, BodyTooLarge)
            raise Interrupted(error, recording.lines, recording.lines + 1 if is_about_a_line else None) from error
        finally:
            self._open -= is_open
        if not recording.lines:
            raise Invalid("Expected at least one line.")
        return recording.reply()


class Recording:
    """Records the lines of one upload through ``committer`` and counts them.

    ``limits`` are those of one reading, ``grant`` is what the API key allows, and ``key`` is the idempotency key of the
    first line. ``redis_timeout`` limits how long a commit waits while the committer is overloaded, in seconds.
    """

    def __init__(
        self, committer: Committer, limits: Limits, grant: Grant, key: Key | None, redis_timeout: float
    ) -> None:
        self._committer = committer
        self._limits = limits
        self._key = key
        self._redis_timeout = redis_timeout
        self.grant = grant  # Changes when the API keys are reloaded.
        self.lines = 0  # Lines recorded so far, from the start of the body.
        self._readings = 0
        self._duplicates = 0
        self._streams: set[int] = set()
        self._prefix: str | None = None  # The common prefix of all stream names so far.

    def reply(self) -> dict[str, int]:
        """Returns the members of the reply."""
        reply = {"readings": self._readings, "streams": len(self._streams)}
        return reply if self._key is None else reply | {"duplicates": self._duplicates}

    def is_within(self, prefix: str) -> bool:
        """Returns whether the names of all streams so far start with ``prefix``."""
        return self._prefix is None or self._prefix.startswith(prefix)

    async def add(self, block: bytes, now: int) -> None:
        """Records the lines of a block. Raises ``Interrupted``, or what the committer raises."""
        if len(block) > MAX_BLOCK:
            await self._add(await background_thread.run(ndjson.decode, block, now, self._limits))
            return
        chunk = ndjson.decode_fast(block, now, self._limits)
        if chunk is not None:
            await self._add(chunk)
            return
        for lines in split(block, _STRICT_PART):
            await asyncio.sleep(0)  # Lets other requests run.
            await self._add(ndjson.decode(lines, now, self._limits))

    async def _add(self, chunk: Chunk) -> None:
        wrong, end = chunk.wrong, chunk.lines
        before = self.lines
        beyond = [name for name in chunk.gathered if not name.startswith(self.grant.prefix)]
        if beyond:
            end = columns.first_place(chunk.gathered, beyond)
            try:
                check_allowed_prefix(beyond[0], self.grant.prefix)
            except Forbidden as error:
                wrong = error
        start = 0
        for stop in _stops(chunk, end):
            await self._record(chunk, before, start, stop)
            start = stop
            if len(self._streams) > MAX_STREAMS:
                raise BodyTooLarge(f"Expected at most {MAX_STREAMS} streams in an upload. Send the rest in another.")
        if wrong is not None:
            raise Interrupted(wrong, self.lines, self.lines + 1)

    async def _record(self, chunk: Chunk, before: int, start: int, stop: int) -> None:
        """Records the lines ``start`` to ``stop`` (exclusive) of a chunk, which has ``before`` lines before it."""
        starts: dict[str, int] = {}  # For streams that have counted some of the lines, the first line not counted.
        wrong: Exception | None = None
        duplicates = frozenset[str]()
        while new := columns.rows_between(chunk.gathered, start, stop, starts):
            key = None if self._key is None else _range(self._key, before, start, stop, starts)
            try:
                duplicates = await self._commit(columns.of_rows(chunk.gathered, chunk.readings, new), key)
            except PartlyCounted as counted:
                first = before + (0 if self._key is None else self._key.sequence)
                starts |= {name: highest + 1 - first for name, highest in counted.highest.items()}
            except (ShapeConflict, StreamFull) as error:
                wrong, stop = error, min(chunk.gathered[name].places[new[name].start] for name in error.streams)
            else:
                break
        self._tally(columns.rows_between(chunk.gathered, start, stop, {}), new, duplicates)
        self.lines = before + stop
        if wrong is not None:
            raise Interrupted(wrong, self.lines, self.lines + 1) from wrong

    def _tally(self, sent: dict[str, slice], new: dict[str, slice], duplicates: frozenset[str]) -> None:
        recorded = {name: rows for name, rows in new.items() if name not in duplicates}
        readings = _size(recorded)
        self._readings += readings
        self._duplicates += _size(sent) - readings
        self._streams.update(map(hash, recorded))
        if sent:
            known = [] if self._prefix is None else [self._prefix]
            self._prefix = commonprefix([*known, *sent])  # noqa: RUF071  # Of names, not of paths.

    async def _commit(self, readings: dict[str, Readings], key: Key | None) -> frozenset[str]:
        """Hands readings to the committer and returns the duplicates. Retries for a while if it is overloaded."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._redis_timeout
        while True:
            try:
                return (await self._committer.record(readings, key)).duplicates
            except Overloaded:
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(_PAUSE)


def _range(key: Key, before: int, start: int, stop: int, starts: dict[str, int]) -> Key:
    """Returns the key of the lines ``start`` to ``stop`` (exclusive) of a chunk that has ``before`` lines before it."""
    first = key.sequence + before
    if first + stop - 1 > MAX_SEQUENCE:
        raise BadKey("Expected a smaller sequence: it grows by one with every line and has to stay below 2^53.")
    firsts = {name: first + line for name, line in starts.items()}
    return Key(key.producer, first + stop - 1, first + start, firsts)


def _size(rows: dict[str, slice]) -> int:
    return sum(one.stop - one.start for one in rows.values())


def _stops(chunk: Chunk, end: int) -> list[int]:
    """Returns where to split the lines of a chunk up to ``end``, so that no part has too many components.

    A stream counts in each part that contains it. The last split is at ``end``.
    """
    costs = {name: one.shape.components + _STREAM_COST for name, one in chunk.readings.items()}
    if sum(costs.values()) <= _MAX_COMPONENTS:
        return [end]
    by_line = sorted((line, name) for name, one in chunk.gathered.items() for line in one.places if line < end)
    stops, streams, cost = [], set[str](), 0
    for line, name in by_line:
        if name in streams:
            continue
        if streams and cost + costs[name] > _MAX_COMPONENTS:
            stops.append(line)
            streams, cost = set(), 0
        streams.add(name)
        cost += costs[name]
    return [*stops, end]
