"""Deduplication of line protocol: each stream counts a point once, by its timestamp.

A point has no idempotency key, but it has a time, which is in whole nanoseconds whatever ``precision`` says. The points
of a request for one stream are a *batch*. The stream counts each timestamp once, and recognizes a batch that it has
counted completely (``idempotency_keys.py``). So a batch that is sent again records nothing and is not an error, and a
late point is counted as long as the stream can tell that it is new. Otherwise the point is refused and reported, never
dropped silently.

The stream classifies all timestamps of a batch before it records any of them; new points are then recorded in a second
commit. A large batch is recorded in parts, in the order of time.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from meanwhile.core.idempotency_keys import Timestamps
from meanwhile.core.readings import Readings
from meanwhile.core.shapes import NUMBER
from meanwhile.formats.line_protocol import Points, Wrong
from meanwhile.storage.committer import Committer
from meanwhile.storage.rejections import MixedTimestamps, ShapeConflict, StreamFull
from meanwhile.storage.store import TooManyStreams

_MAX_STREAMS = 1_000  # Batches that are recorded concurrently.
_MAX_PART = 500  # Points of a batch in one commit; about half a millisecond of Redis time.
_UNTIMED = "expected a timestamp, which dedupe=timestamp needs"
_UNKNOWN = "expected a later timestamp: the stream has counted 64 later ones and cannot tell whether it has this one"
_AHEAD = "expected a timestamp at most a day in the future"
SHAPE = "expected the shape of the stream, which is not a number"
TOO_MANY = "expected a stream that exists: there are as many streams as the service allows"
FULL = "expected a stream that has counted fewer than 9007199254740991 readings"


class Point(NamedTuple):
    """A point: its time in nanoseconds since 1970, the number of its line, from 1, and its value."""

    time: int
    line: int
    value: float


class TimestampedBatch(NamedTuple):
    """The points of one stream, in ascending order of time, with one point per time; and the digest of all times."""

    stream: str
    points: Sequence[Point]
    digest: int


def batches_of(points: Points) -> tuple[list[TimestampedBatch], list[Wrong]]:
    """Returns the points by stream, and the invalid lines. If a time occurs several times, the first line counts."""
    wrong = [*points.wrong, *(Wrong(line, _UNTIMED) for line in points.untimed)]
    batches = []
    for stream, columns in points.gathered.items():
        once: dict[int, Point] = {}
        for value, time, line in sorted(zip(*columns, strict=True), key=lambda row: row[1:]):
            if line not in points.untimed and isinstance(value, float):
                once.setdefault(time, Point(time, line, value or 0.0))
        if once:
            digest = hashlib.sha256(repr([*once]).encode()).hexdigest()[:13]
            batches.append(TimestampedBatch(stream, list(once.values()), int(digest, 16)))
    return batches, wrong


async def record_once(committer: Committer, batches: Sequence[TimestampedBatch]) -> list[Wrong]:
    """Records new points, and returns the refused lines with reasons.

    Raises the errors of the committer that are not about a point; then it is safe to send the request again.
    """
    wrong: list[Wrong] = []
    for start in range(0, len(batches), _MAX_STREAMS):
        recordings = [_record(committer, batch) for batch in batches[start : start + _MAX_STREAMS]]
        for outcome in await asyncio.gather(*recordings, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            wrong += outcome
    return wrong


async def _record(committer: Committer, batch: TimestampedBatch) -> list[Wrong]:
    wrong: list[Wrong] = []
    for start in range(0, len(batch.points), _MAX_PART):
        part = batch.points[start : start + _MAX_PART]
        is_last = start + _MAX_PART >= len(batch.points)
        while part:
            timestamps = Timestamps(
                [number for point in part for number in divmod(point.time, 10**9)],
                batch.digest,
                completes=is_last and not wrong,
            )
            try:
                await committer.record({batch.stream: _readings(part)}, timestamps)
            except MixedTimestamps as mixed:
                unknown, ahead, new = mixed.timestamps
                wrong += [Wrong(part[position].line, _UNKNOWN) for position in unknown]
                wrong += [Wrong(part[position].line, _AHEAD) for position in ahead]
                part = [part[position] for position in new]
            except ShapeConflict:
                return [Wrong(point.line, SHAPE) for point in batch.points]
            except TooManyStreams:
                return [*wrong, *(Wrong(point.line, TOO_MANY) for point in batch.points[start:])]
            except StreamFull:
                return [*wrong, *(Wrong(point.line, FULL) for point in batch.points[start:])]
            else:
                break
    return wrong


def _readings(points: Sequence[Point]) -> Readings:
    first, last = points[0].time // 10**6, points[-1].time // 10**6
    return Readings(NUMBER, [point.value for point in points], first, last)
