"""Weight: an estimate of how long the script takes, so that no script run delays other requests.

The unit is a microsecond of Redis's time (``make bench`` measures it). To read and write a stream takes 17; to add a
component takes 3 for most sensors, with four limbs in its sum and six in the sum of its squares.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from meanwhile.core.readings import Readings
from meanwhile.core.state import State

T = TypeVar("T")

MAX_WEIGHT = 5_000  # Of a commit. The worker merges readings of one stream above this weight (``wide_streams.py``).
STREAM_WEIGHT = 17  # Of a stream without its components.
COMPONENT_WEIGHT = 3  # Of a component before it is summed.
LIMBS_PER_UNIT = 3
MAX_NUMBERS = 2 * 4_096  # In a commit.
MAX_INLINE_NUMBERS = 4_096  # A request with more numbers is summed in a thread, not on the event loop.


class Measured(NamedTuple):
    """What a request adds to a commit: its readings, their weight before they are summed, and all their values."""

    size: int
    weight: int
    numbers: int

    def is_large(self) -> bool:
        """Returns whether the request is too large for one commit."""
        return self.weight > MAX_WEIGHT or self.numbers > MAX_INLINE_NUMBERS


def measure(readings: Mapping[str, Readings]) -> Measured:
    """Measures a request."""
    size = weight = numbers = 0
    for shape, values, _, _, _ in readings.values():
        weight += STREAM_WEIGHT + COMPONENT_WEIGHT * shape.components
        numbers += len(values)
        size += len(values) // shape.components
    return Measured(size, weight, numbers)


def weight_of(state: State) -> int:
    """Returns the weight of merging ``state`` into a stored state."""
    summary = state.summary
    return STREAM_WEIGHT + (len(summary.sums.limbs) + len(summary.squares.limbs)) // LIMBS_PER_UNIT


def split_by_weight(items: Sequence[T], weights: Iterable[int]) -> tuple[list[T], list[T]]:
    """Splits items into those that fit into one script run, at least one, and the rest."""
    weight = 0
    for number, added in enumerate(weights):
        weight += added
        if number and weight > MAX_WEIGHT:
            return [*items[:number]], [*items[number:]]
    return [*items], []
