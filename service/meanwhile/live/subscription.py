"""A subscription: what one subscriber watches, and which changes it has not taken yet. It is bounded, however slow the
subscriber is.

A subscription keeps the set of streams that changed since the subscriber last took something, never a queue: a slow
subscriber gets the latest state of each stream, later. The snapshot of a stream is shared by its subscribers and kept
until the last of them has taken it.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from meanwhile.live.watched_streams import PrefixGroup, Snapshot, Watched
from meanwhile.storage.redis_client import StoreUnavailable

_PHASES = 16  # Of subscriptions with the same interval.


class Position(NamedTuple):
    """What a client has: all changes up to ``number``, as one process counted them during its ``epoch``."""

    epoch: str
    number: int


class Change(NamedTuple):
    """A change: its number, by which a client can resume, and what the stream is now."""

    number: int
    snapshot: Snapshot


class TooManySubscribers(Exception):
    """The process has as many subscriptions, or watches as much, as it may."""


class Subscription:
    """One subscription, to named streams or to a group. The poller makes it, and ends it in ``Poller.unsubscribe``.

    ``interval`` is the shortest time between two changes of one stream, in seconds; ``since`` is what the client has.
    """

    __slots__ = (
        *("_changed", "_pending", "_started", "_wake", "due", "group", "interval", "is_over", "is_resumed", "since"),
        "streams",
    )

    def __init__(self, interval: float, since: Position | None) -> None:
        self._changed: set[Watched] = set()
        self._pending: list[tuple[int, Watched]] = []  # Number and stream; the next one stands last.
        self._wake = asyncio.Event()
        self._started: asyncio.Future[int] | None = asyncio.get_running_loop().create_future()
        self.streams: list[Watched] = []  # Those that are named.
        self.group: PrefixGroup | None = None
        self.interval = interval
        self.since = since
        self.is_resumed = False
        self.is_over = False
        self.due = 0.0  # When it is next in a round, by the loop's clock.

    @property
    def has_begun(self) -> bool:
        """Whether ``begin`` has returned."""
        return self._started is None

    @property
    def watched(self) -> Iterable[Watched]:
        """The streams."""
        return self.streams if self.group is None else self.group.streams.values()

    @property
    def is_behind(self) -> bool:
        """Whether there is a change to take now."""
        return bool(self._pending)

    async def begin(self) -> int:
        """Waits until the streams have been read. Returns how many exist; raises what ``fail`` was given."""
        count = 0 if self._started is None else await self._started
        self._started = None
        return count

    def start(self, epoch: str, forgotten: int) -> None:
        """Ends the waiting of ``begin``. The first changes are all streams, or those that changed after ``since``.

        ``since`` counts if it is of this ``epoch`` and no change after it is ``forgotten``.
        """
        since = self.since
        self.is_resumed = since is not None and since.epoch == epoch and since.number >= forgotten
        after = since.number if since is not None and self.is_resumed else -1
        for stream in self.watched:
            if stream.number > after:
                self.mark_changed(stream)
        if self._started is not None and not self._started.done():
            self._started.set_result(sum(stream.exists for stream in self.watched))
        self.flush()

    def fail(self, error: Exception) -> None:
        """Makes ``begin`` raise ``error``, if it still waits."""
        if self._started is not None and not self._started.done():
            self._started.set_exception(error)

    def schedule(self, now: float) -> None:
        """Sets when it is next due: an interval later, or if that has passed, at a phase that others share."""
        self.due += self.interval
        if self.due <= now:
            phase = self.interval / _PHASES
            self.due = ((now + self.interval) // phase + 1) * phase

    def mark_changed(self, stream: Watched) -> None:
        """Adds a stream to the changes that the subscriber has not taken yet, and holds its snapshot until then."""
        if stream not in self._changed:
            self._changed.add(stream)
            stream.hold()

    def flush(self) -> None:
        """Makes what has changed pending, unless the subscriber is still busy with what was pending before."""
        if self._changed and not self._pending:
            self._pending = sorted(((one.number, one) for one in self._changed), key=lambda one: -one[0])
            self._changed.clear()
            self._wake.set()

    async def wait(self, seconds: float) -> None:
        """Returns when there is a change to take, the subscription is over, or ``seconds`` have passed."""
        if not self._pending and not self.is_over:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    @contextmanager
    def take(self) -> Iterator[Change]:
        """Takes the next change, of a subscription that ``is_behind``; its snapshot is held until the block ends."""
        number, stream = self._pending.pop()
        try:
            yield Change(number, stream.snapshot)
        finally:
            stream.release()

    def close(self) -> None:
        """Makes it over, and wakes its subscriber. For the poller, which has to forget it too."""
        self.is_over = True
        self._wake.set()
        self.fail(StoreUnavailable())
        for stream in [*self._changed, *(stream for _, stream in self._pending)]:
            stream.release()
        self._changed.clear()
        self._pending.clear()


class Subscriptions(set[Subscription]):
    """The subscriptions of a process, at most ``max_subscribers``."""

    def __init__(self, max_subscribers: int) -> None:
        super().__init__()
        self._max_subscribers = max_subscribers

    def is_full(self) -> bool:
        """Returns whether another subscriber is turned away."""
        return len(self) >= self._max_subscribers
