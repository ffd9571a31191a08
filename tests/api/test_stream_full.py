"""A stream counts at most 2^53 - 1 readings: what comes past that is refused, whole, and never miscounted."""

import httpx
import pytest
from redis.asyncio import Redis

from tests.conftest import Api
from tests.support.states import with_fields

MAX_COUNT = 2**53 - 1


@pytest.fixture
async def client(api: Api, redis: "Redis", prefix: str) -> httpx.AsyncClient:
    """A service with a stream "m/f" that has room for two readings."""
    client: httpx.AsyncClient = await api(prefix=prefix)
    await client.post("/v1/streams/m/f/readings", json={"value": 1})
    key = f"{prefix}:stream:m/f"
    stored = await redis.get(key)
    assert isinstance(stored, bytes)
    await redis.set(key, with_fields(stored, count=MAX_COUNT - 2))
    return client


async def count(client: httpx.AsyncClient, stream: str) -> int:
    found: int = (await client.get(f"/v1/streams/{stream}/count")).json().get("count", 0)
    return found


REQUESTS = {
    "one stream": ("/v1/streams/m/f/readings", '{"values": [1, 1, 1]}', "application/json"),
    "batch": ("/v1/readings", '{"m/f": {"values": [1, 1, 1]}, "other": {"value": 1}}', "application/json"),
    "senml": (
        "/v1/readings",
        '[{"n": "m/f", "v": 1}, {"n": "m/f", "v": 1}, {"n": "m/f", "v": 1}]',
        "application/senml+json",
    ),
    "ndjson": ("/v1/readings", '{"stream": "m/f", "value": 1}\n' * 3, "application/x-ndjson"),
}


@pytest.mark.parametrize("key", [None, "p:1"])
@pytest.mark.parametrize("request_of", REQUESTS)
async def test_past_the_limit_a_request_is_409_and_nothing_is_recorded(
    client: httpx.AsyncClient, request_of: str, key: str | None
) -> None:
    path, body, media_type = REQUESTS[request_of]
    headers = {"content-type": media_type} | ({} if key is None else {"idempotency-key": key})
    reply = await client.post(path, content=body, headers=headers)
    assert (409, "urn:meanwhile:problem:stream-full") == (reply.status_code, reply.json()["type"])
    assert MAX_COUNT - 2 == await count(client, "m/f")
    assert 0 == await count(client, "other")


async def test_up_to_the_limit_readings_are_counted(client: httpx.AsyncClient) -> None:
    for expected in (MAX_COUNT - 1, MAX_COUNT):
        reply = await client.post("/v1/streams/m/f/readings", json={"value": 3})
        assert expected == reply.json()["count"]
    assert 409 == (await client.post("/v1/streams/m/f/readings", json={"value": 3})).status_code


@pytest.mark.parametrize("dedupe", ["off", "timestamp"])
async def test_lines_for_a_full_stream_are_named_and_the_others_recorded(
    client: httpx.AsyncClient, dedupe: str
) -> None:
    lines = "m f=1,g=1 1\nm f=1 2\nm f=1 3\nm g=1 4"
    reply = await client.post("/write", params={"dedupe": dedupe}, content=lines)
    assert 400 == reply.status_code
    assert "line 3: expected a stream that has counted fewer than" in reply.json()["message"]
    assert MAX_COUNT - 2 == await count(client, "m/f")
    assert 2 - (dedupe == "off") == await count(client, "m/g")  # A line is recorded whole, or else each of its fields.
