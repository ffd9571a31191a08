"""The store: the states of streams in Redis or Valkey, and the commands that read and write them.

Each stream has one key, ``<prefix>:stream:<name>``, which holds its state as ``state.py`` encodes it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from meanwhile.core.idempotency_keys import Key, Timestamps
from meanwhile.core.shapes import NUMBER
from meanwhile.core.state import VERSION, State, Unreadable, decode, to_delta
from meanwhile.storage.commit_reply import Committed, decode_reply
from meanwhile.storage.commit_script import script
from meanwhile.storage.redis_client import OutcomeUnknown, RedisClient, Script, StoreUnavailable
from meanwhile.storage.stream_listing import StreamListing

NO_KEYS: Mapping[int, Key | Timestamps] = {}
_YIELD_BYTES = 512 * 1024  # Bytes of states that are decoded before other requests are served.


class TooManyStreams(Exception):
    """The store has reached its maximum number of streams: nothing of the request was recorded.

    ``streams`` are those that do not exist.
    """

    def __init__(self, streams: Sequence[str] = ()) -> None:
        super().__init__(streams)
        self.streams = streams


class Claim(NamedTuple):
    """What the script needs to check whether a stream would refuse readings: the first members of a state.

    ``components`` is the number of components; the times are in milliseconds since 1970.
    """

    shape: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which is not used here
    first: int
    last: int
    components: int


class Swap(NamedTuple):
    """A merged state that replaces a stored one, if the stored state has not changed.

    ``digest`` is SHA-1 of the stored state in hexadecimal, or empty if the stream does not exist. ``dedupe_offset`` is
    the offset in bytes of its members after ``squares``. ``sums`` are the merged members from ``encode_sums``.
    """

    digest: str
    dedupe_offset: int
    sums: bytes


NO_SWAPS: Mapping[str, Swap] = {}
_FIRST_SUMS = 6  # The number of the ARGV that has the merged sums of the first swap.

_encode = msgspec.msgpack.Encoder().encode


class Store:
    """The streams in Redis whose keys start with ``prefix``.

    ``client``, ``replicas`` and ``on_failure`` are those of ``RedisClient``. The store creates no stream if the
    database has ``max_streams`` keys or more; 0 means no limit. ``listing`` lists the streams.

    Every method takes ``deadline``, on the clock of the event loop, and returns or raises by then.
    """

    def __init__(
        self,
        client: Redis,
        prefix: str,
        *,
        max_streams: int = 0,
        replicas: int = 0,
        on_failure: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._client = client
        self._redis = RedisClient(client, replicas, on_failure)
        self._options = (str(max_streams), "1" if replicas else "0")
        self._keys = f"{prefix}:stream:"
        self.listing = StreamListing(client, self._redis, self._keys)
        self._record = Script(script())
        self._forget = Script(script("allow-oom"))  # Deleting needs no memory and must work when memory is full.

    async def commit(
        self,
        groups: Sequence[Mapping[str, State]],
        deadline: float,
        keys: Mapping[int, Key | Timestamps] = NO_KEYS,
        *,
        however_wide: bool = False,
    ) -> Committed:
        """Merges readings, summarized by stream, into the stored states, in one atomic step.

        ``keys`` maps positions of groups to their idempotency keys or timestamps. If a stream has counted a key before,
        its group does not change it. The stream stores the key in the same step in which it counts the readings.

        The streams of one group succeed or fail together: if one refuses (it has a different shape, its state is
        unreadable, the key is too old), the group changes none. Groups take effect in order and do not depend on each
        other otherwise: the first group that names a new stream fixes its shape. The returned states include all
        groups.

        The script may defer groups to the next commit (``Committed.is_deferred``) or leave them to ``swap``
        (``is_too_wide``). With ``however_wide``, it leaves none to ``swap``.

        Raises ``StoreUnavailable`` or ``OutcomeUnknown``, for all groups together.
        """
        records = [{name: to_delta(state) for name, state in group.items()} for group in groups]
        return await self._commit_groups(records, keys, ("", "1") if however_wide else (), deadline)

    async def swap(
        self, states: Mapping[str, State], swaps: Mapping[str, Swap], key: Key | Timestamps | None, deadline: float
    ) -> Committed:
        """Commits one group whose states the worker has merged, unless a stored state has changed.

        If one has changed, nothing is recorded (``Committed.is_changed``). Otherwise like ``commit``.
        """
        record = {
            name: (VERSION, shape.text, summary.count, summary.first, summary.last, shape.components)
            for name, (shape, summary) in states.items()
        }
        keys = NO_KEYS if key is None else {0: key}
        sums = [swap.sums for swap in swaps.values()]  # As separate arguments, because cmsgpack cannot decode bytes.
        return await self._commit_groups([record], keys, ("", "", *sums), deadline, swaps)

    async def check(
        self,
        groups: Sequence[Mapping[str, Claim]],
        key: Key | Timestamps | None,
        reserved: int,
        deadline: float,
        swaps: Mapping[str, Swap] = NO_SWAPS,
    ) -> Committed:
        """Returns what ``commit`` would reply to such readings, all with the same key. Writes nothing.

        ``reserved`` is the number of new streams that earlier checks of the same request have found. ``swaps`` say
        where the states of wide streams remember keys, for each stream or for none; nothing is merged.

        Raises ``StoreUnavailable``.
        """
        records = [{name: (VERSION, *claim) for name, claim in group.items()} for group in groups]
        keys = NO_KEYS if key is None else dict.fromkeys(range(len(groups)), key)
        try:
            return await self._commit_groups(records, keys, (str(reserved),), deadline, swaps)
        except OutcomeUnknown as error:
            raise StoreUnavailable from error  # A check changes nothing, whether it ran or not.

    async def _commit_groups(
        self,
        groups: Sequence[Mapping[str, Sequence[Any]]],
        keys: Mapping[int, Key | Timestamps],
        more: tuple[str | bytes, ...],
        deadline: float,
        swaps: Mapping[str, Swap] = NO_SWAPS,
    ) -> Committed:
        positions: dict[str, int] = {}
        encoded_swaps = {
            name: (swap.digest, swap.dedupe_offset, number)
            for number, (name, swap) in enumerate(swaps.items(), _FIRST_SUMS)
        }
        encoded: list[tuple[Any, ...]] = []
        for number, group in enumerate(groups):
            entries: list[tuple[Any, ...]] = [
                (positions.setdefault(name, len(positions) + 1), record) for name, record in group.items()
            ]
            key = keys.get(number)
            if key is None and not swaps:
                encoded.append((entries,))
                continue
            firsts = key.firsts if isinstance(key, Key) else {}
            if firsts or swaps:
                entries = [
                    (*entry, firsts.get(name, False), *((encoded_swaps[name],) if swaps else ()))
                    for name, entry in zip(group, entries, strict=True)
                ]
            # Without a range, ``first`` is a trailing nil, which Lua drops.
            encoded.append((entries, *(key or ())[:3]))
        names = list(positions)
        replies, *stored = await self._run(self._record, names, encoded, deadline, more)
        return decode_reply(names, replies, stored)

    async def read(self, names: Sequence[str], deadline: float) -> list[State | Unreadable | None]:
        """Returns the states of streams at one moment; None for a stream that does not exist.

        Raises ``StoreUnavailable``. An unreadable state is returned as ``Unreadable``.
        """
        reading: Awaitable[list[Any]] = self._client.mget([self._keys + name for name in names])
        replies = await self._redis.read(reading, deadline)
        states: list[State | Unreadable | None] = []
        size = 0
        for stored in replies:
            states.append(None if stored is None else _decode_or_error(stored))
            size += len(stored or b"")
            if size > _YIELD_BYTES:
                size = 0
                await asyncio.sleep(0)  # Lets other requests run.
        absent = [i for i, state in enumerate(states) if state is None]
        if absent:
            for i, is_foreign in zip(
                absent, await self._are_foreign([names[i] for i in absent], deadline), strict=True
            ):
                states[i] = Unreadable() if is_foreign else None
        return states

    async def _are_foreign(self, names: Sequence[str], deadline: float) -> list[bool]:
        """Returns whether keys hold another type than a string. MGET reports them as absent, GET as an error."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.get(self._keys + name)
            replies = await self._redis.read(pipeline.execute(raise_on_error=False), deadline)
        return [isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE") for reply in replies]

    async def read_stored(self, names: Sequence[str], deadline: float) -> list[bytes | None]:
        """Returns the stored states of streams, for ``decode``; None for a stream that does not exist.

        Raises ``StoreUnavailable``.
        """
        reading: Awaitable[list[Any]] = self._client.mget([self._keys + name for name in names])
        return await self._redis.read(reading, deadline)

    async def forget(self, name: str, deadline: float) -> State | None:
        """Deletes a stream and returns its last state, in one atomic step; None if the stream does not exist.

        Only a state that can be returned is deleted. The script cannot parse a shape, it can only compare it. So the
        first attempt expects a number. If the stream has another shape, the script replies with it, and the next
        attempt expects that shape, provided it is readable.

        Raises ``StoreUnavailable``, ``OutcomeUnknown`` or ``Unreadable``; nothing was deleted if ``Unreadable``.
        """
        shape = NUMBER
        while True:
            entry = (1, False, (shape.text, shape.components))
            replies, stored = await self._run(self._forget, [name], [([entry],)], deadline)
            outcome = decode_reply([name], replies, [stored])
            if not outcome.rejections[0]:
                return outcome.states.get(name)
            found = outcome.rejections[0][0].shape
            if found is None:
                raise Unreadable
            shape = found

    async def ping(self, deadline: float) -> None:
        """Returns if Redis answers. Raises ``StoreUnavailable``."""
        await self._redis.read(self._client.ping(), deadline)

    async def _run(
        self,
        script: Script,
        names: Sequence[str],
        groups: Sequence[Any],
        deadline: float,
        more: tuple[str | bytes, ...] = (),
    ) -> list[Any]:
        keys = [self._keys + name for name in names]
        reply: list[Any] = await self._redis.run(script, keys, [_encode(groups), *self._options, *more], deadline)
        return reply


def _decode_or_error(stored: bytes) -> State | Unreadable:
    try:
        return decode(stored)
    except Unreadable as error:
        return error
