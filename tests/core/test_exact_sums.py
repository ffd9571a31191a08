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

from meanwhile.core.exact_sums import expansion, mean, power_sums, ratio, root, square, variance
from tests.support.numbers import BORDERS, is_rounded_root, numbers, readings, total

law = settings(derandomize=True, deadline=None, max_examples=60)


def test_two_readings_at_opposite_borders_are_both_in_the_sum() -> None:
    assert (1e-140, 1e140) == expansion([1e140, 1e-140])


@law
@given(readings())
@example([1.0, 1e100, 1.0, -1e100])
@example([1e140] * 1000)
@example([1e-140] * 1000)
@example([1.0, 2.0**-53])
@example([1.0 + 2.0**-52, 2.0**-53])
def test_the_parts_of_an_expansion_sum_to_exactly_what_was_added(values: list[float]) -> None:
    assert total(values) == total(list(expansion(values)))


@law
@given(readings())
def test_each_part_is_the_rounded_sum_of_itself_and_the_smaller_parts(values: list[float]) -> None:
    parts = expansion(values)
    assert [float(total(list(parts[: i + 1]))) for i in range(len(parts))] == list(parts)
    assert 0.0 not in parts


@law
@given(readings(), st.randoms(use_true_random=False))
def test_an_expansion_does_not_depend_on_the_order(values: list[float], random: Random) -> None:
    shuffled = random.sample(values, len(values))
    assert expansion(values) == expansion(shuffled)


@law
@given(readings(), readings())
def test_expansions_that_stand_for_the_same_sum_are_the_same(values: list[float], detour: list[float]) -> None:
    assert expansion(values) == expansion([*detour, *values, *(-x for x in detour)])
    assert expansion(values) == expansion(expansion(values))


@law
@given(readings(), readings())
def test_an_expansion_of_two_expansions_is_the_expansion_of_everything(some: list[float], others: list[float]) -> None:
    assert expansion(some + others) == expansion(expansion(some) + expansion(others))


def test_an_expansion_does_not_change_its_terms() -> None:
    terms = [0.1, 0.2, -0.3]
    expansion(terms)
    assert [0.1, 0.2, -0.3] == terms


def test_readings_that_cancel_leave_no_parts() -> None:
    assert () == expansion([1e140, 0.1, 1e-140, -0.1, -1e-140, -1e140])
    assert () == expansion([0.0, -0.0])
    assert () == expansion([])


def test_no_sum_over_the_whole_domain_has_more_than_forty_parts() -> None:
    random = Random(1)
    exponents = [e for e in range(-464, 464) for _ in range(4)]
    values = [math.ldexp(random.uniform(1, 2) * random.choice([1, -1]), e) for e in exponents]
    assert 15 <= len(expansion(values)) <= 40
    assert 30 <= len(power_sums(values)[1]) <= 40


@law
@given(readings())
@example([1e140, 1e-140, -1e140, -1e-140])
@example(BORDERS)
def test_squares_sum_to_exactly_the_squares(values: list[float]) -> None:
    assert sum((Fraction(x) ** 2 for x in values), Fraction()) == total([part for x in values for part in square(x)])


@given(numbers())
def test_a_square_is_a_canonical_expansion(x: float) -> None:
    assert expansion(square(x)) == square(x)


@law
@given(readings(smallest=1), st.integers(1, 40))
@example([1e140, 1e-140, -1e140, -1e-140], 40)
@example(BORDERS, 1)
@example(BORDERS, 40)
@example([0.0], 1)
@example([0.0], 40)
@example([-3.0, 2.0**60], 20)
@example([1e-140], 40)
@example([1e140], 40)
@example([0.1, -0.1], 40)
def test_power_sums_are_the_canonical_expansions_for_few_values_and_for_many(values: list[float], times: int) -> None:
    values = values * times
    squares = [part for x in values for part in square(x)]
    assert (expansion(values), expansion(squares)) == power_sums(values)


@law
@given(readings())
def test_a_ratio_is_the_exact_sum_over_a_power_of_two(values: list[float]) -> None:
    numerator, denominator = ratio(expansion(values))
    assert total(values) == Fraction(numerator, denominator)
    assert 1 == denominator.bit_count()


@law
@given(readings(smallest=1))
@example([1e16, 1.0, -1e16])
@example([5.0, 5.000000000000001])
def test_a_mean_is_the_rounded_exact_mean(values: list[float]) -> None:
    assert float(total(values) / len(values)) == mean(expansion(values), len(values))


@law
@given(readings(), st.integers(1, 2**53))
@example([1.0, 2.0**-60], 2**53)
@example([1e140], 2**53)
@example([1e-140], 2**53)
def test_a_mean_is_rounded_once_however_many_readings_it_has(values: list[float], count: int) -> None:
    assert float(total(values) / count) == mean(expansion(values), count)


@law
@given(st.integers(2**52, 2**53 - 1), st.integers(1, 2**53), st.sampled_from([-1, 0, 1]), st.integers(90, 230))
def test_a_mean_half_way_between_two_doubles_or_hardly_beside_it_is_rounded_once(
    below: int, count: int, side: int, far: int
) -> None:
    middle = Fraction(2 * below + 1, 2) * count
    parts = expansion([float(middle), float(middle - Fraction(float(middle))), side * math.ldexp(float(middle), -far)])
    assert float(total(list(parts)) / count) == mean(parts, count)


def test_a_mean_half_way_between_two_doubles_goes_to_the_even_one() -> None:
    below, even, above = 1.0 + 2.0**-52, 1.0 + 2.0**-51, 1.0 + 3 * 2.0**-52
    assert even == mean(expansion([below, even]), 2)
    assert even == mean(expansion([even, above]), 2)
    assert above == mean(expansion([even, above, 2.0**-140]), 2)


def test_a_mean_of_nothing_but_cancellation_is_a_positive_zero() -> None:
    assert "0.0" == repr(mean(expansion([-1.0, 1.0]), 2))


@law
@given(readings(smallest=2))
@example([1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16])
@example([1e140, -1e140])
@example([1e-140, math.nextafter(1e-140, 1)])
def test_a_variance_is_the_mean_square_distance_from_the_exact_mean(values: list[float]) -> None:
    average = total(values) / len(values)
    exact = sum((Fraction(x) - average) ** 2 for x in values) / (len(values) - 1)
    assert exact == Fraction(*variance(*power_sums(values), len(values)))


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
