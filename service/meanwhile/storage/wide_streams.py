"""Streams that are too wide for the script: the worker merges their states, and the script only compares and stores.

A stream of 1,024 components whose values differ widely in magnitude has a state of 700 KB. The script would take a
quarter of a second to merge into it, and Redis would serve nobody during that time. So the worker reads the state,
merges it in a thread with ``Summary.merge``, which gives the same bits as the script, and sends it back with the digest
of the state that it read. If the digest still matches, the script stores the merged state. Otherwise another worker was
faster, and this worker repeats all steps with the new state. After a few attempts the script has to merge after all, so
that two workers on one stream cannot block each other forever.

The script itself checks the idempotency key and the timestamps, in the same atomic step in which it stores the state.
What a stream remembers of them follows its sums, and the worker tells the script where.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from meanwhile.core.idempotency_keys import Key, Timestamps
from meanwhile.core.state import State, Unreadable, decode, dedupe_offset, encode_sums
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.commit_reply import Committed, Rejection
from meanwhile.storage.store import Claim, Store, Swap

_MAX_ATTEMPTS = 5


class WideStreams:
    """Commits streams that are too wide for the script to ``store``.

    ``redis_timeout`` is the time limit of each access to Redis, in seconds. ``exclusive`` is ``Batcher.exclusive``;
    each write uses it. In one process, one group is committed at a time: otherwise all would merge the same state, and
    all but one in vain.
    """

    def __init__(
        self, store: Store, redis_timeout: float, exclusive: Callable[[], AbstractAsyncContextManager[None]]
    ) -> None:
        self._store = store
        self._redis_timeout = redis_timeout
        self._exclusive = exclusive
        self._lock = asyncio.Lock()

    async def commit(self, states: Mapping[str, State], key: Key | Timestamps | None, deadline: float) -> Committed:
        """Commits one group like ``Store.commit``, and raises the same exceptions.

        Also raises ``Overloaded`` if the groups before it take until ``deadline``, on the clock of the event loop.
        """
        try:
            async with asyncio.timeout_at(deadline):
                await self._lock.acquire()
        except TimeoutError:
            raise Overloaded from None
        try:
            return await self._commit(states, key)
        finally:
            self._lock.release()

    async def check(self, name: str, claim: Claim, key: Key | Timestamps | None) -> list[Rejection]:
        """Returns the rejections that ``commit`` would get for a stream that exists. Writes nothing.

        Returns none if the stream changes all the time, or if its state is unreadable. Raises ``StoreUnavailable``.
        """
        loop = asyncio.get_running_loop()
        for _ in range(_MAX_ATTEMPTS if key is not None else 0):  # Without a key, its shape is all that matters.
            (stored,) = await self._store.read_stored([name], loop.time() + self._redis_timeout)
            swap = None if stored is None else await background_thread.run(_unmerged, stored)
            if swap is None:
                break
            async with self._exclusive():
                deadline = loop.time() + self._redis_timeout
                committed = await self._store.check([{name: claim}], key, 0, deadline, {name: swap})
            if not committed.is_changed(0):
                return committed.rejections[0]
        return []

    async def _commit(self, states: Mapping[str, State], key: Key | Timestamps | None) -> Committed:
        loop = asyncio.get_running_loop()
        for _ in range(_MAX_ATTEMPTS):
            stored = await self._store.read_stored([*states], loop.time() + self._redis_timeout)
            swaps = await background_thread.run(_merge, states, stored)
            if swaps is None:
                break
            async with self._exclusive():
                committed = await self._store.swap(states, swaps, key, loop.time() + self._redis_timeout)
            if not committed.is_changed(0):
                return committed
        async with self._exclusive():
            keys = {} if key is None else {0: key}
            return await self._store.commit([states], loop.time() + self._redis_timeout, keys, however_wide=True)


def _unmerged(stored: bytes) -> Swap | None:
    try:
        return Swap(_digest(stored), dedupe_offset(stored), b"")
    except ValueError:
        return None


def _digest(stored: bytes) -> str:
    return hashlib.sha1(stored, usedforsecurity=False).hexdigest()


def _merge(states: Mapping[str, State], stored: Sequence[bytes | None]) -> dict[str, Swap] | None:
    """Merges the states. Returns None if a stored state is unreadable; the script then reports it."""
    swaps = {}
    for (name, state), before in zip(states.items(), stored, strict=True):
        if before is None:
            swaps[name] = Swap("", 0, encode_sums(state))
            continue
        try:
            shape, summary = decode(before)
        except Unreadable:
            return None
        # If the shapes differ, the script refuses the readings.
        merged = summary.merge(state.summary) if shape == state.shape else summary
        swaps[name] = Swap(_digest(before), dedupe_offset(before), encode_sums(State(shape, merged)))
    return swaps
