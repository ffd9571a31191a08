"""A body in chunks may have very many, but not tiny ones."""

import socket

import pytest

from tests.support import calls
from tests.support.servers import service


@pytest.mark.parametrize(
    ("chunks", "size", "status"), [(9_000, 1, 200), (20_000, 1, 400), (100_000, 15, 400), (100_000, 20, 200)]
)
def test_a_body_in_very_many_chunks_has_no_tiny_ones(chunks: int, size: int, status: int) -> None:
    chunk = b"%x\r\n%s\r\n" % (size, b" " * size)
    body = b"c\r\n" + b'{"value": 1}' + b"\r\n" + chunk * chunks + b"0\r\n\r\n"
    with service() as server, socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/streams/s/readings HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n" + body
        )
        answer = connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 %d" % status)
        assert status == 200 or b"Expected chunks of at least 16 bytes on average." in answer
        assert (status == 200) == (calls.get(f"{server.url}/v1/streams/s/count").status_code == 200)
