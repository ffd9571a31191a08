"""Two implementations, one truth: ``commit.lua`` in a real server against ``Summary.merge`` in Python.

The service sums in Python before it sends and in Lua when it stores, and promises that the split between the two can
never be seen. So both get the same data here, chosen to hurt (magnitudes 280 decimal orders apart, cancellations, ties
that a tiny part decides), and what is stored must equal what Python merged, part by part and bit by bit. States are
compared by their ``repr``, which tells 0.0 from -0.0 and 1 from 1.0, and differs whenever a bit of a double does.
"""

import asyncio
import itertools
import random
import uuid
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ldexp

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from meanwhile.core.exact_sums import Sums, sums_of
from meanwhile.core.readings import Limits, collect
from meanwhile.core.shapes import NUMBER, Value
from meanwhile.core.state import State, decode
from meanwhile.core.summary import Summary
from meanwhile.storage.store import Store
from tests.support.states import with_checksum
from tests.support.summaries import summary_of

# Where rounding is decided: neighbours of a power of two, half an ulp beside it, and what tips the half.
EDGES = (
    *(1.0, 1.0 + 2**-52, 1.0 - 2**-53, 2.0**-53, 2.0**-54, 2.0**-105, 2.0**-106, 3.0, 0.5, 0.1, 0.2, 0.3),
    *(2.0**31, 2.0**32, 2.0**53, 2.0**53 + 2, 2.0**62, 2.0**63, 2.0**64, 1e15, 1e16, 1e22, 1e100, 1e-100),
    *(1e-140, 1e140, 0.0),
)

MAGNITUDES = st.one_of(
    st.sampled_from(EDGES),
    st.floats(1e-140, 1e140),
    st.builds(ldexp, st.integers(1, 2**53 - 1).map(float), st.integers(-450, 400)),
    st.builds(ldexp, st.just(1.0), st.integers(-60, 60)),
)
DOUBLES = st.builds(lambda magnitude, negative: -magnitude or 0.0 if negative else magnitude, MAGNITUDES, st.booleans())


# Made once: hypothesis examines each new strategy, which takes longer than to draw from it.
COUNTS = st.integers(1, 6)
TIMES = st.tuples(*[st.integers(-(10**12), 17 * 10**11)] * 2)
ROWS = {n: st.lists(DOUBLES, min_size=n, max_size=n) for n in range(1, 7)}
PAIRS = {n: st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=3) for n in range(1, 7)}


@st.composite
def columns(draw: st.DrawFn, readings: int) -> list[float]:
    """As many doubles, in which some cancel others."""
    values = draw(ROWS[readings])
    for i, j in draw(PAIRS[readings]):
        values[i] = -values[j] or 0.0
    return values


COLUMNS = {n: columns(n) for n in range(1, 7)}


@st.composite
def summaries(draw: st.DrawFn, components: int) -> Summary:
    readings = draw(COUNTS)
    first, last = sorted(draw(TIMES))
    return summary_of([draw(COLUMNS[readings]) for _ in range(components)], first, last)


STREAMS: Mapping[str, Value] = {
    "number": 0.0,
    "array": [0.0, 0.0, 0.0],
    "object": {"key": [0.0, 0.0], "température": 0.0},
}
SHAPES = {name: collect([value], 0, 0, Limits()).shape for name, value in STREAMS.items()}


SUMMARIES = {name: summaries(shape.components) for name, shape in SHAPES.items()}
NAMES = st.lists(st.sampled_from(sorted(STREAMS)), min_size=1, max_size=3, unique=True)


@st.composite
def groups(draw: st.DrawFn) -> dict[str, State]:
    return {name: State(SHAPES[name], draw(SUMMARIES[name])) for name in draw(NAMES)}


def soon() -> float:
    return asyncio.get_running_loop().time() + 10


async def stored_bytes(redis: "Redis", prefix: str, name: str) -> bytes:
    found = await redis.get(f"{prefix}:stream:{name}")
    assert isinstance(found, bytes)
    return found


async def stored(redis: "Redis", prefix: str, name: str) -> State:
    return decode(await stored_bytes(redis, prefix, name))


def merged(states: Sequence[State]) -> State:
    shape, summary = states[0]
    for state in states[1:]:
        summary = summary.merge(state.summary)
    return State(shape, summary)


# All examples share one client and each writes below a prefix of its own. A failure is shown as it was found: to look
# for a smaller one takes thousands of commits, and the tests below fail with small ones.
@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(commits=st.lists(st.lists(groups(), min_size=1, max_size=4), min_size=1, max_size=4))
async def test_the_script_and_python_merge_the_same_readings_to_the_same_bits(
    redis: "Redis", commits: list[list[dict[str, State]]]
) -> None:
    prefix = f"test-{uuid.uuid4().hex}"
    store = Store(redis, prefix)
    sent: dict[str, list[State]] = {}

    for commit in commits:
        for group in commit:
            for name, state in group.items():
                sent.setdefault(name, []).append(state)
        committed = await store.commit(commit, soon())

        assert [[] for _ in commit] == committed.rejections
        assert {name for group in commit for name in group} == committed.states.keys()
        for name, state in committed.states.items():
            assert repr(merged(sent[name])) == repr(state)

    for name, states in sent.items():
        assert repr(merged(states)) == repr(await stored(redis, prefix, name))


@pytest.mark.parametrize("seed", range(4))
async def test_thousands_of_streams_of_ties_and_cancellations_agree_to_the_bit(
    store: Store, redis: "Redis", prefix: str, seed: int
) -> None:
    rng = random.Random(seed)

    def value() -> float:
        kind = rng.random()
        if kind < 0.4:
            return rng.choice((-1, 1)) * ldexp(1.0, rng.randint(-110, 110))
        if kind < 0.6:
            return rng.choice((-1.0, 1.0)) * rng.choice(EDGES[:-1])
        return rng.choice((-1, 1)) * ldexp(rng.randint(1, 2**53 - 1), rng.randint(-60, 60))

    def states() -> dict[str, State]:
        return {
            f"s{i}": State(NUMBER, summary_of([[value() for _ in range(rng.randint(1, 8))]], 0, 0))
            for i in range(1_000)
        }

    commits = [states() for _ in range(4)]
    for commit in commits:
        await store.commit([commit], soon())

    for i in range(1_000):
        expected = merged([commit[f"s{i}"] for commit in commits])
        assert repr(expected) == repr(await stored(redis, prefix, f"s{i}"))


async def test_every_order_of_the_same_commits_leaves_the_same_bytes(redis: "Redis", prefix: str) -> None:
    store = Store(redis, prefix)
    batches = [[1.0, 1e100], [2.0**-60, 0.1], [-1e100, 1e-140, 7.0], [2.0**53, 1.0]]
    states = [State(NUMBER, summary_of([batch], at, at)) for at, batch in enumerate(batches)]

    for number, order in enumerate(itertools.permutations(states)):
        for state in order:
            await store.commit([{f"s{number}": state}], soon())

    assert 1 == len({await redis.get(f"{prefix}:stream:s{number}") for number in range(24)})
    expected = sum(map(Fraction, itertools.chain(*batches)), Fraction())
    assert expected == Fraction(*(await stored(redis, prefix, "s0")).summary.sums.ratios(1)[0])


async def test_a_sum_of_zero_is_stored_without_any_limb(store: Store, redis: "Redis", prefix: str) -> None:
    await store.commit([{"s": State(NUMBER, summary_of([[1e100, 1.0, 0.1]], 0, 0))}], soon())
    await store.commit([{"s": State(NUMBER, summary_of([[-1e100, -1.0, -0.1]], 0, 0))}], soon())

    summary = (await stored(redis, prefix, "s")).summary

    assert Sums(0, ()) == summary.sums
    assert [0.0] == summary.averages()
    assert 6 == summary.count


@pytest.mark.parametrize("value", [*EDGES, *(-x for x in EDGES if x), 123456789.0, 16777217.0, 0.1 + 0.2])
async def test_a_double_comes_back_from_the_server_as_it_went(
    store: Store, redis: "Redis", prefix: str, value: float
) -> None:
    """MessagePack in Lua packs whole numbers as integers and some others as 32 bits: no value may change by that."""
    once, twice = (State(NUMBER, summary_of([[value] * n], 0, 0)) for n in (1, 2))

    await store.commit([{"once": once, "twice": once}], soon())
    await store.commit([{"twice": once}], soon())

    assert repr(once) == repr(await stored(redis, prefix, "once"))
    assert repr(twice) == repr(await stored(redis, prefix, "twice"))


async def test_counts_and_times_beyond_32_bits_are_exact(store: Store, redis: "Redis", prefix: str) -> None:
    one = summary_of([[1.0]], 1_700_000_000_123, 1_700_000_000_123)
    earlier = summary_of([[1.0]], -62_135_596_800_000, -62_135_596_800_000)
    n = 2**53 - 3
    many = one._replace(count=n, sums=sums_of([n], 0), squares=sums_of([n], 0))

    for summary in (many, one, earlier):
        await store.commit([{"s": State(NUMBER, summary)}], soon())

    found = (await stored(redis, prefix, "s")).summary
    assert 2**53 - 1 == found.count
    assert (-62_135_596_800_000, 1_700_000_000_123) == (found.first, found.last)


async def test_what_a_later_version_appends_to_a_state_stays_behind_it(
    store: Store, redis: "Redis", prefix: str
) -> None:
    one = State(NUMBER, summary_of([[1.0]], 0, 0))
    await store.commit([{"s": one}], soon())
    array = (await stored_bytes(redis, prefix, "s"))[:-8]
    assert array.startswith(b"\x9c")
    longer = b"\xdc\x00\x11" + array[1:] + b"\x90\x90\x90\x90\xa5later"
    await redis.set(f"{prefix}:stream:s", with_checksum(longer))

    await store.commit([{"s": one}], soon())

    after = await stored_bytes(redis, prefix, "s")
    assert repr(merged([one, one])) == repr(decode(after))
    assert after.startswith(b"\xdc\x00\x11")
    assert after[:-8].endswith(b"\xa5later")
