"""Slots for large requests: they limit how many of them are in memory at the same time.

A decoded request is many times as large as its body, and decoding 8 MiB takes a second. So a body of more than
``SMALL`` bytes is decoded in a thread (``background_thread.py``) and needs a **slot**, from before it is
decoded until it is recorded. There are two slots, so that one request is decoded while another one is recorded. A body
of more than a megabyte needs both. A request that gets no slot within ``timeout`` seconds is refused with
``Overloaded``, before it is decoded.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Concatenate, ParamSpec, TypeVar

from meanwhile.formats.json_pieces import SMALL
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Overloaded

P = ParamSpec("P")
R = TypeVar("R")

_SLOTS = 2
_MAX_SINGLE_SLOT_BODY = 1024 * 1024  # Bytes; a larger body needs all slots.


class LargeBodySlots:
    """The slots of one process. ``timeout`` is how long a request waits for a slot, in seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._free = asyncio.Semaphore(_SLOTS)
        self._all = asyncio.Lock()  # For requests that need all slots: two of them would deadlock.

    @asynccontextmanager
    async def slot(self, slots: int = 1) -> AsyncIterator[None]:
        """A context that holds one slot or all. Raises ``Overloaded``."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._timeout):
                    if slots > 1:
                        await stack.enter_async_context(self._all)
                    for _ in range(slots):
                        await stack.enter_async_context(self._free)
            except TimeoutError:
                raise Overloaded from None
            yield

    async def collect_garbage(self) -> None:
        """Collects the garbage cycles among the frozen objects every ten minutes; never returns.

        ``background_thread.py`` froze these objects. A collection needs all slots, because it takes long while a large
        request is in memory. If no slot becomes free, it is skipped until the next time.
        """
        while True:
            await asyncio.sleep(background_thread.TIDY_INTERVAL)
            with suppress(Overloaded):
                async with self.slot(_SLOTS):
                    background_thread.tidy()

    @asynccontextmanager
    async def decoded(
        self, decode: Callable[Concatenate[bytes, P], R], body: bytes, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncIterator[R]:
        """A context with the result of ``decode(body, *args, **kwargs)``. Holds a slot if the body is large.

        Raises ``Overloaded``, or what ``decode`` raises.
        """
        if len(body) <= SMALL:
            yield decode(body, *args, **kwargs)
            return
        async with self.slot(_SLOTS if len(body) > _MAX_SINGLE_SLOT_BODY else 1):
            yield await background_thread.run(lambda: decode(body, *args, **kwargs))
