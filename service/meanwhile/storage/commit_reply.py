"""What the script says of each group of a commit, and the states that come with it."""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from meanwhile.core.shapes import Shape, shape_from_text
from meanwhile.core.state import State, decode


class RejectReason(Enum):
    """Why a stream refuses readings, besides another shape. The numbers are those of the script."""

    UNREADABLE = 0
    KEY_TOO_OLD = 1
    TOO_MANY_PRODUCERS = 2
    TOO_MANY_STREAMS = 3
    PARTLY_COUNTED = 4
    KEY_AHEAD = 5
    MIXED = 6
    STREAM_FULL = 7
    PUT_OFF = 8  # No rejection: the group was not looked at, there was too much to do before it.
    WIDE = 9  # Likewise: the state takes too long to merge.
    CHANGED = 10  # Likewise: the state is another one than the one that was merged.


class SortedOut(NamedTuple):
    """Timestamps of one stream by what it says to them, by their positions; it has counted all others.

    Of those that are ``unknown`` it no longer knows whether it has counted them; those that are ``ahead`` are more than
    a day in the future.
    """

    unknown: Sequence[int]
    ahead: Sequence[int]
    new: Sequence[int]


class Rejection(NamedTuple):
    """A stream refuses readings: it has ``shape``, another one than they have; or there is another reason.

    ``highest`` is the sequence up to which a range has been counted, ``stamps`` says which timestamps have.
    """

    stream: str
    shape: Shape | None
    reason: RejectReason | None = None
    highest: int | None = None
    stamps: SortedOut | None = None


class Committed(NamedTuple):
    """The reply to a commit: for each group the rejections, none if it was recorded, and the streams that had counted
    its key before; the states afterwards; and how many streams are new."""

    rejections: list[list[Rejection]]
    duplicates: list[frozenset[str]]
    states: Mapping[str, State]
    new: int = 0

    def is_put_off(self, group: int) -> bool:
        """Whether this group was left for the next commit."""
        return self._has(group, RejectReason.PUT_OFF)

    def is_wide(self, group: int) -> bool:
        """Whether this group has a stream that is too wide for the script; nothing of it was recorded."""
        return self._has(group, RejectReason.WIDE)

    def is_changed(self, group: int) -> bool:
        """Whether the state of a stream of this group is another one than the one that was merged."""
        return self._has(group, RejectReason.CHANGED)

    def _has(self, group: int, reason: RejectReason) -> bool:
        rejections = self.rejections[group]
        return bool(rejections) and any(rejection.reason is reason for rejection in rejections)


_decode = msgspec.msgpack.Decoder(list[tuple[list[list[int | str | bool]], list[int], int]]).decode
_NONE: frozenset[str] = frozenset()


def committed(names: Sequence[str], replies: bytes, stored: Sequence[bytes | None]) -> Committed:
    """The outcome of a commit to the streams ``names``.

    ``replies`` are the script's to the groups, ``stored`` the states of the streams, None for one that was not made.
    """
    groups = _decode(replies)
    return Committed(
        [[_rejection(names[int(i) - 1], *reason) for i, *reason in rejections] for rejections, _, _ in groups],
        [frozenset([names[i - 1] for i in duplicates]) if duplicates else _NONE for _, duplicates, _ in groups],
        _States(dict(zip(names, stored, strict=True))),
        sum([new for _, _, new in groups]),
    )


class _States(Mapping[str, State]):
    """States that are decoded when somebody asks for them; a batch does not."""

    def __init__(self, stored: dict[str, bytes | None]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> State:
        stored = self._stored[name]
        if stored is None:
            raise KeyError(name)
        return decode(stored, is_checked=True)

    def __iter__(self) -> Iterator[str]:
        return (name for name, stored in self._stored.items() if stored is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _rejection(stream: str, reason: str | int | bool, *more: str | int | bool) -> Rejection:
    if not isinstance(reason, str):
        kind, numbers = RejectReason(int(reason)), list(map(int, more))
        if kind is not RejectReason.MIXED:
            return Rejection(stream, None, kind, numbers[0] if numbers else None)
        unknown, ahead, *positions = numbers
        new = unknown + ahead
        return Rejection(
            stream, None, kind, stamps=SortedOut(positions[:unknown], positions[unknown:new], positions[new:])
        )
    try:
        return Rejection(stream, shape_from_text(reason))
    except ValueError:
        return Rejection(stream, None, RejectReason.UNREADABLE)
