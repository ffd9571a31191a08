"""The poller: what subscriptions may take, and what is left of them when they are over."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from meanwhile.api.routes.events import frame
from meanwhile.core.errors import Invalid
from meanwhile.core.shapes import shape_from_text
from meanwhile.core.state import State
from meanwhile.core.summary import summarize
from meanwhile.live import poller as live_module
from meanwhile.live.poller import Poller, TooManySubscribers
from meanwhile.live.subscription import Subscription
from meanwhile.storage.store import Store


@pytest.fixture
async def live(store: Store) -> AsyncIterator[Poller]:
    poller = Poller(store, frame, redis_timeout=5, max_subscribers=1_000)
    yield poller
    await poller.close()


async def record(store: Store, *names: str, components: int = 1, value: float = 1.0) -> None:
    columns = [[value]] * components
    state = State(shape_from_text(str(components)), summarize(columns, 0, 0))
    await store.commit([dict.fromkeys(names, state)], asyncio.get_running_loop().time() + 5)


async def taken(one: Subscription) -> list[bytes]:
    """All frames that there are for a subscription."""
    frames = []
    while one.is_behind:
        frames += [some for _, some in await one.take(1) or []]
    return frames


async def test_nothing_is_left_of_names_that_do_not_exist(live: Poller) -> None:
    one, count = await live.subscribe([f"absent/{i}" for i in range(1_000)], None, 0.1)
    assert (0, 1_000) == (count, len(await taken(one)))
    one.end()
    assert {} == live._streams


async def test_all_subscriptions_together_have_a_limit_and_make_room(
    live: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "MAX_WATCHED", 3_000_000)
    names = [[f"absent/{number}/{i}" for i in range(1_000)] for number in range(3)]
    first, _ = await live.subscribe(names[0], None, 0.1)
    await live.subscribe(names[1], None, 0.1)
    with pytest.raises(TooManySubscribers):
        await live.subscribe(names[2], None, 0.1)
    first.end()
    await live.subscribe(names[2], None, 0.1)


async def test_states_are_kept_only_until_everybody_has_got_them(live: Poller, store: Store) -> None:
    await record(store, "s/a", "s/b")
    fast, _ = await live.subscribe([], "s/", 0.1)
    slow, count = await live.subscribe(["s/a"], None, 0.1)
    assert (2, 1) == (len(await taken(fast)), count)
    while live._is_starting:  # noqa: ASYNC110  # Its last step tells nobody.
        await asyncio.sleep(0)
    assert [False, True] == [bool(live._streams[name].held) for name in ("s/b", "s/a")]
    assert 1 == len(await taken(slow))
    assert 0 == sum(stream.held for stream in live._streams.values())
    await record(store, "s/b")
    events = await fast.take(5)
    assert [True] == [b'"count":2' in some for _, some in events or []]
    late, count = await live.subscribe([], "s/", 0.1)
    assert (2, 2) == (count, len(await taken(late)))


async def test_states_that_wait_for_subscribers_have_a_limit(
    live: Poller, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "MAX_HELD", 100_000)
    for i in range(40):
        await record(store, f"wide/{i}", components=256, value=1.1)
    await record(store, "narrow")
    with pytest.raises(Invalid, match="smaller together"):
        await live.subscribe([], "wide/", 0.1)
    one, count = await live.subscribe(["narrow", "wide/1", "wide/2"], None, 0.1)
    assert (3, 3) == (count, len(await taken(one)))


async def test_a_wide_state_is_one_frame_made_once_for_all(live: Poller, store: Store) -> None:
    columns = [[10.0**i for i in range(-130, 130, 3)]] * 64
    state = State(shape_from_text("64"), summarize(columns, 0, 0))
    await store.commit([{"w": state}], asyncio.get_running_loop().time() + 5)
    subscriptions = [(await live.subscribe(["w"], None, 0.1))[0] for _ in range(5)]
    frames = await asyncio.gather(*map(taken, subscriptions))
    assert 1 == len({one[0] for one in frames})
    assert 1 == len({id(one[0]) for one in frames})
    assert b'"stream":"w"' in frames[0][0]
