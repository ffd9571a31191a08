"""HTTP connections that time out, refuse in turn what is not HTTP, and send responses in one piece.

**Timeouts.** uvicorn limits how long a connection may idle after a response, but neither how long the first request
takes to come nor how slowly its header or body may. Here each connection has one timer for all of it
(``connection_timeouts.py``).

**What is not HTTP** uvicorn refuses in plain text, and at once: ahead of the responses to earlier requests on the same
connection, so that a client takes it for the response to a reading that was recorded. Here it is a problem like every
other and waits its turn. And a header may be as large as a client likes; here what comes without a byte of a body (a
header, a trailer, the extension of a chunk) is refused past 64 KiB. ``request_head.py`` has the other rules. What
stands in a trailer is nobody's header. A body may be cut into as many chunks as it has bytes; past 10,000 they have to
be of 16 bytes on average. A client may send a thousand requests ahead of their responses, and a worker has a limit of
connections; a client beyond it gets a problem, too.

**Responses in one piece.** uvicorn hands the head and the body of a response to the kernel one after the other: two
system calls, each of which wakes the client. An application that has both can give them to ``respond`` together. It
writes them at once if nothing speaks against it, and says otherwise, so that the application sends them as ASGI has it.

**Endless responses.** A client that takes nothing of its response for 30 s is dropped, so that what waits for it in
memory has an end. A response without an end, such as a stream of events, says what ends it (``end_at_shutdown``);
otherwise, shutdown would wait for it.

**Uploads** may last for hours. One takes ``hold`` of its connection: then it has its own timeouts, is told when the
server stops, and can have what arrived before its connection broke.

The application gets the connection of a request as a parameter: where it has a method ``answer``, as ``Meanwhile`` has,
that is called with the connection before ASGI's own three.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from meanwhile.api import request_head
from meanwhile.api.connection_hold import Hold
from meanwhile.api.connection_timeouts import Deadlines, Phase, Stall
from meanwhile.api.errors import NotHttp, Refused, TooManyConnections
from meanwhile.api.problems import encode

LAST_WORDS = 0.5  # Seconds at shutdown that a client of an endless response has to take what is left of it.
MAX_CHUNKS = 10_000  # Of a body, before it matters how small they are.
SMALLEST_CHUNK = 16  # Bytes, on average.
_AROUND_A_CHUNK = 5  # Bytes: its size and two line ends.
MAX_PIPELINED = 1_000  # Requests of a connection that wait for the one before.

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class ConnectionProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with timeouts, limits, and a way to respond in one piece."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if hasattr(self.app, "answer"):
            self.app = partial(self.app.answer, self)
        self._is_whole = False  # Whether the last request is complete; none at all is not.
        self._unanswered = 0  # Requests that began and have no response: a client may send the next one early.
        self._deadlines: Deadlines
        self._stall: Stall
        self._without_body = 0  # Bytes since the last one of a body, or since the request before.
        self._refusal: bytes | None = None  # The last response, once nothing is read any more.
        self._why: Refused = NotHttp("Expected a request as RFC 9112 has it.")
        self._in_head = False
        self._chunks = 0  # Of the last request.
        self._came = 0  # Bytes since it began; those that came in one piece with its beginning count whole.
        self._piece = 0  # Bytes that came last.
        self._max_connections, self.limit_concurrency = self.limit_concurrency, None  # uvicorn's refusal is no problem.
        self._without_upgrade: bytes | None = None  # A head that takes the place of the one that was just parsed.
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._default_head = b""
        self._hold: Hold | None = None
        self._end: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Starts to wait for the first request."""
        super().connection_made(transport)
        self._deadlines = Deadlines(self.loop, self.timeout_keep_alive, transport.close)
        self._deadlines.enter(Phase.RECEIVING)
        self._stall = Stall(self.loop, transport)
        if self._max_connections is not None and len(self.connections) > self._max_connections:
            self._refuse(TooManyConnections())

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's never keeps the connection open
        """The client sends no more. Returns whether it still gets an answer: its request is complete, and has none."""
        cycle = self.cycle
        if cycle is None or not self._is_whole or self._unanswered != 1 or cycle.response_started:
            return False
        cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._deadlines.cancel()
        self.app = self.config.loaded_app  # Without a reference back to here.
        self._stall.end()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        self._stall.begin()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has taken what was sent."""
        self._stall.end()
        super().resume_writing()

    def shutdown(self) -> None:
        """Finishes what is under way; what has no end is ended, and an upload hears of it."""
        super().shutdown()
        if self._hold is not None and not self._hold.stopping.done():
            self._hold.stopping.set_result(None)
        if self._end is not None:
            self.loop.call_later(LAST_WORDS, self.transport.abort)
            self._end()

    def data_received(self, data: bytes) -> None:
        """Takes what came, and starts to wait for the rest if there is one."""
        if self._refusal is not None:
            return
        self._piece = len(data)
        self._deadlines.received += self._piece
        self._came += self._piece
        self._without_body += self._piece
        self._feed(data)
        if self._is_whole:
            return
        if self._deadlines.phase in (Phase.IDLE, Phase.BUSY) and self._hold is None:
            self._deadlines.received = 0
            self._deadlines.enter(Phase.RECEIVING)
        if self._without_body > request_head.MAX_HEAD and self._refusal is None:
            self._refuse(request_head.HEAD_TOO_LARGE)

    def _feed(self, data: bytes | memoryview) -> None:
        """Lets the parser read on; behind a head that offers an upgrade, from the same head without it."""
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                except HttpParserUpgrade as upgrade:
                    data = memoryview(data)[upgrade.args[0] :]
                    substitute, self._without_upgrade = self._without_upgrade, None
                    if substitute is None:
                        raise HttpParserError from None
                    self._unanswered -= 1  # It begins once more, in another parser: this one may have seen its end.
                    self.parser = HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # As uvicorn does.
                    self.parser.feed_data(substitute)
                else:
                    return
        except HttpParserError:
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request begins. Raises ``Refused`` if too many wait before it."""
        self._is_whole = False
        self._in_head = True
        self._chunks = 0
        self._came = self._piece
        self._unanswered += 1
        if self._unanswered > MAX_PIPELINED:
            self._why = NotHttp(f"Expected at most {MAX_PIPELINED} requests ahead of their responses.")
            raise self._why
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The header of a request is complete. Raises ``Refused``, which ends the parser's work."""
        self._in_head = False
        version = self.parser.get_http_version()
        try:
            request_head.check(version, self.url, self.headers, is_small=self._came <= request_head.MAX_HEAD)
        except Refused as error:
            self._why = error
            raise
        if self.parser.should_upgrade() and (method := self.parser.get_method()) != b"CONNECT":
            self._without_upgrade = request_head.without_upgrade(method, self.url, version, self.headers)
        else:
            super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is here; what comes behind a body is none."""
        if self._in_head:  # Below, what uvicorn does; to call it costs each request a microsecond.
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_chunk_header(self) -> None:
        """A chunk of a body begins. Raises ``Refused`` where they are so small that each byte is work."""
        self._chunks += 1
        if self._chunks > MAX_CHUNKS and self._chunks * (SMALLEST_CHUNK + _AROUND_A_CHUNK) > self._came:
            self._why = NotHttp(f"Expected chunks of at least {SMALLEST_CHUNK} bytes on average.")
            raise self._why

    def on_body(self, body: bytes) -> None:
        """A piece of a body is here."""
        self._without_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete; one that offers an upgrade is not, its head was all that the parser read of it."""
        if self._without_upgrade is not None:
            return
        self._is_whole = True
        self._without_body = 0
        if self._unanswered:
            self._deadlines.phase = Phase.BUSY
        else:
            self._deadlines.enter(Phase.IDLE)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A response is complete: goes on to the next request, or waits for it."""
        self._unanswered -= 1
        self._hold = self._end = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self._refusal is not None and self._refuse_in_turn():
            return
        self.flow.resume_reading()
        if not self._unanswered:
            self._deadlines.enter(Phase.IDLE if self._is_whole else Phase.LINGERING)
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def respond(self, scope: Scope, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Writes a whole response, whose headers have its length; False if it has to be sent in the ordinary way.

        That is so for what is rare: a connection that is to be closed or does not drain, a response to anything but the
        last request that came, and where every request is to be logged.
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
        if self._default_headers is not self.server_state.default_headers:  # A new list every second, with the date.
            self._default_headers = self.server_state.default_headers
            self._default_head = b"".join(b"%b: %b\r\n" % header for header in self._default_headers)
        head = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(b"".join((_STATUS_LINES[status], self._default_head, head, b"\r\n", body)))
        cycle.response_started = cycle.response_complete = True
        self.on_response_complete()
        return True

    def take_body(self, scope: Scope) -> bytes | None:
        """The body of a request if it is here as a whole; otherwise None, and it has to be received."""
        cycle = self.cycle
        if cycle.scope is not scope or cycle.more_body or cycle.disconnected:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def hold(self) -> Hold:
        """Lets the request that is being answered take its time."""
        self._deadlines.phase = Phase.BUSY
        self._hold = Hold(self.cycle, self.loop.create_future())
        return self._hold

    def end_at_shutdown(self, end: Callable[[], None]) -> None:
        """Has ``end`` called at shutdown, if the response that is under way has not ended by then."""
        self._end = end

    def send_400_response(self, msg: str) -> None:
        """Refuses what the parser does not understand, or what stopped it; ``msg`` is uvicorn's way to say so."""
        self._refuse(self._why)

    def _refuse(self, why: Exception) -> None:
        """Reads no more, and says why after the responses to the requests that came whole."""
        status, headers, body = encode(why)
        headers = [*self.server_state.default_headers, *headers, (b"connection", b"close")]
        head = b"".join([b"%b: %b\r\n" % header for header in headers])
        self._refusal = b"".join((_STATUS_LINES[status], head, b"\r\n", body))
        self._refuse_in_turn()

    def _refuse_in_turn(self) -> bool:
        """Sends the refusal and hangs up, unless a request that came whole still awaits its response."""
        if self._unanswered > (not self._is_whole):
            return False
        if self._refusal is not None and self._deadlines.phase is not Phase.LINGERING:  # What lingers has its response.
            self.transport.write(self._refusal)
        self.transport.close()
        return True
