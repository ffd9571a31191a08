"""Watched streams: the latest snapshot of each, and the subscribers to notify when it changes."""

from typing import Protocol

_UNREAD = object()


class Subscriber(Protocol):
    """What a stream notifies of its changes."""

    def mark_changed(self, stream: "Watched") -> None:
        """Adds a stream to the changes that the subscriber has not taken yet."""


class Snapshot:
    """A stream as it was last read, shared by all its subscribers until the last of them has taken it.

    ``name`` is the stream's name; ``stored`` is its state, as the bytes in Redis, or None if the stream does not exist.
    ``encoded`` is what those who take snapshots made of the state, so that it is made once; it replaces the state.
    """

    __slots__ = ("encoded", "name", "stored")

    def __init__(self, name: str, stored: bytes | None) -> None:
        self.name = name
        self.stored = stored
        self.encoded: bytes | None = None

    def replace_by(self, encoded: bytes) -> None:
        """Keeps ``encoded`` in place of the state."""
        self.encoded, self.stored = encoded, None

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return len(self.stored or b"") + len(self.encoded or b"")


class Watched:
    """A stream that is watched, or was: of one that was, only what detects the next change is kept.

    ``name`` is the stream's name.
    """

    __slots__ = ("_fingerprint", "_holds", "_snapshot", "groups", "name", "number", "subscribers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.number = 0  # Of its last change.
        self.subscribers: set[Subscriber] = set()  # Those that name it.
        self.groups: list[PrefixGroup] = []
        self._fingerprint: object = _UNREAD  # The hash of the state that was last read; None if it does not exist.
        self._snapshot: Snapshot | None = None
        self._holds = 0  # How often its snapshot is needed.

    def join(self, group: "PrefixGroup") -> None:
        """Makes it one of the streams of a prefix."""
        if self.name not in group.streams:
            group.streams[self.name] = self
            self.groups.append(group)

    def leave_groups(self) -> None:
        """Makes it a stream of no prefix."""
        for group in self.groups:
            group.streams.pop(self.name, None)
        self.groups = []

    @property
    def exists(self) -> bool:
        """Whether it existed when it was last read."""
        return self._fingerprint is not None and self._fingerprint is not _UNREAD

    @property
    def is_watched(self) -> bool:
        """Whether it has subscribers."""
        return bool(self.subscribers or self.groups)

    @property
    def size(self) -> int:
        """Bytes of its snapshot, if it is kept."""
        return 0 if self._snapshot is None else self._snapshot.size

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot. Only for a stream that is held."""
        if self._snapshot is None:
            raise RuntimeError("The snapshot of this stream is not held.")
        return self._snapshot

    def hold(self) -> None:
        """Keeps the snapshot until as many calls of ``release``."""
        self._holds += 1

    def release(self) -> None:
        """Undoes a ``hold``; the last one drops the snapshot."""
        self._holds -= 1
        if not self._holds:
            self._snapshot = None

    def drop(self) -> None:
        """Drops the snapshot of a stream that nobody watches."""
        if not self.is_watched:
            self._snapshot = None

    def update(self, stored: bytes | None, number: int) -> bool:
        """Compares with what is stored now; a change gets ``number`` and is marked at the subscribers.

        Returns whether it is one.
        """
        fingerprint = None if stored is None else hash(stored)
        is_change = fingerprint != self._fingerprint
        if is_change or (self._holds and self._snapshot is None):
            self._snapshot = Snapshot(self.name, stored)
        if is_change:
            self._fingerprint, self.number = fingerprint, number
            for one in self.subscribers:
                one.mark_changed(self)
            for group in self.groups:
                for one in group.subscribers:
                    one.mark_changed(self)
        if not self._holds:
            self._snapshot = None
        return is_change


class PrefixGroup:
    """The subscribers of a prefix, and its streams.

    ``prefix`` is what the names of the streams start with.
    """

    __slots__ = ("is_listed", "prefix", "streams", "subscribers")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.streams: dict[str, Watched] = {}
        self.subscribers: set[Subscriber] = set()
        self.is_listed = False  # Whether the streams that exist were found.
