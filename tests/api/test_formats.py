"""One set of readings in every format of the service: the same bits and counts."""

import json
import random
from typing import Any

import cbor2
import httpx

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
