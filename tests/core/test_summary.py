"""Holds summaries to their law: a commutative monoid whose every element is what ``Fraction`` says of its readings."""

import math
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meanwhile.core.exact_sums import Sums
from meanwhile.core.summary import EMPTY, Summary, summarize
from tests.support.numbers import halfway, is_rounded_root, numbers, readings, total

law = settings(derandomize=True, deadline=None, max_examples=60)

TIMES = st.integers(-62_135_596_800_000, 253_402_300_799_999)


def rows(width: int = 2, smallest: int = 1) -> st.SearchStrategy[list[tuple[int, list[float]]]]:
    """Readings of ``width`` components, each with its time."""
    components = st.lists(numbers(), min_size=width, max_size=width)
    return st.lists(st.tuples(TIMES, components), min_size=smallest, max_size=6)


def summary_of(timed: list[tuple[int, list[float]]]) -> Summary:
    """The summary of readings with their times, in one go. Of equal times, the last reading is the latest."""
    if not timed:
        return EMPTY
    times = [time for time, _ in timed]
    latest = max(range(len(times)), key=lambda i: (times[i], i))
    numbers = [x for _, value in timed for x in value]
    return summarize(numbers, len(timed[0][1]), min(times), max(times), latest)


def scalars(values: list[float]) -> Summary:
    return summarize(values, 1, 0, 0)


def without_latest(summary: Summary) -> Summary:
    """All of a summary that follows the law whatever the order of equal times."""
    return summary._replace(latest=())


@law
@given(rows(smallest=0), rows(smallest=0), rows(smallest=0))
def test_merge_is_associative(
    a: list[tuple[int, list[float]]], b: list[tuple[int, list[float]]], c: list[tuple[int, list[float]]]
) -> None:
    x, y, z = summary_of(a), summary_of(b), summary_of(c)
    assert x.merge(y).merge(z) == x.merge(y.merge(z))


@law
@given(rows(smallest=0), rows(smallest=0))
def test_merge_is_commutative(a: list[tuple[int, list[float]]], b: list[tuple[int, list[float]]]) -> None:
    x, y = summary_of(a), summary_of(b)
    assert without_latest(x.merge(y)) == without_latest(y.merge(x))
    if x.last != y.last or not (a and b):
        assert x.merge(y) == y.merge(x)


@law
@given(rows())
def test_the_empty_summary_is_the_identity_of_merge(timed: list[tuple[int, list[float]]]) -> None:
    summary = summary_of(timed)
    assert summary == EMPTY.merge(summary)
    assert summary == summary.merge(EMPTY)
    assert EMPTY == EMPTY.merge(EMPTY)


@law
@given(rows(smallest=0), rows(smallest=0))
def test_merge_is_the_summary_of_the_readings_of_both(
    a: list[tuple[int, list[float]]], b: list[tuple[int, list[float]]]
) -> None:
    assert summary_of(a + b) == summary_of(a).merge(summary_of(b))


@law
@given(rows(), rows())
def test_merge_does_not_change_its_arguments(
    a: list[tuple[int, list[float]]], b: list[tuple[int, list[float]]]
) -> None:
    x, y = summary_of(a), summary_of(b)
    hash((x, y))  # Only what is immutable to the bottom has a hash.
    x.merge(y)
    assert (summary_of(a), summary_of(b)) == (x, y)


@law
@given(rows(smallest=2), st.randoms(use_true_random=False))
def test_any_split_in_any_order_gives_the_same_summary_to_the_bit(
    timed: list[tuple[int, list[float]]], random: Random
) -> None:
    shuffled = random.sample(timed, len(timed))
    pieces = []
    while shuffled:
        size = random.randint(1, len(shuffled))
        pieces.append(summary_of(shuffled[:size]))
        del shuffled[:size]
    while len(pieces) > 1:
        pieces.append(pieces.pop(random.randrange(len(pieces))).merge(pieces.pop(random.randrange(len(pieces)))))
    assert repr(without_latest(summary_of(timed))) == repr(without_latest(pieces[0]))
    assert list(pieces[0].latest) in [value for time, value in timed if time == pieces[0].last]


@law
@given(rows(width=3))
def test_a_summary_says_of_every_component_what_its_readings_say(timed: list[tuple[int, list[float]]]) -> None:
    summary = summary_of(timed)
    columns = [list(column) for column in zip(*(value for _, value in timed), strict=True)]
    assert len(timed) == summary.count
    assert (min(timed)[0], max(timed)[0]) == (summary.first, summary.last)
    assert [min(column) for column in columns] == list(summary.minimums)
    assert [max(column) for column in columns] == list(summary.maximums)
    assert [float(total(column) / len(column)) for column in columns] == summary.averages()


@law
@given(readings(smallest=1))
def test_an_average_is_the_rounded_exact_mean_and_never_outside_the_readings(values: list[float]) -> None:
    summary = scalars(values)
    assert [float(total(values) / len(values))] == summary.averages()
    assert min(values) <= summary.averages()[0] <= max(values)


@law
@given(st.one_of(readings(smallest=2), halfway()))
def test_a_deviation_is_the_nearest_double_to_the_root_of_the_exact_variance(values: list[float]) -> None:
    average = total(values) / len(values)
    exact = sum(((Fraction(x) - average) ** 2 for x in values), Fraction()) / (len(values) - 1)
    summary = scalars(values)
    assert [exact] == [Fraction(*variance) for variance in summary.variances() or []]
    assert [True] == [is_rounded_root(deviation, exact) for deviation in summary.deviations() or []]


def test_a_deviation_needs_two_readings() -> None:
    assert scalars([5.0]).deviations() is None
    assert scalars([5.0]).variances() is None
    assert EMPTY.deviations() is None
    assert [0.0] == scalars([5.0, 5.0]).deviations()


@pytest.mark.parametrize("value", [0.1, -1e140, 1e-140, 20.1, math.pi, 0.0])
def test_equal_readings_average_to_themselves_and_deviate_by_nothing(value: float) -> None:
    summary = scalars([value] * 1001)
    assert [value] == summary.averages()
    assert [0.0] == summary.deviations()


def test_an_average_of_zero_is_not_emptiness() -> None:
    summary = scalars([-1.0, 1.0])
    assert [0.0] == summary.averages()
    assert 4 == summary.merge(summary).count
    nothing = Sums(0, ())
    assert Summary(3, 0, 0, (0.0,), (-1.0,), (1.0,), nothing, Sums(0, (2,))) == summary.merge(scalars([0.0]))


def test_the_latest_reading_is_the_one_with_the_latest_time_whenever_it_came() -> None:
    summary = summarize([1.0, 2.0, 3.0], 1, 10, 30, latest=1)
    assert (2.0,) == summary.latest
    assert (2.0,) == summary.merge(summarize([9.0], 1, 29, 29)).latest
    assert (9.0,) == summary.merge(summarize([9.0], 1, 30, 30)).latest


def test_a_latest_reading_that_is_not_known_stays_so_until_a_later_one() -> None:
    old = summarize([1.0], 1, 30, 30)._replace(latest=())
    assert () == old.merge(summarize([2.0], 1, 29, 29)).latest
    assert (2.0,) == old.merge(summarize([2.0], 1, 30, 30)).latest


def test_times_before_1970_are_earlier_than_those_after() -> None:
    old, new = summarize([1.0], 1, -5_000, -4_000), summarize([2.0], 1, 0, 7_000)
    assert (2.0,) == new.merge(old).latest == old.merge(new).latest
    assert (-5_000, 7_000) == (new.merge(old).first, new.merge(old).last)


def test_a_million_million_readings_are_as_exact_as_ten() -> None:
    values = [0.1, 1e16, 21.4, -1e16, 1e-9, 20.1]
    summary = scalars(values)
    for _ in range(40):
        summary = summary.merge(summary)
    n = 6 * 2**40
    exact = total(values) / 6
    variance = sum(((Fraction(x) - exact) ** 2 for x in values), Fraction()) * 2**40 / (n - 1)
    assert n == summary.count
    assert [float(exact)] == summary.averages()
    assert [True] == [is_rounded_root(deviation, variance) for deviation in summary.deviations() or []]
    assert (7, 9) >= (len(summary.sums.limbs), len(summary.squares.limbs))


def test_a_summary_does_not_grow_with_its_readings() -> None:
    random = Random(2)
    summary = EMPTY
    sizes = set()
    for _ in range(300):
        summary = summary.merge(scalars([random.gauss(20, 5) for _ in range(100)]))
        sizes.add((len(summary.sums.limbs), len(summary.squares.limbs)))
    assert 30_000 == summary.count
    assert (4, 6) >= (max(s for s, _ in sizes), max(q for _, q in sizes))


def test_components_that_do_not_match_are_not_merged() -> None:
    with pytest.raises(ValueError, match="zip"):
        summarize([1.0], 1, 0, 0).merge(summarize([1.0, 2.0], 2, 0, 0))


@pytest.mark.parametrize(
    ("average", "values"),
    [
        (0.5, [1.0, 1e100, 1.0, -1e100]),
        (0.3333333333333333, [1e16, 1.0, -1e16]),
        (0.4, [0.4] * 70),
        (20.1, [20.1] * 100_000),
    ],
)
def test_averages_that_rounded_sums_get_wrong(average: float, values: list[float]) -> None:
    assert [average] == scalars(values).averages()
    one_by_one = EMPTY
    for value in values[:5000]:
        one_by_one = one_by_one.merge(scalars([value]))
    assert [average] == one_by_one.averages()


def test_nist_numacc4_has_its_certified_mean_and_deviation() -> None:
    # https://www.itl.nist.gov/div898/strd/univ/numacc4.html: catches a variance that cancels.
    values = [10000000.2, *[10000000.1, 10000000.3] * 500]
    summary = scalars(values)
    assert [float(total(values) / 1001)] == summary.averages()
    assert [True] == [abs(deviation - 0.1) <= 1e-9 for deviation in summary.deviations() or []]


def test_a_small_variance_far_from_zero_is_exact() -> None:
    # https://en.wikipedia.org/wiki/Algorithms_for_calculating_variance: the naive formula gives 29.33, or less than 0.
    summary = scalars([1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16])
    assert [30] == [Fraction(*variance) for variance in summary.variances() or []]
    assert [math.sqrt(30)] == summary.deviations()
