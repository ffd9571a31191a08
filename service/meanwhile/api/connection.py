"""HTTP connections with timeouts, ordered refusals of malformed requests, and responses in one write.

**Timeouts.** uvicorn limits only how long a connection may be idle after a response. Here each connection has one timer
for everything that it waits for (``connection_timeouts.py``).

**Malformed requests.** uvicorn refuses them in plain text and at once, ahead of the responses to earlier requests on
the same connection, so a client takes the refusal for the response to a reading that was recorded. Here the refusal is
a problem document and is sent in order. uvicorn does not limit the size of a header; here, bytes without a byte of body
(a header, a trailer, a chunk extension) are refused beyond 64 KiB. ``request_head.py`` and ``chunk_limit.py`` have the
other rules. Trailers are ignored. A client may pipeline 1,000 requests.

**Responses in one write.** uvicorn writes the head and the body of a response separately: two system calls, each of
which wakes the client. An application that has both passes them to ``respond``, which writes them together if possible.

**Endless responses**, such as event streams, register a function that ends them at shutdown (``end_at_shutdown``);
otherwise shutdown would wait for them.

**Uploads** may last for hours. An upload calls ``hold``: from then on it has its own timeouts (``connection_hold.py``).

An application with a method ``answer``, as ``Meanwhile`` has, gets the connection as a parameter before those of ASGI.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from meanwhile.api import chunk_limit, request_head
from meanwhile.api.connection_hold import Hold
from meanwhile.api.connection_timeouts import Deadlines, Phase, Stall
from meanwhile.api.errors import NotHttp, Refused, TooManyConnections
from meanwhile.api.problems import encode

_ABORT_DELAY = 0.5  # Seconds that a client has at shutdown to take the end of an endless response.
MAX_PIPELINED = 1_000  # Requests of a connection that have no response yet.
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class ConnectionProtocol(HttpToolsProtocol):
    """uvicorn's protocol with timeouts, limits, and responses in one write. uvicorn passes the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if hasattr(self.app, "answer"):
            self.app = partial(self.app.answer, self)
        self._is_complete = False  # Whether the last request has arrived completely; False before the first request.
        self._unanswered = 0  # Requests that have begun and have no response; more than one if pipelined.
        self._deadlines: Deadlines
        self._stall: Stall
        self._bytes_without_body = 0  # Bytes since the last byte of a body, or since the previous request.
        self._refusal: bytes | None = None  # The last response, once the connection reads no more requests.
        self._parse_error: Refused = NotHttp("Expected a request as defined by RFC 9112.")
        self._in_head = False
        self._chunks = 0  # Chunks of the last request.
        self._request_bytes = 0  # Bytes since the request began, including all data that arrived with its first byte.
        self._last_bytes = 0  # Bytes that arrived last.
        # uvicorn's own refusal of a connection is not a problem document.
        self._max_connections, self.limit_concurrency = self.limit_concurrency, None
        self._without_upgrade: bytes | None = None  # A head that replaces the one that was just parsed.
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._default_head = b""
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
        self._last_bytes = len(data)
        self._deadlines.received += self._last_bytes
        self._request_bytes += self._last_bytes
        self._bytes_without_body += self._last_bytes
        self._feed(data)
        if self._is_complete:
            return
        if self._unanswered == 1 and self._hold is None and self._deadlines.phase in (Phase.IDLE, Phase.BUSY):
            self._deadlines.enter(Phase.RECEIVING)  # If others await their responses, only after the last of them.
        if self._bytes_without_body > request_head.MAX_HEAD and self._refusal is None:
            self._refuse(request_head.too_large())

    def _feed(self, data: bytes | memoryview) -> None:
        """Feeds the parser. If a head offers an upgrade, feeds the same head without the offer to a new parser."""
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                except HttpParserUpgrade as upgrade:
                    data = memoryview(data)[upgrade.args[0] :]
                    substitute, self._without_upgrade = self._without_upgrade, None
                    if substitute is None:
                        raise HttpParserError from None
                    self._unanswered -= 1  # The request begins again in a new parser, as this one may have finished it.
                    self.parser = HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # As uvicorn does.
                    self.parser.feed_data(substitute)
                else:
                    return
        except HttpParserError:
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request begins. Raises ``Refused`` if too many requests are unanswered."""
        self._is_complete = False
        self._in_head = True
        self._chunks = 0
        self._request_bytes = self._last_bytes
        self._unanswered += 1
        if self._unanswered > MAX_PIPELINED:
            self._parse_error = NotHttp(f"Expected at most {MAX_PIPELINED} pipelined requests.")
            raise self._parse_error
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The header of a request is complete. Raises ``Refused``, which stops the parser."""
        self._in_head = False
        version = self.parser.get_http_version()
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1.
        try:
            request_head.check(version, self.url, self.headers, is_small=self._request_bytes <= request_head.MAX_HEAD)
        except Refused as error:
            self._parse_error = error
            raise
        if self.parser.should_upgrade() and (method := self.parser.get_method()) != b"CONNECT":
            self._without_upgrade = request_head.without_upgrade(method, self.url, version, self.headers)
        else:
            super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field has arrived. Ignores trailers."""
        if self._in_head:  # A copy of uvicorn's code: the call would cost each request a microsecond.
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_chunk_header(self) -> None:
        """A chunk of a body begins. Raises ``Refused`` if there are too many small chunks."""
        self._chunks += 1
        try:
            chunk_limit.check(self._chunks, self._request_bytes)
        except Refused as error:
            self._parse_error = error
            raise

    def on_body(self, body: bytes) -> None:
        """Part of a body has arrived."""
        self._bytes_without_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete, unless it offers an upgrade: then the parser has read only its head."""
        if self._without_upgrade is not None:
            return
        self._is_complete = True
        self._bytes_without_body = 0
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
        # uvicorn makes a new list every second, with the date.
        if self._default_headers is not self.server_state.default_headers:
            self._default_headers = self.server_state.default_headers
            self._default_head = b"".join(b"%b: %b\r\n" % header for header in self._default_headers)
        head = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(b"".join((_STATUS_LINES[status], self._default_head, head, b"\r\n", body)))
        cycle.response_started = cycle.response_complete = True
        self.on_response_complete()
        return True

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
        headers = [*self.server_state.default_headers, *headers, (b"connection", b"close")]
        head = b"".join([b"%b: %b\r\n" % header for header in headers])
        self._refusal = b"".join((_STATUS_LINES[status], head, b"\r\n", body))
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
