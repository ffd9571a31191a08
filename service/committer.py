"""Group commit: while one round trip to Redis is under way, whatever arrives shares the next one.

Requests hand in their readings and wait. Nothing is timed: an idle service commits a reading at once; a busy one finds
that dozens have gathered while the last commit was away, sums those of the same stream first, and pays one round trip,
one merge a stream and one fsync for all of them. That is why "200 means on disk" is affordable.

A commit is a list of groups; a **group** is the requests that stand or fall together, because they name the same
streams with the same shapes. A stream that has another shape refuses the whole group and nobody else.

What a waiter can count on:

- Its request is in exactly one commit, whole. If the waiter is cancelled, the commit goes on and nobody notices.
- It hears of its own commit only: the states after it, a ``ShapeConflict``, or the store's ``StoreUnavailable`` (not
  recorded) or ``OutcomeUnknown``. The next commit leaves in any case.
- It hears within ``patience`` seconds. The clock of a commit starts with its first reading, so the one that waits
  longest decides; the others hear sooner.
- At most ``max_waiting`` readings wait, or one request of any size; more are refused with ``Overloaded``.

Of a commit whose outcome is unknown, the groups with idempotency keys are sent again until it is known or their time is
up, and what waits behind them leaves only then. Redis has just failed, so it would fare no better; and one commit that
knocks twenty times a second is less of a load for a server that comes back than all of them. Where Redis did answer,
with an error that proves nothing, they are not sent again: it would answer the same.

A refusal for overload takes a quarter of a second. Clients that send again at once, whatever Retry-After says, would
otherwise take as much time from those who are served as serving them would (``make test-faults`` measures it).
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from service.counters import Counters
from service.idempotency import Key, Stamps
from service.link import OutcomeUnknown, StoreUnavailable
from service.state import State, Unreadable
from service.store import Crowded, Store
from service.stream import Readings, Shape
from service.summary import summarize
from service.turns import Turns, fail_all
from service.verdicts import Refusal, SortedOut, Why

_PAUSE = 0.05  # Seconds before a commit of unknown outcome is sent again.
_SHED_PAUSE = 0.25  # Seconds that a refusal for overload takes.


class Overloaded(Exception):
    """More is waiting than the service allows: nothing of this request was recorded."""


class KeyTooOld(Exception):
    """The sequence of the idempotency key is below the window of a stream: it is not known whether it was counted."""


class PartlyCounted(Exception):
    """Streams have counted a range of sequences up to ``highest``, each: nothing of this request was recorded."""

    def __init__(self, highest: dict[str, int]) -> None:
        super().__init__(highest)
        self.highest = highest


class KeyAhead(Exception):
    """The sequence of the idempotency key reads as a time in the future: nothing of this request was recorded."""


class MixedStamps(Exception):
    """A stream has counted some of the timestamps and not others: nothing of this request was recorded."""

    def __init__(self, stamps: SortedOut) -> None:
        super().__init__(stamps)
        self.stamps = stamps


class TooManyProducers(Exception):
    """A stream remembers as many producers of idempotency keys as it can, all of them active in the last hour."""


class StreamFull(Exception):
    """Streams would have counted more than 2^53 - 1 readings: nothing of this request was recorded."""

    def __init__(self, streams: list[str]) -> None:
        super().__init__(streams)
        self.streams = streams


class ShapeConflict(Exception):
    """Streams have another shape than the readings sent for them: nothing of this request was recorded."""

    def __init__(self, conflicts: "list[Conflict]") -> None:
        super().__init__(conflicts)
        self.conflicts = conflicts

    @property
    def streams(self) -> list[str]:
        """The names of the streams."""
        return [conflict.stream for conflict in self.conflicts]


@dataclass(frozen=True)
class Conflict:
    """A stream and the shape it has, beside the one of the readings sent for it."""

    stream: str
    expected: Shape
    received: Shape


class Recorded(NamedTuple):
    """States that include the readings of a request, by stream; and the streams that had counted its key before."""

    states: Mapping[str, State]
    duplicates: frozenset[str]


Waiter = asyncio.Future[Recorded]


@dataclass(slots=True)
class _Group:
    """Requests for the same streams and shapes, and their readings so far; or one request with an idempotency key."""

    key: Key | Stamps | None
    readings: dict[str, Readings]
    waiters: list[Waiter]

    def add(self, readings: Mapping[str, Readings]) -> None:
        for name, more in readings.items():
            shape, columns, first, last = self.readings[name]
            for column, values in zip(columns, more.columns, strict=True):
                column.extend(values)
            if more.first < first or more.last > last:
                first, last = min(first, more.first), max(last, more.last)
                self.readings[name] = Readings(shape, columns, first, last)

    def states(self) -> dict[str, State]:
        return {
            name: State(one.shape, summarize(one.columns, one.first, one.last)) for name, one in self.readings.items()
        }


@dataclass
class _Commit:
    loop: asyncio.AbstractEventLoop
    deadline: float
    size: int = 0
    groups: dict[object, _Group] = field(default_factory=dict)

    def fail(self, error: Exception) -> None:
        for group in self.groups.values():
            fail_all(group.waiters, error)


class Committer:
    """The one way to record readings in a process."""

    def __init__(self, store: Store, *, max_waiting: int, patience: float, counters: Counters | None = None) -> None:
        self._store = store
        self._max_waiting = max_waiting
        self._counters = counters or Counters()
        self._turns = Turns(_Commit, self._commit, patience)

    async def record(self, readings: Mapping[str, Readings], key: Key | Stamps | None = None) -> Recorded:
        """Commits the readings of one request, all or none; with a key, those that were not counted before.

        The committer takes over the columns and may change them. Raises ``Overloaded``, ``ShapeConflict``,
        ``StoreUnavailable``, ``OutcomeUnknown``, ``Unreadable``, ``Crowded`` or ``StreamFull``; with a key also
        ``KeyTooOld``, ``KeyAhead`` or ``TooManyProducers``, with a range of sequences ``PartlyCounted``, with
        timestamps ``MixedStamps``.
        """
        commit = self._turns.gathering()
        size = 0
        for one in readings.values():
            size += one.size
        if commit.size and commit.size + size > self._max_waiting:
            await asyncio.sleep(_SHED_PAUSE)
            raise Overloaded
        commit.size += size
        self._counters.gathered(commit.size)
        waiter: Waiter = commit.loop.create_future()
        identity = _identity(readings, key)
        group = commit.groups.get(identity)
        if group is None:
            commit.groups[identity] = _Group(key, dict(readings), [waiter])
        else:
            group.add(readings)
            group.waiters.append(waiter)
        return await waiter

    async def drain(self) -> None:
        """Returns when everything handed in is committed and answered."""
        await self._turns.drain()

    async def _commit(self, commit: _Commit) -> None:
        groups = list(commit.groups.values())
        self._counters.gathered(0)
        try:
            await self._send(groups, commit.deadline)
        except OutcomeUnknown as error:
            if error.answered:
                raise
            # What has a key can be sent again: if it was recorded, the streams know.
            for group in groups:
                if group.key is None:
                    fail_all(group.waiters, error)
            await self._insist([group for group in groups if group.key is not None], commit.deadline, error)

    async def _insist(self, groups: list[_Group], deadline: float, unknown: OutcomeUnknown) -> None:
        """Sends groups with keys until their outcome is known, or the deadline is there."""
        loop = asyncio.get_running_loop()
        while groups:
            await asyncio.sleep(_PAUSE)
            try:
                await self._send(groups, deadline)
            except (OutcomeUnknown, StoreUnavailable):
                # Not recorded this time says nothing of the time before.
                if loop.time() + _PAUSE >= deadline:
                    raise unknown from None
            else:
                groups = []

    async def _send(self, groups: list[_Group], deadline: float) -> None:
        """One commit of these groups; answers those who wait. Raises what the store raises."""
        keys = {number: group.key for number, group in enumerate(groups) if group.key is not None}
        started = time.perf_counter()
        committed = await self._store.commit([group.states() for group in groups], deadline, keys)
        seconds = time.perf_counter() - started
        readings = recorded = repeated = 0
        for group, refusals, duplicates in zip(groups, committed.refusals, committed.duplicates, strict=True):
            size = sum([one.size for one in group.readings.values()])
            readings += size
            if refusals:
                fail_all(group.waiters, _reason(group, refusals))
                continue
            recorded += size
            repeated += sum([group.readings[name].size for name in duplicates])
            outcome = Recorded(committed.states, duplicates)
            for waiter in group.waiters:
                if not waiter.done():
                    waiter.set_result(outcome)
        self._counters.committed(readings, recorded - repeated, repeated, seconds)


def _identity(readings: Mapping[str, Readings], key: Key | Stamps | None) -> object:
    """What requests have in common that stand or fall together. One with a key stands alone."""
    if key is not None:
        return object()
    if len(readings) == 1:  # The usual case, without a set.
        ((name, one),) = readings.items()
        return name, one.shape.text
    return frozenset((name, one.shape.text) for name, one in readings.items())


_REASONS: dict[Why | None, type[Exception]] = {
    Why.UNREADABLE: Unreadable,
    Why.BELOW_THE_WINDOW: KeyTooOld,
    Why.TOO_MANY_PRODUCERS: TooManyProducers,
    Why.CROWDED: Crowded,
    Why.KEY_AHEAD: KeyAhead,
}


def _reason(group: _Group, refusals: list[Refusal]) -> Exception:
    """What to tell who waits; a conflict that no retry can mend comes before what may pass."""
    conflicts = [
        Conflict(refusal.stream, refusal.shape, group.readings[refusal.stream].shape)
        for refusal in refusals
        if refusal.shape is not None
    ]
    if conflicts:
        return ShapeConflict(conflicts)
    full = [refusal.stream for refusal in refusals if refusal.why is Why.TOO_MANY_READINGS]
    if full:
        return StreamFull(full)
    for refusal in refusals:
        if refusal.stamps is not None:
            return MixedStamps(refusal.stamps)
    highest = {refusal.stream: refusal.highest for refusal in refusals if refusal.highest is not None}
    return PartlyCounted(highest) if highest else _REASONS[refusals[0].why]()
