"""The parsing half of a connection: parses requests as they arrive, and refuses malformed ones.

uvicorn limits neither the size of a header nor the number of pipelined requests. Here, bytes without a byte of body (a
header, a trailer, a chunk extension) are refused beyond 64 KiB, and a client may pipeline 1,000 requests.
``request_head.py`` and ``chunk_limit.py`` have the other rules, and ``upgrade_offers.py`` ignores offers of h2c.
Trailers are ignored.

A request that arrives whole can do without ASGI (``whole_request.py``). So uvicorn's scope and cycle are created only
when a request turns out to need them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from meanwhile.api import chunk_limit, request_head, upgrade_offers
from meanwhile.api.known_heads import KnownHeads
from meanwhile.api.refusals import NotHttp, Refused
from meanwhile.api.request_head import Headers
from meanwhile.api.whole_request import WholeRequest, whole_request_of
from meanwhile.formats.json_pieces import SMALL

MAX_PIPELINED = 1_000  # Requests of a connection that have no response yet.


class ParsingProtocol(HttpToolsProtocol):
    """uvicorn's protocol with other rules for requests. uvicorn passes the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begin: Callable[[Any, WholeRequest], bool] | None = None
        self._known_heads: KnownHeads | None = None
        if hasattr(self.app, "answer"):
            self._begin = self.app.begin
            self._known_heads = self.app.known_heads
            self.app = partial(self.app.answer, self)
        self._whole: WholeRequest | None = None  # The last request, until it has arrived whole or must use ASGI.
        self._begun: WholeRequest | None = None  # The last request that was begun without ASGI.
        self._in_message = False  # Whether a request has begun and has not arrived completely.
        self._is_complete = False  # Whether the last request has arrived completely; False before the first request.
        self._unanswered = 0  # Requests that have begun and have no response; more than one if pipelined.
        self._bytes_without_body = 0  # Bytes since the last byte of a body, or since the previous request.
        self._parse_error: Refused = NotHttp("Expected a request as defined by RFC 9112.")
        self._in_head = False
        self._chunks = 0  # Chunks of the last request.
        self._request_bytes = 0  # Bytes since the request began, including all data that arrived with its first byte.
        self._last_bytes = 0  # Bytes that arrived last.
        self._without_offer: bytes | None = None  # A head that replaces the one that was just parsed.

    def _receive(self, data: bytes) -> None:
        """Parses data, and starts to answer the requests in it."""
        known = None
        if not (self._in_message or self._unanswered or self._bytes_without_body or self.flow.write_paused):
            known = self._known_heads
            self._whole = None if known is None else known.recognize(data)
            if self._whole is not None:
                self._unanswered = 1
                self.on_message_complete()
                return
        self._last_bytes = len(data)
        self._request_bytes += self._last_bytes
        self._bytes_without_body += self._last_bytes
        self._begun = None
        self._feed(data)
        if self._whole is not None:  # The request has not arrived whole.
            self._start_cycle()
        elif known is not None and self._begun is not None:
            known.keep(data, self._begun)

    def _feed(self, data: bytes | memoryview) -> None:
        """Feeds the parser. If a head offers an upgrade, feeds the same head without the offer to a new parser."""
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                except HttpParserUpgrade as upgrade:
                    data = memoryview(data)[upgrade.args[0] :]
                    substitute, self._without_offer = self._without_offer, None
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
        self._in_message = True
        self._is_complete = False
        self._in_head = True
        self._chunks = 0
        self._request_bytes = self._last_bytes
        self._unanswered += 1
        if self._unanswered > MAX_PIPELINED:
            self._parse_error = NotHttp(f"Expected at most {MAX_PIPELINED} pipelined requests.")
            raise self._parse_error
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """The header of a request is complete. Raises ``Refused``, which stops the parser."""
        self._in_head = False
        version = self.parser.get_http_version()
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1.
        headers = Headers(self.headers)
        try:
            request_head.check(version, self.url, headers, is_small=self._request_bytes <= request_head.MAX_HEAD)
        except Refused as error:
            self._parse_error = error
            raise
        method = self.parser.get_method()
        if self.parser.should_upgrade() and method != b"CONNECT":
            self._without_offer = upgrade_offers.without_offer(method, self.url, version, self.headers)
            return
        if (
            self._begin is not None
            and self._unanswered == 1
            and version == "1.1"
            and not (self.expect_100_continue or self.access_log or self.flow.write_paused)
            and self.parser.should_keep_alive()
        ):
            self._whole = whole_request_of(method, self.url, headers)
        if self._whole is None:
            self._start_cycle()

    def _start_cycle(self) -> None:
        """Starts to answer the last request through ASGI, with what has arrived of it."""
        url, headers, is_expecting = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # It creates the scope.
        self.url, self.headers, self.expect_100_continue = url, headers, is_expecting
        self.scope["headers"] = headers
        super().on_headers_complete()
        if self._whole is not None:
            whole, self._whole = self._whole, None
            if whole.body:
                super().on_body(whole.body)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field has arrived. Ignores trailers."""
        if self._in_head:  # A copy of uvicorn's code: the call would cost each request a microsecond.
            name, value = name.lower(), value.rstrip(b" \t")  # RFC 9110, 5.5.
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
        if self._whole is not None:
            if not self._whole.body:
                self._whole.body = body
                return
            self._start_cycle()  # A body in several chunks.
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete, unless it offers an upgrade: then the parser has read only its head."""
        if self._without_offer is not None:
            return
        self._in_message = False
        self._is_complete = True
        self._bytes_without_body = 0
        if self._whole is None or not self._has_begun(self._whole):
            super().on_message_complete()

    def _has_begun(self, whole: WholeRequest) -> bool:
        """Begins to answer the last request, which has arrived whole. Returns False if it is answered through ASGI."""
        previous, self.cycle = self.cycle, whole  # type: ignore[assignment]  # It stands in for a cycle.
        if self._begin is not None and len(whole.body) <= SMALL and self._begin(self, whole):
            self._begun, self._whole = whole, None
            whole.body = b""  # The connection keeps the request until the next one.
            return True
        self.cycle = previous
        self._start_cycle()
        return False
