"""The watch list: every stream that subscriptions of this process watch, and the numbers of their changes.

Changes are numbered in the order in which they were found, and a subscriber gets them in that order. So the number of
the last one says everything that a client has: after a broken connection it gets only newer ones, if this process still
has their numbers. The list keeps the numbers of streams that nobody watches any more, up to a limit; in doubt a client
gets everything.

One rule makes sure that no subscriber misses a stream: **a stream of a group is in every group that covers its name**,
and so is every stream that exists, whether its name was subscribed to or discovered. ``update`` and ``discover`` keep
the rule when a stream appears, ``add_known`` when a group does. So a change is always marked at all subscribers that it
concerns, and what a subscriber has seen follows from the number of the change.
"""

import secrets
from collections.abc import Collection, Iterator

from meanwhile.live.subscription import Subscription
from meanwhile.live.watched_streams import PrefixGroup, Watched

MAX_STREAMS = 20_000  # Watched by one process.
MAX_SIZE = 64 * 1024 * 1024  # Bytes that subscriptions may take, without snapshots.
_PER_STREAM = 1_000  # Bytes that a stream takes, its name included.
_PER_NAME = 130  # Bytes that a stream takes for each subscription that is behind.


class WatchList:
    """The streams and prefixes that are watched."""

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)  # Names the time during which this list counts changes.
        self.forgotten = 0  # Changes up to this number may be missing.
        self.groups: dict[str, PrefixGroup] = {}  # By prefix.
        self.streams: dict[str, Watched] = {}  # By name.
        self._lengths: set[int] = set()  # Of the prefixes.
        self._number = 0  # Of the last change.
        self._named = 0  # How often subscriptions name streams.
        self._prune_at = MAX_STREAMS

    def add(self, subscription: Subscription, names: Collection[str], prefix: str | None) -> None:
        """Makes a subscription watch streams by their names, which are distinct, or by a prefix."""
        if prefix is None:
            subscription.streams = [self.stream(name) for name in names]
            self._named += len(names)
            for stream in subscription.streams:
                stream.subscribers.add(subscription)
        else:
            subscription.group = self.groups.setdefault(prefix, PrefixGroup(prefix))
            subscription.group.subscribers.add(subscription)
            self._lengths.add(len(prefix))

    def remove(self, subscription: Subscription) -> None:
        """Forgets a subscription, and what it alone watched."""
        self._named -= len(subscription.streams)
        for stream in subscription.streams:
            stream.subscribers.discard(subscription)
            self._forget_if_absent(stream)
        group = subscription.group
        if group is not None:
            group.subscribers.discard(subscription)
            if not group.subscribers:
                self.groups.pop(group.prefix, None)
                self._lengths = set(map(len, self.groups))
                for stream in group.streams.values():
                    stream.groups.remove(group)
                    self._forget_if_absent(stream)
                group.streams = {}
        subscription.streams = []
        if len(self.streams) > self._prune_at:
            self._forget_unwatched()
            self._prune_at = max(MAX_STREAMS, 2 * len(self.streams))

    def stream(self, name: str) -> Watched:
        """The stream of this name."""
        return self.streams.setdefault(name, Watched(name))

    def discover(self, name: str) -> None:
        """Adds a stream that may exist to the groups that cover it."""
        stream = self.stream(name)
        for group in self._groups_of(name):
            stream.join(group)

    def add_known(self, group: PrefixGroup) -> None:
        """Adds all streams of this list that a new group covers."""
        for name, stream in self.streams.items():
            if name.startswith(group.prefix):
                stream.join(group)

    def update(self, stream: Watched, stored: bytes | None) -> None:
        """Takes over what is stored of a stream now; a change gets the next number.

        A stream that appears joins its groups, and one that does not exist leaves them. If it did not exist before
        either, it is no change to them: discovery finds all keys below a prefix, also those of another type, which are
        no streams. A stream that was forgotten while it was read is ignored.
        """
        if self.streams.get(stream.name) is not stream:
            return
        existed = stream.exists
        if not existed and stored is not None:
            self.discover(stream.name)
        elif not existed:
            stream.leave_groups()
            if not stream.subscribers:
                del self.streams[stream.name]
                return
        if stream.update(stored, self._number + 1):
            self._number += 1
            if existed and stored is None:
                stream.leave_groups()
                self.forgotten = self._number  # A prefix that is not watched now may have covered it.
                self._forget_if_absent(stream)

    def has_room(self, names: Collection[str] = (), prefix: str | None = None) -> bool:
        """Whether subscriptions take at most ``MAX_SIZE``, also with one more to these names or this prefix."""
        more = _PER_STREAM * sum(name not in self.streams for name in names)
        group = None if prefix is None else self.groups.get(prefix)
        more += _PER_NAME * (len(names) if group is None else len(group.streams))
        if self._size + more > MAX_SIZE:
            self._forget_unwatched()
        return self._size + more <= MAX_SIZE

    @property
    def held(self) -> int:
        """Bytes of the snapshots that are kept."""
        return sum(stream.size for stream in self.streams.values())

    @property
    def _size(self) -> int:
        """Bytes that the subscriptions take, without snapshots; about."""
        in_groups = sum(len(group.streams) * len(group.subscribers) for group in self.groups.values())
        return _PER_STREAM * len(self.streams) + _PER_NAME * (self._named + in_groups)

    def _groups_of(self, name: str) -> Iterator[PrefixGroup]:
        """The groups that cover a name. Prefixes have few lengths, so this is faster than a comparison with each."""
        for length in self._lengths:
            group = self.groups.get(name[:length])
            if group is not None and len(name) >= length:
                yield group

    def _forget_unwatched(self) -> None:
        """Forgets streams. Nobody can be told of their deletion from now on, so this counts as a change."""
        watched = {name: one for name, one in self.streams.items() if one.is_watched}
        if len(watched) < len(self.streams):
            self.streams = watched
            self._number += 1
            self.forgotten = self._number

    def _forget_if_absent(self, stream: Watched) -> None:
        """Forgets a stream that does not exist and that nobody watches."""
        if not stream.is_watched and not stream.exists:
            self.streams.pop(stream.name, None)
