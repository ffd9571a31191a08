"""States of version 1 are read, and become version 2 with the next write, without any loss.

``tests/data/version-1`` has such states, and the readings that were recorded in them.
"""

import asyncio
import json

import msgspec
import pytest
from redis.asyncio import Redis

from meanwhile.core.idempotency_keys import Key, Timestamps
from meanwhile.core.readings import Limits, collect
from meanwhile.core.shapes import Value
from meanwhile.core.state import State, decode
from meanwhile.storage.commit_reply import Committed
from meanwhile.storage.committer import Committer
from meanwhile.storage.store import Store
from tests.support.paths import VERSION_1

STATES = VERSION_1
READINGS: dict[str, list[Value]] = json.loads((STATES / "readings.json").read_text())
TIME = 1_700_000_000_000


def state_of(values: list[Value], at: int = TIME) -> State:
    one = collect(values, at, at, Limits())
    return State(one.shape, one.summarize())


def stored(name: str) -> bytes:
    return (STATES / f"{name}.msgpack").read_bytes()


def without_latest(state: State) -> State:
    return State(state.shape, state.summary._replace(latest=()))


async def put(redis: "Redis", prefix: str, name: str) -> None:
    await redis.set(f"{prefix}:stream:{name}", stored(name))


async def commit(store: Store, name: str, state: State, key: Key | Timestamps | None = None) -> Committed:
    keys = {} if key is None else {0: key}
    return await store.commit([{name: state}], asyncio.get_running_loop().time() + 10, keys)


def test_there_are_states_of_every_kind() -> None:
    assert {path.stem for path in STATES.glob("*.msgpack")} == READINGS.keys()
    assert all(stored(name)[1] == 1 for name in READINGS)


@pytest.mark.parametrize("name", READINGS)
def test_a_state_of_version_1_is_the_summary_of_its_readings(name: str) -> None:
    assert repr(without_latest(state_of(READINGS[name]))) == repr(decode(stored(name)))


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize(("at", "is_latest"), [(TIME - 1, False), (TIME, True)])
async def test_the_next_write_makes_it_version_2(
    store: Store, redis: "Redis", prefix: str, name: str, at: int, is_latest: bool
) -> None:
    await put(redis, prefix, name)
    more = state_of(READINGS[name][:1], at)

    committed = await commit(store, name, more)

    expected = State(more.shape, decode(stored(name)).summary.merge(more.summary))
    assert (more.summary.latest if is_latest else ()) == expected.summary.latest
    assert repr(expected) == repr(committed.states[name])
    after = await redis.get(f"{prefix}:stream:{name}")
    assert isinstance(after, bytes)
    assert repr(expected) == repr(decode(after))
    array = msgspec.msgpack.decode(after[:-8])
    assert [2, *msgspec.msgpack.decode(stored(name))[9:]] == [array[0], *array[12:]]


async def test_it_can_be_deleted(store: Store, redis: "Redis", prefix: str) -> None:
    await put(redis, prefix, "object")
    deleted = await store.forget("object", asyncio.get_running_loop().time() + 10)
    assert repr(decode(stored("object"))) == repr(deleted)
    assert None is await redis.get(f"{prefix}:stream:object")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("producers", Key("gateway", 7)),
        ("producers", Key("gateway", 9)),
        ("producers", Key("other", 1)),
        ("retired", Key("p0", 5)),
        ("retired", Key("p17", 5)),
        ("timestamps", Timestamps([1_700_000_000, 5, 1_700_000_000, 6], 77, completes=True)),
        ("timestamps", Timestamps([1_700_000_000, 6], 1, completes=True)),
        ("everything", Key("a", 1)),
        ("everything", Timestamps([1_700_000_000, 5], 1, completes=True)),
    ],
)
async def test_what_it_has_counted_is_not_counted_again(
    store: Store, redis: "Redis", prefix: str, name: str, key: Key | Timestamps
) -> None:
    await put(redis, prefix, name)
    before = decode(stored(name))
    for _ in range(2):
        committed = await commit(store, name, state_of(READINGS[name][:1]), key)
        assert [frozenset({name})] == committed.duplicates
        assert repr(before) == repr(committed.states[name])
    await commit(store, name, state_of(READINGS[name][:1]))  # Now it is stored in version 2.
    committed = await commit(store, name, state_of(READINGS[name][:1]), key)
    assert [frozenset({name})] == committed.duplicates
    assert before.summary.count + 1 == committed.states[name].summary.count


async def test_a_state_that_is_too_wide_for_the_script_is_merged_by_the_worker(
    store: Store, redis: "Redis", prefix: str
) -> None:
    rows: list[Value] = [[2.0 ** (-60 * i)] * 1_024 for i in range(7)]
    parts, squares = [2.0 ** (-60 * i) for i in range(6, -1, -1)], [2.0 ** (-120 * i) for i in range(6, -1, -1)]
    low, high = [parts[0]] * 1_024, [1.0] * 1_024
    array = [1, "1024", 7, TIME, TIME, low, high, [parts] * 1_024, [squares] * 1_024, [["p", 5, 0, 0, TIME]]]
    wide = msgspec.msgpack.encode(array)
    assert 100_000 < len(wide)
    await redis.set(f"{prefix}:stream:wide", wide)
    committer = Committer(store, max_waiting=10**6, redis_timeout=20)
    more = [[3.0] * 1_024] * 20
    for expected in (frozenset(), frozenset({"wide"})):
        recorded = await committer.record({"wide": collect([*more], TIME, TIME, Limits())}, Key("p", 6))
        assert expected == recorded.duplicates
    recorded = await committer.record({"wide": collect([*more], TIME, TIME, Limits())}, Key("p", 5))
    assert frozenset({"wide"}) == recorded.duplicates
    (state,) = await store.read(["wide"], asyncio.get_running_loop().time() + 10)
    assert repr(state_of([*rows, *more])) == repr(state)
