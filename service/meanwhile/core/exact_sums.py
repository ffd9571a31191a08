"""Exact sums of doubles: they keep every average correctly rounded, at step 10 and at step 10^12.

A running mean kept as one double drifts, because every addition rounds. A *floating-point expansion* does not drift: it
is a short list of doubles whose exact sum is the sum of everything added so far. Adding a double to an expansion is a
chain of two-sums. Each two-sum splits ``a + b`` into the rounded sum and the exact rounding error, so nothing is lost.
The expansions of real streams have two or three parts; the exponent range of the domain limits any expansion to about
forty.

Every expansion is kept in **canonical form**: the smallest part comes first, and each part is the correctly rounded
double of the sum of itself and all smaller parts. Each sum has exactly one canonical expansion. Therefore two states
that summarize the same readings are equal part by part, whatever the order, batching or merging that produced them, and
the size of a state depends only on its sums, not on how they were added up.

``math.fsum`` returns the correctly rounded sum of its arguments, so it finds the parts: the largest part is
``fsum(values)``, the next is ``fsum(values, minus the largest)``, and so on until the rest is zero. Ordinary data takes
three passes in C. ``commit.lua`` computes the same list in the server with two-sums.

The domain is 0 or 1e-140 <= abs(x) <= 1e140. In this domain squares neither overflow nor lose bits to underflow: the
last bit of the square of 1e-140 is 2^-1036, above the smallest subnormal 2^-1074. The same holds for sums of up to 2^53
squares.

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

_SPLITTER = 134217729.0  # 2**27 + 1 splits 53 bits into two halves of at most 26 bits (Veltkamp).
_DIGITS = 53  # Binary digits of a double.
_MAX_FSUM_PARTS = 5  # Above this many parts, integers are faster than fsum; ordinary data has two or three parts.
_SCALE = 1_074 + _DIGITS  # The smallest double is 2**-1074.
_MIN_INTEGER_VALUES = 16  # From this many values on, integers are faster than square terms: twice at ten thousand.
_SAFE_BITS = 1_000  # An integer of this many bits is smaller than the largest double.
_ERROR_BOUND = 2.0**-100  # Relative to a quotient: far above the error of its remainder, far below half a unit.
_ROOT_BITS = 112  # Twice the 53 bits of a double and its guard bits, rounded up, so that a root is rounded only once.


def expansion(terms: Iterable[float]) -> Expansion:
    """Returns the canonical expansion of the exact sum of ``terms``, which are finite doubles in any order.

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
        if len(parts) == _MAX_FSUM_PARTS:  # Every further part makes each pass slower.
            return (*_from_integer(sum(map(_scaled, rest)), _SCALE), *reversed(parts))
    parts.reverse()
    return tuple(parts)


def _scaled(x: float) -> int:
    """Returns ``x * 2**_SCALE``, which is an integer."""
    mantissa, exponent = frexp(x)
    return int(ldexp(mantissa, _DIGITS)) << (exponent - _DIGITS + _SCALE)


def square(x: float) -> Expansion:
    """Returns the canonical expansion of the exact square of ``x``, which is inside the domain.

    This is Dekker's two-product: ``x`` is split into halves of at most 26 bits, so every partial product is exact, and
    so is the rounding error of ``x*x``.

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
    """Returns the canonical expansions of the exact sum of ``values`` and of their squares.

    Each value is inside the domain.

    >>> power_sums([1.0, 2.0, 0.5])
    ((3.5,), (5.25,))
    """
    if len(values) == 1:
        return (tuple(values) if values[0] else ()), square(values[0])
    if len(values) < _MIN_INTEGER_VALUES:
        return expansion(values), expansion([term for x in values for term in square(x)])
    return _power_sums_of_integers(values)


def _power_sums_of_integers(values: Sequence[float]) -> tuple[Expansion, Expansion]:
    """Does the work of ``power_sums`` with integers: doubles of similar magnitude are small integers times 2**n.

    Python multiplies and adds integers exactly and in C, in one pass, and keeps no object per square. For ten thousand
    thermometer readings this takes half the time of three passes over values and square terms.
    """
    exponent = 0
    if not all(map(float.is_integer, values)):
        exponent = _DIGITS - frexp(min(map(abs, filter(None, values))))[1]
    integers = list(map(int, map(mul, values, repeat(ldexp(1.0, exponent)))))
    return _from_integer(sum(integers), exponent), _from_integer(sum(map(mul, integers, integers)), 2 * exponent)


def _from_integer(total: int, exponent: int) -> Expansion:
    """Returns the canonical expansion of ``total / 2**exponent``."""
    parts: list[float] = []
    while total:
        bits = total.bit_length()
        shift = bits - _SAFE_BITS if bits > _SAFE_BITS else 0
        part = total / (1 << shift)  # Correctly rounded, even if the integer is larger than any double.
        parts.append(ldexp(part, shift - exponent))
        total -= int(part) << shift
    parts.reverse()
    return tuple(parts)


def ratio(parts: Expansion) -> tuple[int, int]:
    """Returns the exact sum of ``parts`` as (numerator, denominator); the denominator is a power of two.

    >>> ratio((0.25, 1.0))
    (5, 4)
    """
    fractions = [part.as_integer_ratio() for part in parts]
    denominator = max((d for _, d in fractions), default=1)
    return sum(n * (denominator // d) for n, d in fractions), denominator


def mean(total: Expansion, count: int) -> float:
    """Returns the correctly rounded double of ``total / count``, for 1 <= count <= 2**53.

    If the sum has one part, the hardware's division is correctly rounded. Otherwise the quotient is computed to about
    106 bits, as a rounded quotient and a remainder (Dekker's double-length division). If it rounds to the same double
    with and without the largest possible error, that double is the result (Ziv, "Fast evaluation of elementary
    mathematical functions with correctly rounded last bit", 1991). Otherwise, which is rare, integers decide: Python's
    true division of integers is correctly rounded.

    >>> mean(expansion([1e16, 1.0, -1e16]), 3)
    0.3333333333333333
    """
    if len(total) < 2:
        return total[0] / count if total else 0.0
    high, low = total[-1], total[-2]  # All other parts are below the error bound.
    quotient = high / count
    product = quotient * count
    scaled, scaled_count = _SPLITTER * quotient, _SPLITTER * count
    a, b = scaled - (scaled - quotient), scaled_count - (scaled_count - count)
    c, d = quotient - a, count - b
    error = ((a * b - product) + a * d + c * b) + c * d  # The exact error of the product.
    rest = ((high - product) - error + low) / count
    error_bound = quotient * _ERROR_BOUND
    rounded = quotient + (rest - error_bound)
    if rounded == quotient + (rest + error_bound):
        return rounded
    numerator, denominator = ratio(total)
    return numerator / (denominator * count)


def variance(total: Expansion, squares: Expansion, count: int) -> tuple[int, int]:
    """Returns the exact sample variance ``(n*Q - S*S) / (n*(n-1))`` as (numerator, denominator), for count >= 2.

    >>> variance(expansion([1.0, 2.0]), expansion([1.0, 4.0]), 2)
    (1, 2)
    """
    s, s_denominator = ratio(total)
    q, q_denominator = ratio(squares)
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
