"""Changes of streams as they happen: one poller a process reads for all its subscriptions.

Changes are found by reading: every interval the poller reads all watched streams with a few MGETs, and compares their
states as bytes. So the cost depends on what is watched and not on what is written; a change by any worker or host is
found, a deletion too; nothing has to be caught up with after an outage, since the next read shows everything; and the
write path does not depend on subscriptions. With Pub/Sub every commit would publish every stream that it touched,
watched or not, and every process with a subscription would receive all of it, to throw most of it away, since a
subscriber gets one event a stream and interval. ``make test-faults`` measures what polling costs.

A subscription names streams, or a prefix, whose streams ``new_streams.py`` finds in the same rounds. Subscriptions with
the same interval are aligned, so that they share rounds; rounds take a third of the poller's time at most, however many
streams there are.

The poller yields the states as they are stored. The code that takes them may keep what it makes of a state in the
snapshot, so that it is made once for all subscribers.

**Memory** is bounded, per process: a subscription is refused if all of them together would watch too much
(``watch_list.py``). If the states that subscribers have not taken yet are too large, the subscriptions that hold most
of them end. Small states are read many at a time, wide ones few.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from contextlib import suppress

from meanwhile.core.errors import Invalid
from meanwhile.live.duration_estimate import DurationEstimate
from meanwhile.live.new_streams import NewStreams
from meanwhile.live.subscription import Position, Subscription, Subscriptions, TooManySubscribers
from meanwhile.live.watch_list import WatchList
from meanwhile.live.watched_streams import PrefixGroup, Watched
from meanwhile.storage.redis_client import StoreUnavailable
from meanwhile.storage.store import Store

MAX_HELD = 64 * 1024 * 1024  # Bytes of snapshots that subscribers have not taken yet.
_MAX_STREAMS_READ = 250  # Streams in an MGET: few enough for commits to run in between.
_MAX_BYTES_READ = 512 * 1024  # Bytes that an MGET should not exceed by much.
_OUTAGE_PAUSE = 1.0  # Seconds from a failed read to the next.

log = logging.getLogger(__name__)


class Poller:
    """The poller of a process.

    It reads from ``store``, each time within ``redis_timeout`` seconds, and has at most ``max_subscribers``
    subscriptions at once.
    """

    def __init__(self, store: Store, *, redis_timeout: float, max_subscribers: int) -> None:
        self._store = store
        self._redis_timeout = redis_timeout
        self._watch_list = WatchList()
        self._new_streams = NewStreams(store, self._watch_list, redis_timeout)
        self._subscriptions = Subscriptions(max_subscribers)
        self._joined = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._round = DurationEstimate()
        self._streams_per_read = 16

    @property
    def epoch(self) -> str:
        """Names the time during which this process counts changes."""
        return self._watch_list.epoch

    async def subscribe(
        self, names: Sequence[str], prefix: str | None, interval: float, since: Position | None = None
    ) -> tuple[Subscription, int]:
        """Subscribes to ``names``, or to all streams with a prefix; returns when they are read, with how many exist.

        The first changes are the states of these streams, or of those that changed after ``since``. A stream that is
        named and does not exist is among them. ``interval`` is in seconds. Raises ``StoreUnavailable``,
        ``TooManySubscribers``, or ``Invalid`` if the prefix has too many streams.
        """
        distinct = dict.fromkeys(names)
        if self._subscriptions.is_full() or not self._watch_list.has_room(distinct, prefix):
            raise TooManySubscribers
        one = Subscription(interval, since)
        self._watch_list.add(one, distinct, prefix)
        self._subscriptions.add(one)
        self._joined.set()
        if self._task is None:
            self._task = asyncio.create_task(self._poll())
        try:
            return one, await one.begin()
        except BaseException:
            self.unsubscribe(one)
            raise

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription, if it is not over yet; its subscriber wakes up."""
        if not subscription.is_over:
            subscription.close()
            self._subscriptions.discard(subscription)
            self._watch_list.remove(subscription)

    async def close(self) -> None:
        """Ends all subscriptions and the poller."""
        self._end_all()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _end_all(self) -> None:
        for one in list(self._subscriptions):
            self.unsubscribe(one)

    async def _poll(self) -> None:
        """Makes rounds while there are subscriptions."""
        loop = asyncio.get_running_loop()
        try:
            while self._subscriptions:
                self._joined.clear()
                began = loop.time()
                due = [one for one in self._subscriptions if one.due <= began]
                if due:
                    await self._make_round(due)
                    self._round.add(loop.time() - began)
                    await asyncio.sleep(2 * self._round.seconds)
                wait = min((one.due for one in self._subscriptions), default=0.0) - loop.time()
                if wait > 0:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await self._joined.wait()
        except Exception:
            log.exception("polling failed because of a bug; all event streams end")
            self._end_all()
        finally:
            self._task = None

    async def _make_round(self, due: list[Subscription]) -> None:
        """Reads what these subscriptions watch, and hands them what changed."""
        loop = asyncio.get_running_loop()
        held: list[Watched] = []  # New subscriptions get the states that did not change, too.
        try:
            if groups := {one.group for one in due if one.group is not None}:
                await self._discover(groups)
            watched = list({stream.name: stream for one in due for stream in one.watched}.values())
            await self._read(watched, held, is_all_needed=not all(one.has_begun for one in due))
        except (StoreUnavailable, Invalid) as error:
            for one in due:
                one.due = loop.time() + _OUTAGE_PAUSE
                one.fail(error)
        else:
            now = loop.time()
            for one in due:
                if one.is_over:
                    continue
                one.schedule(now)
                if one.has_begun:
                    one.flush()
                else:
                    one.start(self._watch_list.epoch, self._watch_list.forgotten)
                await asyncio.sleep(0)  # Requests are served between any two.
        finally:
            for stream in held:
                stream.release()

    async def _discover(self, groups: Collection[PrefixGroup]) -> None:
        """Adds new streams to these groups, and ends the subscriptions that then watch too much."""
        try:
            if not await self._new_streams.run(groups):
                return
        except Invalid:
            for one in self._subscriptions_to(groups):
                if one.has_begun:
                    self.unsubscribe(one)  # Its client connects again and gets the reason.
            raise
        for one in self._subscriptions_to(groups):
            if self._watch_list.has_room():
                break
            one.fail(TooManySubscribers())
            self.unsubscribe(one)

    def _subscriptions_to(self, groups: Collection[PrefixGroup]) -> list[Subscription]:
        """The subscriptions to these groups; those to the largest stand first."""
        sizes = [
            (len(one.group.streams), one)
            for one in self._subscriptions
            if one.group is not None and one.group in groups
        ]
        return [one for _, one in sorted(sizes, key=lambda size_and_one: size_and_one[0], reverse=True)]

    async def _read(self, watched: list[Watched], held: list[Watched], *, is_all_needed: bool) -> None:
        """Reads streams. If all are needed and not only those that changed, holds them and adds them to ``held``."""
        loop = asyncio.get_running_loop()
        size_held = self._watch_list.held
        start = 0
        while start < len(watched):
            some = [one for one in watched[start : start + self._streams_per_read] if one.is_watched]
            start += self._streams_per_read
            if not some:
                continue
            read = await self._store.read_stored([one.name for one in some], loop.time() + self._redis_timeout)
            for stream, stored in zip(some, read, strict=True):
                if is_all_needed:
                    stream.hold()
                    held.append(stream)
                size_held -= stream.size
                self._watch_list.update(stream, stored)
                size_held += stream.size
            if size_held > MAX_HELD:
                size_held = self._end_the_largest()
            self._adapt(sum(len(stored or b"") for stored in read))
            await asyncio.sleep(0)

    def _adapt(self, size: int) -> None:
        """Chooses how many streams the next MGET reads, after one of ``size`` bytes."""
        if size > _MAX_BYTES_READ:
            self._streams_per_read = max(1, self._streams_per_read // 2)
        else:
            self._streams_per_read = min(_MAX_STREAMS_READ, 2 * self._streams_per_read)

    def _end_the_largest(self) -> int:
        """Ends the subscriptions to the largest snapshots until half of ``MAX_HELD`` is free; returns what is held."""
        sizes = {one: sum(stream.size for stream in one.watched) for one in self._subscriptions}
        for one in sorted(sizes, key=lambda one: sizes[one], reverse=True):
            log.warning("an event stream ended: %d bytes of states were waiting for its subscriber", sizes[one])
            one.fail(Invalid("Expected streams whose states are smaller together; a longer prefix has fewer of them."))
            streams = list(one.watched)
            self.unsubscribe(one)
            for stream in streams:
                stream.drop()
            if self._watch_list.held <= MAX_HELD // 2:
                break
        return self._watch_list.held
