"""The timestamps that a stream remembers, against an oracle that remembers everything."""

import time
import uuid
from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from meanwhile.core.idempotency_keys import Timestamps
from meanwhile.core.shapes import NUMBER
from meanwhile.core.state import State
from meanwhile.core.summary import summarize
from meanwhile.storage.commit_reply import TimestampPositions
from meanwhile.storage.store import Store
from tests.support.keys import soon

STAMPS = st.lists(st.integers(0, 120), min_size=1, max_size=90, unique=True).map(sorted)


def one(value: float) -> State:
    return State(NUMBER, summarize([value], 1, 0, 0))


def timestamps_of(times: Sequence[int], digest: int = 1, *, completes: bool = True) -> Timestamps:
    """Timestamps that are ``times`` in an odd order of seconds and nanoseconds."""
    return Timestamps([part for at in times for part in divmod(at * 333_333_334, 10**9)], digest, completes)


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batches=st.lists(STAMPS, min_size=1, max_size=12))
async def test_timestamps_are_sorted_out_as_a_memory_of_everything_would(
    redis: "Redis", batches: list[list[int]]
) -> None:
    store = Store(redis, f"test-{uuid.uuid4().hex}")
    counted: set[int] = set()
    remembered: set[int] = set()
    floor = -1
    for number, batch in enumerate(batches):
        committed = await store.commit([{"s": one(1.0)}], soon(), {0: timestamps_of(batch, number)})
        unknown = [at for at in batch if at <= floor and at not in remembered]
        new = [at for at in batch if at > floor and at not in counted]
        if committed.rejections[0]:
            sorted_out = committed.rejections[0][0].timestamps
            assert sorted_out is not None
            assert (unknown, [], new) == tuple([batch[place] for place in places] for places in sorted_out)
            if not new:
                continue
            committed = await store.commit([{"s": one(1.0)}], soon(), {0: timestamps_of(new, number)})
        else:
            assert new == ([] if committed.duplicates[0] else batch)
            assert [] == unknown
        assert [[]] == committed.rejections
        if new:
            counted |= set(new)
            kept = sorted(remembered | set(new))
            remembered = set(kept[-64:])
            floor = max([floor, *kept[:-64]])


async def test_a_batch_of_any_size_is_known_again_by_its_digest(store: Store) -> None:
    for digest in range(20):
        batch = range(1_000 * digest, 1_000 * digest + 700)
        for part, completes in ((batch[:350], False), (batch[350:], True)):
            committed = await store.commit(
                [{"s": one(1.0)}], soon(), {0: timestamps_of(part, digest, completes=completes)}
            )
            assert [[]] == committed.rejections
    for digest in range(20):
        batch = range(1_000 * digest, 1_000 * digest + 700)
        committed = await store.commit(
            [{"s": one(1.0)}], soon(), {0: timestamps_of(batch[:350], digest, completes=False)}
        )
        assert (digest >= 4) == (committed.duplicates[0] == {"s"}), digest
        assert (digest < 4) == bool(committed.rejections[0])


async def test_timestamps_a_nanosecond_apart_are_two_and_a_day_ahead_is_too_far(store: Store) -> None:
    now = time.time_ns()
    timestamps = Timestamps([*divmod(now, 10**9), *divmod(now + 1, 10**9)], 1, True)
    assert [[]] == (await store.commit([{"s": one(1.0)}], soon(), {0: timestamps})).rejections
    ahead = Timestamps([*divmod(now + 2, 10**9), 2_085_978_496, 0], 2, True)
    committed = await store.commit([{"s": one(1.0)}], soon(), {0: ahead})
    assert TimestampPositions([], [1], [0]) == committed.rejections[0][0].timestamps
