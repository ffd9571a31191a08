"""How long a connection may take: one timer for all that it may wait for.

    nothing is under way     75 s (uvicorn's keep-alive) after the last response
    a request is incomplete  10 s after it began, and 10 s more whenever 160 KiB came in the last 10 s, so that a slow
                             line can send a large body and a trickle of bytes cannot hold anything
    the rest of one that     2 s after the response: what still comes is thrown away, so that the client can read why
    has its response         its request is too large or of an unknown type; then the connection is closed
    a response is awaited    no limit: the application has its own
    room to send             30 s in which the client takes nothing of its response; then it is dropped

The timer is set anew only when the connection has to end sooner than it would fire. So the usual request, complete in
one piece, touches no timer at all, where uvicorn sets one and cancels one for each.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import Enum
from math import inf

TIMEOUT = 10.0  # Seconds.
BYTES_A_SECOND = 16 * 1024
LINGER = 2.0  # Seconds.
STALL = 30.0  # Seconds.
_RESET = struct.pack("ii", 1, 0)  # Linger for 0 s: the kernel forgets, too, what it holds for that client.


class Phase(Enum):
    """What a connection waits for."""

    IDLE = 0
    RECEIVING = 1
    LINGERING = 2
    BUSY = 3


class Deadlines:
    """The timer of one connection. ``close`` ends the connection, ``keep_alive`` is in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keep_alive: float, close: Callable[[], None]) -> None:
        self._loop = loop
        self._keep_alive = keep_alive
        self._close = close
        self.phase = Phase.RECEIVING
        self.received = 0  # Bytes since the phase began, or since it was last found to go on.
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._fires = inf

    def enter(self, phase: Phase) -> None:
        """Begins a phase."""
        self.phase = phase
        self._since = self._loop.time()
        if self._due() < self._fires:
            self._set_timer()

    def cancel(self) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> float:
        """When to hang up, on the clock of the loop, if nothing changes."""
        if self.phase is Phase.IDLE:
            return self._since + self._keep_alive
        if self.phase is Phase.RECEIVING:
            return self._since + TIMEOUT
        return self._since + LINGER if self.phase is Phase.LINGERING else inf

    def _set_timer(self) -> None:
        self.cancel()
        self._fires = min(self._due(), self._loop.time() + self._keep_alive)
        self._timer = self._loop.call_at(self._fires, self._look)

    def _look(self) -> None:
        if self._loop.time() >= self._due() and not self._goes_on():
            self._close()
        else:
            self._set_timer()

    def _goes_on(self) -> bool:
        """Whether enough has come of a request that is due for it to be given as much time again."""
        if self.phase is not Phase.RECEIVING or self.received < TIMEOUT * BYTES_A_SECOND:
            return False
        self.received = 0
        self._since = self._loop.time()
        return True


class Stall:
    """Drops a client that takes nothing of its response for ``STALL`` seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    def begin(self) -> None:
        """The client does not take what is sent."""
        self._unsent = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(STALL, self._look)

    def end(self) -> None:
        """The client takes it again, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._transport.get_write_buffer_size() < self._unsent:
            self.begin()
        else:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
