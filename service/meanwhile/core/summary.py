"""A summary: everything that the service keeps of a set of readings, in constant space.

``Summary`` is a commutative monoid. An element describes a set of readings: their count, first and last time, and for
each component the minimum, the maximum, and the exact sums of the values and of their squares. ``merge`` is the
operation, ``EMPTY`` the identity. To record readings *is* to merge their summary into the stored one, so the same law
covers a single reading, a batch, a group commit and the union of two streams. ``commit.lua`` implements the same law in
the server, and a test checks that both give the same bits.

The cumulative average and the deviation follow from a summary:

    average             sum / n                                    (the cumulative moving average of n readings)
    sample variance     (n * squares - sum**2) / (n * (n - 1))      (exact, so the textbook formula is safe here)
    standard deviation  the root of the sample variance, rounded once

The textbook formula is notorious for cancellation, but cancellation is a property of rounded sums (Chan, Golub and
LeVeque, "Algorithms for Computing the Sample Variance", 1983), and these sums are exact.

A summary numbers its components from 0; ``shapes.Shape`` maps them to the parts of a value. A summary is empty if
``count == 0``: an average of zero is an ordinary average.
"""

from collections.abc import Sequence
from typing import NamedTuple

from meanwhile.core.exact_sums import Expansion, expansion, mean, power_sums, root, variance


class Summary(NamedTuple):
    """The summary of ``count`` readings of ``len(sums)`` components each. Immutable.

    ``first`` and ``last`` are the times of the earliest and the latest reading, in milliseconds since 1970 (UTC). The
    other fields have one entry per component. The empty summary matches any number of components and has no entries.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which is not used here
    first: int
    last: int
    minimums: tuple[float, ...]
    maximums: tuple[float, ...]
    sums: tuple[Expansion, ...]
    squares: tuple[Expansion, ...]

    def merge(self, other: "Summary") -> "Summary":
        """Returns the summary of the readings of both. Associative and commutative; ``EMPTY`` is the identity.

        >>> a, b = summarize([[1.0]], 5, 5), summarize([[2.0, 4.0]], 3, 9)
        >>> a.merge(b) == b.merge(a) == summarize([[4.0, 1.0, 2.0]], 3, 9)
        True
        """
        if self.count == 0:
            return other
        if other.count == 0:
            return self
        return Summary(
            self.count + other.count,
            min(self.first, other.first),
            max(self.last, other.last),
            tuple(map(min, self.minimums, other.minimums)),
            tuple(map(max, self.maximums, other.maximums)),
            tuple(expansion(a + b) for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(expansion(a + b) for a, b in zip(self.squares, other.squares, strict=True)),
        )

    def averages(self) -> list[float]:
        """Returns the correctly rounded average of each component, for count >= 1."""
        return [mean(total, self.count) for total in self.sums]

    def variances(self) -> list[tuple[int, int]] | None:
        """Returns the exact sample variance of each component as (numerator, denominator); None below two readings."""
        if self.count < 2:
            return None
        return [variance(s, q, self.count) for s, q in zip(self.sums, self.squares, strict=True)]

    def deviations(self) -> list[float] | None:
        """Returns the correctly rounded sample standard deviation of each component; None below two readings.

        >>> summarize([[1.0, 3.0]], 0, 0).deviations()
        [1.4142135623730951]
        """
        variances = self.variances()
        return None if variances is None else [root(max(0, above), below) for above, below in variances]


EMPTY = Summary(0, 0, 0, (), (), (), ())


def summarize(columns: Sequence[Sequence[float]], first: int, last: int) -> Summary:
    """Summarizes readings. ``columns`` has one sequence per component, with one entry per reading.

    All columns have the same length, at least 1, and consist of doubles inside the domain of ``exact_sums``. Zeros are
    positive, so that minimum and maximum do not depend on the order. ``first`` and ``last`` are milliseconds since
    1970.

    >>> summarize([[20.0, 22.0], [1.0, 1.0]], 0, 60_000).averages()
    [21.0, 1.0]
    """
    if len(columns) == 1:
        (column,) = columns
        total, total_of_squares = power_sums(column)
        return Summary(len(column), first, last, (min(column),), (max(column),), (total,), (total_of_squares,))
    sums, squares = zip(*map(power_sums, columns), strict=True)
    return Summary(len(columns[0]), first, last, tuple(map(min, columns)), tuple(map(max, columns)), sums, squares)
