"""Processes that die: Valkey, a worker, and the service that is asked to stop while requests wait."""

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.conftest import Row
from tests.faults.writers import clients, writing
from tests.support.servers import Service, service, valkey

pytestmark = pytest.mark.faults

KILLS = 20
GRACE = 10
REQUEST = (
    b"POST /v1/streams/writer-%d/0/readings HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n"
    b'Content-Type: application/json\r\n\r\n{"value":1}'
)


def workers(running: Service) -> list[int]:
    """The worker processes, oldest first."""
    assert running.process is not None
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(running.process.pid)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return sorted(int(line.split()[0]) for line in lines if "spawn_main" in line)


def waiting_for_an_answer(port: int) -> int:
    """Connections to this port whose request the server has read, all of it."""
    command = ["ss", "-Htn", "state", "established", f"( sport = :{port} )"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(line.split()[0] == "0" for line in lines)


async def test_kill_9_of_valkey_under_64_writers_loses_and_doubles_nothing(report: Callable[[Row], None]) -> None:
    with valkey() as server, service(MEANWHILE_REDIS_URL=server.url) as running:
        async with clients(running.url, 64) as load:
            recoveries = []
            async with writing(load):
                for _ in range(KILLS):
                    await load.more(100)
                    await asyncio.to_thread(server.kill)
                    killed = time.monotonic()
                    await asyncio.to_thread(server.start)
                    recoveries.append(await load.served(killed))
            row = await load.settle(server.url, f"kill -9 Valkey x{KILLS}, fsync", max(recoveries), load.answers)
    report(row)
    assert load.statuses[503] + load.statuses[504] > 0, "nobody noticed"


async def test_kill_9_of_a_worker_under_load_loses_nothing_and_it_is_replaced(report: Callable[[Row], None]) -> None:
    with valkey() as server, service("--workers", "2", MEANWHILE_REDIS_URL=server.url) as running:
        async with clients(running.url, 32) as load:
            replaced = []
            async with writing(load):
                await load.until(lambda: running.log.count("Application startup complete") == 2)
                for kill in range(1, KILLS + 1):
                    await load.more(100)
                    # The older one has the connections.
                    await asyncio.to_thread(os.kill, workers(running)[0], signal.SIGKILL)
                    killed = time.monotonic()
                    await load.until(lambda n=kill: running.log.count("Application startup complete") == 2 + n)  # type: ignore[misc]  # a default binds it
                    replaced.append(time.monotonic() - killed)
            row = await load.settle(server.url, f"kill -9 one of two workers x{KILLS}", max(replaced), load.answers)
    report(row)
    assert load.statuses[0] > 0, "nobody noticed"
    assert max(replaced) <= 3, replaced


@pytest.mark.parametrize("processes", [1, 2])
async def test_sigterm_with_200_requests_in_flight_answers_them_all(
    report: Callable[[Row], None], processes: int
) -> None:
    with valkey() as server, service("--workers", str(processes), MEANWHILE_REDIS_URL=server.url) as running:
        async with clients(running.url, 200) as load:
            assert server.process is not None
            assert running.process is not None
            connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
            port = running.port
            server.process.send_signal(signal.SIGSTOP)
            for client in range(200):
                connections.append(await asyncio.open_connection("127.0.0.1", port))
                connections[-1][1].write(REQUEST % client)  # All of it is in the server's queue when this returns.
            await load.until(lambda: waiting_for_an_answer(port) == 200, 4)
            asked = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            await load.until(lambda: "Shutting down" in running.log, 4)
            server.process.send_signal(signal.SIGCONT)
            replies = [await reader.read() for reader, _ in connections]
            code = await asyncio.to_thread(running.process.wait, 30)
            took = time.monotonic() - asked
            for _, writer in connections:
                writer.close()
                await writer.wait_closed()
            statuses = Counter(reply[9:12] for reply in replies)  # Empty: hung up on.
            load.acknowledged = {(client, 0) for client in range(200) if replies[client][9:12] == b"200"}
            load.unknown = {(client, 0) for client in range(200) if replies[client][9:12] in {b"", b"504"}}
            times = await load.times(server.url)
    answers = ", ".join(f"{n} x {status.decode() or 'no answer'}" for status, n in statuses.items())
    note = f"{answers}, exit code {code}"
    lost, doubled = len(load.acknowledged - times.keys()), sum(n > 1 for n in times.values())
    report(
        Row(
            f"SIGTERM, {processes} worker{'s' * (processes > 1)}",
            "200 in flight",
            len(load.acknowledged),
            lost,
            doubled,
            len(load.unknown),
            took,
            note,
        )
    )
    assert {b"200": 200} == statuses
    assert took <= GRACE
