"""Requests that are too large for one commit: all or nothing as far as that can be, and true where it cannot."""

import asyncio
import random
from collections.abc import Mapping, Sequence

import pytest
from redis.asyncio import Redis

from meanwhile.api.problems import describe
from meanwhile.core.idempotency_keys import Key, Timestamps
from meanwhile.core.readings import Limits, Readings, collect
from meanwhile.core.shapes import Value
from meanwhile.core.state import State
from meanwhile.storage.commit_reply import Committed
from meanwhile.storage.commit_weight import MAX_WEIGHT, STREAM_WEIGHT
from meanwhile.storage.committer import Committer
from meanwhile.storage.large_requests import PartlyRecorded, PartlyRefused
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.rejections import KeyTooOld, ShapeConflict
from meanwhile.storage.store import NO_KEYS, Store, TooManyStreams

MANY = 2 * MAX_WEIGHT // STREAM_WEIGHT  # Streams of numbers: some slices.


def readings(*values: Value) -> Readings:
    return collect(list(values), 0, 0, Limits())


def ones(streams: int, value: float = 1.0) -> dict[str, Readings]:
    return {f"s{n}": readings(value) for n in range(streams)}


def committer_of(store: Store) -> Committer:
    return Committer(store, max_waiting=10**6, redis_timeout=10)


async def states(store: Store, names: Sequence[str]) -> list[State | None]:
    found = await store.read(names, asyncio.get_running_loop().time() + 10)
    assert not any(isinstance(state, Exception) for state in found)
    return [state for state in found if not isinstance(state, Exception)]


async def counts(store: Store, streams: int = MANY) -> list[int]:
    return [0 if state is None else state.summary.count for state in await states(store, [*ones(streams)])]


class Troubled(Store):
    """A store that gets into trouble at one of its commits: before that, what ``trouble`` does, and then it raises."""

    at = 10**9
    fails: Exception | None = None
    has_run = False
    before: Mapping[str, Readings] | None = None

    async def commit(
        self,
        groups: Sequence[Mapping[str, State]],
        deadline: float,
        keys: Mapping[int, Key | Timestamps] = NO_KEYS,
        *,
        however_wide: bool = False,
    ) -> Committed:
        self.at -= 1
        if self.at == 0 and self.before is not None:
            await committer_of(Store(self._client, self._keys.removesuffix(":stream:"))).record(self.before)
        if self.at == 0 and self.fails is not None:
            if self.has_run:
                await super().commit(groups, deadline, keys)
            raise self.fails
        return await super().commit(groups, deadline, keys)


@pytest.fixture
def troubled(redis: "Redis", prefix: str) -> Troubled:
    return Troubled(redis, prefix)


async def test_a_request_in_slices_leaves_the_same_bits_as_readings_one_by_one(
    redis: "Redis", store: Store, prefix: str
) -> None:
    rng = random.Random(1)

    def value(stream: int) -> Value:
        number = [rng.choice((-1, 1)) * 10 ** rng.uniform(-20, 20) for _ in range(40)]
        shapes: list[Value] = [number[0], number[:30], {"a": number[0], "key": number[1:]}]
        return shapes[stream % 3]

    batches = [{f"s{n}": [value(n) for _ in range(rng.randint(1, 4))] for n in range(300)} for _ in range(3)]
    other = Store(redis, f"{prefix}-other")
    for batch in batches:
        recorded = await committer_of(store).record({name: readings(*values) for name, values in batch.items()})
        assert 0 == recorded.repeated
        for name, values in batch.items():
            await asyncio.gather(*(committer_of(other).record({name: readings(one)}) for one in values))
    for n in range(300):
        keys = [f"{store._keys}s{n}", f"{other._keys}s{n}"]
        one, another = await redis.mget(keys)
        assert one == another


@pytest.mark.parametrize("key", [None, Key("p", 1)])
async def test_a_stream_that_refuses_refuses_the_whole_request_wherever_it_stands(
    store: Store, key: Key | None
) -> None:
    await committer_of(store).record({f"s{MANY - 1}": readings([1.0, 2.0])})
    with pytest.raises(ShapeConflict) as refused:
        await committer_of(store).record(ones(MANY), key)
    assert [f"s{MANY - 1}"] == refused.value.streams
    assert [0] * (MANY - 1) == await counts(store, MANY - 1)


async def test_all_conflicts_of_all_slices_are_told(store: Store) -> None:
    odd = {f"s{n}": readings([1.0, 2.0]) for n in range(0, MANY, 50)}
    await committer_of(store).record(odd)
    with pytest.raises(ShapeConflict) as refused:
        await committer_of(store).record(ones(MANY))
    assert [*odd] == refused.value.streams


async def test_a_key_that_is_too_old_for_one_stream_refuses_the_whole_request(store: Store) -> None:
    await committer_of(store).record({"s5": readings(1.0)}, Key("p", 1_000))
    with pytest.raises(KeyTooOld):
        await committer_of(store).record(ones(MANY), Key("p", 1))
    assert 1 == sum(await counts(store))


async def test_new_streams_that_have_no_room_together_are_none_of_them_made(redis: "Redis", prefix: str) -> None:
    before = await redis.dbsize()
    store = Store(redis, prefix, max_streams=before + MANY - 1)  # Every slice alone has room.
    with pytest.raises(TooManyStreams):
        await committer_of(store).record(ones(MANY))
    assert 0 == sum(await counts(store))


async def test_with_a_key_a_request_in_slices_counts_once_and_completes_what_is_missing(store: Store) -> None:
    await committer_of(store).record(ones(3), Key("p", 7))
    for repeated in (3, MANY):
        recorded = await committer_of(store).record(ones(MANY), Key("p", 7))
        assert (repeated, repeated) == (recorded.repeated, len(recorded.duplicates))
        assert [1] * MANY == await counts(store)


async def test_a_shape_that_comes_between_check_and_record_is_refused_and_told(troubled: Troubled) -> None:
    troubled.at, troubled.before = 2, {f"s{MANY - 1}": readings([1.0, 2.0])}
    with pytest.raises(PartlyRefused) as refused:
        await committer_of(troubled).record(ones(MANY))
    assert [f"s{MANY - 1}"] == refused.value.refused
    assert [f"s{n}" for n in range(MANY - 1)] == refused.value.recorded
    assert isinstance(refused.value.reason, ShapeConflict)
    assert [1] * (MANY - 1) == await counts(troubled, MANY - 1)


async def test_a_limit_of_streams_that_is_reached_between_check_and_record_is_told_as_such(
    redis: "Redis", prefix: str
) -> None:
    troubled = Troubled(redis, prefix, max_streams=await redis.dbsize() + MANY)
    troubled.at, troubled.before = 2, {"other": readings(1.0)}
    with pytest.raises(PartlyRefused) as refused:
        await committer_of(troubled).record(ones(MANY))
    assert isinstance(refused.value.reason, TooManyStreams)
    assert MANY - len(refused.value.refused) == len(refused.value.recorded) == sum(await counts(troubled))
    assert describe(refused.value)[1]["detail"].startswith("The maximum number of streams is reached. ")


@pytest.mark.parametrize("has_run", [False, True])
async def test_a_slice_of_unknown_outcome_without_a_key_ends_the_request_and_the_lists_are_true(
    troubled: Troubled, has_run: bool
) -> None:
    troubled.at, troubled.fails, troubled.has_run = 2, OutcomeUnknown(), has_run
    with pytest.raises(PartlyRecorded) as broken:
        await committer_of(troubled).record(ones(MANY))
    parts = (broken.value.recorded, broken.value.unknown, broken.value.not_recorded)
    assert all(parts)
    assert [*ones(MANY)] == [name for part in parts for name in part]
    found = await counts(troubled)
    expected = {name: number for number, part in zip((1, int(has_run), 0), parts, strict=True) for name in part}
    assert [*expected.values()] == found


@pytest.mark.parametrize("has_run", [False, True])
async def test_a_slice_of_unknown_outcome_with_a_key_is_sent_again(troubled: Troubled, has_run: bool) -> None:
    troubled.at, troubled.fails, troubled.has_run = 2, OutcomeUnknown(), has_run
    await committer_of(troubled).record(ones(MANY), Key("p", 1))
    assert [1] * MANY == await counts(troubled)


async def test_a_slice_that_was_certainly_not_run_is_sent_again_without_a_key_too(troubled: Troubled) -> None:
    troubled.at, troubled.fails = 2, StoreUnavailable()
    await committer_of(troubled).record(ones(MANY))
    assert [1] * MANY == await counts(troubled)


async def test_while_redis_is_away_a_large_request_is_refused_as_a_whole(redis: "Redis", prefix: str) -> None:
    class Away(Store):
        async def check(self, *args: object) -> Committed:
            raise StoreUnavailable

    with pytest.raises(StoreUnavailable):
        await Committer(Away(redis, prefix), max_waiting=10, redis_timeout=0.2).record(ones(MANY))


async def test_small_requests_are_answered_between_the_slices_of_a_large_one(store: Store) -> None:
    committer = committer_of(store)
    large = asyncio.ensure_future(committer.record(ones(20 * MANY)))
    answered = 0
    while not large.done():
        await committer.record({"small": readings(1.0)})
        answered += not large.done()
    await large
    assert answered >= 40  # One a slice, and there are two phases of at least 40 slices.


async def test_groups_that_the_script_puts_off_are_recorded_all_the_same(store: Store, redis: "Redis") -> None:
    """States of forty parts in each of their sums: a few are work enough for a run."""
    rng = random.Random(2)
    names = [f"w{n}" for n in range(40)]
    for _ in range(60):
        value = [rng.choice((-1, 1)) * 10 ** rng.uniform(-140, 140) for _ in range(16)]
        await committer_of(store).record({name: readings(value) for name in names})
    size = await redis.strlen(f"{store._keys}w0")
    assert 40 * size > 3 * 60_000
    committer = committer_of(store)
    await asyncio.gather(
        *(committer.record({name: readings([1.0] * 16)}, Key("p", n)) for n in (1, 2) for name in names),
        *(committer.record({name: readings([1.0] * 16)}) for name in names),
    )
    assert {63} == {state.summary.count for state in await states(store, names) if state is not None}


async def test_one_stream_with_very_many_readings_needs_no_check_and_answers_with_its_state(store: Store) -> None:
    recorded = await committer_of(store).record({"s": readings(*map(float, range(50_000)))}, Key("p", 1))
    assert 0 == recorded.repeated
    assert 24_999.5 == recorded.states["s"].summary.averages()[0]
