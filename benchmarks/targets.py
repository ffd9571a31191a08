"""Who is asked: each one uvicorn process with the same event loop and HTTP parser, on a port of the loopback interface.

Ours is started as a user would start it, with its embedded Valkey and every write fsynced. The conventional app gets
the same Valkey binary over the same kind of socket, without an append-only file.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.workloads import STREAMS
from tests.servers import eventually, service, valkey


@dataclass(frozen=True)
class Target:
    """Something that answers HTTP at ``url``."""

    name: str
    url: str

    def count(self) -> int:
        """How many readings it says it has recorded, over all streams."""
        with httpx.Client(base_url=self.url) as client:
            counts = [client.get(f"/v1/streams/{stream}/average").raise_for_status().json() for stream in STREAMS]
        return sum(one["count"] for one in counts)


@contextmanager
def disk_directory() -> Iterator[Path]:
    """A temporary directory where fsync means something: /tmp is often memory, /var/tmp outlives a reboot."""
    place = "/var/tmp" if Path("/var/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="mw", dir=place, ignore_cleanup_errors=True) as path:
        yield Path(path)


@contextmanager
def meanwhile(*arguments: str) -> Iterator[Target]:
    """Ours: ``meanwhile serve``, with the embedded Valkey."""
    with disk_directory() as directory, service(*arguments, data_dir=directory) as running:
        yield Target("meanwhile", running.url)


@contextmanager
def conventional() -> Iterator[Target]:
    """The conventional app, with a Valkey that writes nothing to disk."""
    with (
        valkey("--appendonly", "no") as server,
        _uvicorn("benchmarks.conventional:app", REDIS_URL=server.url) as url,
    ):
        yield Target("conventional", url)


@contextmanager
def bare() -> Iterator[Target]:
    """uvicorn and two bytes."""
    with _uvicorn("benchmarks.bare:app") as url:
        yield Target("bare", url)


@contextmanager
def _uvicorn(app: str, **environment: str) -> Iterator[str]:
    """Runs ``app`` with the loop, parser and headers of ``service/server.py``, without its timers; gives its URL."""
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
            yield str(url())
        finally:
            process.terminate()
            process.wait(20)
