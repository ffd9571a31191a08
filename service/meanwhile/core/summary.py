"""A summary: everything that is kept of a set of readings, in constant space.

``Summary`` is a commutative monoid. Its elements are sets of readings, described by count, first and last time, and
for each component the minimum, the maximum, and the exact sums of the values and of their squares. ``merge`` is the
operation, ``EMPTY`` the identity. Recording readings *is* merging their summary into the stored one, so there is one
law for a single reading, a batch, a group commit and the union of two streams; ``commit.lua`` implements the same law
in the server and a test holds the two together bit by bit.

From these follow the cumulative average and its companions:

    average             sum / n                                    (the cumulative moving average of n readings)
    sample variance     (n * squares - sum**2) / (n * (n - 1))      (exact, so the textbook formula is safe here)
    standard deviation  the root of that, rounded once

The textbook formula is notorious for cancellation; that is a property of rounded sums (Chan, Golub and LeVeque,
"Algorithms for Computing the Sample Variance", 1983), and ours are exact.

A summary knows only components, numbered from 0; which component is which part of a value is ``stream.Shape``'s
business. Emptiness is ``count == 0``: an average of zero is an ordinary average.
"""

from collections.abc import Sequence
from typing import NamedTuple

from meanwhile.core.exact_sums import Expansion, expansion, mean, power_sums, root, variance


class Summary(NamedTuple):
    """What is known of ``count`` readings of ``len(sums)`` components each. Immutable.

    ``first`` and ``last`` are the times of the earliest and the latest reading, in milliseconds since 1970 (UTC). The
    other fields have one entry a component. In the empty summary, which fits any number of components, they have none.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    first: int
    last: int
    minimums: tuple[float, ...]
    maximums: tuple[float, ...]
    sums: tuple[Expansion, ...]
    squares: tuple[Expansion, ...]

    def merge(self, other: "Summary") -> "Summary":
        """The summary of the readings of both. Associative and commutative; ``EMPTY`` is its identity.

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
        """The correctly rounded average of each component, for count >= 1."""
        return [mean(total, self.count) for total in self.sums]

    def variances(self) -> list[tuple[int, int]] | None:
        """The exact sample variance of each component as (numerator, denominator); None below two readings."""
        if self.count < 2:
            return None
        return [variance(s, q, self.count) for s, q in zip(self.sums, self.squares, strict=True)]

    def deviations(self) -> list[float] | None:
        """The correctly rounded sample standard deviation of each component; None below two readings.

        >>> summarize([[1.0, 3.0]], 0, 0).deviations()
        [1.4142135623730951]
        """
        variances = self.variances()
        return None if variances is None else [root(max(0, above), below) for above, below in variances]


EMPTY = Summary(0, 0, 0, (), (), (), ())


def summarize(columns: Sequence[Sequence[float]], first: int, last: int) -> Summary:
    """The summary of the readings whose components are ``columns``: one sequence a component, one entry a reading.

    All columns have the same length, at least 1, of doubles inside the domain of ``exact``; a zero is a positive one,
    so that minimum and maximum do not depend on the order. ``first`` and ``last`` are milliseconds since 1970.

    >>> summarize([[20.0, 22.0], [1.0, 1.0]], 0, 60_000).averages()
    [21.0, 1.0]
    """
    if len(columns) == 1:  # The usual case.
        (column,) = columns
        total, total_of_squares = power_sums(column)
        return Summary(len(column), first, last, (min(column),), (max(column),), (total,), (total_of_squares,))
    sums, squares = zip(*map(power_sums, columns), strict=True)
    return Summary(len(columns[0]), first, last, tuple(map(min, columns)), tuple(map(max, columns)), sums, squares)
