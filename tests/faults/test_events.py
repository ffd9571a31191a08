"""A thousand who watch while readings pour in, and a shutdown under five hundred open event streams.

The subscribers are plain sockets read by one loop in this process. Readings come from a process of its own, paced, each
POST on one of 64 connections; its 99th percentile is taken without subscribers and with them, in turns, since a machine
that others use too has slow minutes.
"""

import asyncio
import contextlib
import json
import re
import select
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from meanwhile.api.connection_timeouts import STALL
from meanwhile.core.state import State
from meanwhile.storage.redis_client import connect
from meanwhile.storage.store import Store
from tests.faults.conftest import Row
from tests.support.browser import CHROMIUM, chromium, opened
from tests.support.event_stream import post, post_batch
from tests.support.servers import Service, service, valkey

pytestmark = pytest.mark.faults

SUBSCRIBERS = 1_000
RATE = 2_000  # Readings a second.
SECONDS = 10.0
STREAMS = 10
ROUNDS = 3
MOST_BYTES = 50_000

LOAD = Path(__file__).with_name("paced.py")


class Watcher:
    """An open event stream, of which only the latest count of each stream is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.counts: dict[str, int] = {}
        self.events = 0
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self._task = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        event = b""
        while line := await reader.readline():
            if line.startswith(b"event: "):
                event = line[7:-1]
                if event == b"ready":
                    self.ready.set()
            elif line.startswith(b"data: ") and event == b"state":
                found = re.match(rb'data: \{"stream":"([^"]+)","count":(\d+)', line)
                assert found is not None
                self.counts[found[1].decode()] = int(found[2])
                self.events += 1
        self.ended.set()

    async def close(self) -> None:
        self._task.cancel()
        self.writer.close()


@asynccontextmanager
async def watchers(url: str, number: int, path: Callable[[int], str]) -> AsyncIterator[list[Watcher]]:
    """So many open event streams, all of which have got what there is."""
    host, port = url.removeprefix("http://").split(":")
    opened: list[Watcher] = []
    for n in range(number):
        reader, writer = await asyncio.open_connection(host, int(port), limit=4096)
        writer.write(f"GET {path(n)} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        opened.append(Watcher(reader, writer))
        if n % 50 == 49:
            await opened[-1].ready.wait()
    try:
        async with asyncio.timeout(60):
            for one in opened:
                await one.ready.wait()
        yield opened
    finally:
        for one in opened:
            await one.close()


async def paced(url: str) -> dict[str, float]:
    """What the load says of itself: how many, p50 and p99 in milliseconds."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(LOAD), url, str(RATE), str(SECONDS), str(STREAMS)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert 0 == process.returncode
    result: dict[str, float] = json.loads(output)
    return result


def resident(running: Service) -> int:
    """Bytes that the service process has in memory, its one worker included."""
    assert running.process is not None
    return int(psutil.Process(running.process.pid).memory_info().rss)


async def test_a_thousand_subscribers_cost_little_and_all_see_the_end(report: Callable[[Row], None]) -> None:
    with valkey() as server, service(MEANWHILE_REDIS_URL=server.url) as running:
        alone, watched = [], []
        grown = 0.0
        events = sent = 0
        for turn in range(ROUNDS):
            alone.append(await paced(running.url))
            before = resident(running)
            async with watchers(running.url, SUBSCRIBERS, lambda n: f"/v1/streams/s/{n % STREAMS}/events") as opened:
                if turn == 0:
                    grown = (resident(running) - before) / SUBSCRIBERS
                watched.append(await paced(running.url))
                async with connect(server.url) as redis:
                    names = [f"s/{n}" for n in range(STREAMS)]
                    states = await Store(redis, "meanwhile").read(names, asyncio.get_running_loop().time() + 5)
                found = zip(names, states, strict=True)
                ends = {name: state.summary.count for name, state in found if isinstance(state, State)}
                end = time.monotonic() + 10
                while not all(ends[name] == n for one in opened for name, n in one.counts.items()):
                    assert time.monotonic() < end, "not all have seen the final state"
                    await asyncio.sleep(0.05)
                assert all(1 == len(one.counts) for one in opened)
                events += sum(one.events for one in opened)
        sent = int(sum(one["sent"] for one in (*alone, *watched)))
        p99, p99_watched = (statistics.median(one["p99"] for one in some) for some in (alone, watched))
    report(
        Row(
            *(f"{SUBSCRIBERS} event streams", f"{RATE} readings/s", sent, sent - sum(ends.values()), 0, 0, None),
            note=f"p99 {p99:.1f} ms alone, {p99_watched:.1f} ms with; {grown / 1000:.1f} kB each; {events} events",
        )
    )
    assert grown <= MOST_BYTES
    assert p99_watched <= 2 * p99


def busy(pid: int) -> float:
    """Seconds of a processor that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def test_watching_ten_thousand_streams_costs_little_and_new_ones_are_seen_soon(
    report: Callable[[Row], None],
) -> None:
    watched, seconds = 10_000, 10.0
    with valkey() as server, service(MEANWHILE_REDIS_URL=server.url) as running:
        assert running.process is not None
        assert server.process is not None
        pids = {"service": running.process.pid, "Valkey": server.process.pid}
        post_batch(running.url, {f"w/{n}": {"value": n} for n in range(watched)})
        async with watchers(running.url, 1, lambda n: "/v1/events") as opened:
            before = {name: busy(pid) for name, pid in pids.items()}
            await asyncio.sleep(seconds)  # Nothing changes, which has to be found out every second.
            shares = {name: 100 * (busy(pid) - before[name]) / seconds for name, pid in pids.items()}
            seen = []
            for n in range(5):
                began = time.monotonic()
                post(running.url, f"new/{n}", 1.0)
                while f"new/{n}" not in opened[0].counts:
                    assert time.monotonic() < began + 10
                    await asyncio.sleep(0.01)
                seen.append(time.monotonic() - began)
            assert watched + 5 == len(opened[0].counts)
    note = (
        f"{shares['service']:.0f} % of a core, Valkey {shares['Valkey']:.0f} %; new seen in {max(seen):.2f} s at most"
    )
    report(Row(f"{watched} streams watched", "none", watched + 5, 0, 0, 0, None, note=note))
    assert max(seen) <= 2


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
async def test_a_first_reading_shows_on_the_page_within_two_seconds(report: Callable[[Row], None]) -> None:
    turns, took = 10, []
    async with chromium() as browser:
        for _ in range(turns):
            with valkey() as server, service(MEANWHILE_REDIS_URL=server.url) as running:
                async with opened(browser, running.url) as page:
                    await page.get_by_role("heading", name="No readings yet").wait_for()
                    began = time.monotonic()
                    await asyncio.to_thread(post, running.url, "hall/lux", 120.5)
                    await page.locator('tr[data-name="hall/lux"] td.average', has_text="120.50").wait_for()
                    took.append(time.monotonic() - began)
    report(
        Row("first reading, empty page", "1 reading", turns, 0, 0, 0, None, note=f"shown in {max(took):.2f} s at most")
    )
    assert max(took) <= 2


async def test_a_reader_that_takes_nothing_is_dropped_and_one_that_takes_little_is_not(
    report: Callable[[Row], None],
) -> None:
    with valkey() as server, service(MEANWHILE_REDIS_URL=server.url) as running:
        wide = {f"wide/{n}": {"value": [float(n)] * 1_000} for n in range(400)}
        post_batch(running.url, wide)
        before = resident(running)
        with not_reading(running.url) as stalled, not_reading(running.url) as slow:
            began, last_took, taken, most = time.monotonic(), 0.0, 0, before
            while not is_reset(stalled):
                assert time.monotonic() - began < 2 * STALL + 5, "it is still there"
                if time.monotonic() > last_took + STALL / 3:
                    last_took = time.monotonic()
                    taken += take(slow, 2_000_000)
                most = max(most, resident(running))
                await asyncio.sleep(0.1)
            dropped = time.monotonic() - began
            assert not is_reset(slow)
        post(running.url, "still/here", 1.0)
    grown = (most - before) / 1e6
    note = (
        f"dropped after {dropped:.0f} s, at most {grown:.1f} MB more; one that took {taken / 1e6:.0f} MB by then stays"
    )
    report(Row("reader takes nothing", "400 vectors of 1,000", len(wide) + 1, 0, 0, 0, None, note=note))
    assert STALL - 1 <= dropped


def not_reading(url: str) -> socket.socket:
    """A connection on which all events were asked for, with a small buffer."""
    host, port = url.removeprefix("http://").split(":")
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.connect((host, int(port)))
    one.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    return one


def take(one: socket.socket, most: int) -> int:
    """How many bytes came, up to the most: more than a third of what the kernel holds makes it ask for more."""
    taken = 0
    one.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while taken < most:
            taken += len(one.recv(65_536))
    return taken


def is_reset(one: socket.socket) -> bool:
    """Whether the other side has gone, found out without reading."""
    poll = select.poll()
    poll.register(one, 0)
    return bool(poll.poll(0))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_shutdown_does_not_wait_for_event_streams(report: Callable[[Row], None], workers: str) -> None:
    with valkey() as server, service("--workers", workers, MEANWHILE_REDIS_URL=server.url) as running:
        await paced_once(running.url)
        async with watchers(running.url, 500, lambda n: "/v1/events") as opened:
            began = time.monotonic()
            assert 0 == await asyncio.to_thread(running.stop)
            took = time.monotonic() - began
            async with asyncio.timeout(5):
                for one in opened:
                    await one.ended.wait()
        assert "Cancel" not in running.log
    report(Row(f"SIGTERM, {workers} workers", "500 event streams", 1, 0, 0, 0, None, note=f"stopped in {took:.2f} s"))
    assert took <= 2


async def paced_once(url: str) -> None:
    """One reading, so that there is something to watch."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(LOAD), url, "10", "0.1", "1")
    assert 0 == await process.wait()
