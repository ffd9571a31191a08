"""What people write themselves: running sums, Welford's method, and the functions of Python's standard library."""

import math
import platform
import statistics
from collections.abc import Sequence

from benchmarks.accuracy.peer import Answer, Peer, for_each


def peers() -> list[Peer]:
    """Returns the formulas. None of them needs a package."""
    python = f"Python {platform.python_version()}"
    return [
        Peer("naive sums", python, "`sum += x; squares += x * x` in doubles", "constant", for_each(naive)),
        Peer(
            "Welford",
            python,
            "`mean += (x - mean) / n`, and the sum of squared differences",
            "constant",
            for_each(welford),
        ),
        Peer(
            "`math.fsum`",
            python,
            "`fsum(x) / n`; the deviation in a second pass",
            "every value",
            for_each(fsum),
        ),
        Peer(
            "`statistics.fmean`",
            python,
            "`fmean(x)`; no deviation",
            "every value",
            for_each(fmean),
        ),
        Peer("`statistics.mean`", python, "`mean(x)`, `stdev(x)`", "every value", for_each(mean)),
    ]


def naive(values: Sequence[float]) -> Answer:
    """Sums and sums of squares in doubles, and the textbook formula. Not a number if the variance is negative."""
    total = squares = 0.0
    for value in values:
        total += value
        squares += value * value
    return textbook(len(values), total, squares)


def textbook(count: int, total: float, squares: float) -> Answer:
    """Returns the mean and the sample deviation that follow from rounded sums."""
    variance = (squares - total * total / count) / (count - 1)
    return Answer(total / count, math.sqrt(variance) if variance >= 0 else math.nan)


def welford(values: Sequence[float]) -> Answer:
    """B. P. Welford, "Note on a method for calculating corrected sums of squares and products", 1962."""
    average = squared_differences = 0.0
    for count, value in enumerate(values, 1):
        difference = value - average
        average += difference / count
        squared_differences += difference * (value - average)
    return Answer(average, math.sqrt(squared_differences / (len(values) - 1)))


def fsum(values: Sequence[float]) -> Answer:
    """Rounds the exact sum, then the quotient."""
    average = math.fsum(values) / len(values)
    squared_differences = math.fsum((value - average) ** 2 for value in values)
    return Answer(average, math.sqrt(squared_differences / (len(values) - 1)))


def fmean(values: Sequence[float]) -> Answer:
    """Rounds the exact sum, then the quotient."""
    return Answer(statistics.fmean(values), None)


def mean(values: Sequence[float]) -> Answer:
    """Exact, and rounded once."""
    return Answer(statistics.mean(values), statistics.stdev(values))
