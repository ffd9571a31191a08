"""An open event stream: it is sent until the client disconnects, its API key is revoked, or the server shuts down.

It carries a comment every 15 seconds, so that clients and proxies can tell a quiet stream from a lost connection.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.types import Receive, Send

from meanwhile.api.auth import Forbidden, Guard, Unauthorized
from meanwhile.api.openapi.document import EVENTS
from meanwhile.api.request import Request

log = logging.getLogger(__name__)

_COMMENT_INTERVAL = 15.0  # Seconds.
_COMMENT = b":\n\n"
_HEADERS = [
    (b"content-type", f"{EVENTS}; charset=utf-8".encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(NamedTuple):
    """A reply without an end.

    ``part`` waits for the next events, at most for a number of seconds, and returns their bytes: none if there are no
    events, and None when the stream has ended. ``end`` ends it. ``is_within`` returns whether the names of all its
    streams start with a prefix.
    """

    part: Callable[[float], Awaitable[bytes | None]]
    end: Callable[[], None]
    is_within: Callable[[str], bool]

    async def send(self, request: Request, send: Send, guard: Guard, scope: str) -> None:
        """Sends the event stream as the response to ``request``, as long as ``guard`` allows it ``scope``.

        ``await send`` returns when the transport has room again, so a client that does not read delays only its own
        stream. Its connection disconnects it in the end, and ends the stream at shutdown.
        """
        if request.connection is not None:
            request.connection.end_at_shutdown(self.end)
        loop = asyncio.get_running_loop()
        next_comment = loop.time() + _COMMENT_INTERVAL
        gone = asyncio.create_task(_await_end(request.receive, self.end))

        def authorize() -> None:
            try:
                is_allowed = self.is_within(guard.authorize(request.headers, scope).prefix)
            except (Unauthorized, Forbidden):
                is_allowed = False
            if not is_allowed:
                log.info("ended an event stream: its API key no longer allows it")
                self.end()

        try:
            with guard.watch(authorize):
                authorize()  # The keys may have been reloaded since the request was authorized.
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                while not request.is_head and (part := await self.part(next_comment - loop.time())) is not None:
                    if loop.time() >= next_comment:
                        next_comment = loop.time() + _COMMENT_INTERVAL
                        part += _COMMENT
                    if part:
                        await send({"type": "http.response.body", "body": part, "more_body": True})
        finally:
            self.end()
            gone.cancel()
        await send({"type": "http.response.body", "body": b""})


async def _await_end(receive: Receive, end: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    end()
