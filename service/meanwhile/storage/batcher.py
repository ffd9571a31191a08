"""The batcher: one batch is under way to Redis, and whatever is asked for meanwhile gathers in the next.

Nothing is timed. A batch leaves as soon as the one before is back, so an idle service sends each request at once and a
busy one sends dozens together. Whoever waits hears of the own batch only, and its deadline is that of its first. A
batch that is full waits for its turn, and the next one gathers behind it; what is small finds room in an earlier one.

**Nobody waits for somebody else's size.** What is too large for one batch is sent in parts, *between* the batches:
after each batch one part, in the order in which they asked for their turn, and after each part one batch.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar


class Overloaded(Exception):
    """More is waiting than the service allows: nothing of this request was recorded."""


class Batch(Protocol):
    """What leaves in one turn, and those who wait for it."""

    def fail(self, error: Exception) -> None:
        """Tells those who wait that it came to nothing."""


B = TypeVar("B", bound=Batch)


class _Turn:
    """The turn of a part of something large."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.begins: asyncio.Future[None] = loop.create_future()
        self.ends: asyncio.Future[None] = loop.create_future()


class Batcher(Generic[B]):
    """Sends one batch at a time, in their order, and lets one part have its turn between any two.

    ``new`` makes a batch of the loop and a deadline, ``redis_timeout`` seconds from now; ``send`` sends it.
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
        self._parts: deque[_Turn] = deque()
        self._sender: asyncio.Task[None] | None = None

    def open_batch(self) -> B:
        """The batch that leaves next."""
        return self._batches[0] if self._batches else self.begin()

    def with_room(self, has_room: Callable[[B], bool]) -> B:
        """The first batch that has room, or a new one."""
        return next(filter(has_room, self._batches), None) or self.begin()

    def begin(self) -> B:
        """Another batch, behind the others."""
        loop = asyncio.get_running_loop()
        batch = self._new(loop, loop.time() + self._redis_timeout)
        self._batches.append(batch)
        self._start(loop)
        return batch

    @asynccontextmanager
    async def between(self) -> AsyncIterator[None]:
        """Inside, it is the turn of a part: no batch is under way."""
        loop = asyncio.get_running_loop()
        part = _Turn(loop)
        self._parts.append(part)
        self._start(loop)
        try:
            await part.begins
            yield
        finally:
            part.ends.set_result(None)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._sender is None:
            self._sender = loop.create_task(self._send_all())

    async def _send_all(self) -> None:
        while self._batches or self._parts:
            if self._batches:
                batch = self._batches.popleft()
                try:
                    await self._send(batch)
                except Exception as error:  # noqa: BLE001  # Whatever it is, those who wait must hear of it.
                    batch.fail(error)
            if self._parts:
                part = self._parts.popleft()
                if not part.begins.done():  # It is if nobody waits for it any more.
                    part.begins.set_result(None)
                    await part.ends
        self._sender = None

    async def drain(self) -> None:
        """Returns when everything that was gathered has been sent and answered."""
        if self._sender is not None:
            await asyncio.shield(self._sender)


def fail_all(waiters: list[asyncio.Future[Any]], error: Exception) -> None:
    """Raises ``error`` where these are awaited, if anybody still waits."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
