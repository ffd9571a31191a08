"""The timeouts of a connection, with one timer for all of them.

    idle                75 s (uvicorn's keep-alive) after the last response
    request incomplete  10 s after it began, and 10 s more whenever 160 KiB arrived in the last 10 s, so that a slow
                        line can send a large body, but a trickle of bytes cannot hold a connection
    rest of a request   2 s after the response: the rest of the request is discarded, so that the client can read why
    that was answered   the request was refused (too large, unknown type); then the connection is closed
    response pending    no limit: the application has its own
    client not reading  30 s in which the client takes none of its response; then it is disconnected

The timer is set again only if the connection has to end before it would fire. So an ordinary request that arrives in
one piece touches no timer, whereas uvicorn sets and cancels a timer for each request.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import Enum
from math import inf

TIMEOUT = 10.0  # Seconds.
MIN_BYTES_PER_SECOND = 16 * 1024
LINGER = 2.0  # Seconds.
STALL = 30.0  # Seconds.
_RESET = struct.pack("ii", 1, 0)  # Linger for 0 s: the kernel drops its unsent data, too.


class Phase(Enum):
    """What a connection waits for: a request, the rest of one, the rest of an answered one, or a response."""

    IDLE = 0
    RECEIVING = 1
    LINGERING = 2
    BUSY = 3


class Deadlines:
    """The timer of one connection, on the clock of ``loop``.

    ``keep_alive`` is how long the connection may be idle, in seconds. ``close`` closes it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, keep_alive: float, close: Callable[[], None]) -> None:
        self._loop = loop
        self._keep_alive = keep_alive
        self._close = close
        self.phase = Phase.RECEIVING
        self.received = 0  # Bytes since the phase began, or since it was last extended.
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._fires = inf

    def enter(self, phase: Phase) -> None:
        """Starts a phase and its timeout."""
        self.phase = phase
        self.received = 0
        self._since = self._loop.time()
        if self._due() < self._fires:
            self._set_timer()

    def cancel(self) -> None:
        """Stops the timer, because the connection is closed."""
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> float:
        """Returns when the current phase times out, on the clock of the loop."""
        if self.phase is Phase.IDLE:
            return self._since + self._keep_alive
        if self.phase is Phase.RECEIVING:
            return self._since + TIMEOUT
        return self._since + LINGER if self.phase is Phase.LINGERING else inf

    def _set_timer(self) -> None:
        self.cancel()
        self._fires = min(self._due(), self._loop.time() + self._keep_alive)
        self._timer = self._loop.call_at(self._fires, self._check)

    def _check(self) -> None:
        if self._loop.time() >= self._due() and not self._is_making_progress():
            self._close()
        else:
            self._set_timer()

    def _is_making_progress(self) -> bool:
        """Returns whether enough of the request has arrived. If so, extends the phase by the same time."""
        if self.phase is not Phase.RECEIVING or self.received < TIMEOUT * MIN_BYTES_PER_SECOND:
            return False
        self.received = 0
        self._since = self._loop.time()
        return True


class Stall:
    """Disconnects a client that takes none of its response for ``STALL`` seconds.

    ``loop`` has the timer; ``transport`` is that of the connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    def begin(self) -> None:
        """Starts the timer, because the client does not read."""
        self._unsent = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(STALL, self._check)

    def end(self) -> None:
        """Stops the timer, because the client reads again or is disconnected."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        if self._transport.get_write_buffer_size() < self._unsent:
            self.begin()
        else:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
