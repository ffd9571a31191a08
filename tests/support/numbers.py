"""Numbers to test the mathematics with, and the rational arithmetic that it is held to.

Strategies are made once: hypothesis examines each new one, which takes longer than to draw from it.
"""

import math
from fractions import Fraction
from functools import cache
from random import Random

from hypothesis import strategies as st

from meanwhile.core.exact_sums import LARGEST, SMALLEST

BORDERS = [
    SMALLEST,
    math.nextafter(SMALLEST, 1),
    LARGEST,
    math.nextafter(LARGEST, 0),
    math.ldexp(1.0, -465),
    math.nextafter(math.ldexp(1.0, -464), 0),
    math.ldexp(1.0, 465),
    math.nextafter(math.ldexp(1.0, 465), 0),
]

_EXPONENTS = st.integers(-250, 400)
_LEADING = st.integers(2**52, 2**53 - 1)
_CRUMBS = st.integers(54, 210)
_ENDS = st.sampled_from([(), (1,), (-1,), (1, -1)])
_SIGNS = st.sampled_from([1.0, -1.0])
_ORDERS = st.integers(0, 999)


def signed(magnitudes: st.SearchStrategy[float]) -> st.SearchStrategy[float]:
    """Both signs of these."""
    return st.builds(math.copysign, magnitudes, _SIGNS)


@cache
def pieces(smallest: int) -> st.SearchStrategy[list[list[float]]]:
    """At least ``smallest`` of these: one reading, or two that cancel, or some whose sum is hard to round."""
    alone = numbers().map(lambda x: [x])
    piece = st.one_of(alone, alone, numbers().map(lambda x: [x, -x or 0.0]), halfway())
    return st.lists(piece, min_size=smallest, max_size=6)


@cache
def numbers() -> st.SearchStrategy[float]:
    """Any double of the domain, the awkward ones often; the only zero is the positive one."""
    return st.one_of(
        st.just(0.0),
        signed(st.sampled_from(BORDERS)),
        signed(st.floats(SMALLEST, LARGEST)),
        signed(st.floats(1.0, 2.0)),
        st.integers(-(2**60), 2**60).map(float),
        st.integers(-9999, 9999).map(lambda tenths: tenths / 10),
        st.builds(math.ldexp, st.sampled_from([1.0, -1.0, 3.0, -5.0]), st.integers(-464, 462)),
    )


@st.composite
def halfway(draw: st.DrawFn) -> list[float]:
    """Readings whose sum is half way between two doubles, or beside that by less than either can tell."""
    exponent = draw(_EXPONENTS)
    leading = math.ldexp(float(draw(_LEADING)), exponent - 52)
    half = math.ldexp(1.0, exponent - 53)
    crumb = math.ldexp(1.0, exponent - draw(_CRUMBS))
    terms = [leading, half, *(side * crumb for side in draw(_ENDS))]
    sign = draw(_SIGNS)
    return [sign * term for term in terms]


@st.composite
def readings(draw: st.DrawFn, smallest: int = 0) -> list[float]:
    """At least ``smallest`` readings of the domain in any order; some of them cancel each other."""
    values = [x for piece in draw(pieces(smallest)) for x in piece]
    Random(draw(_ORDERS)).shuffle(values)
    return values


def total(values: list[float]) -> Fraction:
    return sum(map(Fraction, values), Fraction())


def is_rounded_root(candidate: float, square: Fraction) -> bool:
    """Whether no double is nearer to the root of ``square``: decided by squares, without taking any root."""
    low = max(Fraction(), (Fraction(candidate) + Fraction(math.nextafter(candidate, -math.inf))) / 2)
    high = (Fraction(candidate) + Fraction(math.nextafter(candidate, math.inf))) / 2
    is_even = int(math.frexp(candidate)[0] * 2**53) % 2 == 0
    return (low**2 <= square <= high**2) if is_even else (low**2 < square < high**2)
