"""The univariate sets of NIST's Statistical Reference Datasets (StRD), with their certified values.

NIST computed the certified values with 500 digits and publishes 15 of them, or calls them exact. Four of the sets are
files in ``strd/``, whose README names their origin. The others follow from their definitions: ``NumAcc1`` to
``NumAcc4`` are constructed (Simon and Lesage, 1989), and ``PiDigits`` are the first 5,000 decimal digits of pi, with
one misprint: digit 957 of pi is 8, but 3 in NIST's file, to which the certified values belong.
"""

from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

_DIRECTORY = Path(__file__).with_name("strd")


class ReferenceSet(NamedTuple):
    """A set of readings with its certified mean and sample standard deviation, as NIST prints them."""

    name: str
    size: int
    mean: str
    deviation: str

    def values(self) -> list[float]:
        """Returns the readings, in NIST's order."""
        if self.name == "NumAcc1":
            return [10000001.0, 10000003.0, 10000002.0]
        if self.name in _CONSTRUCTED:
            first, low, high = _CONSTRUCTED[self.name]
            return [first, *[low, high] * 500]
        if self.name == "PiDigits":
            values = [float(digit) for digit in digits_of_pi(self.size)]
            values[_MISPRINTED - 1] = 3.0
            return values
        return [float(text) for text in (_DIRECTORY / f"{self.name}.txt").read_text().split()]


_MISPRINTED = 957
_CONSTRUCTED = {
    "NumAcc2": (1.2, 1.1, 1.3),
    "NumAcc3": (1000000.2, 1000000.1, 1000000.3),
    "NumAcc4": (10000000.2, 10000000.1, 10000000.3),
}

SETS = (
    ReferenceSet("PiDigits", 5000, "4.53480000000000", "2.86733906028871"),
    ReferenceSet("Lottery", 218, "518.958715596330", "291.699727470969"),
    ReferenceSet("Lew", 200, "-177.435000000000", "277.332168044316"),
    ReferenceSet("Mavro", 50, "2.00185600000000", "0.000429123454003053"),
    ReferenceSet("Michelso", 100, "299.852400000000", "0.0790105478190518"),
    ReferenceSet("NumAcc1", 3, "10000002", "1"),
    ReferenceSet("NumAcc2", 1001, "1.2", "0.1"),
    ReferenceSet("NumAcc3", 1001, "1000000.2", "0.1"),
    ReferenceSet("NumAcc4", 1001, "10000000.2", "0.1"),
)


def digits_of_pi(count: int) -> str:
    """Returns the first decimal digits of pi, by Machin's formula: pi = 16 arctan(1/5) - 4 arctan(1/239).

    >>> digits_of_pi(10)
    '3141592653'
    """
    guard = 10
    scale = 10 ** (count - 1 + guard)
    pi = 16 * _arctan_of_inverse(5, scale) - 4 * _arctan_of_inverse(239, scale)
    return str(Decimal(pi))[:count]  # Unlike str(pi), not limited to 4,300 digits.


def _arctan_of_inverse(x: int, scale: int) -> int:
    """Returns arctan(1/x) as a multiple of 1/scale, by its power series."""
    total, power, divisor = 0, scale // x, 1
    while power:
        total += power // divisor if divisor % 4 == 1 else -(power // divisor)
        power //= x * x
        divisor += 2
    return total
