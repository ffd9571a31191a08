"""What is asked of a program: the mean and the standard deviation of series of doubles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Answer(NamedTuple):
    """What a program returned for a series; ``deviation`` is None if it offers none, or none for this series."""

    mean: float
    deviation: float | None


Answers = dict[str, Answer]


@dataclass(frozen=True)
class Peer:
    """A program with a way to ask it.

    Attributes:
        name: as the tables show it
        version: of the program
        how: the functions or queries, and the settings that differ from the defaults
        keeps: what must be stored for the answer: ``constant`` or ``every value``
        answer: gets all series by name, and returns the answers by the same names
        is_population: whether its deviation divides by n and not by n - 1; it is then compared with that
    """

    name: str
    version: str
    how: str
    keeps: str
    answer: Callable[[Mapping[str, Sequence[float]]], Answers]
    is_population: bool = False


def for_each(function: Callable[[Sequence[float]], Answer]) -> Callable[[Mapping[str, Sequence[float]]], Answers]:
    """Returns a ``Peer.answer`` that calls ``function`` with each series."""
    return lambda series: {name: function(values) for name, values in series.items()}
