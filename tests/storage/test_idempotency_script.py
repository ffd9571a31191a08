"""The windows of ``commit.lua`` against an oracle that remembers everything, and the header against its grammar.

A window of 64 bits is easily wrong by one at its edges, where its two words of 32 bits meet and where it moves by more
than its width. The oracle here has no window: it keeps the set of all sequences that were counted, and works out from
it what the stream has to say. Every reading is a power of four, so the exact sum tells which were counted, and how
often.
"""

import random
import time
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from meanwhile.core.idempotency_keys import MAX_SEQUENCE, Key, parse
from meanwhile.core.readings import Limits, Readings, collect
from meanwhile.core.shapes import NUMBER
from meanwhile.core.state import State
from meanwhile.storage.commit_reply import Rejection, RejectReason
from meanwhile.storage.committer import Committer
from meanwhile.storage.rejections import KeyTooOld, PartlyCounted
from meanwhile.storage.store import Store
from tests.support.keys import MALFORMED, digits, soon
from tests.support.states import fields_of, with_fields
from tests.support.summaries import summary_of

DAY = 24 * 60 * 60 * 1000
WIDTH = 64


def one(value: float) -> State:
    return State(NUMBER, summary_of([[value]], 0, 0))


def readings(*values: float) -> Readings:
    return collect(values, 0, 0, Limits())


# The header ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "producer", "sequence"),
    [
        ("gateway-7:1042", "gateway-7", 1042),
        ('"gateway-7:1042"', "gateway-7", 1042),
        (' \t"gateway-7:1042" ', "gateway-7", 1042),
        ("a:0", "a", 0),
        ("a:9007199254740991", "a", 2**53 - 1),
        ("urn:dev:ow:10e2/x@y+z~._-:7", "urn:dev:ow:10e2/x@y+z~._-", 7),
        ("5:5", "5", 5),
        ("a" * 64 + ":1", "a" * 64, 1),
    ],
)
def test_a_producer_and_a_sequence_are_a_key(header: str, producer: str, sequence: int) -> None:
    assert Key(producer, sequence) == parse(header)


@pytest.mark.parametrize("header", MALFORMED, ids=ascii)
def test_anything_else_is_no_key(header: str) -> None:
    assert None is parse(header)


@given(producer=st.from_regex(r"[A-Za-z0-9._~:/@+-]{1,64}", fullmatch=True), sequence=st.integers(0, MAX_SEQUENCE))
def test_every_key_reads_back_as_it_was_written_with_quotes_or_without(producer: str, sequence: int) -> None:
    assert Key(producer, sequence) == parse(f"{producer}:{sequence}") == parse(f'"{producer}:{sequence}"')


# The window ------------------------------------------------------------------------------------------------------


@dataclass
class Oracle:
    """Everything that a stream has counted, by producer."""

    seen: dict[str, set[int]] = field(default_factory=dict)

    def verdict(self, producer: str, sequence: int) -> str:
        seen = self.seen.get(producer, set())
        if seen and sequence < max(seen) - WIDTH:
            return "below"
        return "duplicate" if sequence in seen else "new"

    def highest(self, producer: str) -> int:
        return max(self.seen.get(producer, {0}))


Group = tuple[str, int, Sequence[str]]  # Producer, what is added to its highest sequence, streams.

EDGES = (0, 1, 2, 30, 31, 32, 33, 34, 62, 63, 64, 65, 66, 67, 95, 96, 97, 127, 128, 129, 2**33, 2**34, 2**45, 2**53)
JUMPS = st.one_of(st.sampled_from([*EDGES, *(-edge for edge in EDGES)]), st.integers(-70, 70), st.integers(-4, 4))
STREAMS = ("a", "b", "c")
GROUPS = st.tuples(
    st.sampled_from(["p", "p", "p", "q", "p:1"]),
    JUMPS,
    st.lists(st.sampled_from(STREAMS), min_size=1, max_size=3, unique=True),
)


async def agrees_with_the_oracle(store: Store, commits: Sequence[Sequence[Group]]) -> set[str]:
    """Commits these groups and compares every verdict, and at the end what was counted. Returns the verdicts."""
    oracles = {stream: Oracle() for stream in STREAMS}
    counted: dict[str, list[int]] = {stream: [] for stream in STREAMS}
    met: set[str] = set()
    digit = 0
    for commit in commits:
        expected_refusals, expected_duplicates = [], []
        states, keys = [], {}
        for number, (producer, jump, streams) in enumerate(commit):
            sequence = min(max(oracles[streams[0]].highest(producer) + jump, 0), MAX_SEQUENCE)
            keys[number] = Key(producer, sequence)
            states.append({stream: one(4.0**digit) for stream in streams})
            verdicts = {stream: oracles[stream].verdict(producer, sequence) for stream in streams}
            met |= set(verdicts.values())
            below = [stream for stream in streams if verdicts[stream] == "below"]
            duplicates = frozenset(stream for stream in streams if verdicts[stream] == "duplicate")
            expected_refusals.append([Rejection(stream, None, RejectReason.KEY_TOO_OLD) for stream in below])
            expected_duplicates.append(frozenset() if below else duplicates)
            if not below:
                for stream in set(streams) - duplicates:
                    oracles[stream].seen.setdefault(producer, set()).add(sequence)
                    counted[stream].append(digit)
            digit += 1
        committed = await store.commit(states, soon(), keys)
        assert expected_refusals == committed.rejections
        assert expected_duplicates == committed.duplicates
    assert counted == {stream: await digits(store, stream) for stream in STREAMS}
    return met


@settings(
    max_examples=80,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(commits=st.lists(st.lists(GROUPS, min_size=1, max_size=8), min_size=1, max_size=10))
async def test_the_window_says_what_a_memory_of_everything_would_say(
    redis: "Redis", commits: list[list[Group]]
) -> None:
    await agrees_with_the_oracle(Store(redis, f"test-{uuid.uuid4().hex}"), commits)


@pytest.mark.parametrize("seed", range(20))
async def test_a_long_shuffled_run_gets_the_verdicts_of_the_oracle(store: Store, seed: int) -> None:
    rng = random.Random(seed)

    def group() -> Group:
        jump = rng.choice((rng.choice(EDGES[:16]), -rng.choice(EDGES[:16]), rng.randint(-66, 3), rng.randint(-66, 3)))
        return rng.choice("ppq"), jump, rng.sample(STREAMS, rng.randint(1, 2))

    met = await agrees_with_the_oracle(store, [[group() for _ in range(rng.randint(1, 9))] for _ in range(25)])

    assert {"new", "duplicate", "below"} == met


@pytest.mark.parametrize(
    "up",
    [
        *range(1, 4),
        *range(28, 37),
        *range(60, 69),
        *range(95, 99),
        *range(126, 131),
        2**31,
        2**32,
        2**40,
        2**53 - 1 - 200,
    ],
)
async def test_after_every_jump_the_window_holds_exactly_what_was_counted_before(store: Store, up: int) -> None:
    before = [*random.Random(up).sample(range(136, 200), 30), 200]
    highest = 200 + up
    for sequence in before:
        await store.commit([{"s": one(1.0)}], soon(), {0: Key("p", sequence)})
    await store.commit([{"s": one(1.0)}], soon(), {0: Key("p", highest)})

    window = range(highest - WIDTH, highest + 1)
    asked = [highest - WIDTH - 1, *window]
    committed = await store.commit(
        [{"s": one(1.0)} for _ in asked], soon(), {i: Key("p", sequence) for i, sequence in enumerate(asked)}
    )

    assert [[Rejection("s", None, RejectReason.KEY_TOO_OLD)], *([] for _ in window)] == committed.rejections
    counted = {*before, highest}
    assert [sequence for sequence in window if sequence in counted] == [
        sequence for sequence, duplicates in zip(asked, committed.duplicates, strict=True) if duplicates
    ]


async def test_the_same_key_twice_in_one_commit_is_counted_once(store: Store) -> None:
    key = Key("p", 5)
    committed = await store.commit([{"s": one(1.0)}, {"s": one(4.0)}, {"s": one(16.0)}], soon(), {0: key, 1: key})
    assert [frozenset(), {"s"}, frozenset()] == committed.duplicates
    assert [0, 2] == await digits(store, "s")


# Ranges ----------------------------------------------------------------------------------------------------------


@dataclass
class Upload:
    """Lines of an upload, each of one stream, and what the streams have counted of them."""

    lines: Sequence[str]
    first: int = 0  # The sequence of line 0.

    def group(self, start: int, end: int) -> tuple[dict[str, State], Key]:
        """The group and the key of the lines from start to before end; line n is the reading 4 to the power of n."""
        values: dict[str, list[float]] = {}
        for number in range(start, end):
            values.setdefault(self.lines[number], []).append(4.0**number)
        states = {stream: State(NUMBER, summary_of([column], 0, 0)) for stream, column in values.items()}
        return states, Key("p", self.first + end - 1, self.first + start)

    async def send(self, store: Store, start: int, end: int) -> None:
        """Records these lines, taken apart where a stream says that it has counted a part of them."""
        states, key = self.group(start, end)
        committed = await store.commit([states], soon(), {0: key})
        if committed.rejections[0]:
            highest = committed.rejections[0][0].highest
            assert highest is not None
            assert start <= highest - self.first < end - 1
            await self.send(store, start, highest + 1 - self.first)
            await self.send(store, highest + 1 - self.first, end)


UPLOADS = st.lists(st.sampled_from(STREAMS), min_size=1, max_size=100)
CUTS = st.lists(st.integers(0, 100), max_size=8)


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(lines=UPLOADS, sendings=st.lists(st.tuples(CUTS, st.integers(0, 100)), max_size=3), last=CUTS)
async def test_an_upload_that_is_sent_again_with_other_bounds_counts_every_line_once(
    redis: "Redis", lines: list[str], sendings: list[tuple[list[int], int]], last: list[int]
) -> None:
    store = Store(redis, f"test-{uuid.uuid4().hex}")
    upload = Upload(lines, first=2**53 - 200)
    for cuts, end in [*sendings, (last, len(lines))]:
        bounds = sorted({0, min(end, len(lines)), *(cut for cut in cuts if cut < min(end, len(lines)))})
        for start, until in pairwise(bounds):
            await upload.send(store, start, until)
        for stream in STREAMS:
            counted = await digits(store, stream)
            expected = [number for number, of in enumerate(lines) if of == stream]
            assert expected[: len(counted)] == counted
    for stream in STREAMS:
        assert [number for number, of in enumerate(lines) if of == stream] == await digits(store, stream)


@pytest.mark.parametrize(
    ("first", "last", "verdict"),
    [(0, 9, "partly"), (3, 4, "duplicate"), (5, 5, "duplicate"), (5, 6, "partly"), (6, 6, "new"), (6, 99, "new")],
)
async def test_a_range_is_new_above_the_highest_counted_at_or_below_it_and_else_refused(
    store: Store, first: int, last: int, verdict: str
) -> None:
    await store.commit([{"s": one(1.0)}], soon(), {0: Key("p", 5, 2)})

    committed = await store.commit([{"s": one(4.0), "t": one(1.0)}], soon(), {0: Key("p", last, first)})

    assert [
        [Rejection("s", None, RejectReason.PARTLY_COUNTED, 5)] if verdict == "partly" else []
    ] == committed.rejections
    assert [frozenset({"s"} if verdict == "duplicate" else ())] == committed.duplicates
    assert ([0, 1] if verdict == "new" else [0]) == await digits(store, "s")
    assert ([] if verdict == "partly" else [0]) == await digits(store, "t")


async def test_after_a_range_everything_below_its_end_counts_as_having_come(store: Store) -> None:
    await store.commit([{"s": one(1.0)}], soon(), {0: Key("p", 100, 90)})
    asked = range(100 - WIDTH, 102)
    committed = await store.commit(
        [{"s": one(4.0)} for _ in asked], soon(), {i: Key("p", sequence) for i, sequence in enumerate(asked)}
    )
    assert [*[frozenset({"s"})] * (WIDTH + 1), frozenset()] == committed.duplicates
    assert [0, 1] == await digits(store, "s")


async def test_the_committer_says_how_far_a_range_was_counted(store: Store) -> None:
    committer = Committer(store, max_waiting=100, redis_timeout=10)
    await committer.record({"s": readings(1.0)}, Key("p", 5, 0))
    await committer.record({"u": readings(1.0)}, Key("p", 7, 0))
    batch = {"s": readings(4.0), "t": readings(4.0), "u": readings(4.0)}
    with pytest.raises(PartlyCounted) as refused:
        await committer.record(batch, Key("p", 9, 4))
    assert {"s": 5, "u": 7} == refused.value.highest
    assert [[0], [], [0]] == [await digits(store, stream) for stream in "stu"]


async def test_the_rest_of_a_range_starts_for_each_stream_where_it_has_stopped(store: Store) -> None:
    for stream, highest in (("s", 5), ("u", 7)):
        await store.commit([{stream: one(1.0)}], soon(), {0: Key("p", highest, 0)})
    batch = {stream: one(4.0) for stream in "stu"}

    late = await store.commit([batch], soon(), {0: Key("p", 9, 4, {"s": 6, "u": 7})})
    assert [[Rejection("u", None, RejectReason.PARTLY_COUNTED, 7)]] == late.rejections
    assert [[0], [], [0]] == [await digits(store, stream) for stream in "stu"]

    rest = await store.commit([batch], soon(), {0: Key("p", 9, 4, {"s": 6, "u": 8})})
    assert ([[]], [frozenset()]) == (rest.rejections, rest.duplicates)
    assert [[0, 1], [1], [0, 1]] == [await digits(store, stream) for stream in "stu"]
    again = await store.commit([batch], soon(), {0: Key("p", 9, 4, {"s": 6, "u": 8})})
    assert [frozenset("stu")] == again.duplicates


# Batches ---------------------------------------------------------------------------------------------------------


async def test_a_retry_of_a_batch_completes_what_is_missing_and_doubles_nothing(store: Store) -> None:
    key = Key("p", 5)
    await store.commit([{"a": one(1.0), "c": one(1.0)}], soon(), {0: key})

    committed = await store.commit([{"a": one(1.0), "b": one(1.0), "c": one(1.0), "d": one(1.0)}], soon(), {0: key})

    assert [[]] == committed.rejections
    assert [frozenset({"a", "c"})] == committed.duplicates
    assert [[0]] * 4 == [await digits(store, stream) for stream in "abcd"]
    assert {"a", "b", "c", "d"} == committed.states.keys()


async def test_one_stream_below_its_window_refuses_the_batch_and_records_nothing(
    store: Store, redis: "Redis", prefix: str
) -> None:
    committer = Committer(store, max_waiting=100, redis_timeout=10)
    await committer.record({"a": readings(1.0)}, Key("p", 100))
    await committer.record({"b": readings(1.0)}, Key("p", 3))
    before = [await redis.get(f"{prefix}:stream:{stream}") for stream in "ab"]

    with pytest.raises(KeyTooOld):
        await committer.record({"b": readings(4.0), "a": readings(4.0), "new": readings(4.0)}, Key("p", 35))

    assert before == [await redis.get(f"{prefix}:stream:{stream}") for stream in "ab"]
    assert not await redis.exists(f"{prefix}:stream:new")
    # Nor is the key marked where it would have been counted.
    recorded = await committer.record({"b": readings(4.0)}, Key("p", 35))
    assert frozenset() == recorded.duplicates
    assert [0, 1] == await digits(store, "b")


async def test_another_shape_refuses_the_key_too(store: Store) -> None:
    await store.commit([{"a": one(1.0)}], soon(), {0: Key("p", 1)})
    vector = collect([[1.0, 2.0]], 0, 0, Limits())
    other = State(vector.shape, vector.summarize())
    refused = await store.commit([{"a": other, "b": one(1.0)}], soon(), {0: Key("p", 2)})
    assert [[Rejection("a", NUMBER)]] == refused.rejections
    committed = await store.commit([{"a": one(4.0), "b": one(1.0)}], soon(), {0: Key("p", 2)})
    assert [frozenset()] == committed.duplicates
    assert [[0, 1], [0]] == [await digits(store, "a"), await digits(store, "b")]


async def test_to_forget_a_stream_is_to_forget_its_windows(store: Store) -> None:
    await store.commit([{"s": one(1.0)}], soon(), {0: Key("p", 100)})
    await store.forget("s", soon())
    committed = await store.commit([{"s": one(4.0)}, {"s": one(16.0)}], soon(), {0: Key("p", 7), 1: Key("p", 8)})
    assert [[], []] == committed.rejections
    assert [frozenset(), frozenset()] == committed.duplicates
    assert [1, 2] == await digits(store, "s")


# Producers -------------------------------------------------------------------------------------------------------


async def test_a_producer_that_made_room_is_still_counted_once_and_can_go_on(store: Store) -> None:
    committer = Committer(store, max_waiting=100, redis_timeout=10)
    for sequence in (8, 10):
        await committer.record({"s": readings(4.0 ** (sequence - 8))}, Key("gateway", sequence))
    for n in range(40):  # Each pushes one out; the gateway is the first.
        await committer.record({"s": readings(4.0 ** (10 + n))}, Key(f"file-{n}", 5))
    counted = [0, 2, *range(10, 50)]
    assert counted == await digits(store, "s")

    assert (await committer.record({"s": readings(1.0)}, Key("gateway", 10))).duplicates  # Its highest is known.
    with pytest.raises(KeyTooOld):  # What it sent out of order before is not, counted or not.
        await committer.record({"s": readings(1.0)}, Key("gateway", 9))
    with pytest.raises(KeyTooOld):
        await committer.record({"s": readings(1.0)}, Key("gateway", 8))
    assert counted == await digits(store, "s")

    await committer.record({"s": readings(4.0**60)}, Key("gateway", 13))  # It is back, with a new window.
    await committer.record({"s": readings(4.0**61)}, Key("gateway", 11))
    for sequence in (10, 11, 13):
        assert (await committer.record({"s": readings(1.0)}, Key("gateway", sequence))).duplicates
    for sequence in (8, 9):
        with pytest.raises(KeyTooOld):
            await committer.record({"s": readings(1.0)}, Key("gateway", sequence))
    for n in range(40):
        with pytest.raises(KeyTooOld) if n < 25 else nullcontext():
            await committer.record({"s": readings(1.0)}, Key(f"file-{n}", 4))
        assert (await committer.record({"s": readings(1.0)}, Key(f"file-{n}", 5))).duplicates


@pytest.mark.parametrize(("first", "last", "verdict"), [(0, 5, "duplicate"), (5, 6, "partly"), (6, 9, "new")])
async def test_a_range_of_a_producer_that_made_room_is_known_by_its_highest(
    store: Store, first: int, last: int, verdict: str
) -> None:
    await store.commit([{"s": one(1.0)}], soon(), {0: Key("upload", 5, 0)})
    await store.commit([{"s": one(1.0)} for _ in range(20)], soon(), {n: Key(f"p{n}", 1) for n in range(20)})

    committed = await store.commit([{"s": one(4.0)}], soon(), {0: Key("upload", last, first)})

    assert [
        [Rejection("s", None, RejectReason.PARTLY_COUNTED, 5)] if verdict == "partly" else []
    ] == committed.rejections
    assert [frozenset({"s"} if verdict == "duplicate" else ())] == committed.duplicates


@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    sendings=st.lists(st.tuples(st.integers(0, 24), st.integers(0, 80)), min_size=30, max_size=120),
)
async def test_however_producers_come_and_go_nothing_counts_twice_and_what_is_new_counts(
    redis: "Redis", sendings: list[tuple[int, int]]
) -> None:
    store = Store(redis, f"test-{uuid.uuid4().hex}")
    counted: dict[int, set[int]] = {}
    total = 0
    for number, (producer, sequence) in enumerate(sendings):
        committed = await store.commit([{"s": one(4.0**number)}], soon(), {0: Key(f"p{producer}", sequence)})
        seen = counted.setdefault(producer, set())
        if committed.rejections[0]:
            assert [Rejection("s", None, RejectReason.KEY_TOO_OLD)] == committed.rejections[0]
            assert sequence < max(seen)
        elif committed.duplicates[0]:
            assert sequence in seen
        else:
            assert sequence not in seen
            seen.add(sequence)
            total += 4**number
    (state,) = await store.read(["s"], soon())
    assert isinstance(state, State)
    assert (total, 1) == state.summary.sums.ratios(1)[0]


async def test_a_stream_remembers_a_thousand_producers_that_made_room_and_then_asks_to_wait(
    store: Store, redis: "Redis", prefix: str
) -> None:
    names = [f"p{n}" for n in range(1_016)]
    for start in range(0, 1_016, 127):
        some = dict(enumerate(Key(name, 7) for name in names[start : start + 127]))
        committed = await store.commit([{"s": one(1.0)} for _ in some], soon(), some)
        assert [[]] * 127 == committed.rejections

    asked = dict(enumerate(Key(name, 7) for name in [*names, "one-more"]))
    committed = await store.commit([{"s": one(1.0)} for _ in asked], soon(), asked)

    assert [frozenset({"s"})] * 1_016 == committed.duplicates[:-1]
    assert [Rejection("s", None, RejectReason.TOO_MANY_PRODUCERS)] == committed.rejections[-1]
    size = await redis.strlen(f"{prefix}:stream:s")
    print(f"a state with 16 producers and 1,000 that made room: {size} bytes")
    assert size <= 110 + 16 * 50 + 1_000 * 19

    stored = await redis.get(f"{prefix}:stream:s")
    assert isinstance(stored, bytes)
    for hours in (-2, 2, 10 * 365 * 24):  # Idle for over an hour; or a clock that was wrong says otherwise.
        retired = [part + hours if place == 2 else part for place, part in enumerate(fields_of(stored)["retired"])]
        await redis.set(f"{prefix}:stream:s", with_fields(stored, retired=retired))
        asked = {0: Key("one-more", 7), 1: Key("p1", 7), 2: Key("p0", 7)}
        committed = await store.commit([{"s": one(1.0)} for _ in asked], soon(), asked)
        assert [frozenset(), frozenset({"s"})] == committed.duplicates[:2]  # p0 is forgotten, and p1 is not.
        assert [Rejection("s", None, RejectReason.TOO_MANY_PRODUCERS)] == committed.rejections[2]


async def test_a_producer_that_a_wrong_clock_put_into_the_future_keeps_nobody_out(
    store: Store, redis: "Redis", prefix: str
) -> None:
    keys = {n: Key(f"p{n}", 1) for n in range(16)}
    await store.commit([{"s": one(1.0)} for _ in keys], soon(), keys)
    stored = await redis.get(f"{prefix}:stream:s")
    assert isinstance(stored, bytes)
    producers = fields_of(stored)["producers"]
    for entry in producers:
        entry[4] += 10 * 365 * DAY
    await redis.set(f"{prefix}:stream:s", with_fields(stored, producers=producers))

    for sequence in (3, 2, 3, 2, 1):  # Out of order: both keep their windows.
        keys = {0: Key("new", sequence), 1: Key("newer", sequence)}
        committed = await store.commit([{"s": one(1.0)} for _ in keys], soon(), keys)
        assert [[], []] == committed.rejections
    (state,) = await store.read(["s"], soon())
    assert isinstance(state, State)
    assert 16 + 2 * 3 == state.summary.count


async def test_producers_that_come_in_one_commit_are_counted_one_after_the_other(store: Store) -> None:
    groups = [{"s": one(4.0**n)} for n in range(20)]
    committed = await store.commit(groups, soon(), {n: Key(f"p{n}", 1) for n in range(20)})
    assert [[]] * 20 == committed.rejections
    assert list(range(20)) == await digits(store, "s")


# Sequences that are times ----------------------------------------------------------------------------------------

YEAR_2036 = 2_085_978_496  # Where NTP's seconds begin anew.


@pytest.mark.parametrize("unit", [1, 10**3, 10**6])
async def test_a_sequence_that_reads_as_a_time_cannot_run_more_than_a_day_ahead(store: Store, unit: int) -> None:
    now = int(time.time() * unit)
    for sequence, is_counted in [
        (now, True),
        (YEAR_2036 * unit, False),
        (now + 2 * 86_400 * unit, False),
        (now + 86_000 * unit, True),
        (now + 2 * 86_000 * unit, True),  # A day ahead of the sequence before it.
        (YEAR_2036 * unit, False),
        (now + 1, False),  # Below the window, of course.
    ]:
        committed = await store.commit([{"s": one(1.0)}], soon(), {0: Key("p", sequence)})
        assert is_counted == (not committed.rejections[0]), sequence
    ranged = await store.commit([{"t": one(1.0)}], soon(), {0: Key("p", YEAR_2036 * unit + 5, YEAR_2036 * unit)})
    assert [[Rejection("t", None, RejectReason.KEY_AHEAD)]] == ranged.rejections


@pytest.mark.parametrize("sequence", [0, 1, 10**9, 10**10, 10**12, 10**13, 10**15, 2**53 - 1])
async def test_other_sequences_are_taken_as_they_are(store: Store, sequence: int) -> None:
    committed = await store.commit([{"s": one(1.0)}], soon(), {0: Key("p", sequence)})
    assert [[]] == committed.rejections


async def test_readings_without_a_key_need_no_room_among_the_producers(store: Store) -> None:
    await store.commit([{"s": one(4.0**n)} for n in range(16)], soon(), {n: Key(f"p{n}", 1) for n in range(16)})
    committed = await store.commit([{"s": one(4.0**16)}], soon())
    assert [[]] == committed.rejections
    assert list(range(17)) == await digits(store, "s")


async def test_a_state_has_a_bounded_size_whatever_keys_it_has_counted(
    store: Store, redis: "Redis", prefix: str
) -> None:
    rng = random.Random(1)
    for day in range(30):
        sequences = [rng.randint(8 * 10**15, MAX_SEQUENCE) for _ in range(50)]
        keys = [
            Key(f"{day}-{n}".ljust(64, "x"), sequence - rng.randint(0, 64))
            for n in range(16)
            for sequence in sorted(sequences)
        ]
        committed = await store.commit([{"s": one(1.0)} for _ in keys], soon(), dict(enumerate(keys)))
        assert {RejectReason.KEY_TOO_OLD} >= {
            rejection.reason for rejections in committed.rejections for rejection in rejections
        }

    size = await redis.strlen(f"{prefix}:stream:s")

    # A producer: its name of 64 with two bytes before it, five numbers of at most 9 bytes, one byte for the array. One
    # that made room: three numbers.
    print(f"a state with 16 producers of 64 characters and {30 * 16 - 16} that made room: {size} bytes")
    assert 16 * 64 < size <= 110 + 3 + 16 * (66 + 9 + 5 + 5 + 9 + 9 + 1) + 3 + 29 * 16 * (9 + 9 + 5)
