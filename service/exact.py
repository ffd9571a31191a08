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

from collections.abc import Iterable
from math import fsum, isqrt

Expansion = tuple[float, ...]

SMALLEST = 1e-140
LARGEST = 1e140

_SPLITTER = 134217729.0  # 2**27 + 1 splits 53 bits into two halves of at most 26 (Veltkamp).
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
    parts.reverse()
    return tuple(parts)


def square_terms(values: Iterable[float]) -> list[float]:
    """Doubles whose exact sum is the exact sum of the squares of ``values`` (each inside the domain).

    Dekker's two-product: with ``x`` split into halves of at most 26 bits, every partial product is exact, and so is
    the rounding error of ``x*x``.

    >>> square_terms([3.0, 0.1])
    [9.0, 0.010000000000000002, -9.020562075079397e-19]
    """
    terms: list[float] = []
    for x in values:
        square = x * x
        scaled = _SPLITTER * x
        high = scaled - (scaled - x)
        low = x - high
        terms.append(square)
        if low:
            terms.append(((high * high - square) + 2.0 * high * low) + low * low)
    return terms


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

    Integer true division in Python is correctly rounded; with one part, so is the hardware's.

    >>> mean(expansion([1e16, 1.0, -1e16]), 3)
    0.3333333333333333
    """
    if len(total) < 2:
        return total[0] / count if total else 0.0
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
