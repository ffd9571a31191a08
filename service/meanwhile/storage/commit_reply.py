"""The reply of the script to a commit: an outcome for each group, and the new states."""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from meanwhile.core.shapes import Shape, shape_from_text
from meanwhile.core.state import State, decode


class RejectReason(Enum):
    """Why a stream refuses readings, other than a different shape. The script uses the same numbers."""

    UNREADABLE = 0
    KEY_TOO_OLD = 1
    TOO_MANY_PRODUCERS = 2
    TOO_MANY_STREAMS = 3
    PARTLY_COUNTED = 4
    KEY_AHEAD = 5
    MIXED_TIMESTAMPS = 6
    STREAM_FULL = 7
    DEFERRED = 8  # Not a rejection: the run reached its limit before this group.
    TOO_WIDE = 9  # Not a rejection: the worker has to merge the state, which takes the script too long.
    STATE_CHANGED = 10  # Not a rejection: the state has changed since the worker read and merged it.


class TimestampPositions(NamedTuple):
    """The positions of the timestamps of a batch that a stream has not counted, or may not have counted.

    For the ``unknown`` ones, the stream no longer knows whether it has counted them. Those ``ahead`` are more than a
    day in the future. The ``new`` ones can be recorded.
    """

    unknown: Sequence[int]
    ahead: Sequence[int]
    new: Sequence[int]


class Rejection(NamedTuple):
    """A stream refuses readings, because it has a different ``shape`` or for another ``reason``.

    ``highest`` is the sequence up to which the stream has counted a range. ``timestamps`` has the positions of the
    timestamps that it has not counted.
    """

    stream: str
    shape: Shape | None
    reason: RejectReason | None = None
    highest: int | None = None
    timestamps: TimestampPositions | None = None


class Committed(NamedTuple):
    """The reply to a commit.

    For each group, ``rejections`` has the reasons why it was not recorded, none if it was, and ``duplicates`` has the
    streams that had counted its key before. ``states`` has the states after the commit, and ``new`` is the number of
    new streams.
    """

    rejections: list[list[Rejection]]
    duplicates: list[frozenset[str]]
    states: Mapping[str, State]
    new: int = 0

    def is_deferred(self, group: int) -> bool:
        """Returns whether this group has to wait for the next commit."""
        return self._has(group, RejectReason.DEFERRED)

    def is_too_wide(self, group: int) -> bool:
        """Returns whether a stream of this group is too wide for the script. Nothing of the group was recorded."""
        return self._has(group, RejectReason.TOO_WIDE)

    def is_changed(self, group: int) -> bool:
        """Returns whether the state of a stream of this group has changed since it was merged."""
        return self._has(group, RejectReason.STATE_CHANGED)

    def _has(self, group: int, reason: RejectReason) -> bool:
        rejections = self.rejections[group]
        return bool(rejections) and any(rejection.reason is reason for rejection in rejections)


_decode = msgspec.msgpack.Decoder(list[tuple[list[list[int | str | bool]], list[int], int]]).decode
_NONE: frozenset[str] = frozenset()


def decode_reply(names: Sequence[str], replies: bytes, stored: Sequence[bytes | None]) -> Committed:
    """Decodes the reply to a commit to the streams ``names``.

    ``replies`` has the encoded replies to the groups, ``stored`` the states of the streams, None for a stream that does
    not exist.
    """
    groups = _decode(replies)
    return Committed(
        [[_rejection(names[int(i) - 1], *reason) for i, *reason in rejections] for rejections, _, _ in groups],
        [frozenset([names[i - 1] for i in duplicates]) if duplicates else _NONE for _, duplicates, _ in groups],
        _States(dict(zip(names, stored, strict=True))),
        sum([new for _, _, new in groups]),
    )


class _States(Mapping[str, State]):
    """States that are decoded on access; the reply to a batch does not need them."""

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
        if kind is not RejectReason.MIXED_TIMESTAMPS:
            return Rejection(stream, None, kind, numbers[0] if numbers else None)
        unknown, ahead, *positions = numbers
        new = unknown + ahead
        return Rejection(
            stream,
            None,
            kind,
            timestamps=TimestampPositions(positions[:unknown], positions[unknown:new], positions[new:]),
        )
    try:
        return Rejection(stream, shape_from_text(reason))
    except ValueError:
        return Rejection(stream, None, RejectReason.UNREADABLE)
