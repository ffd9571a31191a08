"""Behind real reverse proxies: what they pass on is one request each, whatever its headers say."""

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support import calls
from tests.support.proxies import haproxy, nginx
from tests.support.servers import Service, service

PROXIES = {"nginx": nginx, "haproxy": haproxy}


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as started:
        yield started


@pytest.fixture(scope="module", params=PROXIES)
def proxy(running: Service, request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a proxy in front of the service."""
    with PROXIES[request.param](running.port) as port:
        yield port


def exchange(port: int, *segments: bytes) -> bytes:
    """Sends segments a moment apart, so that each is a read of its own, and returns what comes until a pause."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for segment in segments:
            connection.sendall(segment)
            time.sleep(0.2)
        connection.settimeout(1)
        try:
            while data := connection.recv(65536):
                received += data
        except TimeoutError:
            pass
    return received


def head(path: str, length: int, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def count(running: Service, stream: str) -> int:
    found: int = calls.get(f"{running.url}/v1/streams/{stream}/count").json().get("count", 0)
    return found


UPGRADES = [
    ("Upgrade: websocket", "Connection: Upgrade"),
    ("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA", "Connection: Upgrade, HTTP2-Settings"),
]


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["websocket", "h2c"])
@pytest.mark.parametrize("is_split", [False, True], ids=["in one piece", "body apart"])
def test_the_body_of_a_request_to_upgrade_is_its_reading(
    running: Service, proxy: int, upgrade: tuple[str, ...], is_split: bool
) -> None:
    stream = f"upgraded/{proxy}/{len(upgrade)}/{is_split}"
    body = json.dumps({"value": 21.5}).encode()
    first = head(f"/v1/streams/{stream}/readings", len(body), *upgrade)
    reply = exchange(proxy, *([first, body] if is_split else [first + body]))
    assert reply.startswith(b"HTTP/1.1 200")
    assert 1 == count(running, stream)


@pytest.mark.parametrize("upgrade", [(), *UPGRADES], ids=["plain", "websocket", "h2c"])
def test_a_body_that_looks_like_a_request_is_never_one(running: Service, proxy: int, upgrade: tuple[str, ...]) -> None:
    inner = json.dumps({"value": 666}).encode()
    smuggled = head("/v1/streams/denied/secret/readings", len(inner)) + inner
    first = head("/v1/streams/allowed/readings", len(smuggled), *upgrade)
    reply = exchange(proxy, first, smuggled)
    assert reply.startswith(b"HTTP/1.1 4")  # It is not JSON.
    assert 1 == reply.count(b"HTTP/1.1 ")
    assert 0 == count(running, "denied/secret")
    with calls.client(
        base_url=f"http://127.0.0.1:{proxy}"
    ) as client:  # The proxy's own path to it is closed, of course.
        assert 403 == client.post("/v1/streams/denied/secret/readings", json={"value": 1}).status_code


def test_requests_one_after_the_other_get_their_own_replies(running: Service, proxy: int) -> None:
    with calls.client(base_url=f"http://127.0.0.1:{proxy}") as client:
        for n in range(50):
            reply = client.post(f"/v1/streams/order/{proxy}/{n}/readings", json={"value": n})
            assert (200, f"order/{proxy}/{n}", float(n)) == (
                reply.status_code,
                reply.json()["stream"],
                reply.json()["average"],
            )
            assert 422 == client.post(f"/v1/streams/order/{proxy}/{n}/readings", json={"value": True}).status_code
            assert 1 == client.get(f"/v1/streams/order/{proxy}/{n}/count").json()["count"]


def test_an_upload_of_unknown_length_is_counted_whole(running: Service, proxy: int) -> None:
    line = json.dumps({"stream": f"upload/{proxy}", "value": 1}) + "\n"
    reply = calls.post(
        f"http://127.0.0.1:{proxy}/v1/readings",
        content=(line.encode() * 100 for _ in range(100)),
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert {"readings": 10_000, "streams": 1} == reply.json()
    assert 10_000 == count(running, f"upload/{proxy}")
