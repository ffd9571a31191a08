"""The poller: what subscriptions may take, and what is left of them when they are over."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meanwhile.api.event_frames import EventFrames
from meanwhile.core.errors import Invalid
from meanwhile.core.shapes import shape_from_text
from meanwhile.core.state import State
from meanwhile.live import new_streams, poller, watch_list
from meanwhile.live.duration_estimate import DurationEstimate
from meanwhile.live.poller import Poller
from meanwhile.live.subscription import Subscription, TooManySubscribers
from meanwhile.storage.store import Store
from tests.support.clock import Clock
from tests.support.summaries import summary_of


@pytest.fixture
async def live(store: Store) -> AsyncIterator[Poller]:
    made = Poller(store, redis_timeout=5, max_subscribers=1_000)
    yield made
    await made.close()


async def record(store: Store, *names: str, components: int = 1, value: float = 1.0) -> None:
    columns = [[value]] * components
    state = State(shape_from_text(str(components)), summary_of(columns, 0, 0))
    await store.commit([dict.fromkeys(names, state)], asyncio.get_running_loop().time() + 5)


async def taken(one: Subscription, frames: EventFrames | None = None) -> list[bytes]:
    """The frames of all changes that there are to take."""
    frames = frames or EventFrames()
    found = []
    while one.is_behind:
        with one.take() as change:
            found.append(await frames.frame_of(change.snapshot))
    return found


def held(live: Poller) -> dict[str, int]:
    """The streams whose snapshots are kept, with their bytes."""
    return {name: stream.size for name, stream in live._watch_list.streams.items() if stream.size}


async def test_nothing_is_left_of_names_that_do_not_exist(live: Poller) -> None:
    one, count = await live.subscribe([f"absent/{i}" for i in range(1_000)], None, 0.1)
    assert (0, 1_000) == (count, len(await taken(one)))
    live.unsubscribe(one)
    assert {} == live._watch_list.streams


async def test_all_subscriptions_together_have_a_limit_and_make_room(
    live: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_list, "MAX_SIZE", 3_000_000)
    names = [[f"absent/{number}/{i}" for i in range(1_000)] for number in range(3)]
    first, _ = await live.subscribe(names[0], None, 0.1)
    await live.subscribe(names[1], None, 0.1)
    with pytest.raises(TooManySubscribers):
        await live.subscribe(names[2], None, 0.1)
    live.unsubscribe(first)
    await live.subscribe(names[2], None, 0.1)


async def test_states_are_kept_only_until_everybody_has_got_them(live: Poller, store: Store) -> None:
    await record(store, "s/a", "s/b")
    fast, _ = await live.subscribe([], "s/", 0.1)
    slow, count = await live.subscribe(["s/a"], None, 0.1)
    assert (2, 1) == (len(await taken(fast)), count)
    async with asyncio.timeout(5):
        while live._watch_list.streams["s/a"]._holds > 1:  # noqa: ASYNC110  # The end of a round wakes nobody.
            await asyncio.sleep(0)
    assert {"s/a"} == held(live).keys()
    assert 1 == len(await taken(slow))
    assert {} == held(live)
    await record(store, "s/b")
    await fast.wait(5)
    assert [True] == [b'"count":2' in frame for frame in await taken(fast)]
    late, count = await live.subscribe([], "s/", 0.1)
    assert (2, 2) == (count, len(await taken(late)))


async def test_a_change_is_given_when_the_interval_is_over_and_no_sooner(live: Poller, store: Store) -> None:
    clock = Clock(asyncio.get_running_loop())
    await record(store, "s")
    one, _ = await live.subscribe(["s"], None, 0.5)
    assert 1 == len(await taken(one))
    for count in (2, 3, 4):
        given = clock.now
        await record(store, "s")
        clock.advance(one.due - clock.now - 0.01)
        for _ in range(5):  # The poller would have read meanwhile.
            await store.read(["s"], clock.now + 5)
        assert not one.is_behind
        clock.advance(0.02)
        await one.wait(5)
        assert [True] == [b'"count":%d' % count in frame for frame in await taken(one)]
        assert 0.5 <= clock.now - given < 0.6


async def test_states_that_wait_for_subscribers_have_a_limit(
    live: Poller, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "MAX_HELD", 100_000)
    for i in range(40):
        await record(store, f"wide/{i}", components=256, value=1.1)
    await record(store, "narrow")
    with pytest.raises(Invalid, match="smaller together"):
        await live.subscribe([], "wide/", 0.1)
    one, count = await live.subscribe(["narrow", "wide/1", "wide/2"], None, 0.1)
    assert (3, 3) == (count, len(await taken(one)))


async def test_a_wide_state_is_one_frame_made_once_for_all(live: Poller, store: Store) -> None:
    columns = [[10.0**i for i in range(-130, 130, 3)]] * 64
    state = State(shape_from_text("64"), summary_of(columns, 0, 0))
    await store.commit([{"w": state}], asyncio.get_running_loop().time() + 5)
    subscriptions = [(await live.subscribe(["w"], None, 0.1))[0] for _ in range(5)]
    encoder = EventFrames()
    frames = await asyncio.gather(*(taken(one, encoder) for one in subscriptions))
    assert 1 == len({one[0] for one in frames})
    assert 1 == len({id(one[0]) for one in frames})
    assert b'"stream":"w"' in frames[0][0]


def test_one_slow_operation_at_most_doubles_what_it_is_thought_to_take() -> None:
    """A pause that grew with one hiccup lasted ten times as long as that."""
    estimate = DurationEstimate()
    learned = []
    for seconds in (2.5, 2.5, 0.01, 0.02):
        estimate.add(seconds)
        learned.append(estimate.seconds)
    assert [0.05, 0.1, 0.01, 0.02] == learned


async def test_a_key_of_another_type_is_not_announced_as_a_deleted_stream(
    live: Poller, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_streams, "_PAUSE", 0.0)
    runs = 0
    search = store.listing.new_streams

    async def counting(*arguments: Any) -> set[str]:
        nonlocal runs
        runs += 1
        return await search(*arguments)

    monkeypatch.setattr(store.listing, "new_streams", counting)
    pushing: Any = store._client.rpush(f"{store._keys}s/list", "a")
    await pushing
    await record(store, "s/a")
    one, count = await live.subscribe([], "s/", 0.1)
    named, absent = await live.subscribe(["s/list"], None, 0.1)
    assert (1, 0) == (count, absent)
    assert [True] == [b'"count":1' in frame for frame in await taken(one)]
    assert [True] == [b"event: deleted" in frame for frame in await taken(named)]
    before = runs
    async with asyncio.timeout(30):
        while runs < before + 3:  # noqa: ASYNC110  # The end of a round wakes nobody.
            await asyncio.sleep(0.02)
    late, count = await live.subscribe([], "s/", 0.1)
    assert (1, 1) == (count, len(await taken(late)))
    assert ([], [], 0) == (await taken(one), await taken(named), live._watch_list.forgotten)
    await store.forget("s/a", asyncio.get_running_loop().time() + 5)
    await one.wait(5)
    assert [True] == [b"event: deleted" in frame and b"s/a" in frame for frame in await taken(one)]
