"""Whatever is under a stream's key, every reader answers with JSON or says that it is unreadable."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from meanwhile.core.shapes import NUMBER, shape_of
from meanwhile.core.state import State, encode
from tests.support.paths import VERSION_1
from tests.support.states import with_fields
from tests.support.summaries import summary_of

pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode

STATES = (
    encode(State(NUMBER, summary_of([[0.1, 0.2, 7.5]], 5, 9))),
    encode(State(shape_of({"a": 1.0, "b": [2.0]}), summary_of([[0.1], [2.0]], 0, 0))),
)
# Of version 1, which has no checksum: what is valid must show in the numbers themselves.
OLD_STATES = [(VERSION_1 / f"{name}.msgpack").read_bytes() for name in ("number", "array", "object", "everything")]
NUMBERS = [0, 1, -1, 0.5, 5.0, 1e-300, 1e300, 2**53 - 1, 2**53, 2.0**70, -(2**63), 568_971_820_800_000]
NOT_NUMBERS = [float("nan"), float("inf"), float("-inf"), None, True, b"", {"a": 1.0}]
TEXTS = ["", "x", "2", "1000000000", '{"b":0,"a":0}', '{"a":0,"b":1}', "[" * 5_000, "\U0001f600"]
LISTS = [[], [[]], [1.0], [1.0, 1.0], [float("nan")], [[1.0, 1.0]]]
ODD = st.sampled_from([*NUMBERS, *NOT_NUMBERS, *TEXTS, *LISTS])


def is_the_same_to_lua(stored: bytes) -> bool:
    """Whether Lua cannot tell this from what is valid, so that a write may go on from there.

    A map with a key 1, or an empty one, is an array there, and an unsigned integer from 2^63 on wraps around.
    """

    def is_in(value: Any) -> bool:
        if isinstance(value, int):
            return value >= 2**63
        if isinstance(value, dict):
            return not value or 1 in value
        return isinstance(value, list) and any(map(is_in, value))

    try:
        return is_in(unpack(stored, strict=False))
    except (msgspec.DecodeError, ValueError, RecursionError, TypeError):
        return False


@st.composite
def tampered(draw: Any) -> bytes:
    """A valid state with a few bytes changed, or with one of its fields or what is in it."""
    stored = draw(st.sampled_from([*STATES, *OLD_STATES]))
    if stored in STATES or draw(st.booleans()):
        changed = bytearray(stored)
        for _ in range(draw(st.integers(1, 3))):
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
        return bytes(changed)
    state = unpack(stored)
    place: Any = state
    position = draw(st.integers(0, len(place) - 1))
    while isinstance(place[position], list) and place[position] and draw(st.booleans()):
        place = place[position]
        position = draw(st.integers(0, len(place) - 1))
    place[position] = draw(ODD)
    return bytes(pack(state))


def problem_of(reply: httpx.Response) -> str | None:
    """The type of the problem that a reply is; None if it is none."""
    assert reply.status_code in {200, 503, 409}, reply.text
    document = json.loads(reply.text, parse_constant=pytest.fail)
    return str(document["type"]).rpartition(":")[2] if reply.status_code != 200 else None


READS = ("", "/average", "/count")


@given(stored=tampered())
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_any_bytes_are_answered_with_json_or_as_unreadable_and_kept(
    client: httpx.AsyncClient, redis: "Redis", prefix: str, stored: bytes
) -> None:
    assume(not is_the_same_to_lua(stored))
    key = f"{prefix}:stream:s"
    await redis.set(key, stored)
    problems = {problem_of(await client.get(f"/v1/streams/s{path}")) for path in READS}
    assert len(problems) == 1
    assert problems <= {None, "unreadable"}
    assert 200 == (await client.get("/v1/streams")).status_code
    assert 200 == (await client.get("/metrics/streams")).status_code
    assert stored == await redis.get(key)
    is_readable = problems == {None}
    for method, path, body in (
        ("POST", "/v1/streams/s/readings", b'{"value": 1}'),
        ("POST", "/v1/streams/s/readings", b'{"value": [1, 2]}'),
        ("POST", "/v1/readings", b'{"s": {"value": {"a": 1, "b": [1]}}}'),
        ("DELETE", "/v1/streams/s", b""),
    ):
        await redis.set(key, stored)
        problem = problem_of(await client.request(method, path, content=body))
        if not is_readable:
            assert problem in {"unreadable", "shape-conflict"}
        if problem is not None:
            assert stored == await redis.get(key)


TYPES: dict[str, Callable[["Redis", str], Awaitable[Any]]] = {
    "list": lambda redis, key: redis.rpush(key, STATES[0]),
    "hash": lambda redis, key: redis.hset(key, "field", STATES[0]),
    "set": lambda redis, key: redis.sadd(key, STATES[0]),
}


@pytest.mark.parametrize("make", TYPES.values(), ids=TYPES.keys())
@pytest.mark.parametrize("path", READS)
async def test_a_key_of_another_type_is_unreadable_and_not_absent(
    client: httpx.AsyncClient, redis: "Redis", prefix: str, make: Callable[["Redis", str], Awaitable[Any]], path: str
) -> None:
    await make(redis, f"{prefix}:stream:s")
    assert "unreadable" == problem_of(await client.get(f"/v1/streams/s{path}"))
    assert 404 == (await client.get(f"/v1/streams/absent{path}")).status_code
    assert 200 == (await client.get("/v1/streams")).status_code
    assert 200 == (await client.get("/metrics/streams")).status_code


WRITES = {
    "one": ("/v1/streams/s/readings", "application/json", b'{"value": 1}'),
    "batch": ("/v1/readings", "application/json", b'{"s": {"value": 1}, "other": {"value": 1}}'),
    "NDJSON": ("/v1/readings", "application/x-ndjson", b'{"stream": "s", "value": 1}\n'),
    "line protocol": ("/write", "text/plain", b"s value=1\n"),
}


@pytest.mark.parametrize(("path", "media_type", "body"), WRITES.values(), ids=WRITES.keys())
async def test_a_reading_past_the_highest_count_is_refused_and_nothing_recorded(
    client: httpx.AsyncClient, redis: "Redis", prefix: str, path: str, media_type: str, body: bytes
) -> None:
    stored = with_fields(STATES[0], count=2**53 - 1)
    for name in ("s", "s/value"):
        await redis.set(f"{prefix}:stream:{name}", stored)
    reply = await client.post(path, content=body, headers={"Content-Type": media_type})
    assert reply.status_code in {400, 409}, reply.text
    assert 2**53 - 1 == (await client.get("/v1/streams/s/count")).json()["count"]
    assert 404 == (await client.get("/v1/streams/other")).status_code
    for name in ("s", "s/value"):
        assert stored == await redis.get(f"{prefix}:stream:{name}")
