"""Lets an upload hold its connection open for hours, beyond the timeouts of ordinary requests."""

import asyncio
from typing import Any


class Hold:
    """A connection that an upload holds open.

    ``cycle`` is uvicorn's state of the request; None if all of the request has been received. ``stopping`` is done when
    the server is shutting down.
    """

    def __init__(self, cycle: Any, stopping: "asyncio.Future[None]") -> None:
        self._cycle = cycle
        self.stopping = stopping

    def take_buffered(self) -> bytes:
        """Returns the data that has arrived but was not received. uvicorn drops it when the connection breaks."""
        if self._cycle is None:
            return b""
        buffered, self._cycle.body = bytes(self._cycle.body), bytearray()
        return buffered
