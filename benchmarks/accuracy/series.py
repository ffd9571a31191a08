"""The readings: real ones, constructed ones that are hard to sum, and one set in many orders."""

import csv
from collections.abc import Sequence
from pathlib import Path
from random import Random

Series = dict[str, Sequence[float]]

_AIR_QUALITY = Path(__file__).parents[2] / "tests" / "data" / "air-quality.csv"
_MISSING = -200.0
ORDERS = 20
READINGS = 10_000


def real() -> Series:
    """Returns the 13 columns of the sample file, without missing readings: a year of a gas sensor, every hour."""
    with _AIR_QUALITY.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name not in {"Date", "Time"}]
    return {name: [value for row in rows if (value := float(row[name])) != _MISSING] for name in columns}


def constructed() -> Series:
    """Returns series that are hard for sums of rounded numbers, by title. Always the same ones."""
    random = Random(1)
    sizes = sorted(10 ** random.uniform(-6, 12) for _ in range(READINGS))
    pairs = [x for _ in range(READINGS // 2) for x in _opposites(random.uniform(1e11, 1e12), random.uniform(0, 1))]
    return {
        "offset": [1e9 + random.gauss(0, 0.001) for _ in range(READINGS)],
        "meter": [123_456_789.01 + i / 100 for i in range(10 * READINGS)],
        "stuck": [*[21.4] * 86_399, 21.5],
        "million": [0.1] * 1_000_000,
        "rising": sizes,
        "falling": sizes[::-1],
        "cancelling": pairs,
        "extremes": [1e140, 1e-140, -1e140] * 1_000,
    }


DESCRIPTIONS = {
    "offset": "10,000 times 1e9 plus noise of 0.001",
    "meter": "a meter that counts from 123,456,789.01 in 100,000 steps of 0.01",
    "stuck": "a day of a thermometer: every second 21.4, once 21.5",
    "million": "0.1, a million times",
    "rising": "10,000 values from 1e-6 to 1e12, smallest first",
    "falling": "the same values, largest first",
    "cancelling": "5,000 pairs of opposite numbers near 1e12, which differ by at most 1",
    "extremes": "1e140, 1e-140 and -1e140, 1,000 times",
}


def orders() -> Series:
    """Returns 10,000 thermometer readings in 20 random orders, which are always the same."""
    random = Random(2)
    readings = [round(random.gauss(21, 2), 1) for _ in range(READINGS)]
    return {f"order {number + 1}": random.sample(readings, READINGS) for number in range(ORDERS)}


def _opposites(large: float, difference: float) -> tuple[float, float]:
    return large, difference - large
