"""The exceptions for rejected readings. They carry what ``problems.py`` needs for the problem document."""

from collections.abc import Mapping
from dataclasses import dataclass

from meanwhile.core.readings import Readings
from meanwhile.core.shapes import Shape
from meanwhile.core.state import Unreadable
from meanwhile.storage.commit_reply import Rejection, RejectReason, TimestampPositions
from meanwhile.storage.store import TooManyStreams


class KeyTooOld(Exception):
    """The sequence of the idempotency key is too old: the stream cannot tell whether it was counted."""


class PartlyCounted(Exception):
    """Streams have counted part of a range: nothing of this request was recorded.

    ``highest`` has the last sequence that each of these streams has counted.
    """

    def __init__(self, highest: dict[str, int]) -> None:
        super().__init__(highest)
        self.highest = highest


class KeyAhead(Exception):
    """The sequence of the idempotency key reads as a time in the future: nothing of this request was recorded."""


class MixedTimestamps(Exception):
    """A stream has counted some of the timestamps and not others: nothing of this request was recorded.

    ``timestamps`` has the positions of those that it has not counted.
    """

    def __init__(self, timestamps: TimestampPositions) -> None:
        super().__init__(timestamps)
        self.timestamps = timestamps


class TooManyProducers(Exception):
    """A stream remembers its maximum number of producers, all of which were active in the last hour."""


class StreamFull(Exception):
    """The ``streams`` would exceed 2^53 - 1 readings: nothing of this request was recorded."""

    def __init__(self, streams: list[str]) -> None:
        super().__init__(streams)
        self.streams = streams


class ShapeConflict(Exception):
    """Streams have a different shape from the readings sent for them: nothing of this request was recorded.

    ``conflicts`` has the shapes of each of these streams.
    """

    def __init__(self, conflicts: "list[Conflict]") -> None:
        super().__init__(conflicts)
        self.conflicts = conflicts

    @property
    def streams(self) -> list[str]:
        """The names of the streams."""
        return [conflict.stream for conflict in self.conflicts]


@dataclass(frozen=True)
class Conflict:
    """A stream, its shape (``expected``), and the shape of the readings sent for it (``received``)."""

    stream: str
    expected: Shape
    received: Shape


_REASONS: dict[RejectReason | None, type[Exception]] = {
    RejectReason.UNREADABLE: Unreadable,
    RejectReason.KEY_TOO_OLD: KeyTooOld,
    RejectReason.TOO_MANY_PRODUCERS: TooManyProducers,
    RejectReason.KEY_AHEAD: KeyAhead,
}


def error_of(readings: Mapping[str, Readings], rejections: list[Rejection]) -> Exception:
    """Returns the exception for these rejections. A conflict that no retry can solve takes precedence."""
    conflicts = [
        Conflict(rejection.stream, rejection.shape, readings[rejection.stream].shape)
        for rejection in rejections
        if rejection.shape is not None
    ]
    if conflicts:
        return ShapeConflict(conflicts)
    full = [rejection.stream for rejection in rejections if rejection.reason is RejectReason.STREAM_FULL]
    if full:
        return StreamFull(full)
    if rejections[0].reason is RejectReason.TOO_MANY_STREAMS:
        return TooManyStreams([one.stream for one in rejections if one.reason is RejectReason.TOO_MANY_STREAMS])
    for rejection in rejections:
        if rejection.timestamps is not None:
            return MixedTimestamps(rejection.timestamps)
    highest = {rejection.stream: rejection.highest for rejection in rejections if rejection.highest is not None}
    return PartlyCounted(highest) if highest else _REASONS[rejections[0].reason]()
