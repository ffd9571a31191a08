"""Connections against the clock: which are closed, when, and which are not.

What is slow on purpose and what is slow because the line is look alike for a while; the difference is in the seconds.
They pass when a test says so: the server is in its process, and the clock in its hands. A server that waits too long is
held by a hundred sockets; one that does not wait long enough loses readings of a gateway behind a modem, and its client
learns nothing but that the connection is gone. ``tests/faults/test_slow_clients.py`` has the real process and seconds.
"""

import asyncio
import gzip
import http.client
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress

import pytest

from meanwhile.api.connection_timeouts import LINGER, MIN_BYTES_PER_SECOND, TIMEOUT
from meanwhile.settings import Settings
from tests.support.clock import Clock
from tests.support.connections import BODY, Connection, answer, connected, post
from tests.support.in_process import listening
from tests.support.servers import Service, Valkey, service

LIMIT = 1_000_000  # The largest body that the servers of these tests take.
MOMENT = 0.01  # Seconds.
HEALTH = b"GET /livez HTTP/1.1\r\nHost: meanwhile\r\n\r\n"


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


def read(stream: str) -> bytes:
    return b"GET /v1/streams/%s/count HTTP/1.1\r\nHost: meanwhile\r\n\r\n" % stream.encode()


class Server:
    """A server in this process, whose clock a test moves on."""

    def __init__(self, port: int, clock: Clock, stack: AsyncExitStack) -> None:
        self._port = port
        self._clock = clock
        self._stack = stack
        self._other: Connection | None = None

    async def connect(self, start: bytes = b"") -> Connection:
        """A connection on which ``start`` was sent."""
        reader, writer = await self._stack.enter_async_context(connected(self._port))
        writer.write(start)
        return reader, writer

    async def settle(self) -> None:
        """Returns when all that was sent has arrived, and all that is due has happened.

        Everything shares one event loop, so what was sent before two round trips has arrived after them.
        """
        if self._other is None:
            self._other = await self.connect()
        reader, writer = self._other
        for _ in range(2):
            writer.write(HEALTH)
            assert 200 == (await answer(reader))[0]

    async def pass_by(self, seconds: float) -> None:
        """Lets seconds pass."""
        await self.settle()
        self._clock.advance(seconds)
        await self.settle()


@pytest.fixture
async def still(shared_valkey: Valkey, prefix: str) -> AsyncIterator[Server]:
    """A server for which no time passes unless a test lets it."""
    settings = Settings(redis_url=shared_valkey.url, prefix=prefix, max_body=LIMIT)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(listening(settings))
        yield Server(port, Clock(asyncio.get_running_loop()), stack)


def is_closed(connection: Connection) -> bool:
    return connection[0].at_eof()


async def test_a_request_that_does_not_come_is_hung_up_on_and_one_that_comes_slowly_is_not(
    still: Server, stream: str
) -> None:
    half = post(stream)[:-2]
    chunked = half.replace(b"Content-Length: 12\r\n", b"Transfer-Encoding: chunked\r\n") + b"\r\n"
    line = b'{"stream": "%s/upload", "value": 1}' % stream.encode()
    starts = {
        "nothing at all": b"",
        "half a method": b"PO",
        "half a header": half,
        "a header and no body": post(stream),
        "all but one byte of a body": post(stream) + BODY[:-1],
        "half a chunk": chunked + b"c\r\n" + BODY[:-1],
        "no last chunk": chunked + b"c\r\n" + BODY + b"\r\n",
        "half a second request": post(f"{stream}/second") + BODY,
        "half a request behind an upload": b"POST /v1/readings HTTP/1.1\r\nHost: meanwhile\r\n"
        b"Content-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n" % len(line) + line + b"GET /livez HT",
        "one byte a second of a header": b"GET / HTTP/1.1\r\nX: ",
        "one byte a second of a body": post(stream, 1_000),
        "one byte a second of chunks": chunked,
        "empty lines, one byte a second": b"",
    }
    drops = {
        "one byte a second of a header": b"a" * 30,
        "one byte a second of a body": b" " * 30,
        "one byte a second of chunks": b"1\r\n \r\n" * 5,
        "empty lines, one byte a second": b"\r\n" * 15,
    }
    stalled = {what: await still.connect(start) for what, start in starts.items()}
    reader, writer = stalled["half a second request"]
    assert 200 == (await answer(reader))[0]
    writer.write(post(f"{stream}/second") + BODY[:-1])
    assert 200 == (await answer(stalled["half a request behind an upload"][0]))[0]

    for second in range(int(TIMEOUT)):
        for what, dripping in drops.items():
            stalled[what][1].write(dripping[second : second + 1])
        await still.pass_by(1 - MOMENT if second == TIMEOUT - 1 else 1)
    assert [] == [what for what, connection in stalled.items() if is_closed(connection)]
    await still.pass_by(2 * MOMENT)
    assert [] == [what for what, connection in stalled.items() if not is_closed(connection)]
    reader, writer = await still.connect(read(stream))
    assert 404 == (await answer(reader))[0]


async def test_half_a_request_has_its_time_only_when_those_before_it_are_answered(still: Server) -> None:
    events = b"GET /v1/events?prefix=none/ HTTP/1.1\r\nHost: meanwhile\r\n\r\n"
    connection = await still.connect(events + HEALTH + b"GET /livez HT")
    assert b" 200 " in await connection[0].readline()
    await still.pass_by(TIMEOUT + 1)
    assert not is_closed(connection)


async def test_a_large_body_on_a_slow_line_is_read_and_one_on_a_line_that_is_too_slow_is_not(
    still: Server, stream: str
) -> None:
    seconds = 2 * int(TIMEOUT) + 2
    fast, slow = MIN_BYTES_PER_SECOND * 3 // 2, MIN_BYTES_PER_SECOND // 2
    reader, writer = await still.connect(post(stream, len(BODY) + seconds * fast) + BODY[:-1])
    too_slow = await still.connect(post(f"{stream}/slow", len(BODY) + seconds * slow) + BODY[:-1])
    for second in range(seconds):
        writer.write(b" " * fast)
        if not is_closed(too_slow):
            too_slow[1].write(b" " * slow)
        await still.pass_by(1)
        assert (second + 1 >= TIMEOUT) == is_closed(too_slow), second
    writer.write(BODY[-1:])
    assert (200, {"stream": stream, "count": 1, "average": 1.0}) == await answer(reader)


async def test_a_client_may_idle_between_requests_for_a_minute(still: Server, stream: str) -> None:
    reader, writer = await still.connect()
    for count in (1, 2):
        writer.write(post(stream) + BODY)
        assert (200, {"stream": stream, "count": count, "average": 1.0}) == await answer(reader)
        await still.pass_by(75 - MOMENT)
    await still.pass_by(2 * MOMENT)
    assert reader.at_eof()


async def test_an_answer_before_the_end_of_the_body_can_be_read_and_then_the_connection_is_closed(
    still: Server,
) -> None:
    starts = {
        413: post("x", LIMIT + 1) + b" " * 100_000,
        415: post("x", LIMIT, b"Content-Type: text/plain\r\n") + b" " * 100_000,
    }
    unknown_encoding = post("x", LIMIT, b"Content-Encoding: br\r\n") + b" " * 100_000
    connections = [await still.connect(start) for start in (*starts.values(), unknown_encoding)]
    assert [413, 415, 415] == [(await answer(reader))[0] for reader, _ in connections]
    await still.pass_by(LINGER - MOMENT)
    assert [False] * 3 == list(map(is_closed, connections))
    await still.pass_by(2 * MOMENT)
    assert [True] * 3 == list(map(is_closed, connections))


async def test_a_client_that_goes_on_sending_after_the_answer_is_hung_up_on_all_the_same(still: Server) -> None:
    reader, writer = await still.connect(post("x", 1_000_000_000))
    assert 413 == (await answer(reader))[0]
    for _ in range(19):
        writer.write(b" " * 65_536)
        await still.pass_by(LINGER / 20)
    assert not reader.at_eof()
    writer.write(b" " * 65_536)
    await still.pass_by(LINGER / 20 + MOMENT)
    with suppress(ConnectionError):
        assert b"" == await reader.read()


@pytest.mark.parametrize("size", [LIMIT + 1, 3 * LIMIT, 20 * LIMIT])
def test_a_client_that_reads_nothing_before_it_has_sent_everything_reads_the_413_and_may_go_on(
    server: Service, stream: str, size: int
) -> None:
    """Most HTTP libraries send the body first. What they send after the answer must not reset the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    path = f"/v1/streams/{stream}/readings"
    try:
        connection.request("POST", path, body=b" " * size)
        refused = connection.getresponse()
        refused.read()
        connection.request("POST", path, body=BODY)
        taken = connection.getresponse()
        taken.read()
    finally:
        connection.close()
    assert (413, 200) == (refused.status, taken.status)


async def test_a_gzip_bomb_is_413_and_the_connection_goes_on(server: Service, stream: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000, 1)
    async with connected(server.port) as (reader, writer):
        writer.write(post(stream, len(bomb), b"Content-Encoding: gzip\r\n") + bomb)
        assert 413 == (await answer(reader))[0]
        writer.write(post(stream) + BODY)
        assert 200 == (await answer(reader))[0]


async def test_pipelined_requests_may_be_split_anywhere(server: Service, stream: str) -> None:
    """A round trip on another connection lies between the parts, so the server has read the first one by itself."""
    length = len(post(f"{stream}/100") + BODY) * 2 + len(read(f"{stream}/100"))
    assert length > 300
    async with connected(server.port) as (other_reader, other_writer):
        for start in range(100, 100 + length, 100):  # A hundred connections at a time.
            numbers = range(start, min(start + 100, 100 + length))
            connections = [connected(server.port) for _ in numbers]
            opened = [await connection.__aenter__() for connection in connections]
            names = [f"{stream}/{number}" for number in numbers]
            requests = [(post(name) + BODY) * 2 + read(name) for name in names]
            for (_, writer), data, number in zip(opened, requests, numbers, strict=True):
                writer.write(data[: number - 100])
            other_writer.write(HEALTH)
            assert 200 == (await answer(other_reader))[0]
            for (_, writer), data, number in zip(opened, requests, numbers, strict=True):
                writer.write(data[number - 100 :])
            for (reader, _), name in zip(opened, names, strict=True):
                assert (200, {"stream": name, "count": 1, "average": 1.0}) == await answer(reader)
                assert (200, {"stream": name, "count": 2, "average": 1.0}) == await answer(reader)
                assert (200, {"stream": name, "count": 2}) == await answer(reader)
            for connection in connections:
                await connection.__aexit__(None, None, None)


@pytest.mark.parametrize("cut", [20, len(post("timeouts")) + 5], ids=["in its header", "in its body"])
async def test_the_answer_to_one_request_does_not_cut_short_the_time_for_the_next(
    still: Server, stream: str, cut: int
) -> None:
    """A client that pipelines on a slow line: the start of its second request comes with its first one."""
    second = post(stream) + BODY
    reader, writer = await still.connect(post(stream) + BODY + second[:cut])
    assert (200, {"stream": stream, "count": 1, "average": 1.0}) == await answer(reader)
    await still.pass_by(TIMEOUT - MOMENT)
    writer.write(second[cut:])
    assert (200, {"stream": stream, "count": 2, "average": 1.0}) == await answer(reader)
