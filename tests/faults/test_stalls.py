"""A Valkey that hangs without dying, and one that forgets the script all the time."""

import asyncio
import signal
import time
from collections.abc import Callable

import pytest

from meanwhile.storage.redis_client import connect
from tests.faults.conftest import Row
from tests.faults.writers import clients, writing
from tests.support import calls
from tests.support.servers import service, valkey

pytestmark = pytest.mark.faults

TIMEOUT = 5.0


@pytest.mark.parametrize("seconds", [0.5, 2, 6])
async def test_a_stopped_valkey_delays_no_answer_past_the_deadline(
    report: Callable[[Row], None], seconds: float
) -> None:
    with valkey() as server, service(MEANWHILE_REDIS_URL=server.url) as running:
        assert server.process is not None
        async with clients(running.url, 32) as load, calls.async_client(timeout=40) as asker:
            slowest_read = 0.0

            async def read() -> None:
                nonlocal slowest_read
                while not load.stopping.is_set():
                    sent = time.monotonic()
                    reply = await asker.get(f"{running.url}/v1/streams/writer-0/0/average")
                    assert reply.status_code in {200, 503}
                    slowest_read = max(slowest_read, time.monotonic() - sent)
                    await asyncio.sleep(0.01)

            async with writing(load):
                await load.more(300)
                reading = asyncio.create_task(read())
                server.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)  # The fault.
                server.process.send_signal(signal.SIGCONT)
                continued = time.monotonic()
                while (await asker.get(f"{running.url}/readyz")).status_code != 200:
                    assert time.monotonic() < continued + 20
                ready = time.monotonic() - continued
                await load.served(continued)
                await load.more(300)
            await reading
            note = f"slowest answer {load.slowest:.2f} s, read {slowest_read:.2f} s, {load.answers}"
            row = await load.settle(server.url, f"SIGSTOP Valkey {seconds} s", ready, note)
    report(row)
    assert 0.9 * min(seconds, TIMEOUT) <= load.slowest, "nobody noticed"
    assert load.slowest <= TIMEOUT + 0.3
    assert slowest_read <= TIMEOUT + 0.3
    assert ready <= 2


async def test_script_flush_every_100_ms_is_never_seen_by_a_client(report: Callable[[Row], None]) -> None:
    with valkey() as server, service(MEANWHILE_REDIS_URL=server.url) as running:
        async with clients(running.url, 16) as load, connect(server.url) as redis:
            async with writing(load):
                end = time.monotonic() + 20
                flushes = 0
                while time.monotonic() < end:
                    await redis.script_flush()
                    flushes += 1
                    await asyncio.sleep(0.1)  # The rate of the fault.
            row = await load.settle(server.url, "SCRIPT FLUSH every 100 ms", None, f"{flushes} times, {load.answers}")
    report(row)
    assert {200} == set(load.statuses)
