"""Group commit: while one round trip to Redis is under way, whatever arrives shares the next one.

Requests hand in their readings and wait. Nothing is timed: an idle service commits a reading at once; a busy one finds
that dozens have gathered while the last commit was away, sums those of the same stream first, and pays one round trip,
one merge a stream and one fsync for all of them. That is why "200 means on disk" is affordable.

A commit is a list of groups; a **group** is the requests that stand or fall together, because they name the same
streams with the same shapes. A stream that has another shape refuses the whole group and nobody else.

A commit has so much **weight** that the script takes some milliseconds for it: what is more waits for the next one, and
a request that is more by itself is recorded in slices between the others (``slices.py``). So nobody waits for somebody
else's size. What the stored states weigh only the script knows; it leaves groups for the next commit if need be.

What a waiter can count on:

- Its request is in exactly one commit, whole, or in slices of its own. If the waiter is cancelled, that goes on and
  nobody notices.
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
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from service import heavy
from service.counters import Counters
from service.idempotency import Key, Stamps
from service.link import OutcomeUnknown, StoreUnavailable
from service.slices import MAX_NUMBERS, MAX_STRETCH, MAX_WEIGHT, PAUSE, STREAM, LargeRequest, weight_of
from service.state import State, Unreadable
from service.store import Crowded, Store
from service.stream import Readings, Shape
from service.summary import summarize
from service.turns import Overloaded, Turns, fail_all
from service.verdicts import Refusal, SortedOut, Why

_MANY = 1_000  # Streams, past which a request is measured in a thread.
_SHED_PAUSE = 0.25  # Seconds that a refusal for overload takes.


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
    """States that include the readings of a request, by stream; and the streams that had counted its key before.

    ``size`` is how many readings the request has, ``repeated`` how many of them had been counted before. A request that
    was recorded in slices has no states, unless it is for one stream.
    """

    states: Mapping[str, State]
    duplicates: frozenset[str]
    size: int = 0
    repeated: int = 0


Waiter = asyncio.Future[Recorded]


@dataclass(slots=True)
class _Group:
    """Requests for the same streams and shapes, and their readings so far; or one request with an idempotency key."""

    key: Key | Stamps | None
    readings: dict[str, Readings]
    waiters: list[Waiter]
    states: dict[str, State] | None = None  # Of the readings, once they are summed.
    weight: int = 0  # Of the states.

    def add(self, readings: Mapping[str, Readings]) -> None:
        for name, more in readings.items():
            shape, columns, first, last = self.readings[name]
            for column, values in zip(columns, more.columns, strict=True):
                column.extend(values)
            if more.first < first or more.last > last:
                first, last = min(first, more.first), max(last, more.last)
                self.readings[name] = Readings(shape, columns, first, last)

    def sum(self) -> dict[str, State]:
        if self.states is None:
            self.states = {
                name: State(one.shape, summarize(one.columns, one.first, one.last))
                for name, one in self.readings.items()
            }
            self.weight = sum([weight_of(state) for state in self.states.values()])
        return self.states


@dataclass
class _Commit:
    loop: asyncio.AbstractEventLoop
    deadline: float
    size: int = 0
    weight: int = 0
    numbers: int = 0
    groups: dict[object, _Group] = field(default_factory=dict)

    def fail(self, error: Exception) -> None:
        for group in self.groups.values():
            fail_all(group.waiters, error)


class Committer:
    """The one way to record readings in a process."""

    def __init__(self, store: Store, *, max_waiting: int, patience: float, counters: Counters | None = None) -> None:
        self._store = store
        self._max_waiting = max_waiting
        self._patience = patience
        self._counters = counters or Counters()
        self._turns = Turns(_Commit, self._commit, patience)
        self._waiting = 0  # Readings.

    async def record(self, readings: Mapping[str, Readings], key: Key | Stamps | None = None) -> Recorded:
        """Commits the readings of one request, all or none; with a key, those that were not counted before.

        The committer takes over the columns and may change them. Raises ``Overloaded``, ``ShapeConflict``,
        ``StoreUnavailable``, ``OutcomeUnknown``, ``Unreadable``, ``Crowded`` or ``StreamFull``; with a key also
        ``KeyTooOld``, ``KeyAhead`` or ``TooManyProducers``, with a range of sequences ``PartlyCounted``, with
        timestamps ``MixedStamps``; for what takes more than one commit also ``PartlyRecorded`` or ``PartlyRefused``.
        """
        size, weight, numbers = await heavy.run(_measure, readings) if len(readings) > _MANY else _measure(readings)
        if self._waiting and self._waiting + size > self._max_waiting:
            await asyncio.sleep(_SHED_PAUSE)
            raise Overloaded
        self._waiting += size
        self._counters.gathered(self._waiting)
        if weight > MAX_WEIGHT or numbers > MAX_NUMBERS:
            return await self._record_large(readings, key, size)
        identity = _identity(readings, key)
        commit = self._turns.gathering()
        group = commit.groups.get(identity)
        added = weight if group is None else 0
        if commit.weight and (commit.weight + added > MAX_WEIGHT or commit.numbers + numbers > MAX_NUMBERS):
            commit, group = self._turns.begin(), None
        commit.size += size
        commit.numbers += numbers
        waiter: Waiter = commit.loop.create_future()
        if group is None:
            commit.weight += weight
            commit.groups[identity] = _Group(key, dict(readings), [waiter])
        else:
            group.add(readings)
            group.waiters.append(waiter)
        return await waiter

    async def drain(self) -> None:
        """Returns when everything handed in is committed and answered."""
        await self._turns.drain()

    async def _record_large(self, readings: Mapping[str, Readings], key: Key | Stamps | None, size: int) -> Recorded:
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        deadline = loop.time() + self._patience
        request = LargeRequest(self._store, readings, key, self._patience, reason_of)

        async def steps() -> AsyncIterator[None]:
            started = time.perf_counter()
            try:
                async for _ in request.steps(deadline):
                    yield
            except Exception as error:  # noqa: BLE001  # Whatever it is, who waits must hear of it.
                fail_all([waiter], error)
            else:
                if not waiter.done():
                    duplicates = frozenset(request.duplicates)
                    waiter.set_result(Recorded(request.states, duplicates, size, request.repeated))
            finally:
                self._waiting -= size
                new = request.counted - request.repeated
                self._counters.committed(size, new, request.repeated, time.perf_counter() - started)

        self._turns.add(steps())
        return await waiter

    async def _commit(self, commit: _Commit) -> None:
        self._waiting -= commit.size
        self._counters.gathered(self._waiting)
        if commit.loop.time() >= commit.deadline:
            raise Overloaded
        groups = list(commit.groups.values())
        if commit.numbers > MAX_STRETCH:
            await heavy.run(_sum_all, groups)
        while groups:
            run, groups = _cut(groups)
            try:
                put_off = await self._send(run, commit.deadline)
            except OutcomeUnknown as error:
                put_off = await self._settle(run, commit.deadline, error)
            except Exception as error:  # noqa: BLE001  # Whatever it is, those who wait must hear of it.
                put_off = []
                for group in run:
                    fail_all(group.waiters, error)
            groups = put_off + groups

    async def _settle(self, groups: list[_Group], deadline: float, unknown: OutcomeUnknown) -> list[_Group]:
        """Sends groups with keys again until it is known what became of them; the others are told that it is not."""
        keyed = [] if unknown.answered else [group for group in groups if group.key is not None]
        for group in groups:
            if group not in keyed:
                fail_all(group.waiters, unknown)
        loop = asyncio.get_running_loop()
        while keyed:
            await asyncio.sleep(PAUSE)
            try:
                return await self._send(keyed, deadline)
            except (OutcomeUnknown, StoreUnavailable):
                # Not recorded this time says nothing of the time before.
                if loop.time() + PAUSE >= deadline:
                    for group in keyed:
                        fail_all(group.waiters, unknown)
                    return []
        return []

    async def _send(self, groups: list[_Group], deadline: float) -> list[_Group]:
        """One commit of these groups; answers those who wait, and returns the groups that were put off.

        Raises what the store raises.
        """
        keys = {number: group.key for number, group in enumerate(groups) if group.key is not None}
        started = time.perf_counter()
        committed = await self._store.commit([group.sum() for group in groups], deadline, keys)
        seconds = time.perf_counter() - started
        readings = recorded = repeated = 0
        put_off = []
        for number, (group, refusals, duplicates) in enumerate(
            zip(groups, committed.refusals, committed.duplicates, strict=True)
        ):
            if refusals and committed.is_put_off(number):
                put_off.append(group)
                continue
            size = sum([one.size for one in group.readings.values()])
            readings += size
            if refusals:
                fail_all(group.waiters, reason_of(group.readings, refusals))
                continue
            known = sum([group.readings[name].size for name in duplicates])
            recorded += size
            repeated += known
            outcome = Recorded(committed.states, duplicates, size, known)
            for waiter in group.waiters:
                if not waiter.done():
                    waiter.set_result(outcome)
        self._counters.committed(readings, recorded - repeated, repeated, seconds)
        return put_off


def _measure(readings: Mapping[str, Readings]) -> tuple[int, int, int]:
    """How many readings these are, their weight, and how many numbers."""
    size = weight = numbers = 0
    for one in readings.values():
        components, rows = len(one.columns), len(one.columns[0])
        size += rows
        weight += STREAM + components
        numbers += rows * components
    return size, weight, numbers


def _sum_all(groups: list[_Group]) -> None:
    for group in groups:
        group.sum()


def _cut(groups: list[_Group]) -> tuple[list[_Group], list[_Group]]:
    """The first groups, as many as the script takes at once, and the others. A group is not divided."""
    weight = 0
    for number, group in enumerate(groups):
        group.sum()
        weight += group.weight
        if number and weight > MAX_WEIGHT:
            return groups[:number], groups[number:]
    return groups, []


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


def reason_of(readings: Mapping[str, Readings], refusals: list[Refusal]) -> Exception:
    """What to tell who waits; a conflict that no retry can mend comes before what may pass."""
    conflicts = [
        Conflict(refusal.stream, refusal.shape, readings[refusal.stream].shape)
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
