"""Points of line protocol that are counted once, by their timestamps.

A point has no idempotency key but its time, in whole nanoseconds whatever ``precision`` says. The points of a request
for one stream are a *batch*: the stream counts each timestamp once, and knows a batch again that it has counted whole
(``idempotency_keys.py``). So a batch that is sent again records nothing and is no error, and what is late is counted as
long as the stream can tell that it is new. If it cannot, the point is refused and named, never dropped silently.

The stream sorts a batch out before it records any of it; what is new is then recorded on its own. A large batch goes in
parts, in the order of time.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from meanwhile.core.idempotency_keys import Stamps
from meanwhile.core.readings import Readings
from meanwhile.core.shapes import NUMBER
from meanwhile.formats.line_protocol import Points, Wrong
from meanwhile.storage.committer import Committer
from meanwhile.storage.rejections import MixedStamps, ShapeConflict, StreamFull

_MAX_STREAMS = 1_000  # Batches that are recorded at once.
_MAX_PART = 500  # Points of a batch in one commit; about half a millisecond of Redis's time.
_UNTIMED = "expected a timestamp, by which the point is counted once"
_UNKNOWN = "expected a timestamp that the stream can tell from those counted: it has counted 64 later ones"
_AHEAD = "expected a timestamp at most a day in the future"
SHAPE = "expected the shape of the stream, which is not a number"
FULL = "expected a stream that has counted fewer than 9007199254740991 readings"


class Point(NamedTuple):
    """A point: its time in nanoseconds since 1970, its line, from 1, and its value."""

    time: int
    line: int
    value: float


class StampedBatch(NamedTuple):
    """The points of one stream, ascending, each time once; and the digest of all their times."""

    stream: str
    points: Sequence[Point]
    digest: int


def batches_of(points: Points) -> tuple[list[StampedBatch], list[Wrong]]:
    """The points by stream, and what is wrong with others. Of several points of one time, the first line counts."""
    wrong = [*points.wrong, *(Wrong(line, _UNTIMED) for line in points.untimed)]
    batches = []
    for stream, columns in points.gathered.items():
        once: dict[int, Point] = {}
        for value, time, line in sorted(zip(*columns, strict=True), key=lambda row: row[1:]):
            if line not in points.untimed and isinstance(value, float):
                once.setdefault(time, Point(time, line, value or 0.0))
        if once:
            digest = hashlib.sha256(repr([*once]).encode()).hexdigest()[:13]
            batches.append(StampedBatch(stream, list(once.values()), int(digest, 16)))
    return batches, wrong


async def record_once(committer: Committer, batches: Sequence[StampedBatch]) -> list[Wrong]:
    """Records what is new and returns what is wrong with points that were refused.

    Raises what the committer raises that says nothing about a point; then sending the request again is safe.
    """
    wrong: list[Wrong] = []
    for start in range(0, len(batches), _MAX_STREAMS):
        recordings = [_record(committer, batch) for batch in batches[start : start + _MAX_STREAMS]]
        for outcome in await asyncio.gather(*recordings, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            wrong += outcome
    return wrong


async def _record(committer: Committer, batch: StampedBatch) -> list[Wrong]:
    wrong: list[Wrong] = []
    for start in range(0, len(batch.points), _MAX_PART):
        part = batch.points[start : start + _MAX_PART]
        is_last = start + _MAX_PART >= len(batch.points)
        while part:
            stamps = Stamps(
                [number for point in part for number in divmod(point.time, 10**9)],
                batch.digest,
                completes=is_last and not wrong,
            )
            try:
                await committer.record({batch.stream: _readings(part)}, stamps)
            except MixedStamps as mixed:
                unknown, ahead, new = mixed.stamps
                wrong += [Wrong(part[place].line, _UNKNOWN) for place in unknown]
                wrong += [Wrong(part[place].line, _AHEAD) for place in ahead]
                part = [part[place] for place in new]
            except ShapeConflict:
                return [Wrong(point.line, SHAPE) for point in batch.points]
            except StreamFull:
                return [*wrong, *(Wrong(point.line, FULL) for point in batch.points[start:])]
            else:
                break
    return wrong


def _readings(points: Sequence[Point]) -> Readings:
    first, last = points[0].time // 10**6, points[-1].time // 10**6
    return Readings(NUMBER, [point.value for point in points], first, last)
