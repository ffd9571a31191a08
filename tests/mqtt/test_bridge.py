"""Deliveries as a broker may make them: again on the next connection, before or after a commit, in a new session."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meanwhile.core.readings import Limits
from meanwhile.core.state import State
from meanwhile.formats.mqtt_payload import Options
from meanwhile.mqtt.bridge import Bridge
from meanwhile.mqtt.journal import Journal
from meanwhile.mqtt.message_outcomes import Outcomes
from meanwhile.mqtt.messages import Delivery, Message, NewSession
from meanwhile.mqtt.recorder import Recorder
from meanwhile.storage.committer import Committer
from meanwhile.storage.store import Store

_OPTIONS = Options(sequence="seq")


class Deliveries:
    """A source whose arrivals a test puts in.

    As a broker does, it keeps acknowledgements on the latest connection alone: connection and packet identifier.
    """

    def __init__(self) -> None:
        self.waiting: list[Delivery | NewSession] = []
        self.acknowledged: list[tuple[int, int]] = []
        self.released = 0
        self._connection = 0

    async def arrivals(self) -> AsyncIterator[Delivery | NewSession]:
        while self.waiting:
            arrival = self.waiting.pop(0)
            if isinstance(arrival, Delivery):
                self._connection = arrival.connection
            yield arrival
        await asyncio.Event().wait()

    def acknowledge(self, delivery: Delivery) -> None:
        self.released += 1
        if delivery.connection == self._connection:
            self.acknowledged.append((delivery.connection, delivery.mid))


class Setting:
    """A bridge on a real store, and where its messages come from."""

    def __init__(self, store: Store, file: Path, options: Options = _OPTIONS) -> None:
        self.store = store
        self._file = file
        self.journal = Journal(file, 10, options)
        self.source = Deliveries()
        self.outcomes = Outcomes()
        committer = Committer(store, max_waiting=1_000, redis_timeout=10)
        self.bridge = Bridge(
            self.source,
            Recorder(committer, self.outcomes, options=options, limits=Limits()),
            self.journal,
            self.outcomes,
            max_batch=100,
        )

    def arrive(self, connection: int, mid: int, payload: str = "1", topic: str = "a", *, again: bool = False) -> None:
        content = payload.encode()
        is_own = topic.startswith("own/")
        delivery = Delivery(
            connection, mid, int(mid > 0), again, False, topic, content, None, None, at=1_000, is_own=is_own
        )
        self.source.waiting.append(delivery)

    def after_a_kill(self, options: Options = _OPTIONS) -> "Setting":
        """What starts again if the process is killed now: it finds the journal as it is."""
        killed = self._file.with_name("killed")
        killed.write_bytes(self._file.read_bytes())
        return Setting(self.store, killed, options)

    async def finish(self) -> None:
        """Returns when everything that has arrived is recorded and acknowledged."""
        self.bridge.stop()
        await self.bridge.run()
        self.bridge._is_stopping = False  # To go on after it.
        assert [] == self.source.waiting

    async def count(self, stream: str = "a") -> int:
        (state,) = await self.store.read([stream], asyncio.get_running_loop().time() + 10)
        return state.summary.count if isinstance(state, State) else 0


@pytest.fixture
async def setting(store: Store, tmp_path: Path) -> AsyncIterator[Setting]:
    made = Setting(store, tmp_path / "journal")
    yield made
    made.journal.close()


async def test_acknowledgements_are_in_the_order_of_the_messages(setting: Setting) -> None:
    for mid, payload in enumerate(["1", "bad", "2", "[1]", "3"], start=1):
        setting.arrive(1, mid, payload)
    setting.arrive(1, 6, topic="own/x")
    setting.arrive(1, 0)
    await setting.finish()
    assert [(1, mid) for mid in (1, 2, 3, 4, 5, 6, 0)] == setting.source.acknowledged
    assert 4 == await setting.count()


async def test_what_was_committed_and_comes_again_is_acknowledged_and_not_counted(setting: Setting) -> None:
    setting.arrive(1, 1)
    setting.arrive(1, 2)
    await setting.finish()
    setting.arrive(2, 1, again=True)
    setting.arrive(2, 2, again=True)
    setting.arrive(2, 3)
    await setting.finish()
    assert 3 == await setting.count()
    assert [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)] == setting.source.acknowledged


async def test_what_waits_and_comes_again_is_counted_once_and_acknowledged_on_its_last_connection(
    setting: Setting,
) -> None:
    setting.arrive(1, 1)
    setting.arrive(2, 1, again=True)
    await setting.finish()
    assert 1 == await setting.count()
    assert [(2, 1)] == setting.source.acknowledged
    assert 2 == setting.source.released


async def test_what_the_broker_had_sent_but_never_came_is_counted(setting: Setting) -> None:
    setting.arrive(2, 7, again=True)
    await setting.finish()
    assert 1 == await setting.count()


@pytest.mark.parametrize("finishes_first", [True, False])
async def test_in_a_new_session_the_same_identifiers_are_of_other_messages(
    setting: Setting, finishes_first: bool
) -> None:
    setting.arrive(1, 1)
    if finishes_first:
        await setting.finish()
    setting.source.waiting.append(NewSession())
    await setting.finish()
    setting.arrive(2, 1, again=True)  # Sent by the new session, and lost on the way.
    await setting.finish()
    assert 2 == await setting.count()


@pytest.mark.parametrize("was_committed", [True, False])
async def test_a_batch_of_a_killed_process_is_finished_with_its_key(setting: Setting, was_committed: bool) -> None:
    batch = [Message(5, 1_000, "a", b"1"), Message(6, 1_000, "b", b'{"value": 1, "seq": 9}')]
    setting.journal.begin(batch)
    again = setting.after_a_kill()
    if was_committed:
        await setting.bridge.recover()
    assert batch == again.journal.batch
    await again.bridge.recover()
    again.arrive(1, 5, again=True)
    again.arrive(1, 6, '{"value": 1, "seq": 9}', "b", again=True)
    await again.finish()
    again.journal.close()
    assert (1, 1) == (await setting.count("a"), await setting.count("b"))
    assert [(1, 5), (1, 6)] == again.source.acknowledged


@pytest.mark.parametrize("was_committed", [True, False])
@pytest.mark.parametrize(
    "options", [Options("new/"), Options(split=True), Options(sequence="other"), Options("new/", True)]
)
async def test_a_batch_of_a_killed_process_is_finished_with_its_options(
    setting: Setting, store: Store, was_committed: bool, options: Options
) -> None:
    """With others, the same message was counted under its old and its new name."""
    payload = '{"value": 1, "other": 2, "seq": 9}'
    batch = [Message(5, 1_000, "a", b"1"), Message(6, 1_000, "b", payload.encode())]
    setting.journal.begin(batch)
    again = setting.after_a_kill(options)
    if was_committed:
        await setting.bridge.recover()
    await again.bridge.recover()
    again.arrive(1, 5, again=True)
    again.arrive(1, 6, payload, "b", again=True)
    again.arrive(1, 7, topic="c")
    await again.finish()
    again.journal.close()
    streams = sorted((await store.listing.page("", 100, None, asyncio.get_running_loop().time() + 10)).streams)
    assert sorted(["a", "b", f"{options.prefix}c"]) == streams
    assert [1, 1, 1] == [await setting.count(stream) for stream in streams]


async def test_what_is_held_goes_to_the_stream_of_its_first_options(setting: Setting) -> None:
    setting.arrive(1, 1, topic="a")
    await setting.finish()
    setting.store._options = ("1", "0")
    pack = '[{"n": "a", "v": 1}, {"n": "b", "v": 1}]'
    setting.arrive(1, 2, pack)
    await setting.finish()
    again = setting.after_a_kill(Options("new/"))
    setting.store._options = ("0", "0")
    await again.bridge.recover()
    again.arrive(1, 2, pack, again=True)
    await again.finish()
    again.journal.close()
    assert (2, 1) == (await setting.count("a"), await setting.count("b"))
    assert (0, 0) == (await setting.count("new/a"), await setting.count("new/b"))


async def test_what_shares_a_batch_does_not_share_a_refusal(setting: Setting) -> None:
    messages: list[tuple[str, str]] = [("a", "1"), ("a", "[1, 2]"), ("b", "x"), ("c", "2"), ("a", "3")]
    for mid, (topic, payload) in enumerate(messages, start=1):
        setting.arrive(1, mid, payload, topic)
    await setting.finish()
    assert (2, 0, 1) == (await setting.count("a"), await setting.count("b"), await setting.count("c"))
    assert {"recorded": 3, "refused": 1, "malformed": 1} == {
        what: number for what, number in setting.outcomes.counts.items() if number
    }


async def test_what_a_stream_cannot_take_now_is_held_and_goes_in_when_it_can(setting: Setting) -> None:
    setting.arrive(1, 1, topic="a")
    await setting.finish()
    setting.store._options = ("1", "0")
    setting.arrive(1, 2, topic="new")
    setting.arrive(1, 3, topic="a")
    await setting.finish()
    assert (0, 2) == (await setting.count("new"), await setting.count("a"))
    assert [(1, 1), (1, 3)] == setting.source.acknowledged
    setting.store._options = ("0", "0")
    setting.arrive(1, 4, topic="a")
    await setting.finish()
    assert (1, 3) == (await setting.count("new"), await setting.count("a"))
    assert {(1, 1), (1, 2), (1, 3), (1, 4)} == set(setting.source.acknowledged)


async def test_a_message_of_several_streams_that_is_held_counts_once_in_each_even_after_a_crash(
    setting: Setting,
) -> None:
    setting.arrive(1, 1, topic="a")
    await setting.finish()
    setting.store._options = ("1", "0")
    pack = '[{"n": "a", "v": 1}, {"n": "b", "v": 1}]'
    setting.arrive(1, 2, pack)
    setting.arrive(1, 3, topic="a")
    await setting.finish()
    setting.arrive(1, 4, topic="a")
    await setting.finish()
    assert (4, 0) == (await setting.count("a"), await setting.count("b"))
    again = setting.after_a_kill()
    setting.store._options = ("0", "0")
    await again.bridge.recover()
    again.arrive(1, 2, pack, again=True)
    await again.finish()
    again.journal.close()
    assert (4, 1) == (await setting.count("a"), await setting.count("b"))
    assert [(1, 2)] == again.source.acknowledged


async def test_a_sequence_from_a_clock_that_is_ahead_loses_nothing_and_doubles_nothing(setting: Setting) -> None:
    ahead = int((time.time() + 10 * 365 * 86_400) * 1e6)
    setting.arrive(1, 1, f'{{"value": 1, "seq": {ahead}}}')
    setting.arrive(1, 2, "5")
    await setting.finish()
    setting.arrive(1, 3, "6")
    await setting.finish()
    setting.arrive(2, 1, f'{{"value": 1, "seq": {ahead}}}', again=True)
    await setting.finish()
    assert 3 == await setting.count()
    now = int(time.time() * 1e6)
    setting.arrive(2, 4, f'{{"value": 1, "seq": {now}}}')
    await setting.finish()
    assert 4 == await setting.count()
