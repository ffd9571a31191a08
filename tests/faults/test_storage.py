"""Storage that fails: a power cut, a full disk, no memory left, a primary that dies before its replica has everything.

A power cut is played in two steps. ``strace`` sees every write to the append-only file and every fdatasync of it; then
Valkey is killed and its file is cut back to what had been written when the last completed fdatasync began: the worst
that a disk that keeps its word may do.
"""

import asyncio
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from meanwhile.storage.redis_client import connect
from tests.faults.conftest import Row
from tests.faults.writers import clients, writing
from tests.support import calls
from tests.support.servers import Service, Valkey, eventually, free_port, service, valkey

pytestmark = pytest.mark.faults

CUTS = 5
EVERYSEC = ("--appendonly", "yes", "--appendfsync", "everysec")
IGNORING_SIGXFSZ = ("env", "--ignore-signal=XFSZ")  # A write past the limit fails then, as on a full disk.


def log_of(server: Valkey) -> Path:
    (path,) = (server.directory / "appendonlydir").glob("*.incr.aof")
    return path


def durable(trace: str, size: int) -> int:
    """Bytes of the append-only file that were on disk at the end of the trace of its writes and syncs."""
    written = synced = size
    begun: dict[str, int] = {}  # By thread: what was written when its fdatasync began.
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        ended = re.search(r"= (-?\d+)(?: |$)", call)
        if call.startswith("fdatasync(") and ".aof" in call:
            begun[thread] = written
        if call.startswith("write(") and ".aof>" in call.partition(",")[0]:
            assert ended is not None, line
            written += max(0, int(ended[1]))
        elif "fdatasync" in call and ended is not None and thread in begun:
            assert "0" == ended[1], line
            synced = begun.pop(thread)
    return synced


async def trace(server: Valkey) -> tuple[subprocess.Popen[bytes], int]:
    """Starts to trace a server to which nobody writes yet, and returns how large its file is."""
    assert server.process is not None
    path = server.directory / "trace"
    path.unlink(missing_ok=True)
    tracer = subprocess.Popen(  # noqa: ASYNC220  # Forking takes a millisecond.
        [
            *("strace", "-f", "-y", "-s", "0", "-e", "trace=write,fdatasync", "-e", "signal=none"),
            *("-o", str(path), "-p", str(server.process.pid)),
        ],
        stderr=subprocess.PIPE,
    )
    assert tracer.stderr is not None
    attached = await asyncio.to_thread(tracer.stderr.readline)
    assert b"attached" in attached, attached
    return tracer, log_of(server).stat().st_size


async def power_cut(server: Valkey, tracer: subprocess.Popen[bytes], size: int) -> int:
    """Cuts the power of a traced server, whose file had this size, and returns how many bytes that cost."""
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(tracer.communicate, None, 20)
    path = log_of(server)
    there, kept = path.stat().st_size, durable((server.directory / "trace").read_text(), size)
    assert size < kept <= there
    with path.open("r+b") as file:
        file.truncate(kept)
    return there - kept


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: apt install strace")
async def test_a_power_cut_loses_nothing_that_was_answered_with_200(report: Callable[[Row], None]) -> None:
    cut: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    acknowledged: Counter[str] = Counter()
    rows = []
    for arguments, durability in ((EVERYSEC, "everysec"), ((), "fsync")):
        with valkey(*arguments) as server:
            for _ in range(CUTS):
                with service(MEANWHILE_REDIS_URL=server.url, MEANWHILE_DURABILITY=durability) as running:
                    async with clients(running.url, 16) as load:
                        tracer, size = await trace(server)
                        async with writing(load):
                            await asyncio.sleep(1.5)  # Longer than a second, so that everysec has synced once.
                            cut[durability] += await power_cut(server, tracer, size)
                            load.stopping.set()
                            await asyncio.to_thread(server.start)
                        acknowledged[durability] += len(load.acknowledged)
                        lost[durability] += len(load.acknowledged - (await load.times(server.url)).keys())
                        if durability == "fsync":
                            rows.append(await load.settle(server.url, ""))
                async with connect(server.url) as redis:
                    await redis.delete(*await redis.keys("meanwhile:*"))
    control = f"the same with everysec lost {lost['everysec']} of {acknowledged['everysec']}"
    report(
        Row(
            *(f"power cut x{CUTS}, fsync", "16 writers", acknowledged["fsync"], sum(row.lost for row in rows)),
            *(sum(row.doubled for row in rows), sum(row.unknown for row in rows)),
            note=f"{cut['fsync']} unsynced bytes cut; {control}",
        )
    )
    assert 0 == lost["fsync"]
    assert cut["everysec"] > 0, "nothing was cut: the trace does not see what is unsynced"
    assert lost["everysec"] > 0, "everysec lost nothing, so the cut shows nothing"


async def until_full(running_url: str, asker: httpx.AsyncClient) -> None:
    """Fills the server until it refuses, and sees that reads go on."""
    end = time.monotonic() + 20
    reply = None
    while reply is None or reply.status_code != 503:
        assert time.monotonic() < end
        reply = await asker.post(f"{running_url}/v1/streams/filler/readings", json={"value": 1})
        assert reply.status_code in {200, 503, 504}
    assert "retry-after" in reply.headers


@pytest.mark.parametrize("fault", ["disk full, everysec", "disk full, fsync", "maxmemory"])
async def test_a_full_server_refuses_and_recovers_when_there_is_room(report: Callable[[Row], None], fault: str) -> None:
    arguments = EVERYSEC if "everysec" in fault else ()
    with valkey(*arguments, launcher=IGNORING_SIGXFSZ) as server, service(MEANWHILE_REDIS_URL=server.url) as running:
        assert server.process is not None
        async with clients(running.url, 16) as load, calls.async_client(timeout=40) as asker:
            average = f"{running.url}/v1/streams/writer-0/0/average"
            async with writing(load):
                await load.more(200)
                if fault == "maxmemory":
                    async with connect(server.url) as redis:
                        await redis.config_set("maxmemory", "1")
                else:
                    limit = log_of(server).stat().st_size + 50_000
                    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                await until_full(running.url, asker)
                died = fault == "disk full, fsync"  # Valkey exits rather than break the promise of fsync.
                assert (503 if died else 200) == (await asker.get(average)).status_code
                freed = time.monotonic()
                if fault == "maxmemory":
                    async with connect(server.url) as redis:
                        await redis.config_set("maxmemory", "0")
                elif died:
                    await asyncio.to_thread(server.process.wait, 20)
                    await asyncio.to_thread(server.start)
                else:
                    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
                recovered = await load.served(freed)
                await load.more(200)
            row = await load.settle(server.url, fault, recovered, load.answers)
    report(row)
    assert load.statuses[503] > 0
    if not died:
        assert 0 == load.statuses[504], "what Valkey refuses is known not to have run"


@asynccontextmanager
async def replicated() -> AsyncIterator[tuple[Valkey, Valkey]]:
    """A primary and its replica, in step."""
    port = str(free_port())
    always = ("--appendonly", "yes", "--appendfsync", "always")
    follow = ("--replicaof", "127.0.0.1", port, "--repl-diskless-sync-delay", "0")
    with (
        valkey("--port", port, "--repl-diskless-sync-delay", "0", *always) as primary,
        valkey("--port", str(free_port()), *always, *follow) as replica,
    ):

        def in_step() -> bool:
            return b"master_link_status:up" in information(replica)

        await asyncio.to_thread(eventually, in_step)
        yield primary, replica


def information(server: Valkey) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(server.socket))
        connection.sendall(b"INFO replication\r\n")
        return connection.recv(65536)


def replicating(url: str) -> AbstractContextManager[Service]:
    return service(MEANWHILE_REDIS_URL=url, MEANWHILE_DURABILITY="replicated", MEANWHILE_REDIS_TIMEOUT="2")


async def test_a_primary_that_dies_with_a_lagging_replica_loses_nothing_that_was_answered_with_200(
    report: Callable[[Row], None],
) -> None:
    async with replicated() as (primary, replica), clients("", 32) as load:
        assert replica.process is not None
        with replicating(primary.url) as running:
            load.url = running.url
            async with writing(load):
                for _ in range(5):
                    await load.more(100)
                    replica.process.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(0.3)  # The lag.
                    replica.process.send_signal(signal.SIGCONT)
                await load.more(100)
                replica.process.send_signal(signal.SIGSTOP)
                async with connect(primary.url) as redis:
                    before = int((await redis.info("replication"))["master_repl_offset"])
                    end = time.monotonic() + 5
                    while int((await redis.info("replication"))["master_repl_offset"]) == before:
                        assert time.monotonic() < end, "nothing is written that the replica does not have"
                        await asyncio.sleep(0.005)
                await asyncio.to_thread(primary.kill)
                load.stopping.set()
        replica.process.send_signal(signal.SIGCONT)
        promoted = time.monotonic()
        async with connect(replica.url) as redis:
            await redis.replicaof("NO", "ONE")
        with service(MEANWHILE_REDIS_URL=replica.url) as running:  # It has no replica of its own yet.
            load.url = running.url
            row = await load.settle(
                replica.url, "primary killed, lagging replica", time.monotonic() - promoted, load.answers
            )
    report(row)
    assert load.unknown, "the replica did not lag"


async def test_a_retry_is_not_answered_with_200_before_the_replica_has_the_reading(
    report: Callable[[Row], None],
) -> None:
    async with replicated() as (primary, replica), clients("", 1) as load:
        assert replica.process is not None
        with replicating(primary.url) as running:
            load.url = running.url
            assert await load.send((0, 0)) is True
            replica.process.send_signal(signal.SIGSTOP)
            assert [None, None] == [await load.send((0, 1)) for _ in range(2)], "200 though no replica has it"
            replica.process.send_signal(signal.SIGCONT)
            assert await load.send((0, 1)) is True
            primary.kill()  # So the replica cannot get it later than the answer.
        load.acknowledged = {(0, 0), (0, 1)}
        async with connect(replica.url) as redis:
            await redis.replicaof("NO", "ONE")
        times = await load.times(replica.url)
    lost, doubled = len(load.acknowledged - times.keys()), sum(n > 1 for n in times.values())
    report(Row("fewer replicas in time", "1 writer", 2, lost, doubled, 0, None, load.answers))
