"""How an upload holds its connection open for hours, past the timeouts of ordinary requests."""

import asyncio
from typing import Any


class Hold:
    """A connection that an upload holds open.

    ``cycle`` is uvicorn's state of the request; ``stopping`` is done when the server wants the upload to end.
    """

    def __init__(self, cycle: Any, stopping: "asyncio.Future[None]") -> None:
        self._cycle = cycle
        self.stopping = stopping

    def take_rest(self) -> bytes:
        """What has arrived and was not received; uvicorn keeps it to itself when the connection breaks."""
        rest, self._cycle.body = bytes(self._cycle.body), bytearray()
        return rest
