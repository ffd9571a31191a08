"""Server-sent events: the state of streams now, and each change from then on.

    event: state                                what GET /v1/streams/{stream} gives, and its size in Redis
    id: 5f3a91c2-17
    data: {"stream":"kitchen/temperature","count":2,"average":21.75,"latest":22.1, ... ,"state_bytes":112}

    event: deleted                              the stream does not exist, or no longer
    id: 5f3a91c2-18
    data: {"stream":"kitchen/temperature"}

    event: ready                                all that there is has been sent; what follows are changes
    data: {"streams":1,"resumed":false}

A client that connects again with the last id in ``Last-Event-ID``, as browsers do, gets what has changed since, if the
process that answers still has the numbers of those changes; ``resumed`` says so. Otherwise it gets everything, and a
stream that it knows and does not get is gone.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from math import isfinite
from os.path import commonprefix

from meanwhile.api.auth import check_allowed_prefix
from meanwhile.api.event_frames import EventFrames
from meanwhile.api.open_event_stream import EventStream
from meanwhile.api.openapi import document
from meanwhile.api.operation import Operation
from meanwhile.api.query_parameters import parameters, single_value
from meanwhile.api.refusals import NoSuchStream
from meanwhile.api.request import Request
from meanwhile.core.errors import Invalid
from meanwhile.core.stream_names import check_name, check_prefix
from meanwhile.live.poller import Poller
from meanwhile.live.subscription import Position, Subscription, TooManySubscribers
from meanwhile.storage.reader import Reader
from meanwhile.storage.redis_client import StoreUnavailable

MIN_INTERVAL = 0.1  # Seconds.
MAX_INTERVAL = 3600.0  # Seconds.
MAX_NAMES = 1_000

_PART = 16 * 1024  # Bytes of events after which other tasks run.
_NUMBER = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?", re.ASCII)
_ID = re.compile(rb"([0-9a-f]{8})-([0-9]{1,18})")
_INTERVAL = {
    "name": "interval",
    "in": "query",
    "description": "Seconds from one event of a stream to its next, at least.",
    "schema": {"type": "number", "minimum": MIN_INTERVAL, "maximum": MAX_INTERVAL, "default": 1},
    "example": 1,
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that the client has. Only later changes are sent.",
    "schema": {"type": "string"},
    "example": "5f3a91c2-17",
}
_PREFIX = {
    "name": "prefix",
    "in": "query",
    "description": "All streams whose names start with this, also streams that are new. Without prefix and stream, all "
    "streams that the key allows.",
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
data: {"stream":"kitchen/temperature","count":2,"average":21.75,"latest":22.1,"minimum":21.4,"maximum":22.1,\
"standard_deviation":0.4949747468305853,"first_reading_at":"2026-01-01T00:00:00.000Z",\
"last_reading_at":"2026-01-01T00:00:00.500Z","state_bytes":112}

event: ready
data: {"streams":1,"resumed":false}

"""


def operations(poller: Poller, reader: Reader) -> list[Operation]:
    """The event streams of one stream and of many."""
    frames = EventFrames()

    async def watch_stream(request: Request) -> EventStream:
        """The state of a stream now and at each change, as server-sent events, with a comment every 15 seconds."""
        name = check_name(request.stream)
        interval = _interval(single_value(parameters(request), "interval"))
        if await reader.read(name) is None:
            raise NoSuchStream
        return await stream([name], None, interval, request)

    async def watch_streams(request: Request) -> EventStream:
        """The states of streams now and at each change, as server-sent events, with a comment every 15 seconds."""
        query = parameters(request)
        interval = _interval(single_value(query, "interval"))
        names = [check_name(name) for name in query.get("stream", [])]
        prefix = single_value(query, "prefix")
        if names and prefix is not None:
            raise Invalid("Expected either prefix or stream.")
        if len(names) > MAX_NAMES:
            raise Invalid(f"Expected at most {MAX_NAMES} streams.")
        for name in names:
            check_allowed_prefix(name, request.grant.prefix)
        if not names:
            prefix = request.grant.prefix if prefix is None else check_prefix(prefix)
            check_allowed_prefix(prefix, request.grant.prefix)
        return await stream(names, prefix, interval, request)

    async def stream(names: list[str], prefix: str | None, interval: float, request: Request) -> EventStream:
        subscription, count = await poller.subscribe(names, prefix, interval, _position(request))
        lowest = commonprefix(names) if prefix is None else prefix  # noqa: RUF071  # Of names, not of paths.
        part = _parts(subscription, frames, poller.epoch, count)
        return EventStream(part, partial(poller.unsubscribe, subscription), lowest.startswith)

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


def _parts(
    subscription: Subscription, frames: EventFrames, epoch: str, count: int
) -> Callable[[float], Awaitable[bytes | None]]:
    """What to send, part by part."""
    is_ready = False

    async def part(seconds: float) -> bytes | None:
        nonlocal is_ready
        if not is_ready and not subscription.is_behind:
            is_ready = True
            return b'event: ready\ndata: {"streams":%d,"resumed":%b}\n\n' % (
                count,
                b"true" if subscription.is_resumed else b"false",
            )
        await subscription.wait(seconds)
        events = await _events(subscription, frames, epoch)
        return None if subscription.is_over else events

    return part


async def _events(subscription: Subscription, frames: EventFrames, epoch: str) -> bytes:
    """The events of the next changes, until they make a part."""
    events: list[bytes] = []
    size = 0
    while subscription.is_behind and size < _PART:
        with subscription.take() as change:
            frame = await frames.frame_of(change.snapshot)
        if frame:
            events.append(b"id: %b-%d\n%b" % (epoch.encode(), change.number, frame))
            size += len(frame)
    if subscription.is_behind:
        await asyncio.sleep(0)  # Sending alone would not let others run.
    return b"".join(events)


def _interval(text: str | None) -> float:
    if text is None:
        return 1.0
    seconds = float(text) if _NUMBER.fullmatch(text) else 0.0
    if not (isfinite(seconds) and MIN_INTERVAL <= seconds <= MAX_INTERVAL):
        raise Invalid(f"Expected interval to be seconds, from {MIN_INTERVAL} to {MAX_INTERVAL:.0f}, such as 1 or 0.5.")
    return seconds


def _position(request: Request) -> Position | None:
    """The last change that the client has; None without an id that this service could have sent."""
    match = _ID.fullmatch(request.headers.get(b"last-event-id") or b"")
    return None if match is None else Position(match[1].decode(), int(match[2]))
