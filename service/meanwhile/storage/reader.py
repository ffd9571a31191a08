"""Reads states in batches: reads that arrive during one MGET share the next one."""

import asyncio
from dataclasses import dataclass, field

from meanwhile.core.state import State, Unreadable
from meanwhile.storage.batcher import Batcher, fail_all
from meanwhile.storage.store import Store

MAX_STREAMS = 50  # Per MGET: decoding takes about 50 ms if each stream has a thousand components.


@dataclass
class _ReadBatch:
    loop: asyncio.AbstractEventLoop
    deadline: float
    waiters: dict[str, list[asyncio.Future[State | None]]] = field(default_factory=dict)

    def fail(self, error: Exception) -> None:
        for waiters in self.waiters.values():
            fail_all(waiters, error)


class Reader:
    """Reads the states of streams from ``store`` in batches.

    ``redis_timeout`` is the time limit of a read, in seconds.
    """

    def __init__(self, store: Store, *, redis_timeout: float) -> None:
        self._store = store
        self._batcher = Batcher(_ReadBatch, self._read, redis_timeout)

    def read(self, stream: str) -> "asyncio.Future[State | None]":
        """Returns the state of a stream, no older than this call; None if the stream does not exist.

        The future raises ``StoreUnavailable`` or ``Unreadable``.
        """
        reads = self._batcher.open_batch()
        if len(reads.waiters) >= MAX_STREAMS and stream not in reads.waiters:
            reads = self._batcher.with_room(lambda one: len(one.waiters) < MAX_STREAMS or stream in one.waiters)
        waiter: asyncio.Future[State | None] = reads.loop.create_future()
        reads.waiters.setdefault(stream, []).append(waiter)
        return waiter

    async def drain(self) -> None:
        """Returns when all reads have been answered."""
        await self._batcher.drain()

    async def _read(self, reads: _ReadBatch) -> None:
        states = await self._store.read(list(reads.waiters), reads.deadline)
        for waiters, state in zip(reads.waiters.values(), states, strict=True):
            if isinstance(state, Unreadable):
                fail_all(waiters, state)
                continue
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(state)
