"""Streams that are too wide for the script to merge: merged here, and only compared and stored there.

A stream of 1,024 components whose values have magnitudes far apart has a state of 700 KB, and to merge into it takes
the script a quarter of a second, in which it serves nobody. So its state is read, merged in a thread by
``Summary.merge``, which is the same law to the bit, and sent back with the digest of what was read. The script stores
it if the state is still that one; otherwise another worker was faster, and all is done again with the new one. After a
few tries the script has to merge after all, so that two workers on one stream cannot keep each other waiting forever.

The script looks at the key and the timestamps itself: what a stream remembers of them stands behind its sums, and the
worker says where. So that is decided in the same step in which it is stored.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from meanwhile.core.idempotency_keys import Key, Stamps
from meanwhile.core.state import State, Unreadable, decode, encode_sums, offset_of_memory
from meanwhile.storage import background_thread
from meanwhile.storage.commit_reply import Committed
from meanwhile.storage.store import Store, Swap

_TRIES = 5


class Wide:
    """Commits streams that are too wide. Each access to Redis has its ``turn`` and ``redis_timeout`` seconds."""

    def __init__(
        self, store: Store, redis_timeout: float, turn: Callable[[], AbstractAsyncContextManager[None]]
    ) -> None:
        self._store = store
        self._redis_timeout = redis_timeout
        self._turn = turn

    async def commit(self, states: Mapping[str, State], key: Key | Stamps | None) -> Committed:
        """Commits one group, as ``Store.commit`` does."""
        loop = asyncio.get_running_loop()
        for _ in range(_TRIES):
            stored = await self._store.read_stored([*states], loop.time() + self._redis_timeout)
            swaps = await background_thread.run(_merge, states, stored)
            if swaps is None:
                break
            async with self._turn():
                committed = await self._store.swap(states, swaps, key, loop.time() + self._redis_timeout)
            if not committed.is_changed(0):
                return committed
        async with self._turn():
            keys = {} if key is None else {0: key}
            return await self._store.commit([states], loop.time() + self._redis_timeout, keys, however_wide=True)


def _merge(states: Mapping[str, State], stored: Sequence[bytes | None]) -> dict[str, Swap] | None:
    """What to store; None if a state is not readable, of which the script has to say so."""
    swaps = {}
    for (name, state), before in zip(states.items(), stored, strict=True):
        if before is None:
            swaps[name] = Swap("", 0, encode_sums(state.summary))
            continue
        try:
            shape, summary = decode(before)
        except Unreadable:
            return None
        merged = summary.merge(state.summary) if shape == state.shape else summary  # The script compares shapes, too.
        digest = hashlib.sha1(before, usedforsecurity=False).hexdigest()
        swaps[name] = Swap(digest, offset_of_memory(before), encode_sums(merged))
    return swaps
