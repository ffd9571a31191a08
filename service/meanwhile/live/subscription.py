"""What one subscriber of changes watches, and what it has not got yet: bounded, however slow it is.

A subscriber has a set of the streams that changed since it last took something, never a queue: who is slow gets the
latest state of each, later. A frame (the bytes of an event) is made once a change and shared by all. A state and its
frame are kept while somebody has not got them yet, and no longer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from meanwhile.live.watched_streams import Group, Watched
from meanwhile.storage.redis_client import StoreUnavailable

_PART = 16 * 1024  # Bytes after which a subscriber's turn ends.


class Position(NamedTuple):
    """What a client has: all changes up to a number, as counted by one process in one run of its memory."""

    epoch: str
    number: int


class Subscription:
    """One subscriber, of some streams or of a group.

    ``frame`` makes the bytes of an event; ``release`` is called with each stream that nobody waits for any more,
    ``leave`` at the end.
    """

    __slots__ = (
        *(
            "_frame",
            "_leave",
            "_pending",
            "_release",
            "_started",
            "_woken",
            "changed",
            "due",
            "group",
            "interval",
            "is_over",
        ),
        *("is_resumed", "since", "streams"),
    )

    def __init__(
        self,
        interval: float,
        since: Position | None,
        frame: Callable[[Watched], Awaitable[bytes]],
        release: Callable[[Watched], None],
        leave: "Callable[[Subscription], None]",
    ) -> None:
        self._frame = frame
        self._release = release
        self._leave = leave
        self._pending: list[tuple[int, Watched]] = []  # The next one last.
        self._woken = asyncio.Event()
        self.changed: set[Watched] = set()
        self.streams: list[Watched] = []
        self.group: Group | None = None
        self.interval = interval
        self.since = since
        self.is_resumed = False
        self.is_over = False
        self.due = 0.0
        self._started: asyncio.Future[int] | None = asyncio.get_running_loop().create_future()

    @property
    def has_begun(self) -> bool:
        """Whether it has got what there was at the start."""
        return self._started is None

    @property
    def watched(self) -> Iterable[Watched]:
        """The streams."""
        return self.streams if self.group is None else self.group.streams.values()

    async def begin(self) -> int:
        """Waits for the start; how many streams there are. Raises what the start failed with."""
        count = 0 if self._started is None else await self._started
        self._started = None
        return count

    def start(self, epoch: str, forgotten: int) -> None:
        """Gives what there is, or what is newer than the client's position, if nothing since then is forgotten."""
        since = self.since
        self.is_resumed = since is not None and since.epoch == epoch and since.number >= forgotten
        after = since.number if since is not None and self.is_resumed else -1
        for stream in self.watched:
            if stream.number > after:
                self.note(stream)
        if self._started is not None and not self._started.done():
            self._started.set_result(sum(stream.exists for stream in self.watched))
        self.flush()

    def note(self, stream: Watched) -> None:
        """Takes note of a change of a stream."""
        if stream not in self.changed:
            self.changed.add(stream)
            stream.waiting += 1

    def _has_got(self, stream: Watched) -> None:
        stream.waiting -= 1
        if not stream.waiting:
            self._release(stream)

    def flush(self) -> None:
        """Lets the subscriber have what has changed, unless it is still busy with what it has."""
        if self.changed and not self._pending:
            self._pending = sorted(((one.number, one) for one in self.changed), key=lambda one: -one[0])
            self.changed.clear()
            self._woken.set()

    async def take(self, seconds: float) -> list[tuple[int, bytes]] | None:
        """The next changes, as (number, frame); none if there are none for so many seconds, None when it is over."""
        if not self._pending and not self.is_over:
            self._woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
        if self.is_over:
            return None
        part, size = [], 0
        while self._pending and size < _PART:
            number, stream = self._pending.pop()
            try:
                frame = await self._frame(stream)
            finally:
                self._has_got(stream)
            part.append((number, frame))
            size += len(frame)
        if self._pending:
            await asyncio.sleep(0)  # Sending alone would not let others run.
        return None if self.is_over else part

    @property
    def is_behind(self) -> bool:
        """Whether there is more to take at once."""
        return bool(self._pending)

    def fail(self, error: Exception) -> None:
        """Tells who waits for the start why there is none."""
        if self._started is not None and not self._started.done():
            self._started.set_exception(error)

    def end(self) -> None:
        """Ends it; whoever waits for a change hears of it now."""
        if not self.is_over:
            self.is_over = True
            self._woken.set()
            self.fail(StoreUnavailable())
            for stream in [*self.changed, *(stream for _, stream in self._pending)]:
                self._has_got(stream)
            self.changed.clear()
            self._pending.clear()
            self._leave(self)
