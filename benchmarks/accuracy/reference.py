"""The exact results, by rational arithmetic, and the distance of an answer from them."""

import math
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

CERTIFIED_DIGITS = 15.0


class Exact(NamedTuple):
    """The mean and the standard deviations of a series, each rounded once to the nearest double."""

    mean: float
    sample_deviation: float
    population_deviation: float


def exact(values: Sequence[float]) -> Exact:
    """Returns the correctly rounded results for at least two finite values.

    >>> exact([1.0, 2.0, 4.0])
    Exact(mean=2.3333333333333335, sample_deviation=1.5275252316519468, population_deviation=1.247219128924647)
    """
    count = len(values)
    total = total_of_squares = Fraction()
    for value, times in Counter(values).items():
        total += Fraction(value) * times
        total_of_squares += Fraction(value) ** 2 * times
    deviations = total_of_squares - total**2 / count
    return Exact(float(total / count), rounded_root(deviations / (count - 1)), rounded_root(deviations / count))


def rounded_root(square: Fraction) -> float:
    """Returns the double nearest to the square root of ``square``, which is not negative.

    The integer root has at least 64 bits. If it is not exact, its last bit is set (rounding to odd), so that the
    conversion to a double rounds the real root and not the integer one.

    >>> rounded_root(Fraction(2))
    1.4142135623730951
    """
    above, below = square.as_integer_ratio()
    shift = max(0, 64 - (above.bit_length() - below.bit_length()) // 2)
    scaled, rest = divmod(above << (2 * shift), below)
    root = math.isqrt(scaled)
    if rest or root * root != scaled:
        root |= 1
    return float(Fraction(root, 1 << shift))


def ulps(answer: float, correct: float) -> float:
    """Returns how far ``answer`` is from ``correct``, in units of the last place of ``correct``.

    Infinite if ``answer`` is not finite, or if it is not 0 although ``correct`` is.

    >>> ulps(1.0000000000000002, 1.0), ulps(math.nan, 1.0)
    (1.0, inf)
    """
    if answer == correct:
        return 0.0
    if not math.isfinite(answer) or correct == 0:
        return math.inf
    return float(abs(Fraction(answer) - Fraction(correct)) / Fraction(math.ulp(correct)))


def agreeing_digits(answer: float, certified: str) -> float:
    """Returns the log relative error of NIST's comparisons: how many digits agree, from 0 to ``CERTIFIED_DIGITS``.

    >>> agreeing_digits(10.001, "10"), agreeing_digits(0.1, "0.1")
    (4.0, 15.0)
    """
    if not math.isfinite(answer):
        return 0.0
    expected = Fraction(Decimal(certified))
    error = abs(Fraction(answer) - expected) / abs(expected)
    if error == 0:
        return CERTIFIED_DIGITS
    return round(min(max(-math.log10(error), 0.0), CERTIFIED_DIGITS), 1)
