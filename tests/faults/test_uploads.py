"""NDJSON uploads that are long, and uploads that break off again and again."""

import asyncio
import gzip
import json
import os
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Row
from tests.support import calls
from tests.support.servers import Service, eventually, service, valkey

pytestmark = pytest.mark.faults


LINES = 5_000_000
BLOCK = 10_000  # Lines.


def lines(first: int, stop: int, streams: int = 20) -> bytes:
    """Line i is the reading i mod 1000 / 8 of stream i mod ``streams``."""
    return "".join(f'{{"stream":"up/{i % streams}","value":{i % 1000 / 8}}}\n' for i in range(first, stop)).encode()


async def upload(running: Service, body: Callable[[asyncio.StreamWriter], Any], key: str = "") -> dict[str, Any]:
    """Sends a chunked body over a connection of its own; returns the reply, or nothing if the connection broke."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    head = f"POST /v1/readings HTTP/1.1\r\nHost: meanwhile\r\nContent-Type: application/x-ndjson\r\n{key}"
    writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
    reply: dict[str, Any] = {}
    with suppress(OSError):
        await body(writer)
    with suppress(OSError, asyncio.IncompleteReadError):
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        reply = json.loads(await reader.readexactly(length))
    writer.close()
    return reply


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
    await writer.drain()


def memory(running: Service, field: str) -> int:
    """Kilobytes that the worker has in memory (VmRSS), or has had at most (VmHWM)."""
    assert running.process is not None
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{running.process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


async def states(running: Service, streams: int) -> list[tuple[int, float]]:
    async with calls.async_client(base_url=running.url, timeout=60) as client:
        found = [(await client.get(f"/v1/streams/up/{i}")).json() for i in range(streams)]
    return [(one.get("count", 0), one.get("average", 0.0)) for one in found]


def expected(total: int, streams: int) -> list[tuple[int, float]]:
    """Counts and averages of as many lines."""
    values = [[Fraction(i % 1000, 8) for i in range(stream, total, streams)] for stream in range(streams)]
    return [(len(column), float(sum(column) / len(column))) for column in values]


async def test_five_million_lines_in_one_request_take_no_memory(report: Callable[[Row], None]) -> None:
    block = lines(0, BLOCK)
    with service() as running:

        async def warm_up(writer: asyncio.StreamWriter) -> None:
            await send(writer, lines(0, BLOCK).replace(b"up/", b"warm/"))
            writer.write(b"0\r\n\r\n")

        async def everything(writer: asyncio.StreamWriter) -> None:
            for _ in range(LINES // BLOCK):
                await send(writer, block)
            writer.write(b"0\r\n\r\n")

        await upload(running, warm_up)
        before = memory(running, "VmRSS")
        started = time.monotonic()
        reply = await upload(running, everything)
        seconds = time.monotonic() - started
        growth = (memory(running, "VmHWM") - before) / 1024

        assert {"readings": LINES, "streams": 20} == reply
        assert [(LINES // BLOCK * n, average) for n, average in expected(BLOCK, 20)] == await states(running, 20)
    note = f"{growth:.1f} MB more memory at most, {LINES / seconds:,.0f} lines a second"
    report(Row("none", f"{LINES:,} lines in one upload", LINES, 0, 0, 0, None, note))
    assert growth <= 20


async def test_an_upload_that_breaks_off_ten_times_counts_every_line_once(report: Callable[[Row], None]) -> None:
    total, streams, seed = 200_000, 7, int.from_bytes(os.urandom(4))
    rng = random.Random(seed)
    body = lines(0, total, streams)
    breaks = 0
    with valkey() as server, service(MEANWHILE_REDIS_URL=server.url, MEANWHILE_REDIS_TIMEOUT="1") as running:
        killed = sorted(rng.sample(range(10), 3))
        reply: dict[str, Any] = {}
        while reply.get("readings", -1) + reply.get("duplicates", 0) != total:
            assert breaks < 30, (seed, reply)
            end = rng.randrange(len(body)) if breaks < 10 else len(body)

            async def some(writer: asyncio.StreamWriter, end: int = end, number: int = breaks) -> None:
                at = 0
                while at < end:
                    step = rng.randint(1, 60_000)
                    await send(writer, body[at : min(at + step, end)])
                    at += step
                if number in killed:
                    server.kill()
                if end < len(body):
                    writer.close()
                else:
                    writer.write(b"0\r\n\r\n")

            reply = await upload(running, some, "Idempotency-Key: up:1000\r\n")
            if breaks in killed:
                server.start()
                await asyncio.to_thread(eventually, lambda: calls.get(running.url + "/readyz").is_success)
            breaks += 1
        found = await states(running, streams)
    counted = sum(count for count, _ in found)
    note = f"broken off {breaks - 1} times, 3 of them by kill -9 of Valkey (seed {seed})"
    lost, doubled = max(0, total - counted), max(0, counted - total)
    report(Row("uploads break off", "NDJSON with a key", total, lost, doubled, 0, None, note))
    assert expected(total, streams) == found


EMPTY_MEMBER, ONE_BYTE = gzip.compress(b""), gzip.compress(b" ")
WIDE = b'{"stream":"hostile/%d","value":[' + b",".join([b"1"] * 1024) + b"]}\n"
HOSTILE: dict[str, Callable[[], bytes]] = {  # Made when they are sent: together they take seconds.
    "200 MiB of empty lines in 200 KB of gzip data": lambda: gzip.compress(b"\n" * 200 * 2**20),
    "105,000 empty members of gzip data": lambda: EMPTY_MEMBER * 105_000,
    "100,000 members of 1 byte": lambda: ONE_BYTE * 100_000,
    "500 streams of 1,024 components": lambda: gzip.compress(b"".join(WIDE % i for i in range(500)), 1),
    "20,000 streams": lambda: gzip.compress(
        b"".join(b'{"stream":"hostile/n/%d","value":%d}\n' % (i, i) for i in range(20_000)), 1
    ),
    "35,000 lines with escapes": lambda: gzip.compress(b'{"stream":"hostile/\\u0061","value":1}\n' * 35_000, 1),
    "a line of 4 million numbers": lambda: gzip.compress(
        b'{"stream":"hostile/l","value":[' + b",".join([b"1"] * (4 * 2**20 - 30)) + b"]}\n", 1
    ),
}


@pytest.mark.parametrize("made", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_upload_holds_nobody_up(
    request: pytest.FixtureRequest, made: Callable[[], bytes], report: Callable[[Row], None]
) -> None:
    body = made()
    headers = {"content-type": "application/x-ndjson", "content-encoding": "gzip"}
    waits: list[float] = []
    with service() as running:
        async with calls.async_client(base_url=running.url, timeout=120) as client:
            assert (await client.get("/livez")).is_success
            before = memory(running, "VmRSS")
            attack = asyncio.create_task(client.post("/v1/readings", content=body, headers=headers))
            while not attack.done():
                started = time.monotonic()
                assert (await client.get("/livez")).is_success
                waits.append(time.monotonic() - started)
            status = (await attack).status_code
        growth = (memory(running, "VmHWM") - before) / 1024
    p99 = sorted(waits)[int(len(waits) * 0.99)]
    name = request.node.callspec.id
    note = f"{status}; others wait {1000 * p99:.0f} ms (p99), {1000 * max(waits):.0f} ms at most; {growth:.0f} MB more"
    report(Row("hostile upload", name, 0, 0, 0, 0, None, note))
    assert status in {200, 400, 413, 422}
    assert p99 <= 0.1
    assert growth <= 150
