"""Records the lines of one upload, block by block, in one or a few commits per block.

**The work between two commits is limited**, whatever the lines are. A block is small, and lines that need the strict
reader are parsed in parts of a block; a line that is longer than a block is parsed in a thread. A commit has so few
streams that the script merges them in a few milliseconds, however wide their values are. The lines of a commit succeed
or fail together.

**If an upload is sent again**, its blocks are different, and each stream may have counted a different part of a block.
The committer reports how far each stream has counted, and the rest is sent with a separate range for each stream. So a
block takes two commits, however many streams it has.
"""

import asyncio
from collections.abc import Iterator
from os.path import commonprefix

from meanwhile.api.auth import Forbidden, check_allowed_prefix
from meanwhile.api.errors import BadKey, BodyTooLarge, Interrupted
from meanwhile.api.key_file import Grant
from meanwhile.core.idempotency_keys import MAX_SEQUENCE, Key
from meanwhile.core.readings import Limits, Readings
from meanwhile.formats import columns, ndjson
from meanwhile.formats.ndjson import Chunk
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.committer import Committer
from meanwhile.storage.rejections import PartlyCounted, ShapeConflict, StreamFull

MAX_STREAMS = 250_000  # In one upload, which has to remember them to count them.
MAX_BLOCK = 32 * 1024  # Bytes, unless it is one line: a few hundred readings, decoded in a few milliseconds.
_STRICT_PART = 4 * 1024  # Bytes of lines that are parsed strictly before other requests run.
_MAX_COMPONENTS = 1_500  # In a commit: the script takes about 5 us per component and 35 us per stream.
_STREAM_COST = 7  # A stream takes as long as this many components.
_PAUSE = 0.05  # Seconds before a retry while the committer is overloaded.


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


def split(lines: bytes, size: int) -> Iterator[bytes]:
    """Yields groups of complete lines, of about ``size`` bytes each."""
    start = 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + size) + 1 or lines.find(b"\n", start + size) + 1 or len(lines)
        yield lines[start:end]
        start = end


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
