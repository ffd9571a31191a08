"""HTTP connections that do not wait for ever: a request is all there in time, or its connection is closed.

uvicorn limits how long a connection may idle after a response, but neither how long the first request takes to come nor
how slowly its header or body may. So each connection has one timer, which runs while a request is incomplete: 10 s,
and 1 s more for each 16 KiB that came, so that a slow line can send a large body and a trickle of bytes cannot hold
anything. The timer is only started when a request does not come in one piece, so the usual request does not pay for it.

A request that is answered before it is complete, because it is too large or of an unknown type, gets two seconds in
which what still comes is thrown away, so that the client can read the answer; then its connection is closed too.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PATIENCE = 10.0
BYTES_A_SECOND = 16 * 1024
LINGER = 2.0


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with an end to its patience."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_whole = False  # Whether the last request is complete; none at all is not.
        self._unanswered = 0  # Requests that began and have no response: a client may send the next one early.
        self._timer: asyncio.TimerHandle | None = None
        self._started = 0.0
        self._received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Starts to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Starts or stops to wait, as the request is incomplete or complete with this."""
        self._received += len(data)
        super().data_received(data)
        if self._is_whole:
            if self._timer is not None:
                self._stop_waiting()
        elif self._timer is None:
            self._wait()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_whole = False
        self._unanswered += 1
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._is_whole = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Does not read for long what nobody will look at: the rest of a request that has its response."""
        self._unanswered -= 1
        if not self._is_whole and not self._unanswered:
            self._stop_waiting()
            self._timer = self.loop.call_later(LINGER, self.transport.close)
        super().on_response_complete()

    def _wait(self) -> None:
        self._started = self.loop.time()
        self._received = 0
        self._timer = self.loop.call_later(PATIENCE, self._look)

    def _look(self) -> None:
        end = self._started + PATIENCE + self._received / BYTES_A_SECOND
        if self.loop.time() < end:
            self._timer = self.loop.call_at(end, self._look)
        else:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
