"""Exact sums of doubles: the reason why an average here is never off, at step 10 or at step 10^12.

A running mean kept as one double drifts, because every addition rounds. A *floating-point expansion* does not: it is a
short list of doubles whose exact sum is the sum of everything ever added. Adding a double to it is a chain of
two-sums (each splits ``a + b`` into the rounded sum and the rounding error, exactly), so nothing is ever lost. Real
streams need two or three parts; the exponent range of the domain bounds any stream at about forty.

We keep every expansion in **canonical form**: smallest first, and each part is the correctly rounded double of the
sum of itself and all smaller parts. There is exactly one such list for every sum. So two states that summarize the
same readings are equal part by part, whatever the order, batching or merging that led to them; equality of states is
equality of what they stand for, and a state cannot creep in size.

``math.fsum`` returns the correctly rounded sum of its arguments, which makes it the tool that finds the parts: the
largest is ``fsum(values)``, the next one is ``fsum(values, minus the largest)``, and so on until nothing is left. For
ordinary data that is three passes in C. ``commit.lua`` reaches the same list by two-sums, in the server.

The domain is 0 or 1e-140 <= abs(x) <= 1e140: squares neither overflow nor lose a bit to underflow (the last bit of the
square of 1e-140 is 2^-1036, above the smallest subnormal 2^-1074), and neither do sums of up to 2^53 of them.

Sources
-------
- J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic and Fast Robust Geometric Predicates", Discrete &
  Computational Geometry 18, 1997: expansions, two-sum, grow-expansion.
- T. J. Dekker, "A floating-point technique for extending the available precision", Numerische Mathematik 18, 1971,
  with G. W. Veltkamp's splitting: the exact square.
- D. M. Priest, "On Properties of Floating Point Arithmetics", 1992: renormalization to a unique form.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from math import frexp, fsum, isqrt, ldexp
from operator import mul

Expansion = tuple[float, ...]

SMALLEST = 1e-140
LARGEST = 1e140

_SPLITTER = 134217729.0  # 2**27 + 1 splits 53 bits into two halves of at most 26 (Veltkamp).
_DIGITS = 53  # Of a double, binary.
_FEW = 5  # Parts that fsum is fastest for; ordinary data has two or three.
_SCALE = 1_074 + _DIGITS  # 2**-1074 is the smallest double.
_MANY = 16  # Values from which on integers are faster than square terms; at ten thousand, twice as fast.
_LARGEST_SHIFT = 1_000  # Bits of an integer that is certainly no larger than the largest double.
_DOUBT = 2.0**-100  # Of a quotient: many times the error of its second half, far below half a unit in its last place.
_ROOT_BITS = 112  # Twice the 53 bits of a double and its guard bits, rounded up: enough for a root to be rounded once.


def expansion(terms: Iterable[float]) -> Expansion:
    """The canonical expansion of the exact sum of ``terms``: finite doubles, in any order.

    >>> expansion([1.0, 1e100, 1.0, -1e100])
    (2.0,)
    >>> expansion([0.1, 0.2])
    (-2.7755575615628914e-17, 0.30000000000000004)
    >>> expansion([])
    ()
    """
    rest = list(terms)
    parts: list[float] = []
    while part := fsum(rest):
        parts.append(part)
        rest.append(-part)
        if len(parts) == _FEW:  # Each pass takes longer with every part.
            return (*_from_integer(sum(map(_scaled, rest)), _SCALE), *reversed(parts))
    parts.reverse()
    return tuple(parts)


def _scaled(x: float) -> int:
    """``x * 2**_SCALE``, which is an integer."""
    mantissa, exponent = frexp(x)
    return int(ldexp(mantissa, _DIGITS)) << (exponent - _DIGITS + _SCALE)


def square(x: float) -> Expansion:
    """The canonical expansion of the exact square of ``x``, inside the domain.

    Dekker's two-product: with ``x`` split into halves of at most 26 bits, every partial product is exact, and so is
    the rounding error of ``x*x``.

    >>> square(3.0), square(0.1), square(0.0)
    ((9.0,), (-8.326672684688674e-19, 0.010000000000000002), ())
    """
    rounded = x * x
    scaled = _SPLITTER * x
    high = scaled - (scaled - x)
    low = x - high
    error = ((high * high - rounded) + 2.0 * high * low) + low * low if low else 0.0
    if error:
        return error, rounded
    return (rounded,) if rounded else ()


def power_sums(values: Sequence[float]) -> tuple[Expansion, Expansion]:
    """The canonical expansions of the exact sum of ``values`` and of their squares (each inside the domain).

    >>> power_sums([1.0, 2.0, 0.5])
    ((3.5,), (5.25,))
    """
    if len(values) == 1:
        return (tuple(values) if values[0] else ()), square(values[0])
    if len(values) < _MANY:
        return expansion(values), expansion([term for x in values for term in square(x)])
    return _power_sums_of_integers(values)


def _power_sums_of_integers(values: Sequence[float]) -> tuple[Expansion, Expansion]:
    """The same by integers: doubles of like magnitude are integers of two or three digits to some power of two.

    Python multiplies and adds those in C and exactly, in one pass and with no object left behind for a square. For ten
    thousand readings of a thermometer that takes half the time of three passes over values and square terms.
    """
    exponent = 0
    if not all(map(float.is_integer, values)):
        exponent = _DIGITS - frexp(min(map(abs, filter(None, values))))[1]
    integers = list(map(int, map(mul, values, repeat(ldexp(1.0, exponent)))))
    return _from_integer(sum(integers), exponent), _from_integer(sum(map(mul, integers, integers)), 2 * exponent)


def _from_integer(total: int, exponent: int) -> Expansion:
    """The canonical expansion of ``total / 2**exponent``."""
    parts: list[float] = []
    while total:
        bits = total.bit_length()
        shift = bits - _LARGEST_SHIFT if bits > _LARGEST_SHIFT else 0
        part = total / (1 << shift)  # Correctly rounded, also where the integer is larger than any double.
        parts.append(ldexp(part, shift - exponent))
        total -= int(part) << shift
    parts.reverse()
    return tuple(parts)


def ratio(parts: Expansion) -> tuple[int, int]:
    """The exact sum of ``parts`` as (numerator, denominator); the denominator is a power of two.

    >>> ratio((0.25, 1.0))
    (5, 4)
    """
    fractions = [part.as_integer_ratio() for part in parts]
    denominator = max((d for _, d in fractions), default=1)
    return sum(n * (denominator // d) for n, d in fractions), denominator


def mean(total: Expansion, count: int) -> float:
    """The correctly rounded double of ``total / count``, for 1 <= count <= 2**53.

    With one part the hardware's division is that. Otherwise the quotient is worked out to about 106 bits, as a rounded
    quotient and what it leaves (Dekker's double-length division); if it rounds the same way with and without its
    possible error, that is the answer (Ziv, "Fast evaluation of elementary mathematical functions with correctly
    rounded last bit", 1991). In the rare doubt, integers decide: their true division in Python is correctly rounded.

    >>> mean(expansion([1e16, 1.0, -1e16]), 3)
    0.3333333333333333
    """
    if len(total) < 2:
        return total[0] / count if total else 0.0
    high, low = total[-1], total[-2]  # The others are below the doubt.
    quotient = high / count
    product = quotient * count
    scaled, scaled_count = _SPLITTER * quotient, _SPLITTER * count
    a, b = scaled - (scaled - quotient), scaled_count - (scaled_count - count)
    c, d = quotient - a, count - b
    error = ((a * b - product) + a * d + c * b) + c * d  # Of the product, exactly.
    rest = ((high - product) - error + low) / count
    doubt = quotient * _DOUBT
    rounded = quotient + (rest - doubt)
    if rounded == quotient + (rest + doubt):
        return rounded
    numerator, denominator = ratio(total)
    return numerator / (denominator * count)


def variance(total: Expansion, squares: Expansion, count: int) -> tuple[int, int]:
    """The exact sample variance ``(n*Q - S*S) / (n*(n-1))`` as (numerator, denominator), for count >= 2.

    >>> variance(expansion([1.0, 2.0]), expansion([1.0, 4.0]), 2)
    (1, 2)
    """
    s, s_denominator = ratio(total)
    q, q_denominator = ratio(squares)
    numerator = count * q * s_denominator**2 - s**2 * q_denominator
    return numerator, q_denominator * s_denominator**2 * count * (count - 1)


def root(numerator: int, denominator: int) -> float:
    """The correctly rounded double of ``sqrt(numerator / denominator)``, for a non-negative numerator.

    The integer root keeps more bits than a double and its last one is made odd when anything was cut off ("round to
    odd"), so the one rounding of the division decides as if it saw the exact root.

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
