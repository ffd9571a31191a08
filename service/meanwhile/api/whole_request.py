"""Requests that have arrived whole: the connection answers them without a task.

For each request, uvicorn creates a scope, a cycle, an event and a task before the body has arrived. Together they take
as long as recording a reading. But an ordinary request arrives in one piece, and its handler waits only once, for
Redis. Such a request is a ``WholeRequest``. It stands in for uvicorn's cycle on its connection, so later requests on
the connection wait for its response, and so does shutdown.
"""

import asyncio
import re
from typing import Any

from meanwhile.api.request_head import Headers

_METHODS = {b"GET": "GET", b"POST": "POST"}
_PLAIN_URL = re.compile(rb"/[!\"$&-~]*")  # A path, and perhaps a query, that needs no decoding.
_NEVER_AWAITED = asyncio.Event()


class WholeRequest:
    """A request that has arrived whole, and the state of its response.

    Its ``body`` is empty until it arrives; ``result`` is what its response waits for. uvicorn uses the attributes from
    ``scope`` on, as it uses those of a cycle.
    """

    __slots__ = (
        *("body", "disconnected", "headers", "keep_alive", "message_event", "method", "response_complete"),
        *("response_started", "result", "scope", "url"),
    )

    def __init__(self, method: str, url: bytes, headers: Headers) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.body = b""
        self.result: asyncio.Future[Any] | None = None
        self.scope = None
        self.keep_alive = True
        self.message_event = _NEVER_AWAITED
        self.disconnected = self.response_started = self.response_complete = False


def whole_request_of(method: bytes, url: bytes, headers: Headers) -> WholeRequest | None:
    """Returns what to answer without a task if the request arrives whole; None if its head does not allow that."""
    known = _METHODS.get(method)
    if known is None or headers.get(b"content-encoding") is not None or not _PLAIN_URL.fullmatch(url):
        return None
    return WholeRequest(known, url, headers)
