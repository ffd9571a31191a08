"""Large requests: any slicing gives the same bits, refusals record nothing, and what failed halfway is told."""

import asyncio
import random
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from service import slices
from service.committer import Committer, ShapeConflict
from service.idempotency import Key
from service.link import StoreUnavailable, connect
from service.reader import MAX_STREAMS, Reader
from service.slices import MANY, WEIGHT, PartlyRecorded, PartlyRefused, load
from service.state import State
from service.store import Crowded, Store
from service.stream import Limits, Readings, Value, collect
from tests.servers import Valkey, valkey

MANY_STREAMS = [f"s{number}" for number in range(1_000)]


@pytest.fixture
def own() -> Iterator[Valkey]:
    """A server that this test may maltreat."""
    with valkey() as server:
        yield server


@pytest.fixture
def committer(store: Store) -> Committer:
    return Committer(store, max_waiting=1_000, patience=10.0)


def readings(*values: Value) -> Readings:
    return collect(values, 5, 9, Limits())


def batch(value: float = 1.0) -> dict[str, Readings]:
    return {name: readings(value) for name in MANY_STREAMS}


async def counts(store: Store) -> list[int]:
    found = await store.read(MANY_STREAMS, asyncio.get_running_loop().time() + 10)
    return [one.summary.count if isinstance(one, State) else 0 for one in found]


async def calls(redis: Redis) -> int:
    statistics = await redis.info("commandstats")
    return sum(int(statistics.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("eval", "evalsha"))


def test_slices_are_bounded_and_have_every_stream_once() -> None:
    rng = random.Random(7)
    widths = {name: rng.choice([1, 1, 1, 16, 400, 1_024]) for name in MANY_STREAMS}
    given = {name: readings(*[[1.0] * width] * rng.choice([1, 1, 20])) for name, width in widths.items()}

    parts = list(slices.slices(given))

    assert list(given.items()) == [item for part in parts for item in part.items()]
    for part in parts:
        weight, numbers, _ = load(part)
        assert len(part) == 1 or (weight <= WEIGHT and numbers <= MANY)


async def test_any_slicing_gives_the_same_bits(store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    values = {
        name: [[rng.uniform(-1, 1) * 10.0 ** rng.randint(-9, 9) for _ in range(3)] for _ in range(4)]
        for name in MANY_STREAMS[:60]
    }
    stored = []
    for weight, few in ((10**9, 10**9), (5_000, 0), (200, 0), (1, 7)):
        monkeypatch.setattr(slices, "WEIGHT", weight)
        monkeypatch.setattr(slices, "_FEW", few)
        monkeypatch.setattr("service.committer.WHOLE", min(weight, 3_000))
        await redis.flushdb()
        committer = Committer(store, max_waiting=1_000, patience=10.0)
        for rows in (slice(0, 3), slice(3, 4)):
            await committer.record(
                {name: readings(*rows_of[rows]) for name, rows_of in values.items()}, Key("p", rows.stop)
            )
        stored.append(await store.read(list(values), asyncio.get_running_loop().time() + 10))

    assert all(stored[0])
    assert [stored[0]] * 3 == stored[1:]


async def test_a_large_request_is_recorded_once_and_others_take_turns(store: Store, committer: Committer) -> None:
    large = asyncio.create_task(committer.record(batch(), Key("p", 1)))
    small = 0
    while not large.done():
        await committer.record({"small": readings(1.0)})
        small += 1
    await large

    assert [1] * 1_000 == await counts(store)
    assert small > 10  # Between some fifteen slices.
    again = await committer.record(batch(), Key("p", 1))
    assert again.duplicates == set(MANY_STREAMS)
    assert [1] * 1_000 == await counts(store)


async def test_a_refusal_in_any_slice_records_nothing(store: Store, committer: Committer) -> None:
    await committer.record({"s999": readings([1.0, 2.0])})

    with pytest.raises(ShapeConflict) as conflict:
        await committer.record(batch())

    assert ["s999"] == conflict.value.streams
    assert [0] * 999 + [1] == await counts(store)


async def test_streams_past_the_limit_are_refused_before_any_is_made(own: Valkey) -> None:
    async with connect(own.url) as redis:
        store = Store(redis, "p", max_streams=600)
        committer = Committer(store, max_waiting=1_000, patience=10.0)

        with pytest.raises(Crowded):
            await committer.record(batch())

        assert 0 == await redis.dbsize()


async def test_a_stream_that_changes_after_the_check_refuses_alone(store: Store, committer: Committer) -> None:
    large = asyncio.create_task(committer.record(batch()))
    await committer.record({"s999": readings([1.0, 2.0])})  # Its turn is before the last slice is recorded.

    with pytest.raises((PartlyRefused, ShapeConflict)) as refused:
        await large

    if isinstance(refused.value, PartlyRefused):
        assert (999, 1) == (refused.value.recorded, refused.value.refused)
        assert [1] * 1_000 == await counts(store)
    else:
        assert [0] * 999 + [1] == await counts(store)


async def test_redis_that_dies_halfway_is_told_in_counts_and_a_key_completes_it(own: Valkey) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        store = Store(redis, "p")
        committer = Committer(store, max_waiting=1_000, patience=0.5)
        large = asyncio.create_task(committer.record(batch(), Key("p", 1)))
        while not 0 < await operator.dbsize() < 1_000:
            pass
        await operator.execute_command("CLIENT", "PAUSE", "100000", "WRITE")  # type: ignore[no-untyped-call]

        with pytest.raises(PartlyRecorded) as partly:
            await large
        await operator.execute_command("CLIENT", "UNPAUSE")  # type: ignore[no-untyped-call]

        told = partly.value
        assert 1_000 == told.recorded + told.not_recorded + told.unknown
        assert told.recorded
        assert 0 < told.unknown < 200
        await committer.record(batch(), Key("p", 1))
        assert [1] * 1_000 == await counts(store)


async def test_a_check_without_an_answer_has_recorded_nothing(own: Valkey) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        committer = Committer(Store(redis, "p"), max_waiting=1_000, patience=0.2)
        await operator.execute_command("CLIENT", "PAUSE", "100000", "WRITE")  # type: ignore[no-untyped-call]

        with pytest.raises(StoreUnavailable):
            await committer.record(batch())

        await operator.execute_command("CLIENT", "UNPAUSE")  # type: ignore[no-untyped-call]
        assert 0 == await operator.dbsize()


async def test_many_readings_of_one_stream_are_one_commit_with_a_state(own: Valkey) -> None:
    async with connect(own.url) as redis:
        committer = Committer(Store(redis, "p"), max_waiting=1_000, patience=10.0)
        await committer.record({"s": readings(1.0)})
        before = await calls(redis)

        states, duplicates = await committer.record({"s": readings(*[2.0] * 20_000)})

        assert 1 == await calls(redis) - before
        assert (20_001, frozenset()) == (states["s"].summary.count, duplicates)


async def test_what_gathers_leaves_in_commits_that_are_bounded(own: Valkey) -> None:
    async with connect(own.url) as redis:
        store = Store(redis, "p")
        committer = Committer(store, max_waiting=10_000, patience=10.0)
        await committer.record({"s0": readings(1.0)})
        before = await calls(redis)

        await asyncio.gather(*[committer.record({name: readings(1.0)}) for name in MANY_STREAMS])

        assert 1_000 * 45 // WEIGHT <= await calls(redis) - before <= 2 * 1_000 * 45 // WEIGHT
        assert [2, *[1] * 999] == await counts(store)


async def test_reads_that_gather_are_bounded_too(own: Valkey) -> None:
    async with connect(own.url) as redis:
        store = Store(redis, "p")
        await Committer(store, max_waiting=10_000, patience=10.0).record(batch())
        reader = Reader(store, patience=10.0)

        found = await asyncio.gather(*[reader.read(name) for name in MANY_STREAMS])

        assert all(one is not None and one.summary.count == 1 for one in found)
        statistics = await redis.info("commandstats")
        assert 1_000 // MAX_STREAMS == statistics["cmdstat_mget"]["calls"]
