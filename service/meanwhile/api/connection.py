"""HTTP connections with timeouts, ordered refusals of malformed requests, and responses in one write.

**Requests** are received as ``request_parser.py`` describes.

**Timeouts.** uvicorn limits only how long a connection may be idle after a response. Here each connection has one timer
for everything that it waits for (``connection_timeouts.py``).

**Refusals.** uvicorn refuses malformed requests in plain text and at once, ahead of the responses to earlier requests
on the same connection, so a client takes the refusal for the response to a reading that was recorded. Here the refusal
is a problem document and is sent in order.

**Responses in one write.** uvicorn writes the head and the body of a response separately: two system calls, each of
which wakes the client. An application that has both passes them to ``respond``, which writes them together if possible.

**Endless responses**, such as event streams, register a function that ends them at shutdown (``end_at_shutdown``);
otherwise shutdown would wait for them.

**Uploads** may last for hours. An upload calls ``hold``: from then on it has its own timeouts (``connection_hold.py``).

An application with a method ``answer``, as ``Meanwhile`` has, gets the connection as a parameter before those of ASGI.
Its method ``begin`` answers requests that have arrived whole, without ASGI (``whole_request.py``).
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import Scope

from meanwhile.api import request_head
from meanwhile.api.connection_hold import Hold
from meanwhile.api.connection_timeouts import Deadlines, Phase, Stall
from meanwhile.api.problems import encode
from meanwhile.api.refusals import TooManyConnections
from meanwhile.api.request_parser import ParsingProtocol
from meanwhile.api.response import ResponseEncoder
from meanwhile.api.whole_request import WholeRequest

_ABORT_DELAY = 0.5  # Seconds that a client has at shutdown to take the end of an endless response.
_responses = ResponseEncoder()


class ConnectionProtocol(ParsingProtocol):
    """uvicorn's protocol with timeouts, limits, and responses in one write. uvicorn passes the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadlines: Deadlines
        self._stall: Stall
        self._refusal: bytes | None = None  # The last response, once the connection reads no more requests.
        # uvicorn's own refusal of a connection is not a problem document.
        self._max_connections, self.limit_concurrency = self.limit_concurrency, None
        self._hold: Hold | None = None
        self._end_response: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows the type, too
        """Starts the timer for the first request."""
        super().connection_made(transport)
        self._deadlines = Deadlines(self.loop, self.timeout_keep_alive, transport.close)
        self._deadlines.enter(Phase.RECEIVING)
        self._stall = Stall(self.loop, transport)
        if self._max_connections is not None and len(self.connections) > self._max_connections:
            self._refuse(TooManyConnections())

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's never keeps the connection open
        """The client sends no more data. Returns True, to keep the connection, if a complete request is unanswered."""
        cycle = self.cycle
        if cycle is None or not self._unanswered or (self._unanswered == 1 and not self._is_complete):
            return False
        if not self._is_complete:
            self._refuse(self._parse_error)  # In its turn, after the responses to the requests before it.
            return True
        if cycle.response_started:
            return False
        cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed: stops the timers."""
        self._deadlines.cancel()
        self.app = self.config.loaded_app  # Breaks the reference cycle.
        self._stall.end()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The write buffer is full: the client does not read."""
        self._stall.begin()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        self._stall.end()
        super().resume_writing()

    def shutdown(self) -> None:
        """Lets current responses finish, ends an endless one, and notifies an upload."""
        super().shutdown()
        if self._hold is not None and not self._hold.stopping.done():
            self._hold.stopping.set_result(None)
        if self._end_response is not None:
            self.loop.call_later(_ABORT_DELAY, self.transport.abort)
            self._end_response()

    def data_received(self, data: bytes) -> None:
        """Parses data, and starts the timer for the rest of an incomplete request."""
        if self._refusal is not None:
            return
        self._deadlines.received += len(data)
        self._receive(data)
        if self._is_complete:
            return
        if self._unanswered == 1 and self._hold is None and self._deadlines.phase in (Phase.IDLE, Phase.BUSY):
            self._deadlines.enter(Phase.RECEIVING)  # If others await their responses, only after the last of them.
        if self._bytes_without_body > request_head.MAX_HEAD and self._refusal is None:
            self._refuse(request_head.too_large())

    def on_message_complete(self) -> None:
        """A request is complete: it has no timeout until it is answered."""
        if self._without_offer is None:
            if self._unanswered:
                self._deadlines.phase = Phase.BUSY
            else:
                self._deadlines.enter(Phase.IDLE)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A response is complete: starts the next pipelined request, or waits for one."""
        self._unanswered -= 1
        self._hold = self._end_response = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self._refusal is not None and self._send_refusal():
            return
        self.flow.resume_reading()
        if not self._unanswered:
            self._deadlines.enter(Phase.IDLE if self._is_complete else Phase.LINGERING)
        elif self._unanswered == 1 and not self._is_complete:
            self._deadlines.enter(Phase.RECEIVING)
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def respond(self, scope: Scope, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Writes a whole response, whose headers include its length. Returns False if it must be sent through ASGI.

        That is the case if the connection is to be closed or its write buffer is full, if later requests have already
        arrived, or if the access log is on.
        """
        cycle = self.cycle
        if (
            cycle.scope is not scope
            or cycle.response_started
            or cycle.disconnected
            or not cycle.keep_alive
            or self.flow.write_paused
            or self.access_log
        ):
            return False
        self._write_response(status, headers, body)
        cycle.response_started = cycle.response_complete = True
        self.on_response_complete()
        return True

    def await_result(self, whole: WholeRequest, result: "asyncio.Future[Any]") -> None:
        """Registers what the response of a whole request waits for: after the shutdown timeout, uvicorn cancels it."""
        whole.result = result
        self.tasks.add(result)  # type: ignore[arg-type]  # uvicorn only waits for its tasks and cancels them.

    def end_whole(self, whole: WholeRequest, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Writes the response to a whole request. Its headers include its length."""
        if whole.result is not None:
            self.tasks.discard(whole.result)
            whole.result = None
        if whole.disconnected:
            return
        if not whole.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        self._write_response(status, headers, body)
        whole.response_started = whole.response_complete = True
        if not whole.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _write_response(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        self.transport.write(_responses.encode(status, self.server_state.default_headers, headers, body))

    def take_body(self, scope: Scope) -> bytes | None:
        """Returns the body of a request if all of it has arrived; otherwise None, and it must be received."""
        cycle = self.cycle
        if cycle.scope is not scope or cycle.more_body or cycle.disconnected:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def hold(self, scope: Scope) -> Hold:
        """Suspends the timeouts for a request, and returns its ``Hold``."""
        self._deadlines.phase = Phase.BUSY
        is_last = self.cycle.scope is scope  # Otherwise all of it has arrived, because the next request has begun.
        self._hold = Hold(self.cycle if is_last else None, self.loop.create_future())
        return self._hold

    def end_at_shutdown(self, end: Callable[[], None]) -> None:
        """Registers ``end``, which is called at shutdown if the current response has not ended by then."""
        self._end_response = end

    def send_400_response(self, msg: str) -> None:
        """Refuses a malformed request. ``msg`` is uvicorn's message, which is not used."""
        self._refuse(self._parse_error)

    def _refuse(self, error: Exception) -> None:
        """Stops reading, and sends the problem document after the responses to complete requests."""
        status, headers, body = encode(error)
        headers = [*headers, (b"connection", b"close")]
        self._refusal = _responses.encode(status, self.server_state.default_headers, headers, body)
        self._whole = None
        self._send_refusal()

    def _send_refusal(self) -> bool:
        """Sends the refusal and closes the connection, unless a complete request still has no response."""
        if self._unanswered > (not self._is_complete):
            return False
        # A lingering request has already got its response.
        if self._refusal is not None and self._deadlines.phase is not Phase.LINGERING:
            self.transport.write(self._refusal)
        self.transport.close()
        return True
