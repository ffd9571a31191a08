"""Turns: one batch is under way to Redis, and whatever is asked for meanwhile gathers in the next.

Nothing is timed. A batch leaves as soon as the one before is back, so an idle service sends each request at once and a
busy one sends dozens together. Whoever waits hears of the own batch only, and its deadline is that of its first.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar


class Batch(Protocol):
    """What leaves in one turn, and those who wait for it."""

    def fail(self, error: Exception) -> None:
        """Tells those who wait that it came to nothing."""


B = TypeVar("B", bound=Batch)


class Turns(Generic[B]):
    """Sends one batch at a time; the next one gathers meanwhile and leaves at once."""

    def __init__(
        self,
        new: Callable[[asyncio.AbstractEventLoop, float], B],
        send: Callable[[B], Awaitable[None]],
        patience: float,
    ) -> None:
        self._new = new
        self._send = send
        self._patience = patience
        self._gathering: B | None = None
        self._sender: asyncio.Task[None] | None = None

    def gathering(self) -> B:
        """The batch that leaves next."""
        if self._gathering is None:
            loop = asyncio.get_running_loop()
            self._gathering = self._new(loop, loop.time() + self._patience)
            if self._sender is None:
                self._sender = loop.create_task(self._send_all())
        return self._gathering

    async def _send_all(self) -> None:
        while self._gathering is not None:
            batch, self._gathering = self._gathering, None
            try:
                await self._send(batch)
            except Exception as error:  # noqa: BLE001  # Whatever it is, those who wait must hear of it.
                batch.fail(error)
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
