"""Streams that somebody watches: what is known of each, and who is told when it changes."""

from typing import Protocol

_UNSEEN = object()


class Subscriber(Protocol):
    """Who is told of changes."""

    @property
    def has_begun(self) -> bool:
        """Whether it has got what there was at the start."""

    def fail(self, error: Exception) -> None:
        """Tells who waits for the start why there is none."""

    def end(self) -> None:
        """Ends it."""

    def note(self, stream: "Watched") -> None:
        """Takes note of a change of a stream."""


class Watched:
    """A stream that is watched, or was: then only what tells whether it changed is kept."""

    __slots__ = ("frame", "groups", "mark", "name", "number", "stored", "waiting", "watchers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.stored: bytes | None = None
        self.mark: object = _UNSEEN  # The hash of ``stored``, which stays when that goes; None if it does not exist.
        self.number = 0  # Of its last change.
        self.frame: bytes | None = None
        self.waiting = 0  # How often it is among what subscribers have not got yet.
        self.watchers: set[Subscriber] = set()
        self.groups: list[Group] = []

    def join(self, group: "Group") -> None:
        """Makes it one of the streams of a prefix."""
        if self.name not in group.streams:
            group.streams[self.name] = self
            self.groups.append(group)

    @property
    def exists(self) -> bool:
        """Whether it did when it was last read."""
        return self.mark is not None and self.mark is not _UNSEEN

    @property
    def is_watched(self) -> bool:
        """Whether anybody watches it."""
        return bool(self.watchers or self.groups)

    @property
    def held(self) -> int:
        """Bytes of its state and its frame that are kept."""
        return len(self.stored or b"") + len(self.frame or b"")

    def let_go(self) -> None:
        """Keeps only what tells whether it changed, if nobody waits for more."""
        if not self.waiting:
            self.stored = self.frame = None

    def see(self, stored: bytes | None, number: int) -> bool:
        """Takes what is stored now; if that is a change, it gets ``number`` and its subscribers are told."""
        mark = None if stored is None else hash(stored)
        if mark != self.mark or self.frame is None:
            self.stored = stored
        if mark == self.mark:
            return False
        self.mark, self.number, self.frame = mark, number, None
        for one in self.watchers:
            one.note(self)
        for group in self.groups:
            for one in group.subscribers:
                one.note(self)
        return True


class Group:
    """The subscribers of a prefix, and its streams."""

    __slots__ = ("is_listed", "prefix", "streams", "subscribers")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.streams: dict[str, Watched] = {}
        self.subscribers: set[Subscriber] = set()
        self.is_listed = False
