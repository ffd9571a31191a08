"""Bytes on the wire that no HTTP library would send, against the real process.

Sensors speak HTTP with a few lines of C, and what is hostile speaks whatever it likes. Some of it uvicorn refuses
before the application sees it, and closes the connection; what it does is written down here, and only that matters
which a client relies on: no 500, nothing recorded that was refused, nothing counted twice, every refusal a problem and
in its turn, and the service goes on.
"""

import json
import socket
import struct
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import pytest

from meanwhile.api.request_head import MAX_HEAD
from tests.support.servers import Service, eventually, service

BODY = b'{"value": 1}'
LENGTH = b"Content-Length: 12\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
HOST = b"Host: meanwhile\r\n"
CLOSE = b"Connection: close\r\n"
LIMIT = 1_000  # The largest body that the server of these tests takes.


class Answer(NamedTuple):
    """A response as it came over the wire."""

    status: int
    version: bytes
    headers: dict[bytes, bytes]
    body: bytes


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service(MEANWHILE_MAX_BODY=str(LIMIT)) as started:
        yield started


@pytest.fixture
def server(running: Service) -> Iterator[Service]:
    """The service, which must be as well after a test as it was before, and must have met no bug."""
    seen = len(running.log)
    yield running
    assert 200 == get(running, "/readyz").status
    assert running.process is not None
    assert running.process.poll() is None
    log = running.log[seen:]
    assert "Traceback" not in log
    assert "ERROR" not in log


@pytest.fixture
def stream() -> str:
    """A stream that no other test has."""
    return f"raw/{uuid.uuid4().hex}"


def post(stream: str, *headers: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    """The start of a request that records, up to the empty line."""
    return b"POST /v1/streams/%s/readings %s\r\n" % (stream.encode(), version) + b"".join(headers) + b"\r\n"


def connect(server: Service) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.settimeout(20)
    return connection


def receive(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    received = b""
    with suppress(ConnectionError):  # A server that closes with bytes unread resets the connection.
        while piece := connection.recv(65_536):
            received += piece
    return received


def exchange(server: Service, *pieces: bytes) -> bytes:
    """What the server answers to these bytes before it closes."""
    with connect(server) as connection:
        with suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        return receive(connection)


def parse(received: bytes, heads: Sequence[int] = ()) -> list[Answer]:
    """The responses in ``received``; those numbered in ``heads`` answer HEAD and have no body."""
    answers: list[Answer] = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        version, status, _ = line.split(b" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        length = 0 if len(answers) in heads else int(headers.get(b"content-length", 0))
        answers.append(Answer(int(status), version, headers, received[:length]))
        assert length == len(answers[-1].body)
        received = received[length:]
    return answers


def ask(server: Service, *pieces: bytes) -> Answer:
    """The one response to these bytes."""
    (answer,) = parse(exchange(server, *pieces))
    return answer


def get(server: Service, path: str) -> Answer:
    return ask(server, b"GET %s HTTP/1.1\r\n%s%s\r\n" % (path.encode(), HOST, CLOSE))


def count(server: Service, stream: str) -> int:
    answer = get(server, f"/v1/streams/{stream}/count")
    return int(json.loads(answer.body)["count"]) if answer.status == 200 else 0


def recorded(stream: str, count: int = 1) -> dict[str, object]:
    """The reply to a reading of 1."""
    return {"stream": stream, "count": count, "average": 1.0}


def test_a_plain_request_is_answered(server: Service, stream: str) -> None:
    answer = ask(server, post(stream, HOST, LENGTH, CLOSE), BODY)
    assert (200, b"HTTP/1.1", b"application/json") == (answer.status, answer.version, answer.headers[b"content-type"])
    assert recorded(stream) == json.loads(answer.body)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([LENGTH, LENGTH], BODY),
        ([LENGTH, b"Content-Length: 5\r\n"], BODY),
        ([b"Content-Length: 12, 12\r\n"], BODY),
        ([b"Content-Length: -1\r\n"], BODY),
        ([b"Content-Length: +12\r\n"], BODY),
        ([b"Content-Length: 0xc\r\n"], BODY),
        ([b"Content-Length: twelve\r\n"], BODY),
        ([b"Content-Length: \r\n"], BODY),
        ([b"Content-Length : 12\r\n"], BODY),
        ([b"Content-Length: 99999999999999999999999\r\n"], BODY),
        ([LENGTH, CHUNKED], b"c\r\n%s\r\n0\r\n\r\n" % BODY),
        ([CHUNKED, LENGTH], b"c\r\n%s\r\n0\r\n\r\n" % BODY),
        ([CHUNKED, CHUNKED], b"c\r\n%s\r\n0\r\n\r\n" % BODY),
        ([b"Transfer-Encoding: xchunked\r\n"], b"c\r\n%s\r\n0\r\n\r\n" % BODY),
        ([b"Transfer-Encoding: identity\r\n"], BODY),
        ([CHUNKED], b"zz\r\n%s\r\n0\r\n\r\n" % BODY),
        ([CHUNKED], b"-c\r\n%s\r\n0\r\n\r\n" % BODY),
        ([CHUNKED], b"fffffffffffffffff\r\n%s\r\n0\r\n\r\n" % BODY),
        ([CHUNKED], b"b\r\n%s\r\n0\r\n\r\n" % BODY),
        ([LENGTH, b"X: a\r\n b\r\n"], BODY),
        ([LENGTH, b"X: a\0b\r\n"], BODY),
        ([LENGTH, b"X: a\rb\r\n"], BODY),
        ([LENGTH, b"X y: a\r\n"], BODY),
        ([LENGTH, b": a\r\n"], BODY),
    ],
    ids=[
        *("two equal lengths", "two lengths", "a list of lengths", "a negative length", "a length with a sign"),
        *("a length in hex", "a length in words", "no length", "a space before the colon", "a huge length"),
        *("a length and chunked", "chunked and a length", "chunked twice", "an unknown coding", "identity"),
        *("a bad chunk size", "a negative chunk", "a huge chunk", "a chunk too short", "a folded header"),
        *("a NUL in a header", "a CR in a header", "a space in a name", "a header without a name"),
    ],
)
def test_what_can_be_read_in_two_ways_is_400(server: Service, stream: str, headers: list[bytes], body: bytes) -> None:
    """Two readers that disagree about where a request ends are how requests get smuggled."""
    answer = ask(server, post(stream, HOST, *headers, CLOSE), body)
    assert (400, b"application/problem+json") == (answer.status, answer.headers[b"content-type"])
    assert 0 == count(server, stream)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x00\r\n\r\n",
        b"\xff" * 1_000,
        b"BREW /livez HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
        b"get /livez HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
        b"GET /livez HTTP/9.9\r\n" + HOST + CLOSE + b"\r\n",
        b"GET livez HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
        b"GET /v1/streams/\xff HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
        b"GET /v1/streams/\xc3\xa9 HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
        b"GET /v1/streams?prefix=\xff HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
        b"GET /livez\0 HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
        b"CONNECT x:80 HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
    ],
    ids=[
        *("TLS", "HTTP/2", "Redis", "NUL", "no ASCII", "an unknown method", "a method in small letters"),
        *("an unknown version", "no slash", "Latin-1 in the path", "UTF-8 in the path", "Latin-1 in the query"),
        *("NUL in the path", "CONNECT"),
    ],
)
def test_what_is_no_request_is_400(server: Service, data: bytes) -> None:
    answer = ask(server, data)
    assert (400, b"application/problem+json") == (answer.status, answer.headers[b"content-type"])


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (422, b"GET /v1/streams/../x/count"),
        (422, b"GET /v1/streams/x/../../readings/count"),
        (422, b"GET /v1/streams/%zz/count"),
        (422, b"GET /v1/streams/%/count"),
        (422, b"GET /v1/streams/a%00/count"),
        (422, b"GET /v1/streams/a%0D%0AX:%20y/count"),
        (422, b"GET /v1/streams?prefix=%zz"),
        (422, b"GET /v1/streams?limit"),
        (422, b"GET /v1/streams/../../livez"),
        (404, b"OPTIONS *"),
        (405, b"OPTIONS /v1/streams"),
        (200, b"GET http://elsewhere/livez"),
        (200, b"GET /livez?x=%zz&&=#fragment"),
        (200, b"GET /v1/streams?"),
    ],
)
def test_targets_as_they_stand_in_the_request_line(server: Service, status: int, line: bytes) -> None:
    answer = ask(server, line + b" HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    assert status == answer.status
    assert (b"application/json" if status == 200 else b"application/problem+json") == answer.headers[b"content-type"]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (400, []),
        (400, [HOST, b"Host: elsewhere\r\n"]),
        (400, [HOST, HOST]),
        (431, [HOST, b"X: " + b"a" * 200_000 + b"\r\n"]),
        (431, [HOST, b"X: " + b"a" * MAX_HEAD + b"\r\n"]),
        (431, [HOST, b"a" * MAX_HEAD + b": x\r\n"]),
        (431, [HOST, *(b"X%d: aaaaaaaa\r\n" % i for i in range(10_000))]),
        (200, [HOST, b"X: " + b"a" * (MAX_HEAD - 1_000) + b"\r\n"]),
        (421, [b"Host: a b\r\n"]),
        (421, [b"Host: evil.test\r\n"]),
        (400, [HOST, b"Content-Type: application/json\r\n", b"Content-Type: application/json\r\n"]),
        (501, [HOST, b"Transfer-Encoding: gzip, chunked\r\n"]),
        (400, [HOST, b"Transfer-Encoding: gzip\r\n"]),
        (200, [HOST, b"Expect: the impossible\r\n"]),
        (
            200,
            [
                HOST,
                b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
            ],
        ),
        (200, [HOST, b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"]),
    ],
    ids=[
        *("no host", "two hosts", "a host twice", "a header of 200 KB", "a header over the limit", "a name over it"),
        *("10,000 headers", "a header below the limit", "a bad host", "a public host", "two types"),
        *("gzip in chunks", "a transfer coding", "an expectation"),
        *("an upgrade to websocket", "an upgrade to HTTP/2"),
    ],
)
def test_heads_that_are_nearly_right(server: Service, stream: str, status: int, headers: list[bytes]) -> None:
    """Recorded if and only if answered 200."""
    is_chunked = any(b"chunked" in header for header in headers)
    answer = ask(server, post(stream, *headers, *([] if is_chunked else [LENGTH]), CLOSE), BODY)
    assert status == answer.status
    assert (status == 200) == count(server, stream)
    if status != 200:
        assert b"application/problem+json" == answer.headers[b"content-type"]


def test_a_head_over_the_limit_behind_another_request_is_refused_alone(server: Service, stream: str) -> None:
    first = post(stream, HOST, LENGTH) + BODY
    with connect(server) as connection:
        connection.sendall(first)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        connection.sendall(post(stream, HOST, LENGTH, b"X: " + b"a" * MAX_HEAD + b"\r\n") + BODY)
        assert receive(connection).startswith(b"HTTP/1.1 431")
    assert 1 == count(server, stream)


def test_a_header_that_is_no_ascii_is_no_media_type(server: Service, stream: str) -> None:
    answer = ask(server, post(stream, HOST, LENGTH, CLOSE, b"Content-Type: \xff\xfe\r\n"), BODY)
    assert (415, b"application/problem+json") == (answer.status, answer.headers[b"content-type"])
    assert 0 == count(server, stream)


def test_pipelined_requests_are_answered_in_their_order(server: Service, stream: str) -> None:
    requests = [post(stream, HOST, LENGTH) + BODY] * 49 + [post(stream, HOST, LENGTH, CLOSE) + BODY]
    answers = parse(exchange(server, b"".join(requests)))
    assert [recorded(stream, i) for i in range(1, 51)] == [json.loads(answer.body) for answer in answers]


def test_a_bad_request_among_pipelined_ones_is_refused_alone(server: Service, stream: str) -> None:
    bad = post(stream, HOST, LENGTH) + b'{"value": x}'
    last = b"GET /v1/streams/%s/count HTTP/1.1\r\n%s%s\r\n" % (stream.encode(), HOST, CLOSE)
    answers = parse(
        exchange(server, post(stream, HOST, LENGTH) + BODY + bad + post(stream, HOST, LENGTH) + BODY + last)
    )
    assert [200, 400, 200, 200] == [answer.status for answer in answers]
    assert {"stream": stream, "count": 2} == json.loads(answers[-1].body)


def test_an_empty_line_before_a_request_is_overlooked(server: Service, stream: str) -> None:
    """Old clients send CR LF behind a body that does not count it (RFC 9112, 2.2)."""
    request = post(stream, HOST, LENGTH) + BODY + b"\r\n" + post(stream, HOST, LENGTH, CLOSE) + BODY
    assert [recorded(stream, 1), recorded(stream, 2)] == [
        json.loads(answer.body) for answer in parse(exchange(server, request))
    ]


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize(
    "garbage",
    [b"garbage" + BODY, b"\0", b"POST / HTTP/1.1\r\nBad Name: x\r\n\r\n", b"PUT / HTTP/1.1\r\n%s\r\nzz\r\n" % CHUNKED],
    ids=["words", "NUL", "a bad header", "a bad chunk"],
)
def test_garbage_behind_requests_is_refused_after_their_answers(
    server: Service, stream: str, garbage: bytes, before: int
) -> None:
    """A refusal ahead of them would be read as the answer to a reading that was recorded."""
    answers = parse(exchange(server, (post(stream, HOST, LENGTH) + BODY) * before + garbage))
    assert [200] * before + [400] == [answer.status for answer in answers]
    assert "urn:meanwhile:problem:not-http" == json.loads(answers[-1].body)["type"]
    assert before == count(server, stream)


@pytest.mark.parametrize(
    "start",
    [
        b"GET /livez HTTP/1.1\r\n" + HOST,
        b"POST /v1/readings HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\nc\r\n%s\r\n0\r\n" % BODY,
    ],
    ids=["in the header", "in the trailer"],
)
@pytest.mark.parametrize("line", [b"X: " + b"a" * 997 + b"\r\n", b"a" * 1_000], ids=["many lines", "one line"])
def test_a_header_without_an_end_is_refused_and_not_kept(server: Service, start: bytes, line: bytes) -> None:
    with connect(server) as connection:
        sent = 0
        with suppress(ConnectionError):
            connection.sendall(start + (b"" if line.startswith(b"X") else b"X: "))
            while sent < 20_000_000:
                connection.sendall(line * 64)
                sent += 64_000
    assert sent < 20_000_000


def test_a_body_that_no_header_announces_is_not_read(server: Service, stream: str) -> None:
    answers = parse(exchange(server, post(stream, HOST, CLOSE), BODY))
    assert [411] == [answer.status for answer in answers][:1]
    assert 0 == count(server, stream)


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/write", b"text/plain"),
        (b"/api/v2/write", b"text/plain"),
        (b"/v1/readings", b"application/json"),
        (b"/v1/readings", b"application/x-ndjson"),
        (b"/v1/readings", b"application/senml+json"),
        (b"/v1/readings", b"application/senml+cbor"),
        (b"/v1/streams/x/readings", b"application/json"),
    ],
)
def test_a_write_without_a_body_is_never_a_success(server: Service, path: bytes, kind: bytes, version: bytes) -> None:
    head = b"POST %s %s\r\n%sContent-Type: %s\r\n" % (path, version, HOST, kind)
    for empty in (b"Content-Length: 0\r\n", CHUNKED):
        if version == b"HTTP/1.0" and empty == CHUNKED:
            continue
        answer = ask(server, head + empty + CLOSE + b"\r\n" + (b"0\r\n\r\n" if empty == CHUNKED else b""))
        assert (
            (204,) == (answer.status,) if b"write" in path else answer.status in (400, 422)
        )  # Home Assistant asks so.
    assert (400 if b"write" in path else 411) == ask(server, head + CLOSE + b"\r\n").status


def test_http_0_9_is_400(server: Service, stream: str) -> None:
    for data in (b"GET /v1/streams/x\r\n\r\n", b"GET /livez HTTP/0.9\r\n%s\r\n" % HOST):
        assert 400 == ask(server, data).status


UPGRADES = {
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "close": b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n",
}


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_upgrade_is_ignored_wherever_the_request_is_split(
    server: Service, stream: str, upgrade: bytes, is_chunked: bool
) -> None:
    body = b"c\r\n%s\r\n0\r\n\r\n" % BODY if is_chunked else BODY
    request = post(stream, HOST, upgrade, CHUNKED if is_chunked else LENGTH) + body
    last = post(stream, HOST, CLOSE, LENGTH) + BODY
    expected = [recorded(stream, 1)] if b"close" in upgrade else [recorded(stream, 1), recorded(stream, 2)]
    for at in (len(request), request.index(b"Upgrade:"), len(request) - len(body), len(request) - 4, 1):
        answers = parse(exchange(server, request[:at], request[at:] + last))
        assert expected == [json.loads(answer.body) for answer in answers]
        assert len(expected) == count(server, stream)
        with connect(server) as connection:  # Forgets the stream, so that each turn counts from the start.
            connection.sendall(b"DELETE /v1/streams/%s HTTP/1.1\r\n%s%s\r\n" % (stream.encode(), HOST, CLOSE))
            receive(connection)


def test_a_body_behind_an_upgrade_is_never_a_request(server: Service, stream: str) -> None:
    inner = post(stream, HOST, LENGTH) + BODY
    outer = post("x", HOST, UPGRADES["websocket"], b"Content-Length: %d\r\n" % len(inner))
    for pieces in ((outer, inner), (outer + inner,), (outer + inner[:5], inner[5:])):
        answers = parse(exchange(server, *pieces, b"GET /livez HTTP/1.1\r\n%s%s\r\n" % (HOST, CLOSE)))
        assert [400, 200] == [answer.status for answer in answers]
    assert 0 == count(server, stream)


@pytest.mark.parametrize(
    "trailer",
    [
        b"Idempotency-Key: a:1\r\n",
        b"Content-Type: text/plain\r\n",
        b"X-API-Key: x\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Host: evil.test\r\n",
    ],
)
def test_a_trailer_is_no_header(server: Service, stream: str, trailer: bytes) -> None:
    body = b"c\r\n%s\r\n0\r\n%s\r\n" % (BODY, trailer)
    for n in (1, 2):
        head = post(stream, HOST, CHUNKED, CLOSE)
        answer = ask(server, head, body[:5], body[5:])
        assert (200, recorded(stream, n)) == (answer.status, json.loads(answer.body))


def test_a_thousand_requests_may_be_sent_ahead_and_no_more(server: Service, stream: str) -> None:
    answers = parse(exchange(server, (post(stream, HOST, LENGTH) + BODY) * 1_500))
    statuses = [answer.status for answer in answers]
    recorded_first = statuses.index(400) if 400 in statuses else len(statuses)
    assert [200] * recorded_first == statuses[:recorded_first]
    assert count(server, stream) == recorded_first


def test_http_1_0_is_answered_and_closed(server: Service, stream: str) -> None:
    answer = ask(server, post(stream, LENGTH, version=b"HTTP/1.0"), BODY)
    assert 200 == answer.status
    assert recorded(stream) == json.loads(answer.body)
    answer = ask(server, b"GET /v1/streams/%s/count HTTP/1.0\r\n\r\n" % stream.encode())
    assert {"stream": stream, "count": 1} == json.loads(answer.body)
    assert 404 == ask(server, b"GET /nowhere HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").status


@pytest.mark.parametrize(
    "body",
    [
        b"c\r\n%s\r\n0\r\n\r\n" % BODY,
        b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
        b"C;name=value\r\n%s\r\n0;last\r\n\r\n" % BODY,
        b"000c\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % BODY,
    ],
    ids=["one chunk", "a chunk a byte", "extensions", "a trailer"],
)
def test_chunked_bodies_are_read(server: Service, stream: str, body: bytes) -> None:
    answer = ask(server, post(stream, HOST, CHUNKED, CLOSE), body)
    assert 200 == answer.status
    assert recorded(stream) == json.loads(answer.body)


def test_a_request_may_come_byte_by_byte(server: Service, stream: str) -> None:
    data = post(stream, HOST, LENGTH, CLOSE) + BODY
    answer = ask(server, *(data[i : i + 1] for i in range(len(data))))
    assert recorded(stream) == json.loads(answer.body)


def test_a_chunked_body_over_the_limit_is_413_before_its_end(server: Service, stream: str) -> None:
    with connect(server) as connection:
        connection.sendall(post(stream, HOST, CHUNKED, CLOSE) + b"%x\r\n%s\r\n" % (LIMIT + 1, b" " * (LIMIT + 1)))
        (answer,) = parse(receive(connection))
    assert (413, b"application/problem+json") == (answer.status, answer.headers[b"content-type"])
    assert 0 == count(server, stream)


def test_a_length_over_the_limit_is_413_before_the_body(server: Service, stream: str) -> None:
    answer = ask(server, post(stream, HOST, b"Content-Length: %d\r\n" % (LIMIT + 1), CLOSE))
    assert (413, b"application/problem+json") == (answer.status, answer.headers[b"content-type"])


def test_a_body_of_megabytes_over_the_limit_harms_nobody(server: Service, stream: str) -> None:
    megabyte = b"%x\r\n%s\r\n" % (1_000_000, b" " * 1_000_000)
    answers = parse(exchange(server, post(stream, HOST, CHUNKED, CLOSE), *[megabyte] * 10))
    assert {413} >= {answer.status for answer in answers}
    assert 0 == count(server, stream)


@pytest.mark.parametrize("space", [b"", b" ", b"\t "])
def test_a_client_that_expects_100_continue_is_told_to(server: Service, stream: str, space: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(post(stream, HOST, LENGTH, b"Expect: 100-continue%b\r\n" % space, CLOSE))
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == connection.recv(25, socket.MSG_WAITALL)
        connection.sendall(BODY)
        (answer,) = parse(receive(connection))
    assert recorded(stream) == json.loads(answer.body)


@pytest.mark.parametrize(
    ("status", "name", "header"),
    [
        (413, "x", b"Content-Length: 1001\r\n"),
        (415, "x", LENGTH + b"Content-Type: text/plain\r\n"),
        (415, "x", LENGTH + b"Content-Encoding: br\r\n"),
        (422, "x//y", LENGTH),
    ],
)
def test_a_client_that_expects_100_continue_is_refused_before_it_sends_in_vain(
    server: Service, status: int, name: str, header: bytes
) -> None:
    answer = ask(server, post(name, HOST, header, b"Expect: 100-continue\r\n", CLOSE))
    assert (status, b"application/problem+json") == (answer.status, answer.headers[b"content-type"])


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/streams/{stream}", "/v1/streams/{stream}/average", "/v1/streams/{stream}/count", "/v1/streams"),
        *("/livez", "/readyz", "/openapi.json", "/v1/streams/none", "/v1/streams/none/average", "/nowhere"),
        *("/v1/readings", "/v1/streams/a//b", "/v1/streams?limit=0"),
    ],
)
def test_head_is_get_without_the_body(server: Service, stream: str, path: str) -> None:
    ask(server, post(stream, HOST, LENGTH, CLOSE), BODY)
    target = path.format(stream=stream).encode()
    head, get = parse(
        exchange(
            server,
            b"HEAD %s HTTP/1.1\r\n%s\r\n" % (target, HOST) + b"GET %s HTTP/1.1\r\n%s%s\r\n" % (target, HOST, CLOSE),
        ),
        heads=[0],
    )
    assert get.status == head.status
    assert get.headers.keys() - {b"connection"} == head.headers.keys() - {b"connection"}
    for name in (b"content-type", b"content-length", b"allow"):
        assert get.headers.get(name) == head.headers.get(name)
    assert int(get.headers[b"content-length"]) == len(get.body) > 0
    assert 1 == count(server, stream)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST",
        post("{stream}", HOST, LENGTH)[:-2],
        post("{stream}", HOST, LENGTH),
        post("{stream}", HOST, LENGTH) + BODY[:-1],
        post("{stream}", HOST, b"Content-Length: 13\r\n") + BODY,
        post("{stream}", HOST, CHUNKED),
        post("{stream}", HOST, CHUNKED) + b"c\r\n" + BODY[:-1],
        post("{stream}", HOST, CHUNKED) + b"c\r\n" + BODY,
        post("{stream}", HOST, CHUNKED) + b"c\r\n" + BODY + b"\r\n",
        post("{stream}", HOST, CHUNKED) + b"c\r\n" + BODY + b"\r\n0\r\n",
    ],
    ids=[
        *("nothing", "a method", "headers", "no body", "half a body", "all but a byte", "no chunk", "half a chunk"),
        *("a chunk without its end", "no last chunk", "no end of the last chunk"),
    ],
)
@pytest.mark.parametrize("rudely", [False, True], ids=["closes", "resets"])
def test_a_client_that_hangs_up_before_the_end_records_nothing(
    server: Service, stream: str, sent: bytes, rudely: bool
) -> None:
    """Half a body can be whole JSON: the last byte may be a digit away from another number."""
    with connect(server) as connection:
        connection.sendall(sent.replace(b"{stream}", stream.encode()))
        if rudely:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # The next connection is accepted after the end of the last one was seen, or at least the one after it.
    for i in range(1, 4):
        answer = ask(server, post(stream, HOST, LENGTH, CLOSE), BODY)
        assert recorded(stream, i) == json.loads(answer.body)


def test_a_client_that_hangs_up_after_the_end_has_recorded(server: Service, stream: str) -> None:
    for rudely in (False, True):
        for _ in range(10):
            with connect(server) as connection:
                connection.sendall(post(stream, HOST, LENGTH) + BODY)
                if rudely:
                    connection.recv(1)  # Something was answered; the rest is thrown away.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: count(server, stream) >= 20)
    assert 20 == count(server, stream)


def test_a_client_that_only_closes_its_sending_side_is_counted_once_at_most(server: Service, stream: str) -> None:
    """``printf ... | nc -N`` does this. uvicorn closes, perhaps before it has answered; 200 still means recorded."""
    answered = 0
    for _ in range(10):
        with connect(server) as connection:
            connection.sendall(post(stream, HOST, LENGTH, CLOSE) + BODY)
            connection.shutdown(socket.SHUT_WR)
            answered += sum(answer.status == 200 for answer in parse(receive(connection)))
    assert answered <= count(server, stream) <= 10


def test_a_hundred_connections_that_say_nothing_stop_nobody(server: Service, stream: str) -> None:
    idle = [connect(server) for _ in range(100)]
    try:
        for connection in idle:
            connection.sendall(b"POST /v1/streams/x/readings HTTP/1.1\r\n")
        assert recorded(stream) == json.loads(ask(server, post(stream, HOST, LENGTH, CLOSE), BODY).body)
    finally:
        for connection in idle:
            connection.close()


def test_a_client_that_sends_no_more_still_gets_its_answer(server: Service, stream: str) -> None:
    with connect(server) as connection:
        connection.sendall(post(stream, HOST, LENGTH) + BODY)
        connection.shutdown(socket.SHUT_WR)
        (answer,) = parse(receive(connection))
    assert recorded(stream) == json.loads(answer.body)


def test_a_client_that_sends_no_more_of_half_a_request_gets_none(server: Service, stream: str) -> None:
    with connect(server) as connection:
        connection.sendall(post(stream, HOST, LENGTH) + BODY[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert b"" == receive(connection)
    assert 0 == count(server, stream)


@pytest.mark.parametrize("path", ["/v1/streams", "/v1/events", "/metrics/streams", "/write", "/api/v2/write"])
def test_a_query_of_thousands_of_parameters_is_refused(server: Service, path: str) -> None:
    method = b"POST" if "write" in path else b"GET"
    body = LENGTH + CLOSE + b"\r\n" + BODY if "write" in path else CLOSE + b"\r\n"
    answer = ask(server, b"%s %s?%s HTTP/1.1\r\n%s%s" % (method, path.encode(), b"%41=%41&" * 5_000, HOST, body))
    assert answer.status in (400, 422)
    assert b"Expected at most 1100 parameters" in answer.body


def test_whole_requests_are_answered_although_the_client_sends_no_more(server: Service, stream: str) -> None:
    with connect(server) as connection:
        connection.sendall((post(stream, HOST, LENGTH) + BODY) * 3)
        connection.shutdown(socket.SHUT_WR)
        assert [1, 2, 3] == [json.loads(answer.body)["count"] for answer in parse(receive(connection))]


def test_half_a_request_behind_a_whole_one_is_refused_in_its_turn(server: Service, stream: str) -> None:
    with connect(server) as connection:
        connection.sendall((post(stream, HOST, LENGTH) + BODY) * 2 + b"GET /li")
        connection.shutdown(socket.SHUT_WR)
        assert [200, 200, 400] == [answer.status for answer in parse(receive(connection))]
    assert 2 == count(server, stream)


@pytest.mark.parametrize("path", ["/v1/readings", "/v1/streams/s/readings", "/write", "/api/v2/write"])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: %d\r\n\r\n%b", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"]
)
def test_a_body_over_the_limit_that_comes_with_its_head_is_413(server: Service, path: str, framing: bytes) -> None:
    body = b"m,t=over f=1\n" * (LIMIT // 10)
    answer = ask(server, b"POST %b HTTP/1.1\r\n" % path.encode() + HOST + CLOSE + framing % (len(body), body))
    assert 413 == answer.status
    assert 0 == count(server, "m/t:over/f")


def test_http_1_0_is_not_asked_to_continue(server: Service, stream: str) -> None:
    expects = b"Expect: 100-continue\r\n"
    answer = ask(server, post(stream, HOST, LENGTH, expects, version=b"HTTP/1.0"), BODY)
    assert recorded(stream) == json.loads(answer.body)
