"""The states of streams in Redis or Valkey: what is kept there, and the commands for it.

One key a stream, ``<prefix>:stream:<name>``, which holds its state in the form of ``state.py``.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from meanwhile.core.idempotency_keys import Key, Stamps
from meanwhile.core.shapes import NUMBER
from meanwhile.core.state import MEMBERS, VERSION, State, Unreadable, decode, to_record
from meanwhile.storage.commit_reply import Committed, RejectReason, committed
from meanwhile.storage.redis_client import OutcomeUnknown, RedisClient, Script, StoreUnavailable
from meanwhile.storage.stream_listing import StreamListing

NO_KEYS: Mapping[int, Key | Stamps] = {}
_STRETCH = 512 * 1024  # Bytes of states that are decoded at a stretch.


class TooManyStreams(Exception):
    """The store has as many streams as it may have: no new one was made, and nothing of the request was recorded."""


class Claim(NamedTuple):
    """What has to be known of readings of a stream to say whether it would refuse them: members of a state."""

    shape: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    first: int
    last: int
    components: int


class Swap(NamedTuple):
    """A state that was merged here: its sums, in place of those of the state with this digest.

    ``digest`` is SHA-1 in hexadecimal, of nothing for a stream that does not exist; ``memory`` is the offset at which
    the members behind the squares start.
    """

    digest: str
    memory: int
    sums: bytes


NO_SWAPS: Mapping[str, tuple[str, int, int]] = {}


_encode = msgspec.msgpack.Encoder().encode


def script(flags: str = "") -> bytes:
    """The source of the script that writes; ``flags`` are those of its first line.

    The members of a state and the reasons of a rejection, which the script has by name, get the numbers that they have
    in Python. So the names cost nothing in a run, and there is one list of each.
    """
    once, swap, commit = [
        resources.files("meanwhile").joinpath("storage", f"{name}.lua").read_text()
        for name in ("once", "swap", "commit")
    ]
    numbers = {name.upper(): place for place, name in enumerate(MEMBERS, start=1)}
    numbers |= {reason.name: reason.value for reason in RejectReason}
    functions = f"local function once(now)\n{once}end\nlocal function swap(merge_head)\n{swap}end\n"
    source = f"#!lua flags={flags}\n{functions}{commit}"
    return re.sub(r"\b[A-Z_]+\b", lambda word: str(numbers.get(word[0], word[0])), source).encode()


class Store:
    """Streams in Redis, below ``prefix``.

    Every method takes ``deadline``, on the clock of the event loop, and returns or raises by then; ``client``,
    ``replicas`` and ``failed`` are those of ``RedisClient``. ``listing`` lists them. Past ``max_streams`` keys in the
    database no stream is made (0: no limit).
    """

    def __init__(
        self,
        client: Redis,
        prefix: str,
        *,
        max_streams: int = 0,
        replicas: int = 0,
        failed: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._client = client
        self._redis = RedisClient(client, replicas, failed)
        self._options = (str(max_streams), "1" if replicas else "0")
        self._keys = f"{prefix}:stream:"
        self.listing = StreamListing(client, self._redis, self._keys)
        self._record = Script(script())
        self._forget = Script(script("allow-oom"))  # To forget takes no memory, and is what helps where there is none.

    async def commit(
        self,
        groups: Sequence[Mapping[str, State]],
        deadline: float,
        keys: Mapping[int, Key | Stamps] = NO_KEYS,
        *,
        however_wide: bool = False,
    ) -> Committed:
        """Merges readings, summarized by stream, into the stored states, in one atomic step.

        ``keys`` has the idempotency keys or timestamps of groups, by their position. A stream that has counted a key
        before is not changed by its group; the key is remembered in the same step as its readings are counted.

        The streams of one group stand or fall together: if one refuses (it has another shape, its state is
        unreadable, the key is too old), none is changed by this group. Groups take effect in their order and do not
        depend on each other otherwise: the first to name a new stream fixes its shape. A group's streams all have the
        state that is returned, which includes the groups before and after it.

        Groups may be left for the next commit (``Committed.is_put_off``), or for ``swap`` (``is_wide``) unless they are
        to be committed ``however_wide`` they are.

        Raises ``StoreUnavailable`` or ``OutcomeUnknown``, for all groups together.
        """
        records = [{name: to_record(state) for name, state in group.items()} for group in groups]
        return await self._commit_groups(records, keys, ("", "1") if however_wide else (), deadline)

    async def swap(
        self, states: Mapping[str, State], swaps: Mapping[str, Swap], key: Key | Stamps | None, deadline: float
    ) -> Committed:
        """Commits one group whose streams have been merged here, if they are still as they were (``is_changed``).

        Otherwise as ``commit``.
        """
        record = {
            name: (VERSION, shape.text, summary.count, summary.first, summary.last, shape.components)
            for name, (shape, summary) in states.items()
        }
        keys = NO_KEYS if key is None else {0: key}
        places = {name: (swap.digest, swap.memory, 6 + place) for place, (name, swap) in enumerate(swaps.items())}
        sums = [swap.sums for swap in swaps.values()]  # cmsgpack takes no bytes.
        return await self._commit_groups([record], keys, ("", "", *sums), deadline, places)

    async def check(
        self, groups: Sequence[Mapping[str, Claim]], key: Key | Stamps | None, reserved: int, deadline: float
    ) -> Committed:
        """What ``commit`` would say to readings that claim this much, all with the same key; writes nothing.

        ``reserved`` is how many streams were found to be new that will be made with these. Raises ``StoreUnavailable``.
        """
        records = [{name: (VERSION, *claim) for name, claim in group.items()} for group in groups]
        keys = NO_KEYS if key is None else dict.fromkeys(range(len(groups)), key)
        try:
            return await self._commit_groups(records, keys, (str(reserved),), deadline)
        except OutcomeUnknown as error:
            raise StoreUnavailable from error  # It may have run; it has changed nothing.

    async def _commit_groups(
        self,
        groups: Sequence[Mapping[str, Sequence[Any]]],
        keys: Mapping[int, Key | Stamps],
        more: tuple[str | bytes, ...],
        deadline: float,
        swaps: Mapping[str, tuple[str, int, int]] = NO_SWAPS,
    ) -> Committed:
        positions: dict[str, int] = {}
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
                    (*entry, firsts.get(name, False), *((swaps[name],) if swaps else ()))
                    for name, entry in zip(group, entries, strict=True)
                ]
            encoded.append((entries, *(key or ())[:3]))  # No range is a nil at the end, which Lua takes for nothing.
        names = list(positions)
        replies, *stored = await self._run(self._record, names, encoded, deadline, more)
        return committed(names, replies, stored)

    async def read(self, names: Sequence[str], deadline: float) -> list[State | Unreadable | None]:
        """The states of streams, as of one moment; None for a stream that does not exist."""
        reading: Awaitable[list[Any]] = self._client.mget([self._keys + name for name in names])
        replies = await self._redis.read(reading, deadline)
        states: list[State | Unreadable | None] = []
        size = 0
        for stored in replies:
            states.append(None if stored is None else _decode_or_error(stored))
            size += len(stored or b"")
            if size > _STRETCH:
                size = 0
                await asyncio.sleep(0)  # Requests get their turn.
        absent = [i for i, state in enumerate(states) if state is None]
        if absent:
            for i, is_foreign in zip(
                absent, await self._are_foreign([names[i] for i in absent], deadline), strict=True
            ):
                states[i] = Unreadable() if is_foreign else None
        return states

    async def _are_foreign(self, names: Sequence[str], deadline: float) -> list[bool]:
        """Whether keys hold something that is no string. For MGET they are absent; GET tells the difference."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.get(self._keys + name)
            replies = await self._redis.read(pipeline.execute(raise_on_error=False), deadline)
        return [isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE") for reply in replies]

    async def read_stored(self, names: Sequence[str], deadline: float) -> list[bytes | None]:
        """The states of streams as they are stored, for ``decode``; None for a stream that does not exist."""
        reading: Awaitable[list[Any]] = self._client.mget([self._keys + name for name in names])
        return await self._redis.read(reading, deadline)

    async def forget(self, name: str, deadline: float) -> State | None:
        """Deletes a stream and returns its last state, in one atomic step; None if there was none.

        The script cannot read a shape; it compares. So it is told which one to expect, a number first, and where there
        is another one it says which, and is run again if that one can be read: only what can be returned is deleted.
        Raises ``StoreUnavailable``, ``OutcomeUnknown``, or ``Unreadable``, and then nothing was deleted.
        """
        shape = NUMBER
        while True:
            entry = (1, False, (shape.text, shape.components))
            replies, stored = await self._run(self._forget, [name], [([entry],)], deadline)
            outcome = committed([name], replies, [stored])
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
