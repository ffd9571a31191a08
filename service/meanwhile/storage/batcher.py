"""The batcher: while one batch is in flight to Redis, new requests join the next batch.

There is no timer. A batch is sent as soon as the one before has returned, so an idle service sends each request at once
and a busy service sends dozens together. A request depends only on its own batch; the deadline of a batch is that of
its first request. If the next batch is full, another one follows it; a small request takes the first batch that has
room.

**A large request does not delay others.** A request that is too large for one batch is sent in parts *between* the
batches: after each batch one part, in the order in which the parts asked for exclusive access, and after each part one
batch.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar


class Overloaded(Exception):
    """Too many readings are waiting already. Nothing of this request was recorded."""


class Batch(Protocol):
    """Requests that are sent together, and the futures of their callers."""

    def fail(self, error: Exception) -> None:
        """Raises ``error`` in all waiting callers."""


B = TypeVar("B", bound=Batch)


class _ExclusiveSlot:
    """One period of exclusive access for a part of a large request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.granted: asyncio.Future[None] = loop.create_future()
        self.released: asyncio.Future[None] = loop.create_future()


class Batcher(Generic[B]):
    """Sends one batch at a time, in order, and grants exclusive access to one part between any two batches.

    ``new`` creates a batch from the event loop and a deadline on its clock. ``send`` sends a batch and answers its
    callers. ``redis_timeout`` is the time from the creation of a batch to its deadline, in seconds.
    """

    def __init__(
        self,
        new: Callable[[asyncio.AbstractEventLoop, float], B],
        send: Callable[[B], Awaitable[None]],
        redis_timeout: float,
    ) -> None:
        self._new = new
        self._send = send
        self._redis_timeout = redis_timeout
        self._batches: deque[B] = deque()
        self._slots: deque[_ExclusiveSlot] = deque()
        self._sender: asyncio.Task[None] | None = None

    def open_batch(self) -> B:
        """Returns the batch that is sent next."""
        return self._batches[0] if self._batches else self.begin()

    def with_room(self, has_room: Callable[[B], bool]) -> B:
        """Returns the first batch that has room, or a new one."""
        return next(filter(has_room, self._batches), None) or self.begin()

    def begin(self) -> B:
        """Creates a batch after the others."""
        loop = asyncio.get_running_loop()
        batch = self._new(loop, loop.time() + self._redis_timeout)
        self._batches.append(batch)
        self._start(loop)
        return batch

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """A context in which a part has exclusive access: no batch is in flight."""
        loop = asyncio.get_running_loop()
        part = _ExclusiveSlot(loop)
        self._slots.append(part)
        self._start(loop)
        try:
            await part.granted
            yield
        finally:
            part.released.set_result(None)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._sender is None:
            self._sender = loop.create_task(self._send_all())

    async def _send_all(self) -> None:
        while self._batches or self._slots:
            if self._batches:
                batch = self._batches.popleft()
                try:
                    await self._send(batch)
                except Exception as error:  # noqa: BLE001  # Callers must get any error.
                    batch.fail(error)
            if self._slots:
                part = self._slots.popleft()
                if not part.granted.done():  # It is done if the caller was cancelled.
                    part.granted.set_result(None)
                    await part.released
        self._sender = None

    async def drain(self) -> None:
        """Returns when all waiting batches have been sent and answered."""
        if self._sender is not None:
            await asyncio.shield(self._sender)


def fail_all(waiters: list[asyncio.Future[Any]], error: Exception) -> None:
    """Raises ``error`` in all callers that still wait."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
