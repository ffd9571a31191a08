"""The status table, one promise at a time: what each error says, and that it is true.

"Not recorded, send again" and "unknown" are instructions to a machine that holds a reading nobody else has. So every
status is provoked with a real server in the state that causes it, and the count is read back afterwards.
"""

import asyncio
import gzip
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from meanwhile.api.problems import TABLE
from tests.conftest import Api
from tests.support.servers import FSYNC_ALWAYS, Valkey, short_directory, valkey

SECRET = "ZQXJ4711"  # Stands in whatever is refused, and must never come back.


def problem(reply: httpx.Response) -> dict[str, Any]:
    """The members of a reply that is a well-formed problem (RFC 9457); ``{}`` of one that is not."""
    if "application/problem+json" != reply.headers.get("content-type"):
        return {}
    members: dict[str, Any] = reply.json()
    return members if members.get("status") == reply.status_code and "content-length" in reply.headers else {}


async def count(client: httpx.AsyncClient, stream: str) -> int:
    reply = await client.get(f"/v1/streams/{stream}/count")
    return int(reply.json()["count"]) if reply.status_code == 200 else 0


@contextmanager
def stopped(server: Valkey) -> Iterator[None]:
    """While this holds, the server takes whatever is sent to it and answers nothing."""
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


def every_request() -> list[tuple[str, str, bytes]]:
    """One request for everything that needs Redis."""
    return [
        ("POST", "/v1/streams/s/readings", b'{"value": 1}'),
        ("POST", "/v1/readings", b'{"s": {"value": 1}}'),
        ("GET", "/v1/streams/s", b""),
        ("GET", "/v1/streams/s/average", b""),
        ("GET", "/v1/streams/s/count", b""),
        ("DELETE", "/v1/streams/s", b""),
        ("GET", "/v1/streams", b""),
        ("GET", "/readyz", b""),
    ]


async def test_400_says_where_the_body_stops_being_json(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/streams/s/readings", content=b'{"value": 1,\n "time" 0}')
    assert 400 == reply.status_code
    assert {
        "type": "urn:meanwhile:problem:malformed",
        "title": "The body cannot be parsed",
        "status": 400,
        "detail": "Expected JSON; line 2, column 9 is not.",
    } == problem(reply)


async def test_400_for_a_body_that_is_not_what_its_encoding_says(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/streams/s/readings", content=b"{}", headers={"content-encoding": "gzip"})
    assert 400 == reply.status_code
    assert {
        "type": "urn:meanwhile:problem:bad-encoding",
        "title": "The body cannot be decoded",
        "status": 400,
        "detail": "Expected gzip data, as Content-Encoding says.",
    } == problem(reply)


async def test_400_for_a_cursor_that_comes_from_no_listing(client: httpx.AsyncClient) -> None:
    reply = await client.get("/v1/streams", params={"cursor": SECRET})
    assert 400 == reply.status_code
    assert {
        "type": "urn:meanwhile:problem:bad-cursor",
        "title": "The cursor is not valid",
        "status": 400,
        "detail": "Expected the cursor of the page before.",
    } == problem(reply)


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/average"), ("GET", "/count"), ("DELETE", "")])
async def test_404_for_a_stream_that_does_not_exist(client: httpx.AsyncClient, method: str, path: str) -> None:
    reply = await client.request(method, f"/v1/streams/none{path}")
    assert 404 == reply.status_code
    assert {
        "type": "urn:meanwhile:problem:no-such-stream",
        "title": "No such stream",
        "status": 404,
        "detail": "Nothing has been recorded under this name.",
    } == problem(reply)


@pytest.mark.parametrize("path", ["/v1", f"/{SECRET}", "/web/none.js"])
async def test_404_for_a_path_that_does_not_exist(client: httpx.AsyncClient, path: str) -> None:
    reply = await client.get(path)
    assert 404 == reply.status_code
    assert {"type": "urn:meanwhile:problem:not-found", "title": "Not Found", "status": 404} == problem(reply)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/streams/s", ["DELETE", "GET", "HEAD"]),
        ("/v1/streams/a/b", ["DELETE", "GET", "HEAD"]),
        ("/v1/streams/s/readings", ["POST"]),
        ("/v1/streams/a/b/readings", ["POST"]),
        ("/v1/streams/s/average", ["GET", "HEAD"]),
        ("/v1/streams/s/count", ["GET", "HEAD"]),
        ("/v1/streams/s/events", ["GET", "HEAD"]),
        ("/v1/events", ["GET", "HEAD"]),
        ("/v1/streams", ["GET", "HEAD"]),
        ("/v1/readings", ["POST", "PUT"]),
        ("/livez", ["GET", "HEAD"]),
        ("/readyz", ["GET", "HEAD"]),
        ("/openapi.json", ["GET", "HEAD"]),
    ],
)
@pytest.mark.parametrize("method", ["PATCH", "TRACE", "OPTIONS"])
async def test_405_names_every_method_that_the_path_has(
    client: httpx.AsyncClient, method: str, path: str, allowed: list[str]
) -> None:
    reply = await client.request(method, path)
    assert 405 == reply.status_code
    assert {
        "type": "urn:meanwhile:problem:method-not-allowed",
        "title": "Method Not Allowed",
        "status": 405,
    } == problem(reply)
    assert allowed == sorted(reply.headers["allow"].split(", "))
    assert 1 == len(reply.headers.get_list("allow"))


@pytest.mark.parametrize(("method", "path"), [("POST", "average"), ("DELETE", "average"), ("GET", "readings")])
async def test_405_for_a_method_that_only_another_path_has(client: httpx.AsyncClient, method: str, path: str) -> None:
    await client.post("/v1/streams/s/readings", json={"value": 1})
    reply = await client.request(method, f"/v1/streams/s/{path}")
    assert 405 == reply.status_code
    assert {"average": "GET, HEAD", "readings": "POST"}[path] == reply.headers["allow"]
    assert 1 == await count(client, "s")


async def test_head_of_what_only_takes_posts_is_405(client: httpx.AsyncClient) -> None:
    for path, allowed in (("/v1/readings", "POST, PUT"), ("/v1/streams/s/readings", "POST")):
        reply = await client.head(path)
        assert (405, allowed) == (reply.status_code, reply.headers["allow"])


async def test_409_names_the_stream_its_shape_and_the_one_received(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/s/readings", json={"value": 1})
    reply = await client.post("/v1/streams/s/readings", json={"values": [[1, 2], [3, 4]]})
    assert 409 == reply.status_code
    assert {
        "type": "urn:meanwhile:problem:shape-conflict",
        "title": "The stream has a different shape",
        "status": 409,
        "detail": "Every reading of a stream must have the same shape as its first reading.",
        "conflicts": [{"stream": "s", "expected": "a number", "received": "an array of 2 numbers"}],
    } == problem(reply)
    assert 1 == await count(client, "s")


async def test_409_names_every_stream_of_a_batch_that_conflicts_and_no_other(client: httpx.AsyncClient) -> None:
    await client.post("/v1/readings", json={"a": {"value": 1}, "b": {"value": [1]}, "c": {"value": {"x": 1}}})
    reply = await client.post(
        "/v1/readings",
        json={
            "a": {"value": {"t": 1, "k": [1, 2]}},
            "b": {"values": [[1], [2]]},
            "c": {"value": {"y": 1}},
            "new": {"value": 1},
        },
    )
    assert 409 == reply.status_code
    members = problem(reply)
    assert [
        {"stream": "a", "expected": "a number", "received": "an object of k (an array of 2 numbers), t (a number)"},
        {"stream": "c", "expected": "an object of x (a number)", "received": "an object of y (a number)"},
    ] == sorted(members.pop("conflicts"), key=lambda conflict: conflict["stream"])
    assert {"type", "title", "status", "detail"} == members.keys()
    assert [1, 1, 1, 0] == [await count(client, stream) for stream in ("a", "b", "c", "new")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, [1]),
        ([1], 1),
        ([1, 2], [1]),
        ({"a": 1}, 1),
        ({"a": 1}, {"a": [1]}),
        ({"a": 1}, {"A": 1}),
        ({"a": 1}, {"a": 1, "b": 1}),
        ({"a": 1, "b": 1}, {"a": 1}),
        ({"key": [1], "value": [1, 2]}, {"key": [1, 2], "value": [1]}),
    ],
)
async def test_409_for_every_difference_of_shape(client: httpx.AsyncClient, first: Any, second: Any) -> None:
    await client.post("/v1/streams/s/readings", json={"value": first})
    assert 409 == (await client.post("/v1/streams/s/readings", json={"value": second})).status_code
    assert 409 == (await client.post("/v1/readings", json={"new": {"value": 1}, "s": {"value": second}})).status_code
    assert [1, 0] == [await count(client, stream) for stream in ("s", "new")]
    assert 200 == (await client.post("/v1/streams/s/readings", json={"value": first})).status_code


TOO_LARGE = {
    "type": "urn:meanwhile:problem:too-large",
    "title": "The body is too large",
    "status": 413,
    "detail": "Expected at most 100 bytes, after inflation.",
}


@pytest.mark.parametrize("path", ["/v1/streams/s/readings", "/v1/readings"])
async def test_413_for_a_body_that_announces_more_than_the_limit_before_it_is_read(api: Api, path: str) -> None:
    client = await api(max_body=100)

    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("read although its length said enough")
        yield b""

    reply = await client.post(path, content=body(), headers={"content-length": "101"})
    assert 413 == reply.status_code
    assert TOO_LARGE == problem(reply)


@pytest.mark.parametrize("path", ["/v1/streams/s/readings", "/v1/readings"])
async def test_413_for_a_chunked_body_as_soon_as_it_is_too_long(api: Api, path: str) -> None:
    client = await api(max_body=100)
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * 40

    reply = await client.post(path, content=endless())
    assert 413 == reply.status_code
    assert TOO_LARGE == problem(reply)
    assert 3 == read


@pytest.mark.parametrize("path", ["/v1/streams/s/readings", "/v1/readings"])
async def test_413_for_a_gzip_bomb(client: httpx.AsyncClient, path: str) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    assert len(bomb) < 20_000
    reply = await client.post(path, content=bomb, headers={"content-encoding": "gzip"})
    assert 413 == reply.status_code
    assert TOO_LARGE | {"detail": "Expected at most 8388608 bytes, after inflation."} == problem(reply)


async def test_413_for_a_gzip_bomb_of_many_members(api: Api) -> None:
    client = await api(max_body=2_000)
    body = gzip.compress(b" " * 500) * 5
    assert len(body) < 2_000
    reply = await client.post("/v1/streams/s/readings", content=body, headers={"content-encoding": "gzip"})
    assert 413 == reply.status_code


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/streams/s/readings", {"values": [1, 2, 3, 4]}),
        ("/v1/readings", {"s": {"values": [1, 2, 3, 4]}}),
        ("/v1/readings", {"s": {"values": [1, 2]}, "t": {"value": 1}, "u": {"value": 1}}),
    ],
)
async def test_413_for_too_many_readings(api: Api, path: str, body: Any) -> None:
    client = await api(max_readings=3)
    reply = await client.post(path, json=body)
    assert 413 == reply.status_code
    assert {
        "type": "urn:meanwhile:problem:too-many-readings",
        "title": "Too many readings",
        "status": 413,
        "detail": "Expected at most 3 readings in a request.",
    } == problem(reply)
    assert [0, 0, 0] == [await count(client, stream) for stream in ("s", "t", "u")]


@pytest.mark.parametrize("path", ["/v1/streams/s/readings", "/v1/readings"])
@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", f"application/{SECRET}"])
async def test_415_lists_the_types_that_are_known(client: httpx.AsyncClient, path: str, media_type: str) -> None:
    reply = await client.post(path, content=b'{"value": 1}', headers={"content-type": media_type})
    assert 415 == reply.status_code
    members = problem(reply)
    detail = members.pop("detail")
    assert {
        "type": "urn:meanwhile:problem:unsupported-media-type",
        "title": "The media type is not supported",
        "status": 415,
    } == members
    assert "application/json" in detail
    assert "application/*+json" in detail


@pytest.mark.parametrize("path", ["/v1/streams/s/readings", "/v1/readings"])
async def test_415_lists_the_encodings_that_are_known(client: httpx.AsyncClient, path: str) -> None:
    reply = await client.post(path, content=b'{"value": 1}', headers={"content-encoding": "br"})
    assert 415 == reply.status_code
    assert {
        "type": "urn:meanwhile:problem:unsupported-media-type",
        "title": "The media type is not supported",
        "status": 415,
        "detail": "Expected Content-Encoding: gzip, or none.",
    } == problem(reply)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ('{"value": true}', "/value"),
        ('{"value": 1e141}', "/value"),
        ('{"value": 1e-400}', "/value"),
        ('{"value": [1, null]}', "/value/1"),
        ('{"value": [1, 1e141]}', "/value/1"),
        ('{"value": {"b": 1, "a": true}}', "/value/a"),
        ('{"value": {"b": 1, "a": 1e141}}', "/value/a"),
        ('{"value": {"a/b~c": [1, NaN]}}', "/value/a~1b~0c/1"),
        ('{"values": [1, 2, 3, "4"]}', "/values/3"),
        ('{"values": [1, 2, 3, 1e141]}', "/values/3"),
        ('{"values": [[1, 2], [3, false]]}', "/values/1/1"),
        ('{"values": [[1, 2], [3, 1e-141]]}', "/values/1/1"),
        ('{"values": [{"a": 1}, {"a": [2]}]}', "/values/1"),
        ('{"values": []}', "/values"),
        ('{"values": 1}', "/values"),
        ('{"value": 1, "time": "noon"}', "/time"),
        ('{"value": 1, "value": 2}', ""),
        ('{"value": {"a": 1, "a": 2}}', "/value"),
        ('{"value": 1, "values": [1]}', ""),
        ("{}", ""),
        ("[]", ""),
    ],
)
async def test_422_points_at_the_place(client: httpx.AsyncClient, body: str, pointer: str) -> None:
    reply = await client.post("/v1/streams/s/readings", content=body)
    assert 422 == reply.status_code
    members = problem(reply)
    assert "Expected" in members.pop("detail")
    assert {
        "type": "urn:meanwhile:problem:invalid",
        "title": "The request is not valid",
        "status": 422,
        "pointer": pointer,
    } == members
    reply = await client.post("/v1/readings", content=f'{{"x": {{"value": 1}}, "a/b~c": {body}}}')
    assert f"/a~1b~0c{pointer}" == problem(reply)["pointer"]


async def test_422_for_a_name_says_what_a_name_is(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/streams/a//b/readings", json={"value": 1})
    assert 422 == reply.status_code
    members = problem(reply)
    assert "1 to 255 characters" in members.pop("detail")
    assert {
        "type": "urn:meanwhile:problem:invalid",
        "title": "The request is not valid",
        "status": 422,
    } == members


@pytest.mark.parametrize(
    ("method", "path", "content", "headers"),
    [
        ("POST", "/v1/streams/s/readings", f'{{"value": "{SECRET}"}}', {}),
        ("POST", "/v1/streams/s/readings", f'{{"value": 1, "{SECRET}": 1}}', {}),
        ("POST", "/v1/streams/s/readings", f'{{"value": 1, "time": "{SECRET}"}}', {}),
        ("POST", "/v1/streams/s/readings", f'{{"value": {{"{SECRET}": 1, "{SECRET}": 2}}}}', {}),
        ("POST", "/v1/streams/s/readings", f'{{"value": {{"{SECRET}\\u0000": 1}}}}', {}),
        ("POST", "/v1/streams/s/readings", f'{{"value": {{"{SECRET}\\ud800": true}}}}', {}),
        ("POST", "/v1/streams/s/readings", f'{{"value": {{"{SECRET}{"a" * 256}": 1}}}}', {}),
        ("POST", "/v1/streams/s/readings", f'{{"value": {{"{SECRET}{"a" * 256}": true}}}}', {}),
        ("POST", "/v1/streams/s/readings", f'{{"value": {{"{SECRET}{"a" * 256}": [1, 1e141]}}}}', {}),
        ("POST", "/v1/streams/s/readings", f"{SECRET}", {}),
        ("POST", "/v1/streams/s/readings", f'{{"value": 1}}{SECRET}', {}),
        ("POST", "/v1/streams/s/readings", "{}", {"content-type": f"text/{SECRET}"}),
        ("POST", "/v1/streams/s/readings", "{}", {"content-encoding": SECRET}),
        ("POST", f"/v1/streams/{SECRET}%00/readings", '{"value": 1}', {}),
        ("POST", f"/v1/streams/{SECRET}%0A/readings", '{"value": 1}', {}),
        ("POST", "/v1/readings", f'{{"{SECRET} ": {{"value": 1}}}}', {}),
        ("POST", "/v1/readings", f'{{"{SECRET}\\ud800": {{"value": 1}}}}', {}),
        ("POST", "/v1/readings", f'{{"s": {{"value": "{SECRET}"}}}}', {}),
        ("POST", "/v1/readings", f'{{"s": {{"{SECRET}": 1}}}}', {}),
        ("POST", "/v1/readings", f'{{"{SECRET}*": {{"{SECRET}": 1}}}}', {}),
        ("GET", f"/v1/streams/{SECRET}", "", {}),
        ("GET", f"/v1/streams/{SECRET}%00", "", {}),
        ("DELETE", f"/v1/streams/{SECRET}", "", {}),
        ("GET", f"/v1/streams?prefix={SECRET}*", "", {}),
        ("GET", f"/v1/streams?limit={SECRET}", "", {}),
        ("GET", f"/v1/streams?cursor={SECRET}", "", {}),
        ("GET", f"/{SECRET}", "", {}),
        ("PUT", f"/v1/streams/{SECRET}", "", {}),
        (SECRET, "/v1/streams/s", "", {}),
    ],
)
async def test_what_is_refused_never_comes_back(
    client: httpx.AsyncClient, method: str, path: str, content: str, headers: dict[str, str]
) -> None:
    reply = await client.request(method, path, content=content, headers=headers)
    assert {"type", "title", "status"} <= problem(reply).keys()
    assert SECRET not in reply.text
    assert SECRET not in str(reply.headers)
    assert len(reply.content) < 1_000


async def test_every_type_of_problem_is_a_urn_of_its_own() -> None:
    types = [entry.type for entry in TABLE.values()]
    assert len(types) == len(set(types))
    statuses = {400, 401, 403, 404, 408, 409, 411, 413, 415, 421, 422, 431, 501, 503, 504}
    assert statuses == {entry.status for entry in TABLE.values()}
    assert {503} == {entry.status for entry in TABLE.values() if entry.retry_after is not None}
    assert all(entry.retry_after for entry in TABLE.values() if entry.status == 503)


@pytest.mark.parametrize(("method", "path", "content"), every_request())
async def test_503_while_redis_is_away(api: Api, method: str, path: str, content: bytes) -> None:
    with short_directory() as directory:
        client = await api(redis_url=f"unix://{directory}/none.sock")
        reply = await client.request(method, path, content=content)
        assert 503 == reply.status_code
        assert "1" == reply.headers["retry-after"]
        assert {
            "type": "urn:meanwhile:problem:store-unavailable",
            "title": "Redis is not available",
            "status": 503,
            "detail": "Nothing was recorded, read or deleted. Send the request again.",
        } == problem(reply)
        assert 200 == (await client.get("/livez")).status_code


async def test_bad_requests_are_refused_for_good_while_redis_is_away(api: Api) -> None:
    with short_directory() as directory:
        client = await api(redis_url=f"unix://{directory}/none.sock")
        for status, path, content in (
            (422, "/v1/streams/s/readings", '{"value": true}'),
            (422, "/v1/streams/a//b/readings", '{"value": 1}'),
            (400, "/v1/readings", "{"),
        ):
            assert status == (await client.post(path, content=content)).status_code


async def test_503_ends_when_redis_comes_back(api: Api) -> None:
    with valkey() as server:
        client = await api(redis_url=server.url)
        assert 200 == (await client.post("/v1/streams/s/readings", json={"value": 1})).status_code
        server.kill()
        for method, path, content in every_request():
            assert (await client.request(method, path, content=content)).status_code in (503, 504)
        assert 503 == (await client.post("/v1/streams/s/readings", json={"value": 1})).status_code
        server.start()
        reply = await client.post("/v1/streams/s/readings", json={"value": 2})
        assert {"stream": "s", "count": 2, "average": 1.5} == reply.json()
        assert 200 == (await client.get("/readyz")).status_code


@pytest.mark.parametrize("path", ["/v1/streams/s/readings", "/v1/readings"])
async def test_503_when_redis_refuses_to_write(api: Api, path: str) -> None:
    """Full memory is refused by the server before the script runs, so it is known that nothing was recorded."""
    with valkey(*FSYNC_ALWAYS, "--maxmemory-policy", "noeviction") as server:
        client = await api(redis_url=server.url)
        await client.post("/v1/streams/s/readings", json={"value": 1})
        async with Redis.from_url(server.url) as redis:
            await redis.config_set("maxmemory", 1)
            reply = await client.post(path, content=b'{"value": 1}' if "streams" in path else b'{"s": {"value": 1}}')
            assert 503 == reply.status_code
            assert "1" == reply.headers["retry-after"]
            assert "urn:meanwhile:problem:store-unavailable" == problem(reply)["type"]
            assert 1 == await count(client, "s")
            await redis.config_set("maxmemory", 0)
        assert 2 == (await client.post("/v1/streams/s/readings", json={"value": 1})).json()["count"]


@pytest.mark.parametrize(("method", "path", "content"), every_request())
async def test_503_when_redis_takes_no_connection_in_time(api: Api, method: str, path: str, content: bytes) -> None:
    """The command was never sent, so it is known that it did not run."""
    with valkey() as server:
        client = await api(redis_url=server.url, redis_timeout=0.3)
        with stopped(server):
            reply = await client.request(method, path, content=content)
            assert 503 == reply.status_code
            assert "urn:meanwhile:problem:store-unavailable" == problem(reply)["type"]
        assert 1 == (await client.post("/v1/streams/s/readings", json={"value": 1})).json()["count"]


async def test_503_when_too_much_waits_and_only_for_what_was_not_recorded(api: Api) -> None:
    with valkey() as server:
        client = await api(redis_url=server.url, max_waiting=3, redis_timeout=60)
        await client.post("/v1/streams/s/readings", json={"value": 1})
        with stopped(server):
            pending = {asyncio.create_task(client.post("/v1/streams/s/readings", json={"value": 1})) for _ in range(20)}
            refused: list[httpx.Response] = []
            while len(refused) < 13:
                done, pending = await asyncio.wait(pending, timeout=20, return_when=asyncio.FIRST_COMPLETED)
                assert done
                refused += [task.result() for task in done]
        answered = [*refused, *await asyncio.gather(*pending)]
        refused = [reply for reply in answered if reply.status_code != 200]
        assert {503} == {reply.status_code for reply in refused}
        assert {"1"} == {reply.headers["retry-after"] for reply in refused}
        assert {
            "type": "urn:meanwhile:problem:overloaded",
            "title": "Too many readings are waiting",
            "status": 503,
            "detail": "Nothing in this request was recorded. Send it again.",
        } == problem(refused[0])
        assert 1 + len(answered) - len(refused) == await count(client, "s")


async def test_a_request_larger_than_what_may_wait_is_recorded_when_nothing_else_waits(api: Api) -> None:
    client = await api(max_waiting=3)
    reply = await client.post("/v1/streams/s/readings", json={"values": [1, 2, 3, 4, 5]})
    assert {"stream": "s", "count": 5, "average": 3.0} == reply.json()


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [request for request in every_request() if request[0] != "GET"],
)
async def test_504_when_a_write_was_sent_and_no_answer_came(api: Api, method: str, path: str, content: bytes) -> None:
    with valkey() as server:
        client = await api(redis_url=server.url, redis_timeout=2)
        await client.post("/v1/streams/s/readings", json={"value": 1})
        with stopped(server):
            reply = await client.request(method, path, content=content)
        assert 504 == reply.status_code
        assert {
            "type": "urn:meanwhile:problem:outcome-unknown",
            "title": "It is unknown whether the request was recorded",
            "status": 504,
            "detail": "The request was sent to Redis, which did not reply in time.",
        } == problem(reply)
        assert "retry-after" not in reply.headers
        # Unknown is the truth: it may have run when the server went on. It has not run twice, and all goes on.
        known = await count(client, "s")
        assert known in ((0, 1) if method == "DELETE" else (1, 2))
        after = await client.post("/v1/streams/s/readings", json={"value": 1})
        assert 200 == after.status_code
        assert after.json()["count"] - 1 in ((0, 1) if method == "DELETE" else (1, 2))


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [request for request in every_request() if request[0] == "GET"],
)
async def test_503_when_a_read_gets_no_answer_in_time(api: Api, method: str, path: str, content: bytes) -> None:
    """Reading twice does no harm: there is nothing to be unsure of."""
    with valkey() as server:
        client = await api(redis_url=server.url, redis_timeout=2)
        await client.post("/v1/streams/s/readings", json={"value": 1})
        with stopped(server):
            reply = await client.request(method, path, content=content)
        assert 503 == reply.status_code
        assert "1" == reply.headers["retry-after"]
        assert 1 == await count(client, "s")


STATES = [b"", b"x", b"\xff" * 100, b"{}", msgspec.msgpack.encode([99, "", 1]), msgspec.msgpack.encode([1, "", "1"])]


@pytest.mark.parametrize("stored", STATES)
@pytest.mark.parametrize(("method", "path", "content"), every_request()[:6])
async def test_a_state_that_this_version_did_not_write_is_refused_and_left_alone(
    client: httpx.AsyncClient, redis: "Redis", prefix: str, stored: bytes, method: str, path: str, content: bytes
) -> None:
    await redis.set(f"{prefix}:stream:s", stored)
    reply = await client.request(method, path, content=content)
    assert 503 == reply.status_code
    assert "60" == reply.headers["retry-after"]
    members = problem(reply)
    assert "urn:meanwhile:problem:unreadable" == members["type"]
    assert members["detail"].endswith("Nothing was changed.")
    assert stored == await redis.get(f"{prefix}:stream:s")


@pytest.mark.parametrize(("method", "path", "content"), [request for request in every_request() if request[0] != "GET"])
async def test_a_key_of_another_type_is_refused_and_left_alone(
    client: httpx.AsyncClient, redis: "Redis", prefix: str, method: str, path: str, content: bytes
) -> None:
    await redis.rpush(f"{prefix}:stream:s", "x")
    reply = await client.request(method, path, content=content)
    assert 503 == reply.status_code
    assert "urn:meanwhile:problem:unreadable" == problem(reply)["type"]
    assert [b"x"] == await redis.lrange(f"{prefix}:stream:s", 0, -1)


async def test_an_unreadable_stream_harms_no_other(client: httpx.AsyncClient, redis: "Redis", prefix: str) -> None:
    await redis.set(f"{prefix}:stream:bad", b"x")
    refused, *recorded = await asyncio.gather(
        client.post("/v1/streams/bad/readings", json={"value": 1}),
        *(client.post("/v1/streams/good/readings", json={"value": 1}) for _ in range(10)),
    )
    assert 503 == refused.status_code
    assert {200} == {reply.status_code for reply in recorded}
    assert 503 == (await client.post("/v1/readings", json={"bad": {"value": 1}, "good": {"value": 1}})).status_code
    assert 10 == await count(client, "good")


async def test_500_is_a_problem_that_gives_nothing_away(
    api: Api, redis: "Redis", prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no known way to a 500, so the test makes a bug: a route whose handler fails."""
    client = await api()
    app = client._transport.app

    async def broken(request: object) -> None:
        raise RuntimeError(SECRET)

    endpoint = app._by_last_segment[("GET", "count")]
    endpoint._handler = broken
    reply = await client.get("/v1/streams/s/count")
    assert 500 == reply.status_code
    assert {
        "type": "urn:meanwhile:problem:internal-error",
        "title": "Internal error",
        "status": 500,
        "detail": "This is a bug in the service. Its log shows the cause.",
    } == problem(reply)
    assert SECRET in caplog.text
