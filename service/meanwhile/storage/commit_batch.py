"""The requests that wait for one commit, in groups.

A **group** consists of requests for the same streams with the same shapes. They succeed or fail together: if a stream
has another shape, the whole group is refused, and no other group. A request with an idempotency key is a group by
itself.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from meanwhile.core.idempotency_keys import Key, Timestamps
from meanwhile.core.readings import Readings
from meanwhile.core.state import State
from meanwhile.storage.batcher import fail_all
from meanwhile.storage.commit_reply import Rejection
from meanwhile.storage.commit_weight import LIMBS_PER_UNIT, MAX_NUMBERS, MAX_WEIGHT, weight_of
from meanwhile.storage.rejections import error_of

_MAX_LIMBS = 100  # A number adds at most so many limbs to the sums of its stream, which the domain limits.
_SMALL_WEIGHT = 500  # Below this weight, a request may use the room that is reserved for small requests.
_MAX_LARGE_WEIGHT = MAX_WEIGHT - 1_500  # Other requests may fill a batch up to this weight; a single one may exceed it.


class CommitOutcome(NamedTuple):
    """The outcome of a recorded request.

    ``states`` has the states after the commit, by stream. It is empty if the request was recorded in slices, unless it
    is for one stream. ``duplicates`` has the streams that had counted the key before, and ``repeated`` is the number of
    readings in them.
    """

    states: Mapping[str, State]
    duplicates: frozenset[str]
    repeated: int = 0


Waiter = asyncio.Future[CommitOutcome]


@dataclass(slots=True)
class Group:
    """Requests for the same streams and shapes: their readings so far, and the futures of their callers."""

    key: Key | Timestamps | None
    readings: dict[str, Readings]
    size: int  # Readings.
    waiters: list[Waiter]
    states: dict[str, State] | None = None  # The summed readings, once computed.

    def add(self, readings: Mapping[str, Readings], size: int) -> None:
        """Adds the readings of another request. Takes ownership of its numbers."""
        self.size += size
        for name, more in readings.items():
            self.readings[name] = self.readings[name].extend(more)

    def sum(self) -> dict[str, State]:
        """Returns the readings of each stream as a state."""
        if self.states is None:
            self.states = {name: State(one.shape, one.summarize()) for name, one in self.readings.items()}
        return self.states

    def weight(self) -> int:
        """Returns the weight of the group for the script."""
        weight = sum([weight_of(state) for state in self.sum().values()])
        return weight + len(self.key.times) if isinstance(self.key, Timestamps) else weight

    def is_wide(self) -> bool:
        """Returns whether the worker has to merge the group, because one stream takes the script too long."""
        return len(self.readings) == 1 and self.weight() > MAX_WEIGHT

    def repeated(self, duplicates: frozenset[str]) -> int:
        """Returns the number of readings in streams that had counted the key before."""
        return sum([self.readings[name].size for name in duplicates])

    def answer(self, rejections: list[Rejection], duplicates: frozenset[str], states: Mapping[str, State]) -> None:
        """Gives the outcome to all callers."""
        if rejections:
            fail_all(self.waiters, error_of(self.readings, rejections))
            return
        outcome = CommitOutcome(states, duplicates, self.repeated(duplicates) if duplicates else 0)
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(outcome)


@dataclass(slots=True)
class CommitBatch:
    """The requests of one commit.

    ``deadline`` is on the clock of ``loop``. ``size`` is in readings, ``weight`` in units of ``commit_weight.py``,
    ``numbers`` is the number of values in all readings, and ``groups`` is keyed by ``identity_of``.
    """

    loop: asyncio.AbstractEventLoop
    deadline: float
    size: int = 0
    weight: int = 0
    numbers: int = 0
    groups: dict[object, Group] = field(default_factory=dict)

    def has_room(self, identity: object, weight: int, numbers: int) -> bool:
        """Returns whether a request of this weight fits. Some room is reserved for small requests."""
        if not self.groups:
            return True
        if identity in self.groups:
            weight = 0
        room = (MAX_WEIGHT if weight < _SMALL_WEIGHT else _MAX_LARGE_WEIGHT) - self.weight
        return weight <= room and self.numbers + numbers <= MAX_NUMBERS

    def add(
        self,
        identity: object,
        readings: Mapping[str, Readings],
        key: Key | Timestamps | None,
        size: int,
        weight: int,
        numbers: int,
    ) -> Waiter:
        """Adds a request and returns the future of its outcome.

        ``identity`` comes from ``identity_of``; ``size``, ``weight`` and ``numbers`` come from ``measure``.
        """
        self.size += size
        self.numbers += numbers
        waiter: Waiter = self.loop.create_future()
        group = self.groups.get(identity)
        if group is None:
            self.weight += weight
            self.groups[identity] = Group(key, dict(readings), size, [waiter])
        else:
            group.add(readings, size)
            group.waiters.append(waiter)
        return waiter

    def may_exceed_limit(self) -> bool:
        """Returns whether the batch may exceed one run of the script, once its readings are summed."""
        return self.weight + _MAX_LIMBS * self.numbers // LIMBS_PER_UNIT > MAX_WEIGHT

    def fail(self, error: Exception) -> None:
        """Fails all groups with the same error."""
        for group in self.groups.values():
            fail_all(group.waiters, error)


def identity_of(readings: Mapping[str, Readings], key: Key | Timestamps | None) -> object:
    """Returns the identity of the group of a request. A request with a key is a group by itself."""
    if key is not None:
        return object()
    if len(readings) == 1:  # Faster than a set.
        ((name, one),) = readings.items()
        return name, one.shape.text
    return frozenset((name, one.shape.text) for name, one in readings.items())
