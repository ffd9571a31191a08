"""Server-sent events: the state of streams now, and each change from then on.

    event: state                                what GET /v1/streams/{stream} gives, and its size in Redis
    id: 5f3a91c2-17
    data: {"stream":"kitchen/temperature","count":2,"average":21.75, ... ,"state_bytes":112}

    event: deleted                              the stream does not exist, or not any more
    id: 5f3a91c2-18
    data: {"stream":"kitchen/temperature"}

    event: ready                                all that there is has been sent; what follows are changes
    data: {"streams":1,"resumed":false}

A client that comes back with the last id in ``Last-Event-ID``, as browsers do, gets what has changed since, if the
process that answers still knows; ``resumed`` says so. Otherwise it gets everything, and a stream that it knows and
does not get is gone.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from math import isfinite
from os.path import commonprefix

import msgspec

from meanwhile.api.auth import check_allowed_prefix
from meanwhile.api.errors import NoSuchStream
from meanwhile.api.openapi import document
from meanwhile.api.operation import Operation
from meanwhile.api.query import parameters
from meanwhile.api.reply import EndlessReply
from meanwhile.api.request import Request
from meanwhile.api.routes.streams import full_state, single_value
from meanwhile.core.errors import Invalid
from meanwhile.core.state import State
from meanwhile.core.stream_names import check_name, check_prefix
from meanwhile.live.poller import Poller, TooManySubscribers
from meanwhile.live.subscription import Position, Subscription
from meanwhile.storage.reader import Reader
from meanwhile.storage.redis_client import StoreUnavailable

EVENT_STREAM = f"{document.EVENTS}; charset=utf-8".encode()
COMMENT_SECONDS = 15.0
SHORTEST_INTERVAL = 0.1
LONGEST_INTERVAL = 3600.0
MOST_NAMES = 1_000

_COMMENT = b":\n\n"
_NUMBER = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?", re.ASCII)
_ID = re.compile(rb"([0-9a-f]{8})-([0-9]{1,18})")
_INTERVAL = {
    "name": "interval",
    "in": "query",
    "description": "Seconds: at most one event per stream in so many.",
    "schema": {"type": "number", "minimum": SHORTEST_INTERVAL, "maximum": LONGEST_INTERVAL, "default": 1},
    "example": 1,
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that the client has: only what changed since is sent.",
    "schema": {"type": "string"},
    "example": "5f3a91c2-17",
}
_PREFIX = {
    "name": "prefix",
    "in": "query",
    "description": "All streams whose names start with this, also later ones; without it and stream, all that the key "
    "reaches.",
    "schema": {"type": "string"},
    "example": "kitchen/",
}
_NAMES = {
    "name": "stream",
    "in": "query",
    "description": "A stream, which need not exist yet. Repeatable.",
    "schema": {"type": "array", "items": {"type": "string"}},
    "example": ["kitchen/temperature", "kitchen/humidity"],
}

_EXAMPLE = """event: state
id: 5f3a91c2-17
data: {"stream":"kitchen/temperature","count":2,"average":21.75,"minimum":21.4,"maximum":22.1,"standard_deviation":\
0.4949747468305853,"first_reading_at":"2026-01-01T00:00:00.000Z","last_reading_at":"2026-01-01T00:00:00.500Z",\
"state_bytes":112}

event: ready
data: {"streams":1,"resumed":false}

"""

_encode = msgspec.json.Encoder().encode


def frame(name: str, state: State | None, size: int) -> bytes:
    """An event without its id: what a stream is now."""
    if state is None:
        return b'event: deleted\ndata: {"stream":"%b"}\n\n' % name.encode()
    return b"event: state\ndata: %b\n\n" % _encode(full_state(name, state) | {"state_bytes": size})


def operations(live: Poller, reader: Reader) -> list[Operation]:
    """The routes that watch."""

    async def watch_stream(request: Request) -> EndlessReply:
        """The state of a stream now and at each change, as server-sent events, with a comment every 15 seconds."""
        name = check_name(request.stream)
        interval = _interval(single_value(parameters(request), "interval"))
        if await reader.read(name) is None:
            raise NoSuchStream
        return await stream([name], None, interval, request)

    async def watch_streams(request: Request) -> EndlessReply:
        """The states of streams now and at each change, as server-sent events, with a comment every 15 seconds."""
        query = parameters(request)
        interval = _interval(single_value(query, "interval"))
        names = [check_name(name) for name in query.get("stream", [])]
        prefix = single_value(query, "prefix")
        if names and prefix is not None:
            raise Invalid("Expected either prefix or stream.")
        if len(names) > MOST_NAMES:
            raise Invalid(f"Expected at most {MOST_NAMES} streams.")
        for name in names:
            check_allowed_prefix(name, request.grant.prefix)
        if not names:
            prefix = request.grant.prefix if prefix is None else check_prefix(prefix)
            check_allowed_prefix(prefix, request.grant.prefix)
        return await stream(names, prefix, interval, request)

    async def stream(names: list[str], prefix: str | None, interval: float, request: Request) -> EndlessReply:
        subscription, count = await live.subscribe(names, prefix, interval, _position(request))
        lowest = commonprefix(names) if prefix is None else prefix  # noqa: RUF071  # Of names, not of paths.
        return EndlessReply(_parts(subscription, live.epoch, count), EVENT_STREAM, subscription.end, lowest.startswith)

    refusals = (Invalid, TooManySubscribers, StoreUnavailable)
    return [
        Operation(
            method="GET",
            path="/v1/streams/{stream:path}/events",
            handler=watch_stream,
            scope="read",
            reply=None,
            media_types={document.EVENTS: _EXAMPLE},
            parameters=[_INTERVAL, _LAST_EVENT_ID],
            refusals=(NoSuchStream, *refusals),
        ),
        Operation(
            method="GET",
            path="/v1/events",
            handler=watch_streams,
            scope="read",
            reply=None,
            media_types={document.EVENTS: _EXAMPLE},
            parameters=[_PREFIX, _NAMES, _INTERVAL, _LAST_EVENT_ID],
            refusals=refusals,
        ),
    ]


def _parts(subscription: Subscription, epoch: str, count: int) -> Callable[[], Awaitable[bytes | None]]:
    """What to send, part by part: events, and comments in between."""
    loop = asyncio.get_running_loop()
    next_comment = loop.time() + COMMENT_SECONDS
    is_ready = False

    async def part() -> bytes | None:
        nonlocal next_comment, is_ready
        if not is_ready and not subscription.is_behind:
            is_ready = True
            return b'event: ready\ndata: {"streams":%d,"resumed":%b}\n\n' % (
                count,
                b"true" if subscription.is_resumed else b"false",
            )
        changes = await subscription.take(next_comment - loop.time())
        if changes is None:
            return None
        events = b"".join([b"id: %b-%d\n%b" % (epoch.encode(), number, event) for number, event in changes if event])
        if loop.time() >= next_comment:
            next_comment = loop.time() + COMMENT_SECONDS
            return events + _COMMENT
        return events

    return part


def _interval(text: str | None) -> float:
    if text is None:
        return 1.0
    seconds = float(text) if _NUMBER.fullmatch(text) else 0.0
    if not (isfinite(seconds) and SHORTEST_INTERVAL <= seconds <= LONGEST_INTERVAL):
        raise Invalid(
            f"Expected interval to be seconds, from {SHORTEST_INTERVAL} to {LONGEST_INTERVAL:.0f}, such as 1 or 0.5."
        )
    return seconds


def _position(request: Request) -> Position | None:
    """Where the client left off; what is no id of ours says nothing."""
    match = _ID.fullmatch(request.headers.get(b"last-event-id") or b"")
    return None if match is None else Position(match[1].decode(), int(match[2]))
