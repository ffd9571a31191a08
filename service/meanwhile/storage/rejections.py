"""What can become of a request to record: why streams refuse it, as exceptions that say what ``problems.py`` needs."""

from collections.abc import Mapping
from dataclasses import dataclass

from meanwhile.core.readings import Readings
from meanwhile.core.shapes import Shape
from meanwhile.core.state import Unreadable
from meanwhile.storage.commit_reply import Rejection, RejectReason, SortedOut
from meanwhile.storage.store import TooManyStreams


class KeyTooOld(Exception):
    """The sequence of the idempotency key is below the window of a stream: it is not known whether it was counted."""


class PartlyCounted(Exception):
    """Streams have counted a range of sequences up to ``highest``, each: nothing of this request was recorded."""

    def __init__(self, highest: dict[str, int]) -> None:
        super().__init__(highest)
        self.highest = highest


class KeyAhead(Exception):
    """The sequence of the idempotency key reads as a time in the future: nothing of this request was recorded."""


class MixedStamps(Exception):
    """A stream has counted some of the timestamps and not others: nothing of this request was recorded."""

    def __init__(self, stamps: SortedOut) -> None:
        super().__init__(stamps)
        self.stamps = stamps


class TooManyProducers(Exception):
    """A stream remembers as many producers of idempotency keys as it can, all of them active in the last hour."""


class StreamFull(Exception):
    """Streams would have counted more than 2^53 - 1 readings: nothing of this request was recorded."""

    def __init__(self, streams: list[str]) -> None:
        super().__init__(streams)
        self.streams = streams


class ShapeConflict(Exception):
    """Streams have another shape than the readings sent for them: nothing of this request was recorded."""

    def __init__(self, conflicts: "list[Conflict]") -> None:
        super().__init__(conflicts)
        self.conflicts = conflicts

    @property
    def streams(self) -> list[str]:
        """The names of the streams."""
        return [conflict.stream for conflict in self.conflicts]


@dataclass(frozen=True)
class Conflict:
    """A stream and the shape it has, beside the one of the readings sent for it."""

    stream: str
    expected: Shape
    received: Shape


_REASONS: dict[RejectReason | None, type[Exception]] = {
    RejectReason.UNREADABLE: Unreadable,
    RejectReason.KEY_TOO_OLD: KeyTooOld,
    RejectReason.TOO_MANY_PRODUCERS: TooManyProducers,
    RejectReason.TOO_MANY_STREAMS: TooManyStreams,
    RejectReason.KEY_AHEAD: KeyAhead,
}


def reason_of(readings: Mapping[str, Readings], rejections: list[Rejection]) -> Exception:
    """What to tell who waits; a conflict that no retry can mend comes before what may pass."""
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
    for rejection in rejections:
        if rejection.stamps is not None:
            return MixedStamps(rejection.stamps)
    highest = {rejection.stream: rejection.highest for rejection in rejections if rejection.highest is not None}
    return PartlyCounted(highest) if highest else _REASONS[rejections[0].reason]()
