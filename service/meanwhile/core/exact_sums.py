"""Exact sums of doubles: they keep every average correctly rounded, at step 10 and at step 10^12.

A running mean kept as one double drifts, because every addition rounds. But a double is an integer times a power of
two, so a sum of doubles is one, too. **A sum is kept as that integer.** Python adds integers in C, exactly, however
large they are, and its true division of integers rounds correctly, so an average takes one line. Each sum is one
integer, so two states that summarize the same readings are equal bit by bit, whatever the order, batching or merging
that produced them. (This is Kulisch's accumulator, cut down to the bits in use.)

Outside of Python, an integer is a row of **limbs** on a fixed grid: limb ``i`` weighs ``2**(32 * (low + i))`` and is
from 0 to 2^32 - 1, but the highest limb is signed (two's complement). All components of a value share ``low`` and the
number of limbs, so the sums of a vector are one flat row of numbers, component by component:

    low = -1, two components of 2 limbs      limbs = (0, 3,   2147483648, -1)
    component 0                              (0 + 3 * 2**32) * 2**-32  = 3.0
    component 1                              (2**31 - 2**32) * 2**-32  = -0.5

``low`` is as high as possible and the number of limbs as small as possible without loss, so a row, too, has one form.
``commit.lua`` adds such rows: the doubles of Lua hold a limb, its carry, and 20 bits more.

The domain is 0 or 1e-140 <= abs(x) <= 1e140. Therefore a sum of 2^53 doubles takes at most 1,040 bits and a sum of
their squares 2,080. Those of a thermometer take about 80 and 130.

Sources
-------
- U. Kulisch, "An axiomatic approach to rounded computations", Numerische Mathematik 18, 1971: the exact accumulator.
- R. M. Neal, "Fast exact summation using small and large superaccumulators", 2015, arXiv:1505.05571.
"""

from collections.abc import Sequence
from functools import lru_cache, reduce
from itertools import repeat
from math import frexp, isqrt, ldexp
from operator import lshift, mul, or_, rshift
from struct import Struct
from typing import NamedTuple

SMALLEST = 1e-140
LARGEST = 1e140

LIMB = 32  # Bits.
_LIMB_BYTES = LIMB // 8
_LIMB_MASK = (1 << LIMB) - 1
_MANY = 2_048  # From this many numbers on, it takes longer to add larger integers than to shift their sums.
_DIGITS = 53  # Binary digits of a double.
_ROOT_BITS = 112  # Twice the 53 bits of a double and its guard bits, rounded up, so that a root is rounded only once.


class Sums(NamedTuple):
    """The exact sums of all components of a value, as a row of limbs.

    ``low`` is the index of the lowest limb. ``limbs`` has the limbs of the first component from the lowest to the
    highest, then those of the second, and so on. If all sums are 0, there are no limbs, and ``low`` is 0.
    """

    low: int
    limbs: tuple[int, ...]

    def integers(self, components: int) -> list[int]:
        """Returns the sum of each component in units of ``2**(32 * low)``. Raises ``struct.error`` for other numbers.

        >>> Sums(-1, (0, 3, 2147483648, -1)).integers(2)
        [12884901888, -2147483648]
        """
        if not self.limbs:
            return [0] * components
        size = len(self.limbs) // components
        if size == 1:
            return [*self.limbs]
        packed = _rows(size, components).pack(*self.limbs)
        if components == 1:
            return [int.from_bytes(packed, "little", signed=True)]
        length = size * _LIMB_BYTES
        pieces = [packed[start : start + length] for start in range(0, len(packed), length)]
        return [int.from_bytes(piece, "little", signed=True) for piece in pieces]

    def ratios(self, components: int) -> list[tuple[int, int]]:
        """Returns the sum of each component as (numerator, denominator); the denominator is a power of two."""
        shift = LIMB * self.low
        if shift < 0:
            return [(total, 1 << -shift) for total in self.integers(components)]
        return [(total << shift, 1) for total in self.integers(components)]

    def means(self, components: int, count: int) -> list[float]:
        """Returns the correctly rounded mean of each component, for count >= 1.

        >>> sums, _ = power_sums([1e16, 1.0, -1e16], 1)
        >>> sums.means(1, 3)
        [0.3333333333333333]
        """
        shift = LIMB * self.low
        if shift < 0:
            divisor = count << -shift
            return [total / divisor for total in self.integers(components)]
        return [(total << shift) / count for total in self.integers(components)]

    def plus(self, other: "Sums", components: int) -> "Sums":
        """Returns the sums of both.

        >>> half, large, minus_large = (power_sums([x], 1)[0] for x in (0.5, 1e100, -1e100))
        >>> half.plus(large, 1).plus(minus_large, 1) == half
        True
        """
        low, high = (self, other) if self.low <= other.low else (other, self)
        shift = LIMB * (high.low - low.low)
        pairs = zip(low.integers(components), high.integers(components), strict=True)
        return sums_of([a + (b << shift) for a, b in pairs], LIMB * low.low)


@lru_cache(maxsize=64)
def _rows(size: int, components: int) -> Struct:
    """Returns the form of ``components`` integers of ``size`` limbs each."""
    return Struct("<" + f"{size - 1}Ii" * components)


def sums_of(integers: Sequence[int], exponent: int) -> Sums:
    """Returns the sums ``integers[i] * 2**exponent``.

    >>> sums_of([3 << 40, -(1 << 39)], -40)
    Sums(low=-1, limbs=(0, 3, 2147483648, -1))
    """
    together = integers[0] if len(integers) == 1 else reduce(or_, integers)
    if not together:
        return Sums(0, ())
    low = (exponent + (together & -together).bit_length() - 1) // LIMB  # Of the lowest bit of all integers.
    shift = exponent - LIMB * low
    if shift > 0:
        integers = [*map(lshift, integers, repeat(shift))]
    elif shift < 0:
        integers = [*map(rshift, integers, repeat(-shift))]
    if len(integers) == 1:
        return Sums(low, _limbs(integers[0]))
    highest, lowest = max(integers), min(integers)
    size = max(highest, ~lowest).bit_length() // LIMB + 1  # With one bit more, for the sign.
    if size == 1:
        return Sums(low, tuple(integers))
    length = size * _LIMB_BYTES
    packed = b"".join([total.to_bytes(length, "little", signed=True) for total in integers])
    return Sums(low, _rows(size, len(integers)).unpack(packed))


def _limbs(total: int) -> tuple[int, ...]:
    """Returns the limbs of an integer."""
    size = (total if total >= 0 else ~total).bit_length() // LIMB + 1
    if size == 1:
        return (total,)
    return _rows(size, 1).unpack(total.to_bytes(size * _LIMB_BYTES, "little", signed=True))


def power_sums(numbers: Sequence[float], components: int) -> tuple[Sums, Sums]:
    """Returns the exact sums of readings, and the exact sums of their squares.

    ``numbers`` has the components of the readings, one reading after another. All are inside the domain.

    >>> sums, squares = power_sums([1.0, 0.0, 2.0, 0.0, 0.5, 3.0], 2)
    >>> sums.means(2, 1), squares.means(2, 1)
    ([3.5, 3.0], [5.25, 9.0])
    """
    if len(numbers) == 1:
        return _power_sums_of_one(numbers[0])
    exponent = _exponent(numbers)
    totals = [*map(int, map(mul, numbers, repeat(ldexp(1.0, -exponent))))]
    squares = [*map(mul, totals, totals)]
    if len(numbers) > components:
        totals = [sum(totals[i::components]) for i in range(components)]
        squares = [sum(squares[i::components]) for i in range(components)]
    return sums_of(totals, exponent), sums_of(squares, 2 * exponent)


def _power_sums_of_one(number: float) -> tuple[Sums, Sums]:
    """Does the work of ``power_sums`` for the most frequent case, in half the time."""
    total, denominator = number.as_integer_ratio()
    exponent = 1 - denominator.bit_length()
    square = total * total
    if not square & _LIMB_MASK:  # The lowest limb is higher up.
        return sums_of([total], exponent), sums_of([square], 2 * exponent)
    sums = Sums(exponent // LIMB, _limbs(total << exponent % LIMB))
    exponent *= 2
    return sums, Sums(exponent // LIMB, _limbs(square << exponent % LIMB))


def _exponent(numbers: Sequence[float]) -> int:
    """Returns an exponent for which all numbers divided by ``2**exponent`` are integers, and doubles.

    If possible, it is that of a limb, so that the integers need not be shifted.
    """
    if all(map(float.is_integer, numbers)):
        return 0
    exponent = frexp(min(map(abs, filter(None, numbers))))[1] - _DIGITS
    return exponent // LIMB * LIMB if len(numbers) < _MANY else exponent


def variance(total: tuple[int, int], squares: tuple[int, int], count: int) -> tuple[int, int]:
    """Returns the exact sample variance ``(n*Q - S*S) / (n*(n-1))`` as (numerator, denominator), for count >= 2.

    ``total`` is the sum S and ``squares`` the sum of squares Q, each as (numerator, denominator).

    >>> variance((3, 1), (5, 1), 2)
    (1, 2)
    """
    s, s_denominator = total
    q, q_denominator = squares
    numerator = count * q * s_denominator**2 - s**2 * q_denominator
    return numerator, q_denominator * s_denominator**2 * count * (count - 1)


def root(numerator: int, denominator: int) -> float:
    """Returns the correctly rounded double of ``sqrt(numerator / denominator)``, for a non-negative numerator.

    The integer root has more bits than a double. If the root is inexact, the last bit is set ("round to odd"), so the
    division, which rounds once, gives the same result as it would for the exact root.

    >>> root(1, 4)
    0.5
    """
    shift = max(0, _ROOT_BITS - numerator.bit_length() + denominator.bit_length())
    shift += shift % 2
    quotient, cut_off = divmod(numerator << shift, denominator)
    whole = isqrt(quotient)
    if cut_off or whole * whole != quotient:
        whole |= 1
    return whole / (1 << shift // 2)
