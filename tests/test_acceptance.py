"""The acceptance values, over HTTP, from a real service: the numbers that say whether this project keeps its word.

Each was once wrong elsewhere: running means that drift, that lose small readings beside large ones, or that depend on
the order of arrival. Expected values are exact, by ``fractions.Fraction``, or published (NIST StRD NumAcc4).
"""

import asyncio
import json
import math
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from typing import Any

import httpx
import pytest

from tests.support import calls
from tests.support.numbers import is_rounded_root
from tests.support.servers import Service, service

SHUFFLES = 20
READINGS = 10_000
CLIENTS = 8


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service("--workers", "2") as started:
        yield started


def connect(running: Service) -> httpx.AsyncClient:
    return calls.async_client(base_url=running.url, timeout=60)


@pytest.fixture
async def client(running: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(running) as connected:
        yield connected


def sample_variance(readings: list[float]) -> Fraction:
    total, squares = sum(map(Fraction, readings)), sum(Fraction(x) ** 2 for x in readings)
    return (len(readings) * squares - total * total) / Fraction(len(readings) * (len(readings) - 1))


async def record(client: httpx.AsyncClient, readings: list[float], pieces: int) -> dict[str, Any]:
    """What is known of a new stream that got these readings in so many requests, one after the other."""
    stream = f"acceptance/{uuid.uuid4().hex}"
    size = -(-len(readings) // pieces)
    for i in range(0, len(readings), size):
        part = readings[i : i + size]
        body = {"value": part[0]} if len(part) == 1 else {"values": part}
        reply = await client.post(f"/v1/streams/{stream}/readings", json=body)
        assert 200 == reply.status_code
    known: dict[str, Any] = (await client.get(f"/v1/streams/{stream}")).json()
    assert len(readings) == known["count"]
    assert known["average"] == (await client.get(f"/v1/streams/{stream}/average")).json()["average"]
    text = await client.get(f"/v1/streams/{stream}/average", headers={"accept": "text/plain"})
    assert known["average"] == float(text.text)
    return known


@pytest.mark.parametrize(
    ("readings", "average"),
    [
        ([1.0, 1e100, 1.0, -1e100], 0.5),
        ([1e16, 1.0, -1e16], 0.3333333333333333),
        ([0.4] * 70, 0.4),
        ([20.1] * 100_000, 20.1),
        ([0.1] * 10, 0.1),
        ([1e140, 1e-140, -1e140], 3.333333333333333e-141),
        ([1e140] * 100, 1e140),
    ],
    ids=[
        "1 beside 1e100",
        "1 beside 1e16",
        "0.4 x 70",
        "20.1 x 100,000",
        "0.1 x 10",
        "the whole domain",
        "the largest",
    ],
)
async def test_the_average_is_the_correctly_rounded_mean(
    client: httpx.AsyncClient, readings: list[float], average: float
) -> None:
    assert average == float(sum(map(Fraction, readings)) / len(readings))
    assert average == (await record(client, readings, pieces=1))["average"]
    assert average == (await record(client, readings, pieces=min(len(readings), 70)))["average"]
    assert average == (await record(client, readings[::-1], pieces=3))["average"]


async def test_the_deviation_survives_a_large_offset(client: httpx.AsyncClient) -> None:
    readings = [1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16]
    assert 30 == sample_variance(readings)
    for pieces in (1, 4):
        known = await record(client, readings, pieces)
        assert (1e9 + 10, math.sqrt(30)) == (known["average"], known["standard_deviation"])
        assert (1e9 + 4, 1e9 + 16) == (known["minimum"], known["maximum"])


@pytest.mark.parametrize("pieces", [1, 100])
async def test_nist_numacc4(client: httpx.AsyncClient, pieces: int) -> None:
    """https://www.itl.nist.gov/div898/strd/univ/numacc4.html: mean 10000000.2, deviation 0.1, of the decimals."""
    readings = [10000000.2] + [10000000.1, 10000000.3] * 500
    known = await record(client, readings, pieces)
    assert float(sum(map(Fraction, readings)) / 1001) == known["average"]
    assert 0.1 == pytest.approx(known["standard_deviation"], rel=1e-6, abs=0)
    assert abs(known["standard_deviation"] - 0.1) < 1e-9
    assert is_rounded_root(known["standard_deviation"], sample_variance(readings))


def mixed_magnitudes(rng: random.Random) -> list[float]:
    """Readings over the whole domain, many that cancel, some zeros, some ordinary temperatures."""
    wide = [rng.uniform(-1, 1) * 10.0 ** rng.randint(-138, 139) for _ in range(READINGS // 4)]
    narrow = [rng.gauss(20.1, 3.0) for _ in range(READINGS // 4)]
    return [*wide, *(-x for x in wide), *narrow, *(rng.choice([0.0, -0.0, 0.1, 1e16, -1e16]) for _ in narrow)]


def cut(rng: random.Random, readings: list[float]) -> Iterator[list[float]]:
    """Singles and batches, half of each."""
    at = 0
    while at < len(readings):
        size = 1 if rng.random() < 0.5 else rng.randint(2, 500)
        yield readings[at : at + size]
        at += size


async def test_any_order_batching_and_concurrency_gives_the_same_bits(running: Service) -> None:
    rng = random.Random(20260101)
    readings = mixed_magnitudes(rng)
    average = float(sum(map(Fraction, readings)) / READINGS)
    streams = [f"shuffle/{i}" for i in range(SHUFFLES)]
    pieces: list[tuple[str, list[float]]] = []
    for stream in streams:
        pieces += [(stream, piece) for piece in cut(rng, rng.sample(readings, READINGS))]
    rng.shuffle(pieces)

    async def send(number: int) -> None:
        """Every eighth piece; those of a kind of stream are sent through the endpoint for many streams."""
        async with connect(running) as client:
            for stream, piece in pieces[number::CLIENTS]:
                body = {"value": piece[0]} if len(piece) == 1 else {"values": piece}
                if stream.endswith(("0", "5")):
                    reply = await client.post("/v1/readings", json={stream: body, f"twin/{stream}": body})
                    assert {"readings": 2 * len(piece), "streams": 2} == reply.json()
                else:
                    reply = await client.post(f"/v1/streams/{stream}/readings", json=body)
                    assert stream == reply.json()["stream"]

    await asyncio.gather(*map(send, range(CLIENTS)))

    states: set[str] = set()
    async with connect(running) as client:
        for stream in [*streams, *(f"twin/{stream}" for stream in streams if stream.endswith(("0", "5")))]:
            state = (await client.get(f"/v1/streams/{stream}")).json()
            assert stream == state.pop("stream")
            assert state.pop("first_reading_at") <= state.pop("last_reading_at")
            assert state.pop("latest") in readings  # The only member that the order may decide.
            states.add(json.dumps(state, sort_keys=True))  # Python writes a double as its shortest form: as its bits.
    (only,) = states
    state = json.loads(only)
    assert {"count", "average", "minimum", "maximum", "standard_deviation"} == state.keys()
    assert READINGS == state["count"]
    assert average == state["average"]
    assert (min(readings), max(readings)) == (state["minimum"], state["maximum"])
    assert is_rounded_root(state["standard_deviation"], sample_variance(readings))
