"""A running service: its processes, and what it has counted."""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import redis

from tests.support import calls
from tests.support.servers import Service, Valkey, eventually, service


def post(running: Service, stream: str, value: float) -> httpx.Response:
    return calls.post(f"{running.url}/v1/streams/{stream}/readings", json={"value": value})


def state(running: Service, stream: str) -> dict[str, Any]:
    """The full state of a stream."""
    reply: dict[str, Any] = calls.get(f"{running.url}/v1/streams/{stream}").json()
    return reply


def count(running: Service, stream: str) -> int:
    reply = calls.get(f"{running.url}/v1/streams/{stream}/count")
    return int(reply.json()["count"]) if reply.status_code == 200 else 0


def is_ready(running: Service) -> bool:
    return calls.get(f"{running.url}/readyz").status_code == 200


def embedded(running: Service) -> "redis.Redis":
    return redis.Redis(unix_socket_path=str(running.data_dir / "valkey.sock"))


def embedded_pid(running: Service) -> int:
    with embedded(running) as client:
        return int(client.info("server")["process_id"])


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def kill_everything(running: Service) -> None:
    """kill -9 of the service, its workers and its Valkey; returns when they are gone."""
    assert running.process is not None
    doomed = [running.process.pid, *children(running.process.pid), embedded_pid(running)]
    for pid in doomed:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    running.process.wait()
    eventually(lambda: not any(map(is_alive, doomed)))


@contextmanager
def guarded(server: Valkey, entries: str, file: Path) -> Iterator[Service]:
    """A service with a file of API keys, on streams of its own."""
    file.write_text(entries)
    prefix = f"test-{uuid.uuid4().hex}"
    with service("--api-keys", str(file), MEANWHILE_REDIS_URL=server.url, MEANWHILE_PREFIX=prefix) as running:
        yield running


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes() if Path("/proc").is_dir() else True
