"""Weight: how long the script takes for readings, so that no run of it keeps others waiting.

The unit is a fifth of 25 microseconds. The script adds a sum of five parts in five units (a component of most sensors
has two parts in its sum and three in the sum of its squares), and reads and writes a stream in seven.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from meanwhile.core.readings import Readings
from meanwhile.core.state import State

T = TypeVar("T")

MAX_WEIGHT = 1_500  # Of a commit.
HEAVY = 2 * MAX_WEIGHT  # A stream above that is merged by the worker (``wide_streams.py``).
STREAM = 7  # The weight of a stream with nothing in it.
STAMPS = 4  # Numbers of timestamps that are as heavy as a component usually is.
PARTS = 5  # Of exact sums; as heavy as a component usually is.
MAX_NUMBERS = 2 * 4_096  # Of a commit.
MAX_STRETCH = 4_096  # Numbers of a request that are summed on the event loop; more are summed in a thread.


def measure(readings: Mapping[str, Readings]) -> tuple[int, int, int]:
    """How many readings these are, their weight before they are summed, and how many numbers."""
    size = weight = numbers = 0
    for shape, values, _, _ in readings.values():
        weight += STREAM + shape.components
        numbers += len(values)
        size += len(values) // shape.components
    return size, weight, numbers


def weight_of(state: State) -> int:
    """How heavy it is to merge this into a stored state."""
    summary = state.summary
    return STREAM + (sum(map(len, summary.sums)) + sum(map(len, summary.squares))) // PARTS


def cut(items: Sequence[T], weights: Iterable[int]) -> tuple[list[T], list[T]]:
    """The first items, as many as one run of the script takes but at least one, and the others."""
    weight = 0
    for number, added in enumerate(weights):
        weight += added
        if number and weight > MAX_WEIGHT:
            return [*items[:number]], [*items[number:]]
    return [*items], []
