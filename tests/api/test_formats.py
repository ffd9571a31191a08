"""One set of readings in every format of the service: the same bits and counts."""

import json
import random
from typing import Any

import cbor2
import httpx
import pytest

READINGS = 100_000
STREAMS = 10


def readings() -> list[tuple[str, float]]:
    rng = random.Random(5)
    return [
        (
            f"s{rng.randrange(STREAMS)}",
            rng.choice((rng.gauss(20, 5), rng.uniform(-1, 1) * 10.0 ** rng.randint(-20, 20))),
        )
        for _ in range(READINGS)
    ]


async def test_the_same_readings_in_every_format_give_the_same_bits(client: httpx.AsyncClient) -> None:
    sent = readings()
    by_stream: dict[str, dict[str, list[float]]] = {}
    for name, value in sent:
        by_stream.setdefault(f"json/{name}", {"values": []})["values"].append(value)
    bodies = {
        "application/json": json.dumps(by_stream).encode(),
        "application/x-ndjson": b"".join(
            json.dumps({"stream": f"ndjson/{name}", "value": value}).encode() + b"\n" for name, value in sent
        ),
        "application/senml+json": json.dumps(
            [{"bn": "senml-json/"}, *({"n": name, "v": value} for name, value in sent)]
        ).encode(),
        "application/senml+cbor": cbor2.dumps([{-2: "senml-cbor/"}, *({0: name, 2: value} for name, value in sent)]),
    }
    for media_type, body in bodies.items():
        reply = await client.post("/v1/readings", content=body, headers={"content-type": media_type}, timeout=60)
        assert (200, READINGS) == (reply.status_code, reply.json()["readings"])
    lines = "\n".join(f"line {name}={value!r}" for name, value in sent)
    assert 204 == (await client.post("/write", content=lines, timeout=60)).status_code

    async def state(stream: str) -> dict[str, Any]:
        found: dict[str, Any] = (await client.get(f"/v1/streams/{stream}")).json()
        return {name: value for name, value in found.items() if name != "stream" and not name.endswith("_at")}

    total = 0
    for i in range(STREAMS):
        expected = await state(f"json/s{i}")
        total += expected["count"]
        for prefix in ("ndjson", "senml-json", "senml-cbor", "line"):
            assert expected == await state(f"{prefix}/s{i}")
    assert READINGS == total


@pytest.mark.parametrize("key", [None, "gateway:1"])
async def test_senml_is_answered_with_what_was_recorded_skipped_and_counted_before(
    client: httpx.AsyncClient, key: str | None
) -> None:
    pack = [{"bn": "a/", "n": "x", "v": 1}, {"n": "x", "v": 2}, {"n": "y", "v": 3}, {"n": "z", "vs": "on"}, {"s": 1}]
    for headers, body in (
        ({"content-type": "application/senml+json"}, json.dumps(pack).encode()),
        ({"content-type": "application/sensml+json; charset=utf-8"}, json.dumps(pack).encode()),
    ):
        keys = {} if key is None else {"idempotency-key": key}
        reply = await client.post("/v1/readings", content=body, headers=headers | keys)
        first = key is None or headers["content-type"] == "application/senml+json"
        recorded = {"readings": 3 * first, "streams": 2 * first, "skipped": 2}
        assert (recorded if key is None else recorded | {"duplicates": 3 * (not first)}) == reply.json()
    assert (4 if key is None else 2) == (await client.get("/v1/streams/a/x/count")).json()["count"]


async def test_a_pack_without_numbers_records_nothing_and_is_no_error(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/senml+json"}
    reply = await client.post("/v1/readings", content=b'[{"n": "door", "vb": true}]', headers=headers)
    assert (200, {"readings": 0, "streams": 0, "skipped": 1}) == (reply.status_code, reply.json())


@pytest.mark.parametrize(
    ("kind", "body", "status", "pointer"),
    [
        ("json", b'[{"n": "a", "v": 1}, {"n": "a", "v": true}]', 422, "/1/v"),
        ("json", b'[{"n": "a", "v": 1}, {"n": "a", "v": 1e400}]', 422, "/1"),
        ("json", b'[{"n": "a", "v": 1}, {"n": "b", "v": 1, "b_": 1}]', 422, "/1"),
        ("json", b'[{"n": "a", "v": 1}, {"n": "b", "v": 1, "v": 1}]', 422, "/1"),
        ("json", b'[{"n": "a", "v": 1}, {"n": "/b", "v": 1}]', 422, "/1"),
        ("json", b'{"a": {"value": 1}}', 422, ""),
        ("json", b'[{"n": "a", "v": 1}', 400, None),
        ("cbor", b"", 400, None),
        ("cbor", b'[{"n": "a", "v": 1}]', 400, None),
        ("cbor", cbor2.dumps([{0: "a", 2: 1}, {0: "a", 2: float("nan")}]), 422, "/1"),
        ("cbor", cbor2.dumps([{0: "a", 2: 1}]) + b"\x00", 400, None),
    ],
)
async def test_a_refused_pack_says_where_and_records_nothing(
    client: httpx.AsyncClient, kind: str, body: bytes, status: int, pointer: str | None
) -> None:
    reply = await client.post("/v1/readings", content=body, headers={"content-type": f"application/senml+{kind}"})
    assert (status, pointer) == (reply.status_code, reply.json().get("pointer"))
    assert "application/problem+json" == reply.headers["content-type"]
    assert [] == (await client.get("/v1/streams")).json()["streams"]


async def test_a_pack_stands_or_falls_with_the_shapes_of_its_streams(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/b/readings", json={"value": [1, 2]})
    headers = {"content-type": "application/senml+json"}
    reply = await client.post("/v1/readings", content=b'[{"n": "a", "v": 1}, {"n": "b", "v": 1}]', headers=headers)
    assert 409 == reply.status_code
    assert ["b"] == (await client.get("/v1/streams")).json()["streams"]


@pytest.mark.parametrize("key", [None, "gateway:1"])
async def test_the_latest_value_is_that_of_the_latest_time_in_every_format(
    client: httpx.AsyncClient, key: str | None
) -> None:
    timed = [(20.0, 2_000_000_010), (21.0, 2_000_000_030), (22.0, 2_000_000_030), (23.0, 2_000_000_020)]
    timed = [(value, time - 300_000_000) for value, time in timed]
    bodies = {
        "application/x-ndjson": "".join(
            json.dumps({"stream": "ndjson", "value": value, "time": time}) + "\n" for value, time in timed
        ).encode(),
        "application/senml+json": json.dumps(
            [{"n": "senml-json", "v": value, "t": time} for value, time in timed]
        ).encode(),
        "application/senml+cbor": cbor2.dumps([{0: "senml-cbor", 2: value, 6: time} for value, time in timed]),
    }
    for media_type, body in bodies.items():
        headers = {"content-type": media_type} | ({} if key is None else {"idempotency-key": key})
        assert 200 == (await client.post("/v1/readings", content=body, headers=headers)).status_code
    streams = ["ndjson", "senml-json", "senml-cbor"]
    if key is None:  # Line protocol takes no key.
        for dedupe in ("off", "timestamp"):
            distinct = [one for one in timed if dedupe == "off" or one[0] != 21.0]
            lines = "\n".join(f"line {dedupe}={value} {time}000000000" for value, time in distinct)
            assert 204 == (await client.post("/write", params={"dedupe": dedupe}, content=lines)).status_code
            streams.append(f"line/{dedupe}")
    for stream in streams:
        state = (await client.get(f"/v1/streams/{stream}")).json()
        assert (22.0, "2023-11-14T22:13:50.000Z") == (state["latest"], state["last_reading_at"]), stream
