"""SIGTERM while something is under way that does not end by itself: how long the service takes, and its exit code."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.faults.conftest import Row
from tests.support.running_service import children, count, embedded_pid, is_alive, post
from tests.support.servers import Service, eventually, service

pytestmark = pytest.mark.faults

GRACE, TIMEOUT, MARGIN, VALKEY, HEALTH_CHECK = 10, 5, 2, 10, 5
CLIENTS = 5
_UPLOAD = (
    b"POST /v1/readings HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson\r\n"
    b'Transfer-Encoding: chunked\r\n\r\n22\r\n{"stream": "uploaded", "value": 1}\r\n'
)
_EVENTS = b"GET /v1/streams/s/events HTTP/1.1\r\nHost: test\r\n\r\n"
_POST = (
    b"POST /v1/streams/s/readings HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)


def open_uploads(running: Service, stack: ExitStack) -> None:
    send(running, stack, _UPLOAD)


def open_event_streams(running: Service, stack: ExitStack) -> None:
    send(running, stack, _EVENTS)


def half_sent_bodies(running: Service, stack: ExitStack) -> None:
    send(running, stack, _POST % 1_000 + b"{")


def a_stopped_valkey(running: Service, stack: ExitStack) -> None:
    os.kill(embedded_pid(running), signal.SIGSTOP)
    send(running, stack, _POST % 11 + b'{"value":1}')


def a_stopped_worker(running: Service, stack: ExitStack) -> None:
    assert running.process is not None
    valkey = embedded_pid(running)
    worker = max(pid for pid in children(running.process.pid) if pid != valkey)
    os.kill(worker, signal.SIGSTOP)


def send(running: Service, stack: ExitStack, request: bytes) -> None:
    for _ in range(CLIENTS):
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=60))
        connection.sendall(request)


@contextmanager
def started(workers: int) -> Iterator[Service]:
    with service("--workers", str(workers)) as running:
        eventually(lambda: running.log.count("Application startup complete") == workers)
        yield running


@pytest.mark.parametrize(
    ("under_way", "workers", "limit"),
    [
        *((what, n, GRACE) for what in (open_uploads, open_event_streams, half_sent_bodies) for n in (1, 2)),
        *((a_stopped_valkey, n, TIMEOUT + MARGIN + VALKEY) for n in (1, 2)),
        (a_stopped_worker, 2, GRACE + TIMEOUT + MARGIN + HEALTH_CHECK),
    ],
)
def test_sigterm_ends_in_time_whatever_is_under_way(
    report: Callable[[Row], None], under_way: Callable[[Service, ExitStack], None], workers: int, limit: int
) -> None:
    with started(workers) as running, ExitStack() as stack:
        assert 200 == post(running, "s", 1.0).status_code
        valkey = embedded_pid(running)
        under_way(running, stack)
        time.sleep(0.5)  # So that it is under way.
        asked = time.monotonic()
        code = running.stop()
        took = time.monotonic() - asked
        said = running.log
        assert not is_alive(valkey)
        running.start()
        found = count(running, "s")
    report(
        Row(
            f"SIGTERM, {workers} worker{'s' * (workers > 1)}",
            under_way.__name__.replace("_", " "),
            1,
            max(1 - found, 0),
            0,
            max(found - 1, 0),
            took,
            f"exit code {code}",
        )
    )
    assert code in {0, 1} if under_way is a_stopped_worker else code == 0
    assert "Traceback" not in said
    assert took <= limit + 1


def test_an_adopted_valkey_that_hangs_is_reported_within_10_s(report: Callable[[Row], None]) -> None:
    with started(1) as running:
        assert 200 == post(running, "s", 1.0).status_code
        assert running.process is not None
        valkey = embedded_pid(running)
        running.process.kill()
        running.process.wait()
        os.kill(valkey, signal.SIGSTOP)
        began = time.monotonic()
        running.start(until_live=False)
        code = running.process.wait(60)
        took = time.monotonic() - began
        os.kill(valkey, signal.SIGCONT)
        running.start()
        lost = 1 - count(running, "s")
    report(Row("kill -9 the service, SIGSTOP its Valkey", "start again", 1, lost, 0, 0, took, f"exit code {code}"))
    assert took <= 10
