"""What one subscriber of changes watches, and what it has not got yet: bounded, however slow it is.

A subscriber has a set of the streams that changed since it last took something, never a queue: who is slow gets the
latest state of each, later. A frame (the bytes of an event) is made once a change and shared by all.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from service.link import StoreUnavailable

_PART = 16 * 1024  # Bytes after which a subscriber's turn ends.
_UNSEEN = object()


class Position(NamedTuple):
    """What a client has: all changes up to a number, as counted by one process in one run of its memory."""

    epoch: str
    number: int


class Watched:
    """A stream that is watched, or was: then only what tells whether it changed is kept."""

    __slots__ = ("frame", "groups", "mark", "name", "number", "stored", "watchers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.stored: bytes | None = None
        self.mark: object = _UNSEEN  # The hash of ``stored``, which stays when that goes; None if it does not exist.
        self.number = 0  # Of its last change.
        self.frame: bytes | None = None
        self.watchers: set[Subscription] = set()
        self.groups: list[Group] = []

    def join(self, group: "Group") -> None:
        """Makes it one of the streams of a prefix."""
        if self.name not in group.streams:
            group.streams[self.name] = self
            self.groups.append(group)

    def let_go(self) -> None:
        """Keeps only what tells whether it changed, if nobody watches it."""
        if not self.watchers and not self.groups:
            self.stored = self.frame = None

    def see(self, stored: bytes | None, number: int) -> bool:
        """Takes what is stored now; if that is a change, it gets ``number`` and its subscribers are told."""
        mark = None if stored is None else hash(stored)
        self.stored = stored
        if mark == self.mark:
            return False
        self.mark, self.number, self.frame = mark, number, None
        for one in self.watchers:
            one.changed.add(self)
        for group in self.groups:
            for one in group.subscribers:
                one.changed.add(self)
        return True


class Group:
    """The subscribers of a prefix, and its streams."""

    __slots__ = ("is_listed", "prefix", "streams", "subscribers")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.streams: dict[str, Watched] = {}
        self.subscribers: set[Subscription] = set()
        self.is_listed = False


class Subscription:
    """One subscriber, of some streams or of a group.

    ``frame`` makes the bytes of an event; ``leave`` is called at the end.
    """

    __slots__ = (
        *("_frame", "_leave", "_pending", "_started", "_woken", "changed", "due", "group", "interval", "is_over"),
        *("is_resumed", "since", "streams"),
    )

    def __init__(
        self,
        interval: float,
        since: Position | None,
        frame: Callable[[Watched], bytes],
        leave: "Callable[[Subscription], None]",
    ) -> None:
        self._frame = frame
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
        self.changed.update(stream for stream in self.watched if stream.number > after)
        if self._started is not None and not self._started.done():
            self._started.set_result(sum(stream.stored is not None for stream in self.watched))
        self.flush()

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
            frame = self._frame(stream)
            part.append((number, frame))
            size += len(frame)
        if self._pending:
            await asyncio.sleep(0)  # Sending alone would not let others run.
        return part

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
            self._leave(self)
