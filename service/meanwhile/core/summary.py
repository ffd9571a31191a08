"""A summary: everything that the service keeps of a set of readings, in constant space.

``Summary`` is a commutative monoid. An element describes a set of readings: their count, first and last time, and for
each component the minimum, the maximum, and the exact sums of the values and of their squares. ``merge`` is the
operation, ``EMPTY`` the identity. To record readings *is* to merge their summary into the stored one, so the same law
covers a single reading, a batch, a group commit and the union of two streams. ``commit.lua`` implements the same law in
the server, and a test checks that both give the same bits.

One field is outside of this law: ``latest``, the value of the reading with the latest time. If several readings have
that time, it is the value that was merged last, so it may depend on the order.

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

from meanwhile.core.exact_sums import Sums, power_sums, root, variance


class Summary(NamedTuple):
    """The summary of ``count`` readings of ``len(minimums)`` components each. Immutable.

    ``first`` and ``last`` are the times of the earliest and the latest reading, in milliseconds since 1970 (UTC).
    ``latest`` are the components of the latest reading; it is empty if they are not known, as in states that an earlier
    version stored. ``minimums`` and ``maximums`` have one entry per component. The empty summary matches any number of
    components and has no entries.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which is not used here
    first: int
    last: int
    latest: tuple[float, ...]
    minimums: tuple[float, ...]
    maximums: tuple[float, ...]
    sums: Sums
    squares: Sums

    @property
    def components(self) -> int:
        """The number of components."""
        return len(self.minimums)

    def merge(self, other: "Summary") -> "Summary":
        """Returns the summary of the readings of both, those of ``other`` being later if the times are equal.

        Associative, and commutative except for ``latest``; ``EMPTY`` is the identity.

        >>> a, b = summarize([1.0], 1, 5, 5), summarize([2.0, 4.0], 1, 3, 9)
        >>> a.merge(b) == b.merge(a) == summarize([1.0, 2.0, 4.0], 1, 3, 9)
        True
        """
        if self.count == 0:
            return other
        if other.count == 0:
            return self
        components = self.components
        return Summary(
            self.count + other.count,
            min(self.first, other.first),
            max(self.last, other.last),
            self.latest if other.last < self.last else other.latest,
            tuple([min(a, b) for a, b in zip(self.minimums, other.minimums, strict=True)]),
            tuple([max(a, b) for a, b in zip(self.maximums, other.maximums, strict=True)]),
            self.sums.plus(other.sums, components),
            self.squares.plus(other.squares, components),
        )

    def averages(self) -> list[float]:
        """Returns the correctly rounded average of each component, for count >= 1."""
        return self.sums.means(self.components, self.count)

    def variances(self) -> list[tuple[int, int]] | None:
        """Returns the exact sample variance of each component as (numerator, denominator); None below two readings."""
        if self.count < 2:
            return None
        sums, squares = self.sums.ratios(self.components), self.squares.ratios(self.components)
        return [variance(s, q, self.count) for s, q in zip(sums, squares, strict=True)]

    def deviations(self) -> list[float] | None:
        """Returns the correctly rounded sample standard deviation of each component; None below two readings.

        >>> summarize([1.0, 3.0], 1, 0, 0).deviations()
        [1.4142135623730951]
        """
        variances = self.variances()
        return None if variances is None else [root(max(0, above), below) for above, below in variances]


EMPTY = Summary(0, 0, 0, (), (), (), Sums(0, ()), Sums(0, ()))


def summarize(numbers: Sequence[float], components: int, first: int, last: int, latest: int = -1) -> Summary:
    """Summarizes readings. ``numbers`` has their components, one reading after another; at least one reading.

    All numbers are doubles inside the domain of ``exact_sums``. Zeros are positive, so that minimum and maximum do not
    depend on the order. ``first`` and ``last`` are milliseconds since 1970. ``latest`` is the position of the latest
    reading; by default, it is the last one.

    >>> summarize([20.0, 1.0, 22.0, 1.0], 2, 0, 60_000).averages()
    [21.0, 1.0]
    """
    sums, squares = power_sums(numbers, components)
    count = len(numbers) // components
    if count == 1:
        row = tuple(numbers)
        return Summary(1, first, last, row, row, row, sums, squares)
    start = latest % count * components
    row = tuple(numbers[start : start + components])
    if components == 1:
        return Summary(count, first, last, row, (min(numbers),), (max(numbers),), sums, squares)
    columns = [numbers[i::components] for i in range(components)]
    return Summary(count, first, last, row, tuple(map(min, columns)), tuple(map(max, columns)), sums, squares)
