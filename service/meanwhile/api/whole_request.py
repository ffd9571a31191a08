"""Requests that have arrived whole: the connection answers them without a task.

For each request, uvicorn creates a scope, a cycle, an event and a task before the body has arrived. Together they take
as long as recording a reading. But an ordinary request arrives in one piece, and its handler waits only once, for
Redis. Such a request is a ``WholeRequest``. It stands in for uvicorn's cycle on its connection, so later requests on
the connection wait for its response, and so does shutdown.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from meanwhile.api.request_head import Headers

_METHODS = {b"GET": "GET", b"POST": "POST"}
_PLAIN_URL = re.compile(rb"/[!\"$&-~]*")  # A path, and perhaps a query, that needs no decoding.
_NEVER_AWAITED = asyncio.Event()


class Target(NamedTuple):
    """What the URL of a request names: who answers it, its path and query string, and the stream, not yet validated.

    ``begin`` is ``Endpoint.begin``. It gets the ``Request``, whose module is above this one.
    """

    begin: Callable[[Any, "WholeRequest"], bool]
    path: str
    query: bytes
    stream: str


class WholeRequest:
    """A request that has arrived whole, and the state of its response.

    Its ``body`` is empty until it arrives, and ``target`` is None until it is known. ``is_checked`` says that the
    operation accepts its head; ``plan`` is then what ``Halves.check`` returned. ``result`` is what its response waits
    for. uvicorn uses the attributes from ``scope`` on, as it uses those of a cycle.
    """

    __slots__ = (
        *(
            "body",
            "disconnected",
            "headers",
            "is_checked",
            "keep_alive",
            "message_event",
            "method",
            "plan",
            "response_complete",
        ),
        *("response_started", "result", "scope", "target", "url"),
    )

    def __init__(self, method: str, url: bytes, headers: Headers) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.body = b""
        self.target: Target | None = None
        self.is_checked = False
        self.plan: Any = None
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
