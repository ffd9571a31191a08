"""Requests that arrive whole are answered without ASGI: the answers are those that other requests get through it."""

import gc
import json
import signal
import socket
import time
from collections.abc import Iterator

import pytest
import redis

from meanwhile.api.connection import ConnectionProtocol
from meanwhile.settings import Settings
from tests.support.connections import answer, connected
from tests.support.in_process import listening
from tests.support.running_service import count, embedded
from tests.support.servers import Service, Valkey, eventually, service

HEAD = b"Host: meanwhile\r\n"
JSON = b"Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service(MEANWHILE_MAX_BODY="1000") as started:
        yield started


def connect(running: Service) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", running.port))
    connection.settimeout(20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of the next response; nothing of another one may follow."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65_536) or pytest.fail(f"closed after {received!r}")
    head, _, body = received.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"date:")]
    length = next((int(line[16:]) for line in lines if line.startswith(b"content-length: ")), 0)
    while len(body) < length:
        body += connection.recv(65_536)
    assert length == len(body)
    return b"\r\n".join(lines), body


def pause(admin: "redis.Redis", milliseconds: int) -> None:
    """Makes the Valkey of the service answer no writes for a while."""
    admin.client_pause(milliseconds, all=False)


def request(method: bytes, path: bytes, headers: bytes = b"", body: bytes | None = None) -> bytes:
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n%b" % (method, path, HEAD, headers, length, body or b"")


def post(path: bytes, body: bytes | None, headers: bytes = JSON) -> bytes:
    return request(b"POST", path, headers, body)


S = b"/v1/streams/NAME"
VECTOR = b"Content-Type: application/octet-stream\r\n"
MSGPACK = b"Content-Type: application/vnd.msgpack\r\n"
REQUESTS = [
    post(S + b"/readings", b'{"value": 1.5}'),
    post(S + b"/readings", b'{"value": 1.5}', b"Idempotency-Key: a:1\r\n"),
    post(S + b"/readings", b'{"value": 1.5}', b"Idempotency-Key: a:1\r\n"),
    post(S + b"/readings", b'{"value": 1.5}', b"Idempotency-Key: a\r\n"),
    post(S + b"/readings", b'{"value": 1.5}', b"Idempotency-Key: a:1\r\nIdempotency-Key: a:2\r\n"),
    post(S + b"/readings", b'{"values": [1, 2.5, 3]}', b""),
    post(S + b"/readings", b'{"value": [1, 2]}'),
    post(S + b"/readings", b'{"value": "1"}'),
    post(S + b"/readings", b"{"),
    post(S + b"/readings", b""),
    post(S + b"/readings", None),
    post(S + b"/readings", b'{"value": 1}' + b" " * 990),
    post(S + b"/readings", b'{"value": 1}', b"Content-Type: text/plain\r\n"),
    post(S + b"/readings", b'{"value": 1}', JSON + b"Content-Encoding: gzip\r\n"),
    post(S + b"/readings", b'{"value": 1}', JSON + b"Sec-Fetch-Site: cross-site\r\n"),
    post(S + b"/readings?x=1", b'{"value": 1}'),
    post(S + b"/readings", bytes(8), VECTOR),
    post(S + b"/readings?dtype=float32&components=1&time=0", bytes(8), VECTOR),
    post(S + b"/readings?components=1", bytes(8), VECTOR + b"Idempotency-Key: a:2\r\n"),
    post(S + b"/readings?members=a,b", bytes(16), VECTOR),
    post(S + b"/readings?x=1", bytes(8), VECTOR),
    post(S + b"/readings?dtype=float32&dtype=float32", bytes(8), VECTOR),
    post(S + b"/readings", bytes(7), VECTOR),
    post(S + b"/readings", bytes(7) + b"\x7f", VECTOR),
    post(S + b"/readings", bytes(1008), VECTOR),
    post(S + b"/readings", b"\x81\xa5value\x01", MSGPACK),
    post(S + b"/readings", b"\x81\xa6values\x92\x01\x02", MSGPACK.replace(b"vnd.", b"")),
    post(S + b"/readings", b"\x81\xa6values\x92\x01\xc3", MSGPACK),
    post(S + b"/readings?time=0", b"\x81\xa5value\x01", MSGPACK),
    post(S + b"/readings", b"\xc1", MSGPACK),
    post(b"/v1/streams/%74NAME/readings", b'{"value": 1}'),
    post(b"/v1/streams/a*b/readings", b'{"value": 1}'),
    post(b"/v1/streams//readings", b'{"value": 1}'),
    post(S + b"/average", b'{"value": 1}'),
    post(b"/v1/readings", b'{"NAME": {"value": 1}}'),
    request(b"POST", S + b"/readings", b"Transfer-Encoding: chunked\r\n") + b'C\r\n{"value": 1}\r\n0\r\n\r\n',
    request(b"POST", S + b"/readings", b"Transfer-Encoding: chunked\r\n") + b'6\r\n{"valu\r\n6\r\ne": 1}\r\n0\r\n\r\n',
    request(b"GET", S + b"/average"),
    request(b"GET", S + b"/average", b"Accept: text/plain\r\n"),
    request(b"GET", S + b"/count"),
    request(b"GET", S + b"/count", body=b"ignored"),
    request(b"GET", b"/v1/streams/absent/average"),
    request(b"GET", b"/v1/streams/a%20b/average"),
    request(b"GET", S),
    request(b"GET", b"/v1/streams/absent"),
    request(b"GET", b"/nothing"),
    request(b"GET", b"/livez"),
    request(b"DELETE", S + b"/average"),
]


def test_a_request_in_one_piece_and_in_two_gets_the_same_answer(running: Service) -> None:
    with connect(running) as whole, connect(running) as split:
        for one in REQUESTS:
            whole.sendall(one.replace(b"NAME", b"once"))
            answer = read(whole)
            data = one.replace(b"NAME", b"done")
            split.sendall(data[:-1])
            time.sleep(0.02)  # Or else the server may read both pieces at once.
            split.sendall(data[-1:])
            other = read(split)
            assert answer[0].split(b"\r\n")[0] == other[0].split(b"\r\n")[0], one
            is_a_time = b"last_reading_at" in answer[1]
            assert is_a_time or answer == (other[0], other[1].replace(b"done", b"once")), one
    assert count(running, "once") == count(running, "done") == 16


def test_whole_requests_that_are_pipelined_are_answered_in_order(running: Service) -> None:
    bodies = [post(b"/v1/streams/pipelined/readings", b'{"value": %d}' % n) for n in range(50)]
    with connect(running) as connection:
        connection.sendall(b"".join(bodies))
        received = b""
        while received.count(b'"count":') < 50:
            received += connection.recv(65_536)
    counts = [json.loads(line[: line.index(b"}") + 1])["count"] for line in received.split(b"\r\n\r\n")[1:]]
    assert sorted(counts) == counts
    assert 50 == counts[-1]


@pytest.fixture
def admin(running: Service) -> Iterator["redis.Redis"]:
    with embedded(running) as client:
        yield client
        client.client_unpause()


def test_a_client_that_hangs_up_is_recorded_and_nobody_is_disturbed(running: Service, admin: "redis.Redis") -> None:
    pause(admin, 5000)
    with connect(running) as connection:
        connection.sendall(post(b"/v1/streams/gone/readings", b'{"value": 1}'))
        time.sleep(0.2)
    admin.client_unpause()
    eventually(lambda: count(running, "gone") == 1)
    assert "ERROR" not in running.log
    assert "Traceback" not in running.log


def test_a_request_behind_a_waiting_one_gets_its_own_answer(running: Service, admin: "redis.Redis") -> None:
    pause(admin, 5000)
    with connect(running) as connection:
        connection.sendall(post(b"/v1/streams/waiting/readings", b'{"value": 1}'))
        time.sleep(0.2)
        connection.sendall(request(b"GET", b"/livez"))
        time.sleep(0.2)
        admin.client_unpause()
        received = b""
        while b'"live"' not in received:
            received += connection.recv(65_536) or pytest.fail(f"closed after {received!r}")
        assert 2 == received.count(b"HTTP/1.1 200 OK")
        assert received.index(b'"stream":"waiting"') < received.index(b'"live"')
        connection.sendall(post(b"/v1/streams/waiting/readings", b'{"value": 1}'))
        assert b'"count":2' in read(connection)[1]


def test_a_waiting_request_is_answered_at_shutdown() -> None:
    with service() as running, embedded(running) as admin, connect(running) as connection, connect(running) as half:
        pause(admin, 2000)
        for one in (connection, half):
            one.sendall(post(b"/v1/streams/late/readings", b'{"value": 1}'))
        half.shutdown(socket.SHUT_WR)
        time.sleep(0.3)
        assert running.process is not None
        running.process.send_signal(signal.SIGTERM)
        for one in (connection, half):
            head, body = read(one)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert head.endswith(b"connection: close")
            assert b'"stream":"late"' in body
            assert b"" == one.recv(1)
        assert 0 == running.process.wait(20)


async def test_a_connection_that_is_idle_holds_no_body(shared_valkey: Valkey, prefix: str) -> None:
    async with (
        listening(Settings(redis_url=shared_valkey.url, prefix=prefix)) as port,
        connected(port) as (reader, writer),
    ):
        writer.write(post(b"/v1/streams/idle/readings", b'{"value": 1}' + b" " * 50_000))
        assert 200 == (await answer(reader))[0]
        held = [
            one for one in gc.get_objects() if isinstance(one, ConnectionProtocol) and one.server == ("127.0.0.1", port)
        ]
        assert [b""] == [one.cycle.body for one in held]


def test_after_the_shutdown_timeout_a_whole_request_is_answered_and_nothing_behind_it() -> None:
    with service("--shutdown-timeout", "1") as running, embedded(running) as admin, connect(running) as connection:
        pause(admin, 4_000)
        connection.sendall(post(b"/v1/streams/late/readings", b'{"value": 1}') * 20)
        time.sleep(0.3)
        assert running.process is not None
        running.process.send_signal(signal.SIGTERM)
        received = b""
        while data := connection.recv(65_536):
            received += data
        assert received.startswith(b"HTTP/1.1 504 ")
        assert b"\r\nconnection: close\r\n" in received
        assert 1 == received.count(b"HTTP/1.1 ")
        running.process.wait(20)
        assert "Traceback" not in running.log


@pytest.mark.parametrize(
    "one",
    [
        post(b"/v1/streams/cycle/readings", b'{"value": 1}'),
        post(b"/v1/streams/cycle/readings", b'{"value": [1]}'),
        post(b"/v1/streams/cycle/readings", b'{"value": "x"}'),
        request(b"GET", b"/v1/streams/absent/average"),
    ],
    ids=["recorded", "conflict", "invalid", "absent"],
)
async def test_a_request_leaves_no_reference_cycles(shared_valkey: Valkey, prefix: str, one: bytes) -> None:
    """The collector runs seldom, so cycles would hold memory for long."""
    async with (
        listening(Settings(redis_url=shared_valkey.url, prefix=prefix)) as port,
        connected(port) as (reader, writer),
    ):
        writer.write(post(b"/v1/streams/cycle/readings", b'{"value": 1}'))
        await answer(reader)
        gc.collect()
        gc.disable()
        try:
            for _ in range(100):
                writer.write(one)
                await answer(reader)
            assert gc.collect() < 100
        finally:
            gc.enable()
