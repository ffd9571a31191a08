"""Large bodies: limits how much memory they take together, and how many of them are decoded at the same time.

A body of more than ``SMALL`` bytes is large. **While it is received**, its bytes count: all large bodies of a worker
that are being received may take ``max_receiving`` bytes together (``BodyMemory``).

A decoded request is many times as large as its body, and decoding 8 MiB takes a second. So a large body is decoded in a
thread (``background_thread.py``) and needs a **slot**, from before it is decoded until it is recorded. There are two
slots, so that one request is decoded while another one is recorded. A body of more than a megabyte needs both. A
request that gets no slot within ``timeout`` seconds is refused with ``Overloaded``, before it is decoded.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from meanwhile.api.request import Request
from meanwhile.formats.json_pieces import SMALL
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Overloaded

P = ParamSpec("P")
R = TypeVar("R")

_SLOTS = 2
_MAX_SINGLE_SLOT_BODY = 1024 * 1024  # Bytes; a larger body needs all slots.


class BodyMemory:
    """The memory of the bodies that one worker is receiving.

    ``max_receiving`` is the limit of the bytes of all bodies together. One body is always accepted, and bodies up to
    ``SMALL`` bytes do not count.
    """

    def __init__(self, max_receiving: int) -> None:
        self._max_receiving = max_receiving
        self._reserved = 0

    def reserve(self, held: int, size: int) -> int:
        """Changes the reservation of a body from ``held`` to ``size`` bytes, and returns the bytes that count.

        Raises ``Overloaded`` if there is no room; then the reservation is unchanged.
        """
        size = size if size > SMALL else 0
        if size > held and self._reserved + size - held > max(self._max_receiving, size):
            raise Overloaded
        self._reserved += size - held
        return size

    def keep(self, request: Request, size: int) -> None:
        """Reserves ``size`` bytes for a request until it is answered. Raises ``Overloaded``."""
        request.reserved = self.reserve(request.reserved, size)
        if request.reserved and request.release is None:
            request.release = partial(self._release, request)

    def _release(self, request: Request) -> None:
        self._reserved -= request.reserved


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
        async with self.decoded_in_thread(decode, body, *args, **kwargs) as result:
            yield result

    @asynccontextmanager
    async def decoded_in_thread(
        self, decode: Callable[Concatenate[bytes, P], R], body: bytes, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncIterator[R]:
        """Does the same as ``decoded`` for a body that is treated as a large one, whatever its size."""
        async with self.slot(_SLOTS if len(body) > _MAX_SINGLE_SLOT_BODY else 1):
            yield await background_thread.run(lambda: decode(body, *args, **kwargs))
