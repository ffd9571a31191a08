"""An open event stream carries comments at intervals, whether or not there are events."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Message

from meanwhile.api import open_event_stream
from meanwhile.api.auth import Guard
from meanwhile.api.open_event_stream import EventStream
from meanwhile.api.request import Request


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def sent(part: Callable[[float], Awaitable[bytes | None]], pieces: list[bytes]) -> list[bytes]:
    """The pieces of the body, from an event stream of these parts; each is in ``pieces`` once it is sent."""

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            pieces.append(message["body"])

    request = Request.of_scope({"method": "GET", "path": "/v1/events", "query_string": b"", "headers": []}, never)
    stream = EventStream(part, lambda: None, lambda prefix: True)
    await stream.send(request, send, Guard(None), "read")
    return pieces


async def test_a_quiet_stream_waits_at_most_for_the_next_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_event_stream, "_COMMENT_INTERVAL", 0.02)
    pieces: list[bytes] = []

    async def part(seconds: float) -> bytes | None:
        assert seconds <= 0.02
        await asyncio.sleep(seconds)
        return b"" if len(pieces) < 2 else None

    assert [b":\n\n", b":\n\n", b""] == await sent(part, pieces)


async def test_events_do_not_put_a_comment_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_event_stream, "_COMMENT_INTERVAL", 0.02)
    events = iter([b"event\n\n"] * 5)

    async def part(seconds: float) -> bytes | None:
        await asyncio.sleep(0.008)
        return next(events, None)

    body = b"".join(await sent(part, []))
    assert 5 == body.count(b"event\n\n")
    assert b"event\n\n:\n\n" in body


async def test_no_comment_comes_before_fifteen_seconds() -> None:
    parts = iter([b"event\n\n", b""])

    async def part(seconds: float) -> bytes | None:
        assert 10 < seconds <= 15
        return next(parts, None)

    assert [b"event\n\n", b""] == await sent(part, [])
