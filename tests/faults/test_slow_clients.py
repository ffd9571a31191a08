"""Connections against the clock, in the real process and in real seconds: who is hung up on, when, and who is not.

``tests/api/test_connection_timeouts.py`` has the same to the hundredth of a second, with a clock that it moves on. Here
all wait beside each other, in one test, which says in a table when each connection was closed.
"""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import suppress

import pytest

from meanwhile.api.connection_timeouts import LINGER, MIN_BYTES_PER_SECOND, TIMEOUT
from tests.support.connections import BODY, answer, connected, post
from tests.support.servers import Service, service

pytestmark = pytest.mark.faults

SLACK = 2.5  # Seconds that a busy machine may be late.
LIMIT = 1_000_000  # The largest body that the server of these tests takes.


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with service(MEANWHILE_MAX_BODY=str(LIMIT)) as started:
        yield started
        assert "Traceback" not in started.log
        assert "ERROR" not in started.log


@pytest.fixture
def stream() -> str:
    """A stream that no other test has."""
    return f"timeouts/{uuid.uuid4().hex}"


async def seconds_until_closed(reader: asyncio.StreamReader) -> float:
    """How long the server keeps this connection, which it answers no more."""
    start = asyncio.get_running_loop().time()
    with suppress(ConnectionError):
        assert b"" == await asyncio.wait_for(reader.read(), 3 * TIMEOUT)
    return asyncio.get_running_loop().time() - start


async def seconds_that_it_may_drip(server: Service, start: bytes, drops: bytes) -> float:
    """How long a client is borne with that sends ``start`` and then a byte a second."""
    async with connected(server.port) as (reader, writer):
        writer.write(start)
        closed = asyncio.create_task(seconds_until_closed(reader))
        for drop in drops:
            writer.write(b"%c" % drop)
            await asyncio.wait([closed], timeout=1)
            if closed.done():
                break
        return await closed


async def seconds_of_silence_after(server: Service, start: bytes) -> float:
    """How long a client is borne with that sends this, all in one piece, and nothing more."""
    return await seconds_that_it_may_drip(server, start, b"")


async def seconds_of_silence_in_its_second_request(server: Service, stream: str) -> float:
    """How long a client is borne with that stops in the middle of its second request, its first one answered."""
    async with connected(server.port) as (reader, writer):
        writer.write(post(stream) + BODY)
        assert 200 == (await answer(reader))[0]
        await asyncio.sleep(1)
        writer.write(post(stream) + BODY[:-1])
        return await seconds_until_closed(reader)


async def answer_to_a_large_body_on_a_slow_line(server: Service, stream: str) -> tuple[int, object]:
    """What comes of a body that takes longer than the patience, half as fast again as it has to be."""
    async with connected(server.port) as (reader, writer):
        pieces = int((TIMEOUT + 2) * 4)
        size = MIN_BYTES_PER_SECOND * 3 // 2 // 4
        writer.write(post(stream, len(BODY) + pieces * size) + BODY[:-1])
        for _ in range(pieces):
            writer.write(b" " * size)
            await asyncio.sleep(0.25)
        writer.write(BODY[-1:])
        status, body = await answer(reader)
        return status, body["count"]


async def answers_to_a_client_that_idles_between_requests(server: Service, stream: str) -> list[int]:
    """What comes of two requests on one connection, with more than the patience between them."""
    async with connected(server.port) as (reader, writer):
        statuses = []
        for pause in (TIMEOUT + 2, 0):
            writer.write(post(stream) + BODY)
            statuses.append((await answer(reader))[0])
            await asyncio.sleep(pause)
        return statuses


async def test_a_request_that_does_not_come_is_hung_up_on_and_one_that_comes_slowly_is_not(
    server: Service, stream: str
) -> None:
    half = post(stream)[:-2]
    chunked = half.replace(b"Content-Length: 12\r\n", b"Transfer-Encoding: chunked\r\n") + b"\r\n"
    stalled = {
        "nothing at all": seconds_of_silence_after(server, b""),
        "half a method": seconds_of_silence_after(server, b"PO"),
        "half a header": seconds_of_silence_after(server, half),
        "a header and no body": seconds_of_silence_after(server, post(stream)),
        "all but one byte of a body": seconds_of_silence_after(server, post(stream) + BODY[:-1]),
        "half a chunk": seconds_of_silence_after(server, chunked + b"c\r\n" + BODY[:-1]),
        "no last chunk": seconds_of_silence_after(server, chunked + b"c\r\n" + BODY + b"\r\n"),
        "half a second request": seconds_of_silence_in_its_second_request(server, stream + "/second"),
        "one byte a second of a header": seconds_that_it_may_drip(server, b"GET / HTTP/1.1\r\nX: ", b"a" * 30),
        "one byte a second of a body": seconds_that_it_may_drip(server, post(stream, 1_000), b" " * 30),
        "one byte a second of chunks": seconds_that_it_may_drip(server, chunked, b"1\r\n \r\n" * 5),
        "empty lines, one byte a second": seconds_that_it_may_drip(server, b"", b"\r\n" * 15),
    }
    large = answer_to_a_large_body_on_a_slow_line(server, stream + "/large")
    idle = answers_to_a_client_that_idles_between_requests(server, stream + "/idle")

    (answered_large, answered_idle), seconds = await asyncio.gather(
        asyncio.gather(large, idle), asyncio.gather(*stalled.values())
    )

    closed = dict(zip(stalled, seconds, strict=True))
    assert {} == {what: s for what, s in closed.items() if not TIMEOUT - 0.1 <= s <= TIMEOUT + SLACK}
    assert (200, 1) == answered_large
    assert [200, 200] == answered_idle
    async with connected(server.port) as (reader, writer):
        writer.write(b"GET /v1/streams/%s/count HTTP/1.1\r\nHost: meanwhile\r\n\r\n" % stream.encode())
        assert 404 == (await answer(reader))[0]


async def answer_and_seconds_until_closed(server: Service, start: bytes) -> tuple[int, bool]:
    """The status of the answer to half a request, and whether the connection was closed as soon as it should be."""
    async with connected(server.port) as (reader, writer):
        writer.write(start)
        status = (await answer(reader))[0]
        return status, LINGER - 0.1 <= await seconds_until_closed(reader) <= LINGER + SLACK


async def test_an_answer_before_the_end_of_the_body_can_be_read_and_then_the_connection_is_closed(
    server: Service,
) -> None:
    too_large = post("x", LIMIT + 1) + b" " * 100_000
    unknown_type = post("x", LIMIT, b"Content-Type: text/plain\r\n") + b" " * 100_000
    unknown_encoding = post("x", LIMIT, b"Content-Encoding: br\r\n") + b" " * 100_000
    starts = (too_large, unknown_type, unknown_encoding)
    assert [(413, True), (415, True), (415, True)] == await asyncio.gather(
        *(answer_and_seconds_until_closed(server, start) for start in starts)
    )


async def test_a_client_that_goes_on_sending_after_the_answer_is_hung_up_on_all_the_same(server: Service) -> None:
    async with connected(server.port) as (reader, writer):
        writer.write(post("x", 1_000_000_000))
        assert 413 == (await answer(reader))[0]
        closed = asyncio.create_task(seconds_until_closed(reader))
        for _ in range(300):  # 20 MB, 4 MB a second.
            with suppress(ConnectionError):
                writer.write(b" " * 65_536)
                await asyncio.wait_for(writer.drain(), 10)
            await asyncio.wait([closed], timeout=1 / 64)
            if closed.done():
                break
        assert LINGER - 0.1 <= await closed <= LINGER + SLACK


async def answers_to_two_requests_with_a_pause_in_the_second(
    server: Service, stream: str, cut: int
) -> list[tuple[int, object]]:
    """What comes of a request that is sent with ``cut`` bytes of the next, the rest of which comes much later."""
    second = post(stream) + BODY
    async with connected(server.port) as (reader, writer):
        writer.write(post(stream) + BODY + second[:cut])
        first = await answer(reader)
        await asyncio.sleep(LINGER + 1.5)
        writer.write(second[cut:])
        try:
            return [(status, body["count"]) for status, body in (first, await answer(reader))]
        except (ConnectionError, asyncio.IncompleteReadError):
            return [(first[0], first[1]["count"])]


async def test_the_answer_to_one_request_does_not_cut_short_the_patience_with_the_next(
    server: Service, stream: str
) -> None:
    """A client that pipelines on a slow line: the start of its second request comes with its first one."""
    in_its_header, in_its_body = 20, len(post(stream)) + 5
    both = [(200, 1), (200, 2)]
    assert [both, both] == list(
        await asyncio.gather(
            answers_to_two_requests_with_a_pause_in_the_second(server, stream + "/a", in_its_header),
            answers_to_two_requests_with_a_pause_in_the_second(server, stream + "/b", in_its_body),
        )
    )
