"""Group commit: who shares a round trip, who hears of which outcome, and that no reading is lost or counted twice.

What a waiter is told is what clients act upon, so every way a commit can end is brought about here in a real server:
a second connection pauses its writes, kills the service's connection, fills it up or stops the process. Where it
matters *which* reading was lost or doubled, readings are powers of four: each is then one digit of the exact sum, 0 if
it was lost, 1 if it was counted once.
"""

import asyncio
import logging
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from fractions import Fraction
from typing import Any

import pytest
from redis.asyncio import Redis

from meanwhile.core.idempotency_keys import Key
from meanwhile.core.readings import Limits, Readings, collect
from meanwhile.core.shapes import NUMBER, Value, shape_of
from meanwhile.core.state import State, Unreadable
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.committer import Committer
from meanwhile.storage.reader import Reader
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable, connect
from meanwhile.storage.rejections import Conflict, ShapeConflict
from meanwhile.storage.store import Store
from tests.support.clock import Clock
from tests.support.peers import peer
from tests.support.servers import Valkey, valkey

TIMEOUT = 10.0


@pytest.fixture
def own() -> Iterator[Valkey]:
    """A server that this test may maltreat."""
    with valkey() as server:
        yield server


@pytest.fixture
def committer(store: Store) -> Committer:
    return Committer(store, max_waiting=200_000, redis_timeout=TIMEOUT)


def readings(*values: Value, at: int = 0) -> Readings:
    return collect(values, at, at, Limits())


def soon() -> float:
    return asyncio.get_running_loop().time() + TIMEOUT


async def total(store: Store, stream: str) -> tuple[int, Fraction]:
    """The count of a stream of numbers and their exact sum."""
    (found,) = await store.read([stream], soon())
    if found is None:
        return 0, Fraction()
    assert isinstance(found, State)
    return found.summary.count, Fraction(*found.summary.sums.ratios(1)[0])


async def calls(redis: "Redis", command: str) -> int:
    """How often the server has run a command."""
    statistics = await redis.info("commandstats")
    return int(statistics.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def run(operator: "Redis", *command: str) -> None:
    await operator.execute_command(*command)  # type: ignore[no-untyped-call]  # theirs


@asynccontextmanager
async def paused_writes(operator: "Redis") -> AsyncIterator[None]:
    """Inside, the server takes writes but holds them back."""
    await run(operator, "CLIENT", "PAUSE", "100000", "WRITE")
    try:
        yield
    finally:
        await run(operator, "CLIENT", "UNPAUSE")


async def until_held_back(operator: "Redis") -> None:
    """Returns when the server holds a write back: a commit is in flight."""
    while (await operator.info("clients"))["blocked_clients"] == 0:
        pass


async def until_waiting(waiters: Sequence["asyncio.Future[Any]"]) -> None:
    """Returns when every one of these tasks has run as far as it can by itself."""
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiters)


# Grouping --------------------------------------------------------------------------------------------------------


async def test_what_arrives_together_is_one_commit(own: Valkey) -> None:
    async with connect(own.url) as redis:
        committer = Committer(Store(redis, "p"), max_waiting=1_000, redis_timeout=TIMEOUT)
        await committer.record({"warm-up": readings(0.0)})
        before = await calls(redis, "evalsha") + await calls(redis, "eval")

        states = await asyncio.gather(*[committer.record({"s": readings(float(n))}) for n in range(100)])

        assert 1 == await calls(redis, "evalsha") + await calls(redis, "eval") - before
        assert {100} == {state.states["s"].summary.count for state in states}
        assert [49.5] == states[0].states["s"].summary.averages()


async def test_a_busy_service_commits_by_the_dozen(own: Valkey) -> None:
    async with connect(own.url) as redis:
        store = Store(redis, "p")
        committer = Committer(store, max_waiting=1_000, redis_timeout=TIMEOUT)

        async def write(client: int) -> None:
            for step in range(50):
                await committer.record({f"s{client % 8}": readings(4.0 ** (step + 50 * (client // 8 % 4)))})
                if step % 10 == client % 10:  # Clients fall out of step with each other.
                    await asyncio.sleep(0)

        await asyncio.gather(*map(write, range(32)))

        commits = await calls(redis, "evalsha") + await calls(redis, "eval")
        print(f"{32 * 50} readings in {commits} commits: {32 * 50 / commits:.1f} a commit")
        assert commits <= 32 * 50 / 8
        every_once = Fraction(sum(4**digit for digit in range(200)))
        assert [(200, every_once)] * 8 == [await total(store, f"s{n}") for n in range(8)]


async def test_an_idle_service_commits_a_reading_at_once(own: Valkey) -> None:
    async with connect(own.url) as redis:
        committer = Committer(Store(redis, "p"), max_waiting=1_000, redis_timeout=TIMEOUT)

        for step in range(1, 11):
            states = (await committer.record({"s": readings(1.0)})).states
            assert step == states["s"].summary.count

        assert 10 == await calls(redis, "evalsha")  # The first of them is refused: the script is not loaded yet.
        assert 1 == await calls(redis, "eval")


async def test_first_and_last_time_are_those_of_all_readings_of_a_commit(committer: Committer) -> None:
    times = [5, 3, 9, 4]

    states = await asyncio.gather(*[committer.record({"s": readings(1.0, at=at)}) for at in times])

    assert (3, 9) == (states[0].states["s"].summary.first, states[0].states["s"].summary.last)


async def test_concurrent_reads_share_one_mget(own: Valkey) -> None:
    async with connect(own.url) as redis:
        store = Store(redis, "p")
        await Committer(store, max_waiting=1_000, redis_timeout=TIMEOUT).record(
            {f"s{n}": readings(float(n)) for n in range(10)}
        )
        reader = Reader(store, redis_timeout=TIMEOUT)

        found = await asyncio.gather(*[reader.read(f"s{n % 12}") for n in range(120)])

        assert 1 == await calls(redis, "mget")
        for n, state in enumerate(found):
            if n % 12 >= 10:
                assert state is None
            else:
                assert state is not None
                assert [float(n % 12)] == state.summary.averages()


async def test_a_read_sees_what_was_acknowledged_before_it(committer: Committer, store: Store) -> None:
    reader = Reader(store, redis_timeout=TIMEOUT)

    async def write_and_read(client: int) -> None:
        for _ in range(20):
            acknowledged = (await committer.record({"s": readings(1.0)})).states["s"].summary.count
            state = await reader.read("s")
            assert state is not None
            assert acknowledged <= state.summary.count

    await asyncio.gather(*map(write_and_read, range(16)))
    assert (320, Fraction(320)) == await total(store, "s")


# Who hears of what -----------------------------------------------------------------------------------------------


async def test_a_commit_that_fails_fails_its_own_waiters_and_the_next_one_goes_on(own: Valkey) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        store = Store(redis, "p")
        committer = Committer(store, max_waiting=1_000, redis_timeout=TIMEOUT)
        await committer.record({"s": readings(4.0**0)})

        async with paused_writes(operator):
            first = [asyncio.ensure_future(committer.record({"s": readings(4.0**n)})) for n in (1, 2)]
            await until_held_back(operator)
            second = [asyncio.ensure_future(committer.record({"s": readings(4.0**n)})) for n in (3, 4)]
            await until_waiting([*first, *second])
            await run(operator, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            lost = await asyncio.gather(*first, return_exceptions=True)

        assert [OutcomeUnknown, OutcomeUnknown] == [type(error) for error in lost]
        assert {3} == {recorded.states["s"].summary.count for recorded in await asyncio.gather(*second)}
        assert (3, Fraction(4**0 + 4**3 + 4**4)) == await total(store, "s")


async def test_a_commit_that_is_refused_was_not_recorded_and_the_next_one_goes_on(own: Valkey) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        store = Store(redis, "p")
        committer = Committer(store, max_waiting=1_000, redis_timeout=TIMEOUT)
        await committer.record({"s": readings(4.0**0)})

        await operator.config_set("maxmemory", 1)
        refused = await asyncio.gather(
            *[committer.record({f"s{n}": readings(4.0**n)}) for n in (1, 2)], return_exceptions=True
        )
        await operator.config_set("maxmemory", 0)
        await committer.record({"s": readings(4.0**3)})

        assert [StoreUnavailable, StoreUnavailable] == [type(error) for error in refused]
        assert (2, Fraction(4**0 + 4**3)) == await total(store, "s")
        assert [None, None] == await store.read(["s1", "s2"], soon())


async def test_a_commit_that_redis_answers_with_an_error_is_not_sent_again_even_with_a_key() -> None:
    """It would get the same answer, and hold up all others until its time is up."""
    async with peer(lambda _: b"-ERR a bug\r\n") as (url, received), connect(url) as redis:
        committer = Committer(Store(redis, "p"), max_waiting=1_000, redis_timeout=TIMEOUT)
        with pytest.raises(OutcomeUnknown):
            await committer.record({"s": readings(1.0)}, Key("p", 1))
        assert [b"EVALSHA"] == received


async def test_a_server_that_is_gone_and_comes_back_needs_no_restart_of_the_service(own: Valkey) -> None:
    async with connect(own.url) as redis:
        store = Store(redis, "p")
        committer = Committer(store, max_waiting=1_000, redis_timeout=TIMEOUT)
        reader = Reader(store, redis_timeout=TIMEOUT)
        await committer.record({"s": readings(4.0**0)})

        own.kill()
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):  # The loss of the old connection shows itself here.
            await committer.record({"t": readings(1.0)})
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await committer.record({"s": readings(4.0**1)})
            with pytest.raises(StoreUnavailable):
                await reader.read("s")
        own.start()
        await committer.record({"s": readings(4.0**2)})

        assert (2, Fraction(4**0 + 4**2)) == await total(store, "s")
        assert None is not await reader.read("s")


async def test_a_stopped_server_leaves_nobody_waiting_beyond_patience_and_is_used_again_when_it_goes_on(
    own: Valkey,
) -> None:
    async with connect(own.url) as redis:
        store = Store(redis, "p")
        committer = Committer(store, max_waiting=1_000, redis_timeout=0.5)
        reader = Reader(store, redis_timeout=0.5)
        await committer.record({"s": readings(4.0**0)})
        assert own.process is not None

        async def record(digit: int) -> type[Exception] | None:
            try:
                await committer.record({"s": readings(4.0**digit)})
            except (StoreUnavailable, OutcomeUnknown) as error:
                return type(error)
            return None

        async def read() -> None:
            with pytest.raises(StoreUnavailable):
                await reader.read("s")

        own.process.send_signal(signal.SIGSTOP)
        clock = Clock(asyncio.get_running_loop())
        outcomes: list[type[Exception] | None] = []
        for wave in range(3):
            waiting = [asyncio.create_task(record(1 + 8 * wave + n)) for n in range(8)]
            reading = [asyncio.create_task(read()) for _ in range(8)]
            await until_waiting([*waiting, *reading])
            clock.advance(0.49)
            await until_waiting([*waiting, *reading])
            clock.advance(0.02)
            outcomes += await asyncio.gather(*waiting)
            await asyncio.gather(*reading)
        own.process.send_signal(signal.SIGCONT)
        await committer.record({"s": readings(4.0**30)})

        assert {OutcomeUnknown, StoreUnavailable} == set(outcomes)
        _, digits = await total(store, "s")
        may_be = {0, 30} | {1 + n for n, outcome in enumerate(outcomes) if outcome is OutcomeUnknown}
        assert_each_at_most_once(digits, may_be, must_be={0, 30})


def assert_each_at_most_once(digits: Fraction, may_be: set[int], must_be: set[int]) -> None:
    """Reads an exact sum of powers of four: which were added, and that none was added twice."""
    assert digits.denominator == 1
    rest, counted = digits.numerator, Counter[int]()
    for position in range(rest.bit_length() // 2 + 1):
        counted[position] = rest >> 2 * position & 3
    assert set() == {position for position, times in counted.items() if times > 1}, "counted twice"
    assert set() == must_be - {position for position, times in counted.items() if times}, "acknowledged but lost"
    assert set() == {position for position, times in counted.items() if times} - may_be, "refused but recorded"


async def test_another_shape_fails_the_requests_that_have_it_and_nobody_else(
    committer: Committer, store: Store
) -> None:
    await committer.record({"number": readings(1.0)})

    outcomes = await asyncio.gather(
        committer.record({"number": readings(2.0)}),
        committer.record({"number": readings([1.0, 2.0])}),
        committer.record({"other": readings(5.0)}),
        committer.record({"other": readings(6.0), "number": readings({"a": 1.0})}),
        return_exceptions=True,
    )

    recorded, conflict, other, both = outcomes
    assert not isinstance(recorded, BaseException)
    assert not isinstance(other, BaseException)
    assert isinstance(conflict, ShapeConflict)
    assert [Conflict("number", NUMBER, shape_of([1.0, 2.0]))] == conflict.conflicts
    assert isinstance(both, ShapeConflict)
    assert [Conflict("number", NUMBER, shape_of({"a": 1.0}))] == both.conflicts
    assert (2, Fraction(3)) == await total(store, "number")
    assert (1, Fraction(5)) == await total(store, "other")


async def test_of_two_shapes_for_a_new_stream_in_one_commit_the_first_wins(committer: Committer, store: Store) -> None:
    first, second, third = await asyncio.gather(
        committer.record({"s": readings(1.0)}),
        committer.record({"s": readings([1.0, 2.0])}),
        committer.record({"s": readings(2.0)}),
        return_exceptions=True,
    )

    assert isinstance(second, ShapeConflict)
    assert not isinstance(first, BaseException)
    assert not isinstance(third, BaseException)
    assert (2, Fraction(3)) == await total(store, "s")


async def test_a_key_that_is_not_readable_fails_the_requests_that_name_it_and_nobody_else(
    committer: Committer, store: Store, redis: "Redis", prefix: str
) -> None:
    await redis.rpush(f"{prefix}:stream:foreign", b"x")

    refused, recorded = await asyncio.gather(
        committer.record({"foreign": readings(1.0), "companion": readings(1.0)}),
        committer.record({"s": readings(1.0)}),
        return_exceptions=True,
    )

    assert isinstance(refused, Unreadable)
    assert not isinstance(recorded, BaseException)
    assert [None] == await store.read(["companion"], soon())


async def test_a_state_that_is_not_readable_fails_the_reads_of_it_and_nobody_elses(
    committer: Committer, store: Store, redis: "Redis", prefix: str
) -> None:
    await committer.record({"s": readings(1.0)})
    await redis.set(f"{prefix}:stream:foreign", b"hello")
    reader = Reader(store, redis_timeout=TIMEOUT)

    unreadable, found, missing = await asyncio.gather(
        reader.read("foreign"), reader.read("s"), reader.read("missing"), return_exceptions=True
    )

    assert isinstance(unreadable, Unreadable)
    assert isinstance(found, State)
    assert missing is None


# Cancelling ------------------------------------------------------------------------------------------------------


async def test_cancelling_a_request_takes_nothing_from_its_commit(own: Valkey) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        store = Store(redis, "p")
        committer = Committer(store, max_waiting=1_000, redis_timeout=TIMEOUT)
        await committer.record({"s": readings(4.0**0)})

        async with paused_writes(operator):
            in_flight = [asyncio.ensure_future(committer.record({"s": readings(4.0**n)})) for n in (1, 2)]
            await until_held_back(operator)
            gathering = [asyncio.ensure_future(committer.record({"s": readings(4.0**n)})) for n in (3, 4)]
            await until_waiting([*in_flight, *gathering])
            in_flight[0].cancel()
            gathering[0].cancel()
            for gone in (in_flight[0], gathering[0]):
                with pytest.raises(asyncio.CancelledError):
                    await gone

        async with asyncio.timeout(TIMEOUT):
            assert 3 == (await in_flight[1]).states["s"].summary.count
            assert 5 == (await gathering[1]).states["s"].summary.count
        assert (5, Fraction(sum(4**n for n in range(5)))) == await total(store, "s")


async def test_a_commit_nobody_waits_for_any_more_is_still_made(own: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        store = Store(redis, "p")
        committer = Committer(store, max_waiting=1_000, redis_timeout=TIMEOUT)

        with caplog.at_level(logging.ERROR):
            async with paused_writes(operator):
                alone = asyncio.ensure_future(committer.record({"s": readings(1.0)}))
                await until_held_back(operator)
                alone.cancel()
                with suppress(asyncio.CancelledError):
                    await alone
            await committer.drain()

        assert (1, Fraction(1)) == await total(store, "s")
        assert [] == caplog.records


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_is_cancelled_whenever_every_reading_handed_in_is_counted_once(
    committer: Committer, store: Store, seed: int
) -> None:
    rng = random.Random(seed)

    async def write(writer: int) -> None:
        for digit in range(60):
            waiting = asyncio.ensure_future(committer.record({f"s{writer}": readings(4.0**digit)}))
            await asyncio.sleep(0)  # It has handed in its reading now.
            for _ in range(rng.randrange(8)):
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting

    async with asyncio.timeout(2 * TIMEOUT):
        await asyncio.gather(*map(write, range(16)))
        await committer.drain()

    every_once = Fraction(sum(4**digit for digit in range(60)))
    assert [(60, every_once)] * 16 == [await total(store, f"s{n}") for n in range(16)]


async def test_cancelling_a_read_leaves_the_others_their_answer(committer: Committer, store: Store) -> None:
    await committer.record({"s": readings(1.0)})
    reader = Reader(store, redis_timeout=TIMEOUT)
    waiting = [asyncio.ensure_future(reader.read("s")) for _ in range(3)]
    await until_waiting(waiting)

    waiting[0].cancel()

    assert [1, 1] == [state.summary.count for state in await asyncio.gather(*waiting[1:]) if state is not None]
    assert waiting[0].cancelled()


# Bounds and the end ----------------------------------------------------------------------------------------------


async def test_an_idle_service_accepts_a_request_of_any_size(store: Store) -> None:
    committer = Committer(store, max_waiting=10, redis_timeout=TIMEOUT)

    await committer.record({"s": readings(*[1.0] * 5_000)})

    assert (5_000, Fraction(5_000)) == await total(store, "s")


async def test_what_is_more_than_may_wait_is_refused_and_not_recorded(own: Valkey) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        store = Store(redis, "p")
        committer = Committer(store, max_waiting=10, redis_timeout=TIMEOUT)

        async with paused_writes(operator):
            in_flight = asyncio.ensure_future(committer.record({"s": readings(*[4.0**0] * 10)}))
            await until_held_back(operator)
            waiting = [asyncio.ensure_future(committer.record({"s": readings(*[1.0] * size)})) for size in (6, 4)]
            await until_waiting([in_flight, *waiting])
            with pytest.raises(Overloaded):
                await committer.record({"s": readings(1.0)})
            with pytest.raises(Overloaded):
                await committer.record({"t": readings(*[1.0] * 100)})

        await asyncio.gather(in_flight, *waiting)
        assert (20, Fraction(20)) == await total(store, "s")
        assert [None] == await store.read(["t"], soon())
        await committer.record({"s": readings(1.0)})
        assert (21, Fraction(21)) == await total(store, "s")


async def test_draining_waits_for_everything_that_was_handed_in(own: Valkey) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        store = Store(redis, "p")
        committer = Committer(store, max_waiting=1_000, redis_timeout=TIMEOUT)
        reader = Reader(store, redis_timeout=TIMEOUT)

        async with paused_writes(operator):
            first = asyncio.ensure_future(committer.record({"s": readings(1.0)}))
            await until_held_back(operator)
            second = asyncio.ensure_future(committer.record({"s": readings(2.0)}))
            draining = asyncio.create_task(committer.drain())
            await until_waiting([first, second, draining])
        await draining

        assert (2, Fraction(3)) == await total(store, "s")
        assert [1, 2] == [recorded.states["s"].summary.count for recorded in await asyncio.gather(first, second)]
        reading = asyncio.ensure_future(reader.read("s"))
        await asyncio.sleep(0)
        await reader.drain()
        await asyncio.sleep(0)
        assert reading.done()
        assert None is not await reading


async def test_draining_an_idle_committer_returns(committer: Committer, store: Store) -> None:
    await committer.drain()
    await committer.record({"s": readings(1.0)})
    await committer.drain()
    await Reader(store, redis_timeout=TIMEOUT).drain()
    await committer.record({"s": readings(1.0)})
    assert (2, Fraction(2)) == await total(store, "s"), "it goes on after being drained"


# What it all is for ----------------------------------------------------------------------------------------------


async def test_a_stream_is_exact_at_step_a_million_and_no_larger_than_at_step_100(
    committer: Committer, store: Store, redis: "Redis", prefix: str
) -> None:
    rng = random.Random(7)
    values = [round(rng.gauss(20.1, 3.0), 2) for _ in range(100_000)] * 10

    for value in values[:100]:
        await committer.record({"s": readings(value)})
    early = await redis.strlen(f"{prefix}:stream:s")
    for start in range(100, 1_000_000, 9_999):
        chunk = values[start : start + 9_999]
        await asyncio.gather(*[committer.record({"s": readings(*chunk[part::3])}) for part in range(3)])

    (state,) = await store.read(["s"], soon())
    late = await redis.strlen(f"{prefix}:stream:s")
    print(f"stored bytes: {early} at step 100, {late} at step 1,000,000")
    assert isinstance(state, State)
    expected = sum((Fraction(value) * times for value, times in Counter(values).items()), Fraction()) / 1_000_000
    assert 1_000_000 == state.summary.count
    assert [float(expected)] == state.summary.averages()
    assert expected * 1_000_000 == Fraction(*state.summary.sums.ratios(1)[0])
    assert late - early <= 32
    assert (min(values), max(values)) == (state.summary.minimums[0], state.summary.maximums[0])


def exact_sum(values: Iterable[float]) -> Fraction:
    """The sum of doubles above 2^-400 as ``Fraction`` gives it, several times faster: over one denominator."""
    ratios = [value.as_integer_ratio() for value in values]
    return Fraction(sum(numerator * (2**500 // denominator) for numerator, denominator in ratios), 2**500)


async def test_a_thousand_pairs_of_64_element_vectors_average_exactly_in_every_component(
    committer: Committer, store: Store
) -> None:
    rng = random.Random(11)

    def vector() -> list[float]:
        return [rng.gauss(0, 1) * 10 ** rng.uniform(-6, 6) for _ in range(64)]

    pairs: list[Value] = [{"key": vector(), "value": vector()} for _ in range(1_000)]

    requests = [pairs[start : start + 7] for start in range(0, 1_000, 7)]
    await asyncio.gather(*[committer.record({"memory": readings(*request)}) for request in requests[:70]])
    for request in requests[70:]:
        await committer.record({"memory": readings(*request)})

    (state,) = await store.read(["memory"], soon())
    assert isinstance(state, State)
    assert 1_000 == state.summary.count
    average = state.shape.value(state.summary.averages())
    assert isinstance(average, dict)
    for part in ("key", "value"):
        columns = zip(*[pair[part] for pair in pairs if isinstance(pair, dict)], strict=True)
        expected = [float(exact_sum(column) / 1_000) for column in columns]
        assert 64 == len(expected)
        assert expected == average[part]


async def test_numbers_arrays_and_objects_are_committed_side_by_side(committer: Committer) -> None:
    states, *_ = await committer.record(
        {
            "number": readings(1.0, 2.0),
            "array": readings([1.0, 2.0], [3.0, 5.0]),
            "object": readings({"key": [1.0, 2.0], "t": 21.5}),
        }
    )

    averages = {name: shape.value(summary.averages()) for name, (shape, summary) in states.items()}
    assert {"number": 1.5, "array": [2.0, 3.5], "object": {"key": [1.0, 2.0], "t": 21.5}} == averages
