"""Holds the arithmetic to what it claims: exact sums, one form for each sum, and one rounding at the end.

The judge is ``fractions.Fraction``, which never rounds, on readings chosen to hurt: magnitudes from one border of the
domain to the other, cancellations that leave only the smallest reading, sums half way between two doubles, and
ordinary decimals. ``numbers`` and ``readings`` make them, and serve the other tests too.
"""

import math
from fractions import Fraction
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meanwhile.core.exact_sums import LARGEST, SMALLEST, Sums, power_sums, root, sums_of, variance
from tests.support.numbers import BORDERS, is_rounded_root, numbers, readings, total

law = settings(derandomize=True, deadline=None, max_examples=60)

BASE, HALF = 2**32, 2**31


def sums(values: list[float]) -> Sums:
    """The sum of numbers."""
    return power_sums(values, 1)[0] if values else Sums(0, ())


def exact(one: Sums, components: int = 1) -> list[Fraction]:
    return [Fraction(*ratio) for ratio in one.ratios(components)]


def rows(width: int) -> st.SearchStrategy[list[float]]:
    """Numbers of some readings with ``width`` components, one reading after another."""
    return st.integers(1, 5).flatmap(lambda n: st.lists(numbers(), min_size=n * width, max_size=n * width))


def signed_integers() -> st.SearchStrategy[int]:
    """Integers at and around the ends of limbs, and others of up to seventy limbs."""
    edges = st.builds(
        lambda sign, limbs, half, beside: sign * (2 ** (32 * limbs + 31 * half) + beside),
        st.sampled_from([1, -1]),
        st.integers(0, 6),
        st.integers(0, 1),
        st.integers(-2, 2),
    )
    return st.one_of(st.just(0), edges, st.integers(-(2**70), 2**70), st.integers(-(2**2_000), 2**2_000))


def assert_is_the_only_form(one: Sums, components: int) -> None:
    """The lowest limb is as high as possible, and there are as few limbs as possible."""
    size, rest = divmod(len(one.limbs), components)
    assert rest == 0
    if size == 0:
        assert one == Sums(0, ())
        return
    columns = [one.limbs[i * size : (i + 1) * size] for i in range(components)]
    assert any(column[0] for column in columns)
    assert all(0 <= limb < BASE for column in columns for limb in column[:-1])
    assert all(-HALF <= column[-1] < HALF for column in columns)
    if size > 1:
        assert not all(column[-1] == (-1 if column[-2] >= HALF else 0) for column in columns)


def test_two_readings_at_opposite_borders_are_both_in_the_sum() -> None:
    assert [Fraction(1e140) + Fraction(1e-140)] == exact(sums([1e140, 1e-140]))


@law
@given(readings())
@example([1.0, 1e100, 1.0, -1e100])
@example([1e140] * 1000)
@example([1e-140] * 1000)
@example([1.0, 2.0**-53])
@example([0.1] * 3_000)
@example([-(2.0**31)])
@example([2.0**31])
@example([-(2.0**63), 0.5])
def test_sums_and_squares_are_exactly_those_of_the_readings_in_their_only_form(values: list[float]) -> None:
    found, squares = power_sums(values, 1) if values else (Sums(0, ()), Sums(0, ()))
    assert [total(values)] == exact(found)
    assert [sum((Fraction(x) ** 2 for x in values), Fraction())] == exact(squares)
    assert_is_the_only_form(found, 1)
    assert_is_the_only_form(squares, 1)


@law
@given(rows(3))
@example([1e140, 1e-140, 0.0])
@example([0.0, 0.0, 0.0])
@example([-1.0, 2.0**40, 2.0**-40, 1.0, -(2.0**40), 2.0**-40])
def test_each_component_has_its_own_sum_on_the_common_grid(values: list[float]) -> None:
    found, squares = power_sums(values, 3)
    assert [total(values[i::3]) for i in range(3)] == exact(found, 3)
    assert [sum((Fraction(x) ** 2 for x in values[i::3]), Fraction()) for i in range(3)] == exact(squares, 3)
    assert_is_the_only_form(found, 3)
    assert_is_the_only_form(squares, 3)


@law
@given(rows(2), st.randoms(use_true_random=False))
def test_sums_do_not_depend_on_the_order_or_on_the_split(values: list[float], random: Random) -> None:
    pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
    random.shuffle(pairs)
    one_by_one = Sums(0, ()), Sums(0, ())
    for pair in pairs:
        one, square = power_sums(pair, 2)
        one_by_one = one_by_one[0].plus(one, 2), one_by_one[1].plus(square, 2)
    assert power_sums(values, 2) == power_sums([x for pair in pairs for x in pair], 2) == one_by_one


@law
@given(readings(smallest=1), readings(smallest=1))
def test_sums_that_stand_for_the_same_number_are_the_same(values: list[float], detour: list[float]) -> None:
    assert sums(values) == sums([*detour, *values, *(-x or 0.0 for x in detour)])


def test_readings_that_cancel_leave_no_limbs() -> None:
    assert Sums(0, ()) == sums([1e140, 0.1, 1e-140, -0.1, -1e-140, -1e140])
    assert Sums(0, ()) == power_sums([0.0, 0.0, 0.0, 0.0], 2)[0]


def test_sums_over_the_whole_domain_stay_on_the_grid() -> None:
    count = 2**53
    for value in (SMALLEST, LARGEST, math.nextafter(LARGEST, 0), -LARGEST, 1.0 + 2**-52):
        for one in power_sums([value], 1):
            (integer,) = one.integers(1)
            most = sums_of([integer * count], 32 * one.low)
            assert -33 <= most.low <= most.low + len(most.limbs) - 1 <= 31
    assert 34 >= len(sums(BORDERS).limbs)
    assert 65 >= len(power_sums(BORDERS, 1)[1].limbs)


@law
@given(st.lists(signed_integers(), min_size=1, max_size=4), st.integers(-1_000, 300))
@example([-(2**31)], 0)
@example([2**31 - 1, -(2**31)], 0)
@example([2**31], 0)
@example([-(2**31) - 1], 0)
@example([-1, 2**64], -32)
@example([0, -(2**63)], 5)
def test_limbs_hold_any_integers(integers: list[int], exponent: int) -> None:
    found = sums_of(integers, exponent)
    assert [integer * Fraction(2) ** exponent for integer in integers] == exact(found, len(integers))
    assert_is_the_only_form(found, len(integers))


@law
@given(st.lists(st.tuples(signed_integers(), signed_integers()), min_size=1, max_size=3), st.integers(-70, 70))
def test_sums_add_up(pairs: list[tuple[int, int]], apart: int) -> None:
    some, others = [a for a, _ in pairs], [b for _, b in pairs]
    added = sums_of(some, 0).plus(sums_of(others, apart), len(pairs))
    assert [a + b * Fraction(2) ** apart for a, b in pairs] == exact(added, len(pairs))
    assert_is_the_only_form(added, len(pairs))


@law
@given(readings(smallest=1))
@example([1e16, 1.0, -1e16])
@example([5.0, 5.000000000000001])
def test_a_mean_is_the_rounded_exact_mean(values: list[float]) -> None:
    assert [float(total(values) / len(values))] == sums(values).means(1, len(values))


@law
@given(readings(), st.integers(1, 2**53))
@example([1.0, 2.0**-60], 2**53)
@example([1e140], 2**53)
@example([1e-140], 2**53)
def test_a_mean_is_rounded_once_however_many_readings_it_has(values: list[float], count: int) -> None:
    assert [float(total(values) / count)] == sums(values).means(1, count)


@law
@given(st.integers(2**52, 2**53 - 1), st.integers(1, 2**53), st.sampled_from([-1, 0, 1]), st.integers(90, 230))
def test_a_mean_half_way_between_two_doubles_or_hardly_beside_it_is_rounded_once(
    below: int, count: int, side: int, far: int
) -> None:
    middle = Fraction(2 * below + 1, 2) * count
    values = [float(middle), float(middle - Fraction(float(middle))), side * math.ldexp(float(middle), -far)]
    assert [float(total(values) / count)] == sums(values).means(1, count)


def test_a_mean_half_way_between_two_doubles_goes_to_the_even_one() -> None:
    below, even, above = 1.0 + 2.0**-52, 1.0 + 2.0**-51, 1.0 + 3 * 2.0**-52
    assert [even] == sums([below, even]).means(1, 2)
    assert [even] == sums([even, above]).means(1, 2)
    assert [above] == sums([even, above, 2.0**-140]).means(1, 2)


def test_a_mean_of_nothing_but_cancellation_is_a_positive_zero() -> None:
    assert "[0.0]" == repr(sums([-1.0, 1.0]).means(1, 2))


@law
@given(readings(smallest=2))
@example([1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16])
@example([1e140, -1e140])
@example([1e-140, math.nextafter(1e-140, 1)])
def test_a_variance_is_the_mean_square_distance_from_the_exact_mean(values: list[float]) -> None:
    average = total(values) / len(values)
    expected = sum((Fraction(x) - average) ** 2 for x in values) / (len(values) - 1)
    (found,), (squares,) = [one.ratios(1) for one in power_sums(values, 1)]
    assert expected == Fraction(*variance(found, squares, len(values)))


@law
@given(st.integers(1, 2**1100), st.integers(1, 2**1100))
@example(2, 1)
@example(1, 3)
@example(10**279, 1)
@example(1, 10**279)
@example(2**212 - 1, 2**212)
@example(2**106 - 1, 1)
def test_a_root_is_the_nearest_double(numerator: int, denominator: int) -> None:
    assert is_rounded_root(root(numerator, denominator), Fraction(numerator, denominator))


@law
@given(st.integers(2**52, 2**53 - 1), st.integers(-450, 450), st.sampled_from([-1, 0, 1]), st.integers(60, 900))
def test_a_root_half_way_between_two_doubles_goes_to_the_even_one_and_beside_it_to_the_nearer_one(
    below: int, exponent: int, side: int, far: int
) -> None:
    middle = (2 * below + 1) ** 2 * Fraction(4) ** exponent
    square = middle * (1 + Fraction(side, 2**far))
    expected = below + (below % 2 if side == 0 else side > 0)
    assert math.ldexp(expected, exponent + 1) == root(square.numerator, square.denominator)


@law
@given(st.integers(0, 2**53), st.integers(-400, 400), st.integers(1, 10**30))
def test_the_root_of_a_square_is_exact_in_any_terms(whole: int, exponent: int, common: int) -> None:
    square = Fraction(whole) ** 2 * Fraction(4) ** exponent
    assert math.ldexp(whole, exponent) == root(square.numerator * common, square.denominator * common)


@pytest.mark.parametrize("denominator", [1, 2**1074, 10**40])
def test_the_root_of_zero_is_zero(denominator: int) -> None:
    assert 0.0 == root(0, denominator)
