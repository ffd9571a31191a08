"""What gathers for one commit: groups of requests, and those who wait for them.

A **group** is the requests that stand or fall together, because they name the same streams with the same shapes. A
stream that has another shape refuses the whole group and nobody else. A request with an idempotency key is a group by
itself.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from meanwhile.core.idempotency_keys import Key, Stamps
from meanwhile.core.readings import Readings
from meanwhile.core.state import State
from meanwhile.core.summary import summarize
from meanwhile.storage.batcher import fail_all
from meanwhile.storage.commit_reply import Rejection
from meanwhile.storage.rejections import reason_of
from meanwhile.storage.weight import MAX_NUMBERS, MAX_WEIGHT, PARTS, STAMPS, weight_of

_SMALL = 100  # Of the weight of a request, so that what is larger leaves room for it.
_MAX_FILLED = MAX_WEIGHT - 300  # By what is not small, unless it is alone.


class CommitOutcome(NamedTuple):
    """States that include the readings of a request, by stream; and the streams that had counted its key before.

    ``repeated`` is how many of the readings had been counted before. A request that was recorded in slices has no
    states, unless it is for one stream.
    """

    states: Mapping[str, State]
    duplicates: frozenset[str]
    repeated: int = 0


Waiter = asyncio.Future[CommitOutcome]


@dataclass(slots=True)
class Group:
    """Requests for the same streams and shapes: their readings so far, and who waits for them."""

    key: Key | Stamps | None
    readings: dict[str, Readings]
    size: int  # Readings.
    waiters: list[Waiter]
    states: dict[str, State] | None = None  # Of the readings, once they are summed.

    def add(self, readings: Mapping[str, Readings], size: int) -> None:
        """Adds the readings of another request; takes over the numbers."""
        self.size += size
        for name, more in readings.items():
            shape, numbers, first, last = self.readings[name]
            numbers.extend(more.numbers)
            if more.first < first or more.last > last:
                first, last = min(first, more.first), max(last, more.last)
                self.readings[name] = Readings(shape, numbers, first, last)

    def sum(self) -> dict[str, State]:
        """The states that the readings of each stream make."""
        if self.states is None:
            self.states = {
                name: State(one.shape, summarize(one.columns, one.first, one.last))
                for name, one in self.readings.items()
            }
        return self.states

    def weight(self) -> int:
        """How heavy the group is for the script."""
        weight = sum([weight_of(state) for state in self.sum().values()])
        return weight + len(self.key.times) // STAMPS if isinstance(self.key, Stamps) else weight

    def repeated(self, duplicates: frozenset[str]) -> int:
        """How many of the readings had been counted before."""
        return sum([self.readings[name].size for name in duplicates])

    def answer(self, rejections: list[Rejection], duplicates: frozenset[str], states: Mapping[str, State]) -> None:
        """Gives the outcome to everybody who waits for it."""
        if rejections:
            fail_all(self.waiters, reason_of(self.readings, rejections))
            return
        outcome = CommitOutcome(states, duplicates, self.repeated(duplicates) if duplicates else 0)
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(outcome)


@dataclass(slots=True)
class CommitBatch:
    """The next commit. ``deadline`` is on the clock of ``loop``."""

    loop: asyncio.AbstractEventLoop
    deadline: float
    size: int = 0
    weight: int = 0
    numbers: int = 0
    groups: dict[object, Group] = field(default_factory=dict)

    def has_room(self, identity: object, weight: int, numbers: int) -> bool:
        """Whether readings like these fit in; the last room is kept for what is small."""
        if not self.groups:
            return True
        if identity in self.groups:
            weight = 0
        room = (MAX_WEIGHT if weight < _SMALL else _MAX_FILLED) - self.weight
        return weight <= room and self.numbers + numbers <= MAX_NUMBERS

    def add(
        self,
        identity: object,
        readings: Mapping[str, Readings],
        key: Key | Stamps | None,
        size: int,
        weight: int,
        numbers: int,
    ) -> Waiter:
        """Adds a request of this ``identity_of`` and ``measure``; the future's result is its outcome."""
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

    def may_be_heavy(self) -> bool:
        """Whether it may be more than one run of the script takes: a number adds up to three parts to the sums."""
        return self.weight + 3 * self.numbers // PARTS > MAX_WEIGHT

    def fail(self, error: Exception) -> None:
        """Fails all groups with the same error."""
        for group in self.groups.values():
            fail_all(group.waiters, error)


def identity_of(readings: Mapping[str, Readings], key: Key | Stamps | None) -> object:
    """What requests have in common that stand or fall together. One with a key stands alone."""
    if key is not None:
        return object()
    if len(readings) == 1:  # The usual case, without a set.
        ((name, one),) = readings.items()
        return name, one.shape.text
    return frozenset((name, one.shape.text) for name, one in readings.items())
