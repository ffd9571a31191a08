"""A worker has a limit of open connections; one too many gets an answer."""

import socket
from contextlib import ExitStack

from tests.support import calls
from tests.support.servers import eventually, service


def test_a_connection_too_many_gets_an_answer_and_the_others_go_on() -> None:
    with service(MEANWHILE_MAX_CONNECTIONS="20") as server:
        with ExitStack() as stack:

            def connect() -> socket.socket:
                return stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))

            open_ones = [connect() for _ in range(20)]
            open_ones[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: meanwhile\r\n\r\n")
            assert open_ones[-1].recv(65_536).startswith(b"HTTP/1.1 200")
            answer = connect().recv(65_536)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"urn:meanwhile:problem:too-many-connections" in answer
            open_ones[0].sendall(b"GET /livez HTTP/1.1\r\nHost: meanwhile\r\n\r\n")
            assert open_ones[0].recv(65_536).startswith(b"HTTP/1.1 200")
        url = f"{server.url}/v1/streams/s/readings"
        eventually(lambda: calls.post(url, json={"value": 1}).status_code == 200)
        assert "Traceback" not in server.log
