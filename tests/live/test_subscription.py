"""What subscribers see: whatever they watch, and whoever else watches it, their views end as the store is."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from meanwhile.core.shapes import NUMBER
from meanwhile.core.state import State
from meanwhile.live import new_streams
from meanwhile.live.poller import Poller
from meanwhile.live.subscription import Position, Subscription
from meanwhile.storage.store import Store
from tests.support.summaries import summary_of


@pytest.fixture
async def live(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Poller]:
    monkeypatch.setattr(new_streams, "_PAUSE", 0.05)
    made = Poller(store, redis_timeout=5, max_subscribers=1_000)
    yield made
    await made.close()


async def record(store: Store, *names: str, value: float = 1.0) -> None:
    state = State(NUMBER, summary_of([[value]], 0, 0))
    await store.commit([dict.fromkeys(names, state)], asyncio.get_running_loop().time() + 5)


async def delete(store: Store, name: str) -> None:
    await store.forget(name, asyncio.get_running_loop().time() + 5)


async def stored(store: Store, names: Sequence[str]) -> dict[str, bytes]:
    """The states of the streams that exist."""
    states = await store.read_stored(names, asyncio.get_running_loop().time() + 5)
    return {name: state for name, state in zip(names, states, strict=True) if state is not None}


class View:
    """What a client knows, which connects again as browsers do: with its last id, and it trusts ``resumed``."""

    def __init__(self, live: Poller, names: list[str], prefix: str | None, interval: float) -> None:
        self._live = live
        self._of = names, prefix
        self._interval = interval
        self._subscription: Subscription | None = None
        self._position: Position | None = None
        self.streams: dict[str, bytes] = {}

    def covers(self, name: str) -> bool:
        names, prefix = self._of
        return name in names if prefix is None else name.startswith(prefix)

    async def connect(self) -> None:
        self._subscription, _ = await self._live.subscribe(*self._of, self._interval, self._position)
        if not self._subscription.is_resumed:
            self.streams = {}
        self.take()

    def disconnect(self) -> None:
        if self._subscription is not None:
            self._live.unsubscribe(self._subscription)
            self._subscription = None

    def take(self, limit: int = 1_000) -> None:
        """Takes some of the changes that there are."""
        while self._subscription is not None and self._subscription.is_behind and limit:
            limit -= 1
            with self._subscription.take() as change:
                self._position = Position(self._live.epoch, change.number)
                name, state = change.snapshot.name, change.snapshot.stored
                if state is None:
                    self.streams.pop(name, None)
                else:
                    self.streams[name] = state


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110  # The store wakes nobody.
            await asyncio.sleep(0.01)


async def test_new_streams_of_two_overlapping_prefixes_reach_both_subscribers(live: Poller, store: Store) -> None:
    """The one with the longer interval got none: another had found them first."""
    views = [View(live, [], "", 0.3), View(live, [], "c/", 0.02), View(live, [], "d/", 0.02)]
    for view in views:
        await view.connect()
    names = [f"{start}/{i}" for i in range(8) for start in "cd"]
    for name in names:
        await record(store, name)
        await asyncio.sleep(0.03)

    async def everybody_has_all() -> bool:
        for view in views:
            view.take()
        return [len(view.streams) for view in views] == [16, 8, 8]

    await until(everybody_has_all)


async def test_a_group_whose_round_comes_too_soon_takes_part_in_the_next_run(
    live: Poller, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups with short intervals took all runs, if the rounds of others came between two of them."""
    for prefix in ("seldom/", "often/"):
        await View(live, [], prefix, 3_600).connect()
    seldom, often = live._watch_list.groups.values()
    monkeypatch.setattr(live._new_streams, "_next", asyncio.get_running_loop().time() + 3_600)
    await record(store, "seldom/1")
    assert not await live._new_streams.run([seldom])
    monkeypatch.setattr(live._new_streams, "_next", 0.0)
    assert await live._new_streams.run([often])
    assert {"seldom/1"} == seldom.streams.keys()


@pytest.mark.parametrize("is_again", [False, True], ids=["new", "deleted and created again"])
async def test_a_new_stream_that_is_also_named_reaches_those_who_watch_its_prefix(
    live: Poller, store: Store, monkeypatch: pytest.MonkeyPatch, *, is_again: bool
) -> None:
    """The subscriber who named it made its state known before discovery found it, so it was no change any more."""
    if is_again:
        await record(store, "a/1")
    named, prefixed = View(live, ["a/1"], None, 0.01), View(live, [], "a/", 0.05)
    for view in (named, prefixed):
        await view.connect()

    async def both_have(count: int) -> bool:
        for view in (named, prefixed):
            view.take()
        return [len(view.streams) for view in (named, prefixed)] == [count, count]

    if is_again:
        await delete(store, "a/1")
        await until(lambda: both_have(0))
    monkeypatch.setattr(live._new_streams, "_next", asyncio.get_running_loop().time() + 3_600)
    await record(store, "a/1", value=2.0)
    await until(lambda: both_have(1))


async def test_a_deletion_while_only_its_name_is_watched_is_known_to_those_who_come_back(
    live: Poller, store: Store
) -> None:
    await record(store, "a/1", "a/2")
    named, prefixed = View(live, ["a/1"], None, 0.01), View(live, [], "a/", 0.01)
    for view in (named, prefixed):
        await view.connect()
    prefixed.disconnect()
    await delete(store, "a/1")

    async def it_is_gone() -> bool:
        named.take()
        return not named.streams

    await until(it_is_gone)
    await prefixed.connect()
    assert {"a/2"} == prefixed.streams.keys()


async def test_a_deletion_of_a_stream_that_was_forgotten_is_known_to_those_who_come_back(
    live: Poller, store: Store
) -> None:
    await record(store, "a/1", "a/2")
    view = View(live, [], "a/", 0.01)
    await view.connect()
    view.disconnect()
    live._watch_list._forget_unwatched()
    await delete(store, "a/1")
    await view.connect()
    assert {"a/2"} == view.streams.keys()


async def test_a_stream_that_is_forgotten_while_it_is_read_does_not_replace_its_successor(
    live: Poller, store: Store
) -> None:
    first, _ = await live.subscribe(["a"], None, 3_600)
    old = live._watch_list.streams["a"]
    live.unsubscribe(first)
    second, _ = await live.subscribe(["a"], None, 3_600)
    live._watch_list.update(old, None)
    assert [live._watch_list.streams["a"]] == second.streams


@pytest.mark.parametrize("seed", range(5))
async def test_all_views_end_as_the_store_is(live: Poller, store: Store, seed: int) -> None:
    """Whatever is created, deleted and created again, and whoever comes, goes, comes back, or takes changes late."""
    chance = random.Random(seed)
    names = [f"{start}/{i}" for start in ("a", "a/b", "c") for i in range(5)]
    views = [View(live, [], prefix, chance.choice([0.01, 0.05, 0.3])) for prefix in ("", "a", "a/", "a/b/", "c/", "a/")]
    views += [View(live, chance.sample(names, 5), None, chance.choice([0.01, 0.05, 0.3])) for _ in range(4)]
    connected: set[View] = set()
    for _ in range(200):
        view, name = chance.choice(views), chance.choice(names)
        action = chance.random()
        if action < 0.35:
            await record(store, name, value=chance.choice([1.0, 2.0]))
        elif action < 0.6:
            await delete(store, name)
        elif action < 0.8:
            view.take(chance.randrange(4))
        elif action < 0.9 and view in connected:
            view.disconnect()
            connected.remove(view)
        elif view not in connected:
            await view.connect()
            connected.add(view)
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.05)
    for view in views:
        if view not in connected:
            await view.connect()
    truth = await stored(store, names)

    async def all_are_right() -> bool:
        for view in views:
            view.take()
        right = [{name: state for name, state in truth.items() if view.covers(name)} for view in views]
        return right == [view.streams for view in views]

    await until(all_are_right)
