"""Streams that are merged by the worker: the same states as the script makes, whoever else writes at the same time."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import pytest
from redis.asyncio import Redis

from meanwhile.core.idempotency_keys import Key, Timestamps
from meanwhile.core.readings import Limits, Readings, collect
from meanwhile.core.shapes import Value
from meanwhile.core.state import State, Unreadable
from meanwhile.storage import wide_streams
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.commit_reply import Committed
from meanwhile.storage.commit_weight import MAX_WEIGHT, STREAM_WEIGHT
from meanwhile.storage.committer import Committer
from meanwhile.storage.redis_client import OutcomeUnknown
from meanwhile.storage.rejections import KeyTooOld, ShapeConflict
from meanwhile.storage.store import Store, Swap

WIDTH = 256  # With expansions of some thirty parts: a state of more than 100 KB.


def vectors(seed: int, rows: int) -> list[Value]:
    rng = random.Random(seed)
    return [[rng.choice((-1, 1)) * 10 ** rng.uniform(-140, 139) for _ in range(WIDTH)] for _ in range(rows)]


def readings(values: list[Value], at: int = 0) -> Readings:
    return collect(values, at, at, Limits())


def state_of(values: list[Value], at: int = 0) -> State:
    one = readings(values, at)
    return State(one.shape, one.summarize())


def committer_of(store: Store) -> Committer:
    return Committer(store, max_waiting=10**6, redis_timeout=20)


async def state(store: Store, name: str = "s") -> State:
    (found,) = await store.read([name], asyncio.get_running_loop().time() + 20)
    assert isinstance(found, State)
    return found


async def memory(redis: "Redis", store: Store) -> int:
    return int(await redis.strlen(f"{store._keys}s"))


@pytest.fixture
async def wide(store: Store, redis: "Redis") -> State:
    """The state of a stream "s" that is too wide for the script, with keys that it remembers."""
    values = vectors(1, 30)
    await committer_of(store).record({"s": readings(values, 5)}, Key("p", 7))
    await committer_of(store).record({"s": readings(values[:1], 5)}, Key("q", 8))
    assert await memory(redis, store) > 100_000
    return await state(store)


async def test_readings_into_a_wide_stream_leave_what_python_merges(store: Store, wide: State) -> None:
    more = vectors(2, 3)
    recorded = await committer_of(store).record({"s": readings(more, 9)})
    expected = State(wide.shape, wide.summary.merge(state_of(more, 9).summary))
    assert repr(expected) == repr(await state(store)) == repr(recorded.states["s"])


async def test_the_script_and_the_worker_merge_to_the_same_state(store: Store, wide: State) -> None:
    more = state_of(vectors(2, 3), 9)
    loop = asyncio.get_running_loop()
    await store.commit([{"s": more}], loop.time() + 20, {0: Key("p", 8)}, however_wide=True)
    await store.commit([{"t": wide}], loop.time() + 20)
    by_the_script = await state(store)
    await committer_of(store).record({"t": readings(vectors(2, 3), 9)}, Key("p", 8))
    assert repr(by_the_script) == repr(await state(store, "t"))


async def test_what_a_wide_stream_remembers_of_keys_survives_and_counts_once(store: Store, wide: State) -> None:
    committer = committer_of(store)
    for sequence, is_new in ((7, False), (6, True), (6, False), (9, True), (7, False), (9, False)):
        recorded = await committer.record({"s": readings(vectors(3, 1))}, Key("p", sequence))
        assert (frozenset() if is_new else frozenset({"s"})) == recorded.duplicates
    await committer.record({"s": readings(vectors(3, 1))}, Key("p", 1_000))
    with pytest.raises(KeyTooOld):
        await committer.record({"s": readings(vectors(3, 1))}, Key("p", 10))
    assert (await committer.record({"s": readings(vectors(3, 1))}, Key("q", 8))).duplicates
    timestamps = Timestamps([5, 0, 6, 0], 1, completes=True)
    for expected in (frozenset(), frozenset({"s"})):
        assert expected == (await committer.record({"s": readings(vectors(4, 2))}, timestamps)).duplicates
    assert wide.summary.count + 3 + 2 == (await state(store)).summary.count


async def test_a_key_that_is_too_old_for_a_wide_stream_refuses_the_whole_request(store: Store, wide: State) -> None:
    await committer_of(store).record({"s": readings(vectors(3, 1), 9)}, Key("p", 1_000))
    before = await state(store)
    many = {f"new{n}": readings([1.0]) for n in range(400)}
    with pytest.raises(KeyTooOld):
        await committer_of(store).record(many | {"s": readings(vectors(2, 1), 9)}, Key("p", 10))
    assert repr(before) == repr(await state(store))
    assert [None] * 400 == await store.read([*many], asyncio.get_running_loop().time() + 20)
    recorded = await committer_of(store).record(many | {"s": readings(vectors(2, 1), 9)}, Key("p", 1_001))
    assert (0, before.summary.count + 1) == (recorded.repeated, (await state(store)).summary.count)


async def test_another_shape_is_refused_by_a_wide_stream(store: Store, wide: State) -> None:
    committer = committer_of(store)
    values: list[Value] = [[1.0], 1.0, {"a": 1.0}]
    for value in values:
        with pytest.raises(ShapeConflict):
            await committer.record({"s": collect([value], 0, 0, Limits()), "new": readings(vectors(1, 1))})
    with pytest.raises(ShapeConflict):
        await committer.record({"s": collect([[1.0] * 1_000] * 20, 0, 0, Limits())})
    assert repr(wide) == repr(await state(store))
    assert [None] == await store.read(["new"], asyncio.get_running_loop().time() + 20)


async def test_something_large_that_is_no_state_is_unreadable_and_kept(store: Store, redis: "Redis") -> None:
    key = f"{store._keys}s"
    for junk in (b"x" * 200_000, b"\x99" + b"\xa1x" * 150_000):
        await redis.set(key, junk)
        for rows in (1, 30):
            with pytest.raises(Unreadable):
                await committer_of(store).record({"s": readings(vectors(1, rows))})
        assert junk == await redis.get(key)


async def test_many_writers_on_one_wide_stream_lose_and_double_nothing(
    store: Store, redis: "Redis", prefix: str, wide: State
) -> None:
    """As many committers, each with a store of its own, as workers might be."""
    stores = [Store(redis, prefix) for _ in range(3)]
    parts = [vectors(seed, 2) for seed in range(10, 22)]
    await asyncio.gather(
        *(
            committer_of(stores[number % 3]).record({"s": readings(part, 9 + number)}, Key(f"w{number}", 1))
            for number, part in enumerate(parts)
        ),
    )
    summary = wide.summary
    for number, part in enumerate(parts):
        summary = summary.merge(state_of(part, 9 + number).summary)
    assert repr(State(wide.shape, summary)) == repr(await state(store))


async def test_a_worker_that_is_always_too_late_has_the_script_merge(redis: "Redis", prefix: str, wide: State) -> None:
    class Overtaken(Store):
        swaps = 0

        async def swap(
            self, states: Mapping[str, State], swaps: Mapping[str, Swap], key: Key | Timestamps | None, deadline: float
        ) -> Committed:
            self.swaps += 1
            await self.commit([{"s": state_of(vectors(50, 1), 9)}], deadline, however_wide=True)
            return await super().swap(states, swaps, key, deadline)

    store = Overtaken(redis, prefix)
    committer = committer_of(store)
    await committer.record({"s": readings(vectors(51, 1), 9)}, Key("late", 1))
    assert store.swaps > 1
    assert wide.summary.count + store.swaps + 1 == (await state(store)).summary.count


async def test_wide_streams_of_one_request_are_recorded_whole(store: Store, wide: State) -> None:
    names = ["s", *(f"new{n}" for n in range(5))]
    for expected in (frozenset(), frozenset(names)):
        recorded = await committer_of(store).record({name: readings(vectors(7, 30)) for name in names}, Key("r", 1))
        assert expected == recorded.duplicates
    assert wide.summary.count + 30 == (await state(store)).summary.count
    assert repr(state_of(vectors(7, 30))) == repr(await state(store, "new4"))


async def test_a_reading_sent_again_is_a_duplicate_and_leaves_the_state_as_it_is(
    redis: "Redis", prefix: str, store: Store, wide: State
) -> None:
    more = {"s": readings(vectors(2, 1), 9)}
    first = await committer_of(store).record(more, Key("r", 1))
    stored = await redis.get(f"{prefix}:stream:s")

    again = await committer_of(store).record(more, Key("r", 1))
    assert frozenset({"s"}) == again.duplicates
    assert repr(first.states["s"]) == repr(again.states["s"])

    replicated = Store(redis, prefix, replicas=1)  # It has no replica, so it stores, and then waits in vain.
    with pytest.raises(OutcomeUnknown):
        await Committer(replicated, max_waiting=10**6, redis_timeout=1).record(more, Key("r", 1))
    assert stored == await redis.get(f"{prefix}:stream:s")


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the worker merges, as it does."""
    merged: list[Any] = []
    merge = wide_streams._merge

    def counted(*args: Any) -> Any:
        merged.append(args)
        return merge(*args)

    monkeypatch.setattr(wide_streams, "_merge", counted)
    return merged


async def test_requests_at_once_are_each_merged_once(store: Store, wide: State, merges: list[Any]) -> None:
    merges.clear()  # Those that made the stream.
    committer = committer_of(store)
    parts = [vectors(seed, 1) for seed in range(100, 112)]
    await asyncio.gather(
        *(
            committer.record({"s": readings(part, 9 + number)}, Key(f"w{number}", 1))
            for number, part in enumerate(parts)
        )
    )
    assert len(parts) == len(merges)
    summary = wide.summary
    for number, part in enumerate(parts):
        summary = summary.merge(state_of(part, 9 + number).summary)
    assert repr(State(wide.shape, summary)) == repr(await state(store))


async def test_one_that_waits_too_long_for_the_others_is_refused(store: Store, wide: State) -> None:
    committer = Committer(store, max_waiting=10**6, redis_timeout=0.5)
    async with committer._wide._lock:
        with pytest.raises(Overloaded):
            await committer.record({"s": readings(vectors(3, 1), 9)}, Key("late", 1))
    await committer.drain()
    assert wide.summary.count == (await state(store)).summary.count


async def test_a_large_request_is_checked_against_the_shape_of_a_wide_stream(store: Store, wide: State) -> None:
    batch = {f"new{n}": collect([1.0], 9, 9, Limits()) for n in range(2 * MAX_WEIGHT // STREAM_WEIGHT)}
    with pytest.raises(ShapeConflict) as conflict:
        await committer_of(store).record(batch | {"s": collect([1.0], 9, 9, Limits())})
    assert ["s"] == conflict.value.streams
    assert [None] == await store.read(["new0"], asyncio.get_running_loop().time() + 20)


async def test_one_reading_whose_sums_are_long_is_merged_by_the_worker(store: Store, merges: list[Any]) -> None:
    committer = committer_of(store)
    first, second = vectors(1, 1), vectors(2, 1)
    for at, values in enumerate((first, second)):
        recorded = await committer.record({"s": readings(values, at)}, Key("p", at))
        assert not recorded.duplicates
    assert (await committer.record({"s": readings(second, 1)}, Key("p", 1))).duplicates
    assert 3 == len(merges)
    expected = state_of(first, 0).summary.merge(state_of(second, 1).summary)
    assert repr(expected) == repr((await state(store)).summary)
