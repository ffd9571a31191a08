"""Counted once, however often it is sent: copies out of order, replies that are lost, clients that hang up.

All of it by concurrent clients on raw sockets, so that a reply can be swallowed and a request cut at any byte. Every
reading is a power of four in a stream of at most 200: the exact sum says which reading was lost (a digit of 0) or
doubled (2).
"""

import asyncio
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis

from meanwhile.core.idempotency_keys import Key
from meanwhile.core.readings import Limits, collect
from meanwhile.core.state import State
from meanwhile.storage.committer import Committer
from meanwhile.storage.redis_client import OutcomeUnknown, connect
from meanwhile.storage.store import Store
from tests.faults.conftest import Row
from tests.support.servers import Streams, Valkey, reply_dropper, service, valkey

pytestmark = pytest.mark.faults

DIGITS = 200  # Readings in a stream: 4**199 is still inside the domain.


@contextmanager
def two_workers(server: Valkey) -> Iterator[int]:
    """The port of a service of two processes on this server."""
    with service("--workers", "2", MEANWHILE_REDIS_URL=server.url) as running:
        yield running.port


def request(stream: str, digit: int, key: str) -> bytes:
    body = b'{"value": %d}' % 4**digit
    return (
        b"POST /v1/streams/%s/readings HTTP/1.1\r\nHost: t\r\nIdempotency-Key: %s\r\nContent-Length: %d\r\n\r\n%s"
        % (stream.encode(), key.encode(), len(body), body)
    )


async def reply_from(reader: asyncio.StreamReader) -> tuple[int, bytes] | None:
    """Status and body; None if the connection ended before both were there."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None, head
        return int(head[9:12]), await reader.readexactly(int(length[1]))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def counts(server: Valkey, streams: Sequence[str]) -> list[int]:
    """For each of these streams and each digit, how often that reading was counted; checked against the count."""
    async with connect(server.url) as redis:
        states = await Store(redis, "meanwhile").read(streams, asyncio.get_running_loop().time() + 30)
    found = []
    for state in states:
        assert isinstance(state, State)
        total, denominator = state.summary.sums.ratios(1)[0]
        assert 1 == denominator
        digits = [total >> 2 * digit & 3 for digit in range(DIGITS)]
        assert state.summary.count == sum(digits), "a reading was counted four times or more"
        found += digits
    return found


def row(fault: str, load: str, times: Sequence[int], sent: int, unknown: int, note: str) -> Row:
    """All ``sent`` readings were acknowledged in the end, so each has to be there once."""
    there = sum(n > 0 for n in times)
    return Row(fault, load, sent, sent - there, sum(times) - there, unknown, note=note)


# Copies out of order ---------------------------------------------------------------------------------------------

PRODUCERS = 40
EACH = 2_500
AT_ONCE = 4  # Connections of a producer.
AHEAD = 20  # Requests that a producer sends beyond the first without answer. With a shuffle of 40 that is below 64.


@dataclass
class Producer:
    """Sends its readings, each one to four times and out of order; two producers share each stream."""

    number: int
    port: int
    order: list[int]
    next: int = 0
    answered: set[int] = field(default_factory=set)
    low: int = 0
    duplicates: int = 0
    acknowledged: set[int] = field(default_factory=set)
    refused: list[tuple[int, int, bytes]] = field(default_factory=list)
    idle: "list[Connection]" = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def place(self, sequence: int) -> tuple[str, int]:
        return f"s{self.number // 2}/{sequence // 100}", sequence % 100 * 2 + self.number % 2

    def send(self) -> None:
        while self.idle and self.next < len(self.order) and self.next - self.low < AHEAD:
            stream, digit = self.place(self.order[self.next])
            self.idle.pop().send(self.next, request(stream, digit, f"p{self.number}:{self.order[self.next]}"))
            self.next += 1

    def answer(self, position: int, status: int, body: bytes) -> None:
        sequence = self.order[position]
        if status == 200:
            self.acknowledged.add(sequence)
            self.duplicates += b'"duplicate":true' in body
        else:
            self.refused.append((sequence, status, body))
        self.answered.add(position)
        while self.low in self.answered:
            self.answered.remove(self.low)
            self.low += 1
        if self.low == len(self.order):
            self.done.set()
        self.send()


class Connection(asyncio.Protocol):
    """One request at a time, without the streams of asyncio: a quarter of a million requests leave no time for them."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.position = 0
        self.buffer = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.producer.idle.append(self)
        self.producer.send()

    def send(self, position: int, data: bytes) -> None:
        assert self.transport is not None
        self.position, self.buffer = position, b""
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if end and len(body) == int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            self.producer.idle.append(self)
            self.producer.answer(self.position, int(head[9:12]), body)


async def test_100_000_keyed_readings_sent_one_to_four_times_in_disorder_are_counted_once(
    report: Callable[[Row], None],
) -> None:
    rng = random.Random(3)

    def order() -> list[int]:
        copies = [sequence for sequence in range(EACH) for _ in range(rng.randint(1, 4))]
        places = sorted((position + rng.uniform(0, 40), position) for position in range(len(copies)))
        return [copies[position] for _, position in places]

    with valkey() as server, two_workers(server) as port:
        producers = [Producer(number, port, order()) for number in range(PRODUCERS)]
        loop = asyncio.get_running_loop()
        start = time.monotonic()
        for producer in producers:
            for _ in range(AT_ONCE):
                await loop.create_connection(lambda producer=producer: Connection(producer), "127.0.0.1", port)  # type: ignore[misc]  # it cannot infer a lambda's default
        async with asyncio.timeout(170):
            await asyncio.gather(*[producer.done.wait() for producer in producers])
        seconds = time.monotonic() - start
        for producer in producers:
            for connection in producer.idle:
                assert connection.transport is not None
                connection.transport.close()
        streams = [f"s{pair}/{part}" for pair in range(PRODUCERS // 2) for part in range(EACH // 100)]
        times = await counts(server, streams)

    sent = sum(len(producer.order) for producer in producers)
    note = f"{sent} requests in {seconds:.0f} s"
    report(row("each sent 1 to 4 times, shuffled within 40", "100,000 keyed", times, 100_000, 0, note))
    assert [] == [refusal for producer in producers for refusal in producer.refused][:3]
    assert 100_000 == sum(len(producer.acknowledged) for producer in producers) == sum(times)
    # Each reading was told once that it is new, and every copy that it is one.
    assert sent - 100_000 == sum(producer.duplicates for producer in producers)


# Replies that are lost -------------------------------------------------------------------------------------------


class Once:
    """Drops the first reply to everything that ``identify`` finds in a request, and no other."""

    def __init__(self, identify: Callable[[bytes], bytes | None]) -> None:
        self._identify = identify
        self.seen: set[bytes] = set()

    def __call__(self, sent: bytes) -> bool:
        name = self._identify(sent)
        if name is None or name in self.seen:
            return False
        self.seen.add(name)
        return True


async def test_10_000_replies_of_valkey_that_are_lost_double_nothing(report: Callable[[Row], None]) -> None:
    """The committer itself sends again: one drop for every commit of fifty committers."""

    async def write(redis: "Redis", number: int) -> int:
        committer = Committer(Store(redis, "meanwhile"), max_waiting=1_000, redis_timeout=10)
        unknown = 0
        for digit in range(DIGITS):
            key = Key(f"p{number}", digit)
            for _ in range(10):
                try:
                    await committer.record({f"s{number}": collect([4.0**digit], 0, 0, Limits())}, key)
                    break
                except OutcomeUnknown:
                    unknown += 1
        return unknown

    drops = Once(lambda sent: sent if b"EVALSHA" in sent else None)
    with valkey() as server:

        async def upstream() -> Streams:
            return await asyncio.open_unix_connection(str(server.socket))

        async with connect(server.url) as direct:  # Loads the script, so that the first reply is not a NOSCRIPT.
            await Store(direct, "meanwhile").commit([], asyncio.get_running_loop().time() + 10)
        async with reply_dropper(upstream, drops) as proxy, AsyncExitStack() as stack:
            url = f"redis://127.0.0.1:{proxy.port}"
            clients = [await stack.enter_async_context(connect(url)) for _ in range(50)]
            start = time.monotonic()
            unknown = sum(await asyncio.gather(*[write(client, n) for n, client in enumerate(clients)]))
            seconds = time.monotonic() - start
        times = await counts(server, [f"s{number}" for number in range(50)])

    note = f"{proxy.dropped} replies dropped in {seconds:.0f} s, resent by the service"
    report(row("Valkey's reply dropped after the request passed", "10,000 keyed commits", times, 10_000, unknown, note))
    assert 10_000 == proxy.dropped == sum(times)


async def test_10_000_replies_of_the_service_that_are_lost_double_nothing(report: Callable[[Row], None]) -> None:
    def key_in(sent: bytes) -> bytes | None:
        found = re.search(rb"Idempotency-Key: (\S+)", sent)
        return found and found[1]

    async def write(port: int, number: int) -> list[bytes]:
        answers = []
        reader = writer = None
        for digit in range(DIGITS):
            for _ in range(3):
                if reader is None or writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(f"s{number}", digit, f"p{number}:{digit}"))
                reply = await reply_from(reader)
                if reply is not None:
                    assert 200 == reply[0], reply
                    answers.append(reply[1])
                    break
                writer.close()
                reader = writer = None
        assert writer is not None
        writer.close()
        return answers

    with valkey() as server, two_workers(server) as upstream_port:

        async def upstream() -> Streams:
            return await asyncio.open_connection("127.0.0.1", upstream_port)

        async with reply_dropper(upstream, Once(key_in)) as proxy:
            start = time.monotonic()
            answers = await asyncio.gather(*[write(proxy.port, number) for number in range(50)])
            seconds = time.monotonic() - start
        times = await counts(server, [f"s{number}" for number in range(50)])

    note = f"{proxy.dropped} replies dropped in {seconds:.0f} s, resent by the client"
    report(row("HTTP reply dropped after the request passed", "10,000 keyed readings", times, 10_000, 10_000, note))
    assert 10_000 == proxy.dropped == sum(times)
    assert [DIGITS] * 50 == [sum(b'"duplicate":true' in answer for answer in replies) for replies in answers]


# Clients that hang up --------------------------------------------------------------------------------------------


async def test_1_000_clients_that_hang_up_and_retry_are_counted_once_each(report: Callable[[Row], None]) -> None:
    """A fifth hang up inside the head, one inside the body, three after the last byte; half of them by a reset."""

    async def hang_up(port: int, number: int) -> bool:
        """Whether the whole request was sent."""
        data = request(f"s{number // DIGITS}", number % DIGITS, f"p{number % 16}:{number // 16}")
        head = data.index(b"\r\n\r\n") + 4
        cut = {0: head // 2, 1: head + 5}.get(number % 5, len(data))
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data[:cut])
        if number % 2:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        return cut == len(data)

    async def retry(port: int, number: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(f"s{number // DIGITS}", number % DIGITS, f"p{number % 16}:{number // 16}"))
        reply = await reply_from(reader)
        writer.close()
        assert reply is not None
        assert 200 == reply[0], reply
        return reply[1]

    async def client(port: int, number: int) -> tuple[bool, bytes]:
        async with at_once:
            return await hang_up(port, number), await retry(port, number)

    at_once = asyncio.Semaphore(100)
    with valkey() as server, two_workers(server) as port:
        outcomes = await asyncio.gather(*[client(port, number) for number in range(1_000)])
        times = await counts(server, [f"s{number}" for number in range(1_000 // DIGITS)])

    whole = sum(sent for sent, _ in outcomes)
    duplicates = sum(b'"duplicate":true' in body for _, body in outcomes)
    note = f"{duplicates} retries were duplicates"
    report(row("hang up mid-request, then retry", "1,000 clients, keyed", times, 1_000, whole, note))
    assert 1_000 == sum(times)
    assert 0 < duplicates <= whole, "no request that lost its client was recorded before the retry"
