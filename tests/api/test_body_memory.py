"""The memory of bodies that are being received has a limit in all, and the next one gets an answer."""

import gzip
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack

import pytest

from tests.support import calls
from tests.support.running_service import embedded_pid
from tests.support.servers import Service, eventually, service

HELD = 300_000
HEAD = b"POST /v1/readings HTTP/1.1\r\nHost: meanwhile\r\nContent-Length: 200000\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with service(MEANWHILE_MAX_RECEIVING=str(HELD)) as started:
        yield started
        assert "Traceback" not in started.log


def connect(server: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def records(server: Service, size: int) -> int:
    """The status of a reading in a body of about this size."""
    body = b'{"value": 1}' + b" " * size
    return calls.post(f"{server.url}/v1/streams/s/readings", content=body).status_code


def test_bodies_that_lack_their_end_are_held_up_to_a_limit_and_the_next_is_503(server: Service) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(connect(server))
        first.sendall(HEAD + b" " * 199_999)
        second = stack.enter_context(connect(server))
        second.sendall(HEAD + b" " * 199_999)
        answer = second.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1\r\n" in answer
        assert b"urn:meanwhile:problem:overloaded" in answer
        assert 200 == records(server, 0)  # Small ones do not count.
        assert 200 == records(server, 60_000)
        first.sendall(b" ")
        assert first.recv(65_536).startswith(b"HTTP/1.1 400")
    eventually(lambda: records(server, 250_000) == 200)


def test_a_body_is_held_as_inflated_and_until_it_is_answered(server: Service) -> None:
    packed = gzip.compress(b'{"value": 1}' + b" " * 200_000)
    assert len(packed) < 1_000
    url, headers = f"{server.url}/v1/streams/s/readings", {"Content-Encoding": "gzip"}
    valkey = embedded_pid(server)
    os.kill(valkey, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(2) as threads:
            two = [threads.submit(calls.post, url, content=packed, headers=headers) for _ in range(2)]
            done, _ = wait(two, return_when=FIRST_COMPLETED)
            assert [503] == [each.result().status_code for each in done]
            os.kill(valkey, signal.SIGCONT)
            assert [200, 503] == sorted(each.result().status_code for each in two)
    finally:
        os.kill(valkey, signal.SIGCONT)
    assert 200 == calls.post(url, content=packed, headers=headers).status_code


def test_a_body_larger_than_all_that_may_be_held_is_taken_alone(server: Service) -> None:
    assert 200 == records(server, 2 * HELD)
