"""What ``commit.lua`` says of each group of a commit, and the states that come with it."""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from service.state import State, decode
from service.stream import Shape, shape_from_text


class Why(Enum):
    """Why a stream refuses readings, besides another shape. The numbers are those of ``commit.lua``."""

    UNREADABLE = 0
    BELOW_THE_WINDOW = 1
    TOO_MANY_PRODUCERS = 2
    CROWDED = 3
    PARTLY_COUNTED = 4


class Refusal(NamedTuple):
    """A stream refuses readings: it has ``shape``, another one than they have; or there is another reason.

    ``highest`` is the sequence up to which a range has been counted.
    """

    stream: str
    shape: Shape | None
    why: Why | None = None
    highest: int | None = None


class Committed(NamedTuple):
    """The reply to a commit: for each group the refusals, none if it was recorded, and the streams that had counted
    its key before; and the states afterwards."""

    refusals: list[list[Refusal]]
    duplicates: list[frozenset[str]]
    states: Mapping[str, State]


_decode = msgspec.msgpack.Decoder(list[tuple[list[list[int | str | bool]], list[int]]]).decode


def committed(names: Sequence[str], verdicts: bytes, stored: Sequence[bytes | None]) -> Committed:
    """The reply of the script for the streams ``names``: its verdicts, and their states, None for one not made."""
    groups = _decode(verdicts)
    return Committed(
        [[_refusal(names[int(i) - 1], *reason) for i, *reason in refusals] for refusals, _ in groups],
        [frozenset(names[i - 1] for i in duplicates) for _, duplicates in groups],
        _States({name: state for name, state in zip(names, stored, strict=True) if state is not None}),
    )


class _States(Mapping[str, State]):
    """States that are decoded when somebody asks for them; a batch does not."""

    def __init__(self, stored: dict[str, bytes]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> State:
        return decode(self._stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _refusal(stream: str, reason: str | int | bool, highest: str | int | bool | None = None) -> Refusal:
    if not isinstance(reason, str):
        return Refusal(stream, None, Why(int(reason)), None if highest is None else int(highest))
    try:
        return Refusal(stream, shape_from_text(reason))
    except ValueError:
        return Refusal(stream, None, Why.UNREADABLE)
