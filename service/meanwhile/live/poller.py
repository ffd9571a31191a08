"""Changes of streams as they happen, for whoever watches: one poller a process reads for all its subscribers.

Changes are found by reading: every interval, the states of all streams that somebody watches, in a few MGETs, compared
as the bytes that they are. So the cost depends on what is watched and not on what is written; a change by any worker or
host is seen, a deletion too; nothing has to be caught up with after an outage, for the next read shows what there is;
and the write path does not know that anybody watches. With Pub/Sub every commit would publish every stream it touched,
watched or not, and every process that watches anything would have to take it all in, most of it to be thrown away,
since a subscriber gets one event a stream and interval. ``make test-faults`` measures what the polling costs.

A subscriber names streams, or a prefix, whose streams are looked for with SCAN in the same rounds. The times of
subscribers with the same interval are aligned, so that they share rounds; a round takes a third of the poller's time at
most, a SCAN a tenth, however many streams there are. What they take is learned with care: a turn that is slow only
because Redis or the machine is busy at most doubles it, so a hiccup is not followed by ten times its silence.

Changes are numbered in the order in which they were seen, and a subscriber gets them in that order. So a number says
all that a client has, and after a broken connection it gets only what is newer, if this process still knows: it keeps
the numbers of streams that nobody watches any more, up to a limit, and where in doubt it sends everything.

**Memory** is bounded, per process: a subscription is refused where all of them together would watch too much, and where
the states that subscribers have not got yet are too large, those who wait for the most of them are ended. Streams are
read as many at a time as their states are small; wide ones become frames in a thread.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress

from meanwhile.core.errors import Invalid
from meanwhile.live.event_frames import Encode, Frames
from meanwhile.live.subscription import Position, Subscription
from meanwhile.live.watched_streams import Group, Watched
from meanwhile.storage.redis_client import StoreUnavailable
from meanwhile.storage.store import Store

MOST_STREAMS = 20_000  # Watched by one process.
MAX_WATCHED = 64 * 1024 * 1024  # Bytes that subscriptions may take, without states.
MAX_HELD = 64 * 1024 * 1024  # Bytes of states and frames that may wait for subscribers.
_PER_STREAM = 1_000  # Bytes that a stream takes, its name included.
_PER_NAME = 130  # Bytes that a stream takes more for each subscriber that lags behind.
_AT_ONCE = 250  # Streams in an MGET: short enough for commits to slip in between.
_READ = 512 * 1024  # Bytes that an MGET should not exceed by much.
_SCAN_PAUSE = 0.5  # Seconds between two SCANs, at least.
_QUICK = 0.025  # Seconds that a round or a SCAN may take and be thought nothing of.
_AFTER_AN_OUTAGE = 1.0  # Seconds.
_PHASES = 16  # Of subscribers with the same interval.

log = logging.getLogger(__name__)


class TooManySubscribers(Exception):
    """As many subscribers are there as may be, or they watch as much as may be."""


class Poller:
    """The poller of a process and its subscribers.

    ``encode`` makes the frame of a stream: from its name, state and the state's size in bytes, or from its name, None
    and 0 when it does not exist.
    """

    def __init__(self, store: Store, encode: Encode, *, redis_timeout: float, max_subscribers: int) -> None:
        self._store = store
        self._frames = Frames(encode)
        self._redis_timeout = redis_timeout
        self._max_subscribers = max_subscribers
        self._streams: dict[str, Watched] = {}
        self._groups: dict[str, Group] = {}
        self._subscribers: set[Subscription] = set()
        self._joined = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._next_scan = 0.0
        self._scan_takes = self._round_takes = 0.0  # Seconds, as far as is known.
        self.epoch = secrets.token_hex(4)  # Names the memory that numbers the changes.
        self._number = 0
        self._forgotten = 0  # Changes up to this number may be missing from memory.
        self._prune_at = MOST_STREAMS
        self._named = 0  # How often streams are named by subscribers.
        self._at_once = 16
        self._is_starting = False  # While states are read that a new subscriber gets, whether they changed or not.

    async def subscribe(
        self, names: Sequence[str], prefix: str | None, interval: float, since: Position | None = None
    ) -> tuple[Subscription, int]:
        """Watches ``names``, or all streams with a prefix; returns when their states are there, with how many exist.

        The first thing it gives are these states, or those that changed after ``since``. A stream that is named and
        does not exist is given as deleted. ``interval`` is in seconds. Raises ``StoreUnavailable``,
        ``TooManySubscribers``, or ``Invalid`` if the prefix has too many streams.
        """
        distinct = dict.fromkeys(names)
        new = sum(name not in self._streams for name in distinct)
        weight = _PER_STREAM * new + _PER_NAME * (len(distinct) if prefix is None else self._size_of(prefix))
        if len(self._subscribers) >= self._max_subscribers or not self._has_room(weight):
            raise TooManySubscribers
        one = Subscription(interval, since, self._frames.of, self._release, self._leave)
        if prefix is None:
            one.streams = [self._stream(name) for name in distinct]
            self._named += len(distinct)
            for stream in one.streams:
                stream.watchers.add(one)
        else:
            one.group = self._groups.setdefault(prefix, Group(prefix))
            one.group.subscribers.add(one)
        self._subscribers.add(one)
        self._joined.set()
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            return one, await one.begin()
        except BaseException:
            one.end()
            raise

    async def close(self) -> None:
        """Ends all subscriptions and the poller."""
        self._end_all()
        if self._poller is not None:
            self._poller.cancel()
            with suppress(asyncio.CancelledError):
                await self._poller

    def _leave(self, one: Subscription) -> None:
        self._subscribers.discard(one)
        self._named -= len(one.streams)
        for stream in one.streams:
            stream.watchers.discard(one)
            self._forget_if_absent(stream)
        group = one.group
        if group is not None:
            group.subscribers.discard(one)
            if not group.subscribers:
                self._groups.pop(group.prefix, None)
                for stream in group.streams.values():
                    stream.groups.remove(group)
                    self._forget_if_absent(stream)
        one.streams = []
        if len(self._streams) > self._prune_at:
            self._forget_unwatched()
            self._prune_at = max(MOST_STREAMS, 2 * len(self._streams))

    def _forget_unwatched(self) -> None:
        self._streams = {name: one for name, one in self._streams.items() if one.is_watched}
        self._forgotten = self._number

    def _size_of(self, prefix: str) -> int:
        group = self._groups.get(prefix)
        return 0 if group is None else len(group.streams)

    @property
    def _weight(self) -> int:
        """Bytes that the subscriptions take, without states; about."""
        in_groups = sum(len(group.streams) * len(group.subscribers) for group in self._groups.values())
        return _PER_STREAM * len(self._streams) + _PER_NAME * (self._named + in_groups)

    def _has_room(self, more: int) -> bool:
        """Whether subscriptions may take so many bytes more."""
        if self._weight + more > MAX_WATCHED:
            self._forget_unwatched()
        return self._weight + more <= MAX_WATCHED

    def _forget_if_absent(self, stream: Watched) -> None:
        """Where nobody watches it: that a stream does not exist is not worth remembering."""
        if not stream.is_watched and not stream.exists:
            self._streams.pop(stream.name, None)

    def _release(self, stream: Watched) -> None:
        if not self._is_starting:
            stream.let_go()

    def _end_all(self) -> None:
        for one in list(self._subscribers):
            one.end()

    def _stream(self, name: str) -> Watched:
        return self._streams.setdefault(name, Watched(name))

    async def _poll(self) -> None:
        """Makes rounds while there are subscribers."""
        loop = asyncio.get_running_loop()
        try:
            while self._subscribers:
                self._joined.clear()
                began = loop.time()
                due = [one for one in self._subscribers if one.due <= began]
                if due:
                    await self._make_round(due)
                    self._round_takes = _learned(self._round_takes, loop.time() - began)
                    await asyncio.sleep(2 * self._round_takes)
                wait = min((one.due for one in self._subscribers), default=0.0) - loop.time()
                if wait > 0:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await self._joined.wait()
        except Exception:
            log.exception("watching failed because of a bug; all event streams end")
            self._end_all()
        finally:
            self._poller = None

    async def _make_round(self, due: list[Subscription]) -> None:
        """Reads what these subscribers watch, and lets them have what changed."""
        self._is_starting = not all(one.has_begun for one in due)
        try:
            await self._read_and_flush(due)
        finally:
            if self._is_starting:
                self._is_starting = False
                for stream in self._streams.values():
                    stream.let_go()

    async def _read_and_flush(self, due: list[Subscription]) -> None:
        loop = asyncio.get_running_loop()
        try:
            await self._discover({one.group for one in due if one.group is not None})
            watched = list({stream.name: stream for one in due for stream in one.watched}.values())
            await self._read(watched)
        except (StoreUnavailable, Invalid) as error:
            for one in due:
                one.due = loop.time() + _AFTER_AN_OUTAGE
                one.fail(error)
            return
        now = loop.time()
        for one in due:
            if one.is_over:
                continue
            one.due += one.interval
            if one.due <= now:
                phase = one.interval / _PHASES
                one.due = ((now + one.interval) // phase + 1) * phase
            if one.has_begun:
                one.flush()
            else:
                one.start(self.epoch, self._forgotten)
            await asyncio.sleep(0)  # Requests get their turn between any two.

    async def _read(self, watched: list[Watched]) -> None:
        """Reads streams."""
        loop = asyncio.get_running_loop()
        held = sum(stream.held for stream in self._streams.values())
        start = 0
        while start < len(watched):
            some = [one for one in watched[start : start + self._at_once] if one.is_watched]
            start += self._at_once
            if not some:
                continue
            stored = await self._store.read_stored([one.name for one in some], loop.time() + self._redis_timeout)
            size = 0
            for stream, state in zip(some, stored, strict=True):
                held -= stream.held
                self._see(stream, state)
                if not self._is_starting:
                    stream.let_go()
                held += stream.held
                size += len(state or b"")
            if held > MAX_HELD:
                held = self._end_the_largest()
            self._at_once = max(1, self._at_once // 2) if size > _READ else min(_AT_ONCE, 2 * self._at_once)
            await asyncio.sleep(0)

    def _end_the_largest(self) -> int:
        """Ends who waits for the most bytes until there are few enough; how many are left."""
        weighed = {one: sum(stream.held for stream in one.watched) for one in self._subscribers}
        for one in sorted(weighed, key=lambda one: weighed[one], reverse=True):
            log.warning("an event stream of %d bytes of states ends: too much waits for subscribers", weighed[one])
            one.fail(Invalid("Expected streams whose states are smaller together; a longer prefix has fewer of them."))
            streams = list(one.watched)
            one.end()
            for stream in streams:
                if not stream.is_watched:
                    stream.stored = stream.frame = None
            held = sum(stream.held for stream in self._streams.values())
            if held <= MAX_HELD // 2:
                break
        return sum(stream.held for stream in self._streams.values())

    async def _discover(self, groups: set[Group]) -> None:
        """Looks for new streams of prefixes. Raises ``Invalid`` where there are too many."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if not groups or (began < self._next_scan and all(group.is_listed for group in groups)):
            return
        for group in groups:
            if not group.is_listed:
                for stream in [one for name, one in self._streams.items() if name.startswith(group.prefix)]:
                    stream.join(group)
        known = {name for group in groups for name in group.streams}
        prefixes = tuple(group.prefix for group in groups)
        found = await self._store.listing.new_streams(known, prefixes, MOST_STREAMS, began + self._redis_timeout)
        self._scan_takes = _learned(self._scan_takes, loop.time() - began)
        self._next_scan = loop.time() + max(_SCAN_PAUSE, 10 * self._scan_takes)
        if len(known) + len(found) > MOST_STREAMS:
            for one in [one for group in groups for one in group.subscribers if one.has_begun]:
                one.end()  # Its client comes again, and is told why not.
            raise Invalid(f"Expected a prefix of at most {MOST_STREAMS} streams; a longer one has fewer.")
        for name in found:
            for group in groups:
                if group.subscribers and name.startswith(group.prefix):
                    self._stream(name).join(group)
        for group in groups:
            group.is_listed = True
        self._make_room(groups)

    def _make_room(self, groups: set[Group]) -> None:
        """Ends subscribers of the largest of these groups, which may have grown, as far as they take too much."""
        largest = sorted(groups, key=lambda group: len(group.streams), reverse=True)
        for one in [one for group in largest for one in group.subscribers]:
            if self._has_room(0):
                break
            one.fail(TooManySubscribers())
            one.end()

    def _see(self, stream: Watched, stored: bytes | None) -> None:
        """Takes note of what is stored of a stream now."""
        if stream.see(stored, self._number + 1):
            self._number += 1
            if stored is None and not stream.watchers:
                for group in stream.groups:
                    group.streams.pop(stream.name, None)
                self._streams.pop(stream.name, None)
                self._forgotten = self._number


def _learned(known: float, took: float) -> float:
    """What something takes, in seconds, after it took so long this time."""
    return min(took, 2 * max(known, _QUICK))
