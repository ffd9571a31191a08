"""Who is asked: uvicorn processes with the same event loop and HTTP parser, on ports of the loopback interface.

Ours is started as a user would start it, with its embedded Valkey and every write fsynced; and once each with less. The
others get the same Valkey binary over the same kind of socket, without an append-only file.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from tests.support.servers import eventually, service, valkey


class Cpu(NamedTuple):
    """Seconds of processor time, of the service's processes and of its Valkey."""

    service: float
    valkey: float


@dataclass(frozen=True)
class Target:
    """Something that answers HTTP at ``url``, and the processes that do it, with all their children."""

    name: str
    url: str
    processes: tuple[int, ...]

    def count(self, streams: Sequence[str]) -> int:
        """How many readings it says it has recorded, over these streams."""
        with httpx.Client(base_url=self.url) as client:
            replies = [client.get(f"/v1/streams/{stream}/average") for stream in streams]
        return sum(reply.raise_for_status().json()["count"] for reply in replies)

    def send(self, stream: str, values: Sequence[float]) -> None:
        """Records these readings in one request."""
        with httpx.Client(base_url=self.url, timeout=60) as client:
            client.post(f"/v1/streams/{stream}/readings", json={"values": values}).raise_for_status()

    def cpu(self) -> Cpu:
        """Processor time since these processes started."""
        seconds = {True: 0.0, False: 0.0}
        for process in map(psutil.Process, self.processes):
            for one in (process, *process.children(recursive=True)):
                times = one.cpu_times()
                seconds[one.name().endswith("-server")] += times.user + times.system
        return Cpu(seconds[False], seconds[True])


@contextmanager
def disk_directory() -> Iterator[Path]:
    """A temporary directory where fsync means something: /tmp is often memory, /var/tmp outlives a reboot."""
    place = "/var/tmp" if Path("/var/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="mw", dir=place, ignore_cleanup_errors=True) as path:
        yield Path(path)


@contextmanager
def meanwhile(name: str = "meanwhile", *arguments: str, **environment: str) -> Iterator[Target]:
    """Ours: ``meanwhile serve``, with the embedded Valkey unless the environment names another."""
    with disk_directory() as directory, service(*arguments, data_dir=directory, **environment) as running:
        assert running.process is not None
        yield Target(name, running.url, (running.process.pid,))


@contextmanager
def meanwhile_without_disk() -> Iterator[Target]:
    """Ours, with a Valkey that writes nothing to disk."""
    with valkey("--appendonly", "no") as server, meanwhile("no disk", MEANWHILE_REDIS_URL=server.url) as target:
        yield target


@contextmanager
def conventional() -> Iterator[Target]:
    """The conventional app."""
    with _on_valkey("conventional", "benchmarks.conventional:app") as target:
        yield target


@contextmanager
def history() -> Iterator[Target]:
    """The app that keeps everything."""
    with _on_valkey("history", "benchmarks.history:app") as target:
        yield target


@contextmanager
def bare() -> Iterator[Target]:
    """uvicorn and two bytes."""
    with _uvicorn("bare", "benchmarks.bare:app") as target:
        yield target


@contextmanager
def _on_valkey(name: str, app: str) -> Iterator[Target]:
    with valkey("--appendonly", "no") as server, _uvicorn(name, app, REDIS_URL=server.url) as target:
        yield target


@contextmanager
def _uvicorn(name: str, app: str, **environment: str) -> Iterator[Target]:
    """Runs ``app`` with the loop, parser and headers of ``process/server.py``, without its timers."""
    with tempfile.NamedTemporaryFile("r") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", "0", "--ws", "none"),
                *("--no-access-log", "--no-proxy-headers", "--no-server-header"),
            ],
            env=os.environ | environment,
            stdout=log.fileno(),
            stderr=log.fileno(),
        )

        def url() -> str | None:
            text = Path(log.name).read_text()
            assert process.poll() is None, text
            listening = re.search(r"running on (http://\S+)", text)
            return listening[1] if listening else None

        try:
            eventually(lambda: url() is not None)
            yield Target(name, str(url()), (process.pid,))
        finally:
            process.terminate()
            process.wait(20)
