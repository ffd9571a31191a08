"""Heads that are known need not be parsed again: whatever arrives is answered as if each one were parsed."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meanwhile.api.key_file import key_entry
from meanwhile.api.known_heads import KnownHeads
from meanwhile.api.request_head import Headers
from meanwhile.api.whole_request import Target, WholeRequest
from tests.support.key_files import written
from tests.support.running_service import count
from tests.support.servers import Service, eventually, service

HEAD = b"POST /v1/streams/%b/readings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service(MEANWHILE_MAX_BODY="2000") as started:
        yield started


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def posted(stream: bytes, body: bytes) -> bytes:
    return HEAD % (stream, len(body)) + body


def ask(connection: socket.socket, data: bytes) -> tuple[int, dict[str, object]]:
    """Sends data and returns the status and the body of the response."""
    connection.sendall(data)
    return response(connection)


def response(connection: socket.socket) -> tuple[int, dict[str, object]]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1) or pytest.fail(f"closed after {received!r}")
    length = int(received.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body)) or pytest.fail("closed in a body")
    return int(received.split()[1]), json.loads(body)


def test_requests_with_the_same_head_are_each_recorded_once(running: Service) -> None:
    with connected(running.port) as connection:
        for number in range(1, 6):
            status, reply = ask(connection, posted(b"same", b'{"value": %d}' % number))
            assert (200, number, (number + 1) / 2) == (status, reply["count"], reply["average"])
    with connected(running.port) as connection:  # On another connection, too.
        assert 6 == ask(connection, posted(b"same", b'{"value": 6}'))[1]["count"]


def test_a_known_head_says_how_its_body_is_read(running: Service) -> None:
    octets = b"Content-Type: application/octet-stream\r\nContent-Length"
    known = posted(b"vector", bytes(16)).replace(b"Content-Length", octets)
    requests = [
        (known.replace(b"readings", b"readings?dtype=float32&components=1"), 4),
        (known.replace(b"readings", b"readings?components=1"), 2),
        (known.replace(b"readings", b"readings?components=1&time=0"), 2),
        (posted(b"vector", b'{"values":[0,0]}'), 2),
    ]
    total = 0
    with connected(running.port) as connection:
        for data, readings in requests * 3:
            total += readings
            assert (200, {"stream": "vector", "count": total, "average": 0.0}) == ask(connection, data)
        for _ in range(3):
            assert 422 == ask(connection, known.replace(b"readings", b"readings?x=1"))[0]
            assert 409 == ask(connection, known)[0]
        state = ask(connection, b"GET /v1/streams/vector HTTP/1.1\r\nHost: localhost\r\n\r\n")[1]
    assert "1970-01-01T00:00:00.000Z" == state["first_reading_at"]


def test_messagepack_that_is_decoded_in_a_thread_is_answered_the_same_way_each_time() -> None:
    encoded = b"\x81\xa6values\xdd" + (20_000).to_bytes(4) + b"\x01" * 20_000
    pack = b"Content-Type: application/msgpack\r\nContent-Length"
    with service() as running, connected(running.port) as connection:
        for number in range(1, 4):
            status, reply = ask(connection, posted(b"pack", encoded).replace(b"Content-Length", pack))
            assert (200, 20_000 * number, 1.0) == (status, reply["count"], reply["average"])


def test_a_known_head_whose_body_arrives_in_pieces_or_with_another_request_is_answered_the_same(
    running: Service,
) -> None:
    with connected(running.port) as connection:
        whole = posted(b"pieces", b'{"value": 1}')
        for _ in range(2):
            ask(connection, whole)
        for cut in range(1, len(whole)):
            connection.sendall(whole[:cut])
            status, reply = ask(connection, whole[cut:])
            assert (200, cut + 2) == (status, reply["count"])
        before = len(whole) + 1
        connection.sendall(whole * 3)
        assert [before + 1, before + 2, before + 3] == [response(connection)[1]["count"] for _ in range(3)]
        assert (200, before + 4) == (ask(connection, b"\r\n" + whole)[0], count(running, "pieces"))


def test_a_known_head_in_a_body_is_part_of_the_body(running: Service) -> None:
    inner = posted(b"inner", b'{"value": 1}')
    with connected(running.port) as connection:
        for _ in range(3):
            ask(connection, inner)
        # A body that is refused before it has arrived; the rest of it is exactly the known request.
        connection.sendall(HEAD % (b"outer", 100_000) + b" " * 10)
        assert 413 == response(connection)[0]
        connection.sendall(inner)
        connection.settimeout(5)
        assert b"" == connection.recv(1)  # The connection ends; nothing is answered twice.
    with connected(running.port) as connection:
        connection.sendall(HEAD % (b"outer", len(inner)))
        assert 400 <= ask(connection, inner)[0] < 500
        chunked = b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(b"POST /v1/streams/outer/readings HTTP/1.1\r\n" + chunked)
        connection.sendall(b"%x\r\n" % len(inner))
        connection.sendall(inner)
        assert 400 <= ask(connection, b"\r\n0\r\n\r\n")[0] < 500
    assert 3 == count(running, "inner")


def test_a_head_that_is_known_under_one_length_of_the_body_is_not_that_of_another(running: Service) -> None:
    with connected(running.port) as connection:
        for _ in range(3):
            ask(connection, posted(b"length", b'{"value": 1}'))
        other = b"GET /v1/streams/length/count HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(posted(b"length", b'{"value": 1}') + other)
        assert (200, 200) == (response(connection)[0], response(connection)[0])
        connection.sendall(HEAD % (b"length", 12) + b'{"value": ')
        assert (200, 5) == (ask(connection, b"1}")[0], count(running, "length"))


def test_a_key_that_is_revoked_no_longer_opens_known_heads(tmp_path: Path) -> None:
    keys = written(tmp_path, key_entry("one", ["read", "write"], "", "mw_one"))
    with service(MEANWHILE_API_KEYS=str(keys)) as started, connected(started.port) as connection:
        assert started.process is not None
        body = b'{"value": 1}'
        data = (HEAD % (b"s", len(body))).replace(b"\r\n\r\n", b"\r\nX-API-Key: mw_one\r\n\r\n") + body
        assert [200, 200, 200] == [ask(connection, data)[0] for _ in range(3)]
        keys.write_text("")
        started.process.send_signal(signal.SIGHUP)
        eventually(lambda: ask(connection, data)[0] == 401)


def test_a_connection_with_a_known_head_ends_at_shutdown() -> None:
    with service() as started, connected(started.port) as connection:
        assert started.process is not None
        assert [200, 200, 200] == [ask(connection, posted(b"s", b'{"value": 1}'))[0] for _ in range(3)]
        started.process.send_signal(signal.SIGTERM)
        assert 0 == started.process.wait(20)
        assert b"" == connection.recv(1)


def whole_of(headers: list[tuple[bytes, bytes]]) -> WholeRequest:
    whole = WholeRequest("GET", b"/v1/streams/s/average", Headers(headers))
    whole.target = Target(lambda request, whole: True, "/v1/streams/s/average", b"", "s")
    whole.is_checked = True
    return whole


def test_at_most_2048_heads_of_at_most_a_kilobyte_are_kept() -> None:
    heads = KnownHeads()
    data = [b"GET /v1/streams/%d/average HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(2_049)]
    for one in data:
        heads.keep(one, whole_of([(b"host", b"a")]))
    assert [False, True, True] == [heads.recognize(one) is not None for one in (data[0], data[1], data[-1])]
    long = b"GET /v1/streams/s/average HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * 1_000)
    heads.keep(long, whole_of([(b"host", b"a")]))
    assert heads.recognize(long) is None


@pytest.mark.parametrize(
    ("headers", "data"),
    [
        ([(b"idempotency-key", b"p:1")], b"POST / HTTP/1.1\r\nIdempotency-Key: p:1\r\n\r\n"),
        ([(b"content-length", b"2")], b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n1"),
        ([(b"content-length", b"2")], b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n123"),
        ([(b"te", b"x")], b"POST / HTTP/1.1\r\nTE: x\r\n\r\n1\r\n2\r\n0\r\n\r\n"),
        ([], b"GET / HTTP/1.1\n\n"),
    ],
)
def test_what_is_not_exactly_one_request_or_differs_each_time_is_not_kept(
    headers: list[tuple[bytes, bytes]], data: bytes
) -> None:
    heads = KnownHeads()
    heads.keep(data, whole_of(headers))
    assert heads.recognize(data) is None
