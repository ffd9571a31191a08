"""Binary bodies of one stream: the state is that of JSON with the same numbers, and a refused body records nothing."""

import gzip
import json
import random
from array import array
from struct import pack
from typing import Any

import httpx
import msgspec
import pytest

from meanwhile.formats import msgpack_readings
from tests.conftest import Api

VECTOR = {"content-type": "application/octet-stream"}
MSGPACK = {"content-type": "application/vnd.msgpack"}
ODDLY = "application/json, application/octet-stream, application/vnd.msgpack, application/msgpack"


def doubles(*values: float) -> bytes:
    return pack(f"<{len(values)}d", *values)


async def post(
    client: httpx.AsyncClient, stream: str, body: bytes, headers: dict[str, str], **query: str
) -> httpx.Response:
    return await client.post(f"/v1/streams/{stream}/readings", params=query, content=body, headers=headers)


async def state(client: httpx.AsyncClient, stream: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/v1/streams/{stream}")).json()
    assert stream == found.pop("stream")
    return found


async def test_a_pair_of_vectors_is_the_same_in_every_format(client: httpx.AsyncClient) -> None:
    rng = random.Random(3)
    moment = "2026-01-01T00:00:00.000Z"
    for count in range(1, 4):
        key, value = ([rng.gauss(0, 10.0 ** rng.randint(-9, 9)) for _ in range(64)] for _ in range(2))
        body = {"value": {"key": key, "value": value}, "time": moment}
        replies = [
            await client.post("/v1/streams/json/readings", json=body),
            await post(client, "msgpack", msgspec.msgpack.encode(body), MSGPACK),
            await post(client, "vector", doubles(*key, *value), VECTOR, members="key:64,value:64", time=moment),
            await post(client, "other", doubles(*value, *key), VECTOR, members="value:64,key:64", time=moment),
        ]
        for reply in replies:
            assert (200, count) == (reply.status_code, reply.json()["count"])
            assert replies[0].json()["average"] == reply.json()["average"]
        states = [await state(client, stream) for stream in ("json", "msgpack", "vector", "other")]
        assert [states[0]] * 4 == states
        assert moment == states[0]["last_reading_at"]


async def test_an_array_of_the_standard_library_is_a_reading_and_a_number_is_one(client: httpx.AsyncClient) -> None:
    vector = array("d", [1.5, -2.5, 0.1]).tobytes()
    assert [1.5, -2.5, 0.1] == (await post(client, "a", vector, VECTOR)).json()["average"]
    assert {"stream": "n", "count": 1, "average": 0.1} == (await post(client, "n", doubles(0.1), VECTOR)).json()
    assert {"stream": "n", "count": 4, "average": 0.775} == (
        await post(client, "n", doubles(1, 1, 1), VECTOR, components="1")
    ).json()
    single = array("f", [0.1]).tobytes()
    reply = await post(client, "f", single * 3, VECTOR, dtype="float32", components="1")
    assert {"stream": "f", "count": 3, "average": array("f", [0.1])[0]} == reply.json()


@pytest.mark.parametrize("kind", ["application/vnd.msgpack", "application/msgpack", "Application/MsgPack; x=y"])
async def test_messagepack_has_two_names(client: httpx.AsyncClient, kind: str) -> None:
    body = msgspec.msgpack.encode({"values": [1, 2.5]})
    reply = await post(client, "m", body, {"content-type": kind})
    assert {"stream": "m", "count": 2, "average": 1.75} == reply.json()


@pytest.mark.parametrize("headers", [VECTOR, MSGPACK])
async def test_a_binary_body_is_counted_once_with_a_key_and_may_be_compressed(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    body = doubles(2.0) if headers is VECTOR else msgspec.msgpack.encode({"value": 2})
    for duplicate in ({}, {"duplicate": True}):
        more = {"idempotency-key": "a:1", "content-encoding": "gzip"}
        reply = await post(client, "s", gzip.compress(body), headers | more)
        assert {"stream": "s", "count": 1, "average": 2.0} | duplicate == reply.json()


@pytest.mark.parametrize(
    ("headers", "query", "body", "status", "pointer", "detail"),
    [
        (VECTOR, {"x": "1"}, doubles(1), 422, None, "except dtype, components, members, time."),
        (VECTOR, {"time": "now"}, doubles(1), 422, None, "Expected time to be RFC 3339"),
        (VECTOR, {}, b"", 422, "", "one or more float64 numbers"),
        (VECTOR, {"components": "3"}, doubles(1, 2), 422, "", "readings of 24 bytes: 3 float64 numbers"),
        (VECTOR, {"components": "2"}, doubles(1, 2, 3, float("nan")), 422, "/1/1", "magnitude"),
        (VECTOR, {"members": "a,b"}, doubles(1, float("inf")), 422, "/0/b", "magnitude"),
        (VECTOR, {}, doubles(*[1] * 9), 422, "/0", "at most 8 numbers in a value"),
        (VECTOR, {"components": "1"}, doubles(*[1] * 7), 413, None, "at most 6 readings"),
        (VECTOR, {"components": "8"}, doubles(*[1] * 48), 413, None, "at most 40 numbers"),
        (VECTOR, {}, bytes(1_001), 413, None, "1000 bytes"),
        (MSGPACK, {"time": "0"}, b"\x81\xa5value\x01", 422, None, "Expected no query parameters"),
        (MSGPACK, {}, b"\x81\xa5value\xc3", 422, "/value", "Expected a number"),
        (MSGPACK, {}, b"\x82\xa5value\x01\xa5value\x01", 422, "", "every key once"),
        (MSGPACK, {}, b"\x81\xa5value", 400, None, "MessagePack"),
        ({"content-type": "application/x-msgpack"}, {}, b"\x81\xa5value\x01", 415, None, ODDLY),
    ],
)
async def test_what_is_refused_says_why_and_records_nothing(
    api: Api, headers: dict[str, str], query: dict[str, str], body: bytes, status: int, pointer: str, detail: str
) -> None:
    client = await api(max_components=8, max_readings=6, max_numbers=40, max_body=1_000)
    reply = await post(client, "s", body, headers, **query)
    assert (status, pointer) == (reply.status_code, reply.json().get("pointer")), reply.text
    assert detail in reply.json()["detail"]
    assert [] == (await client.get("/v1/streams")).json()["streams"]


async def test_a_parameter_twice_is_refused_and_json_ignores_them_all(client: httpx.AsyncClient) -> None:
    path = "/v1/streams/s/readings?time=0&time=0"
    assert 422 == (await client.post(path, content=doubles(1), headers=VECTOR)).status_code
    assert 200 == (await client.post(path, json={"value": 1})).status_code


async def test_a_shape_of_another_format_is_a_conflict(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/s/readings", json={"value": {"key": [1], "value": [2]}})
    assert 200 == (await post(client, "s", doubles(2, 1), VECTOR, members="value:1,key:1")).status_code
    assert 409 == (await post(client, "s", doubles(2, 1), VECTOR, members="value,key")).status_code
    assert 409 == (await post(client, "s", doubles(2, 1), VECTOR)).status_code
    assert {"key": [1.0], "value": [2.0]} == (await client.get("/v1/streams/s")).json()["average"]


async def test_large_bodies_are_recorded_as_small_ones_are(client: httpx.AsyncClient) -> None:
    rows = [[float(n % 7), n / 8] for n in range(20_000)]
    flat = [number for row in rows for number in row]
    encoded = msgspec.msgpack.encode({"values": rows})
    assert msgpack_readings.SMALL < len(encoded) < msgpack_readings.MAX_BODY
    await client.post("/v1/streams/json/readings", content=json.dumps({"values": rows}))
    single = pack("<40000f", *flat)
    for reply in (
        await post(client, "vector", doubles(*flat), VECTOR, components="2"),
        await post(client, "single", single, VECTOR, components="2", dtype="float32"),
        await post(client, "msgpack", encoded, MSGPACK),
    ):
        assert 200 == reply.status_code
    arrival = {"first_reading_at": None, "last_reading_at": None}
    states = [await state(client, stream) | arrival for stream in ("json", "vector", "single", "msgpack")]
    assert [states[0]] * 4 == states
