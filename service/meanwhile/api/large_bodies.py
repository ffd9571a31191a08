"""Places for large requests: few of them are in memory at once.

A decoded request is many times as large as its body, and to decode 8 MiB takes a second. So a body above ``SMALL``
bytes is decoded in a thread (``background_thread.py``), and it needs a **place**, which it keeps from before it is
decoded until it is recorded. There are two, so that one request is decoded while another one is recorded; a body of
more than a megabyte needs both. A request that finds no place within ``timeout`` seconds is refused with
``Overloaded``, before anything was done with it.
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

_PLACES = 2
_LARGE = 1024 * 1024  # Bytes of a body that takes all places.


class Places:
    """The places of one process."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._free = asyncio.Semaphore(_PLACES)
        self._all = asyncio.Lock()  # For a request that needs all places: two of them would wait for each other.

    @asynccontextmanager
    async def place(self, places: int = 1) -> AsyncIterator[None]:
        """Keeps one place or all, inside. Raises ``Overloaded``."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._timeout):
                    if places > 1:
                        await stack.enter_async_context(self._all)
                    for _ in range(places):
                        await stack.enter_async_context(self._free)
            except TimeoutError:
                raise Overloaded from None
            yield

    async def tidy(self) -> None:
        """Collects, every ten minutes, the cycles among the objects that heavy work froze; never returns.

        It takes all places, because it takes long where a large request is in memory. If they are taken, the next time
        will do.
        """
        while True:
            await asyncio.sleep(background_thread.TIDY_INTERVAL)
            with suppress(Overloaded):
                async with self.place(_PLACES):
                    background_thread.tidy()

    @asynccontextmanager
    async def decoded(
        self, decode: Callable[Concatenate[bytes, P], R], body: bytes, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncIterator[R]:
        """What ``decode`` makes of a body and ``args``; inside, it has a place if the body is large.

        Raises ``Overloaded``, or what ``decode`` raises.
        """
        if len(body) <= SMALL:
            yield decode(body, *args, **kwargs)
            return
        async with self.place(_PLACES if len(body) > _LARGE else 1):
            yield await background_thread.run(lambda: decode(body, *args, **kwargs))
