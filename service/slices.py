"""Slices: a request that takes Redis long is checked and recorded in parts, and others get their turn in between.

Redis runs one script at a time, so a commit has to be short: at most ``WEIGHT`` microseconds of Redis's time, as
measured for usual states. A request above that is a **job**, and its streams are divided into slices. First every slice
is checked, which writes nothing; so a request that a stream refuses is recorded nowhere. Then every slice is recorded,
each stream for itself. What a job comes to:

- Nothing is recorded: it raises what the check says, or ``StoreUnavailable``; ``TimeoutError`` if its turn did not come
  within ``timeout`` seconds.
- Everything is recorded. Each slice has ``timeout`` seconds of its own, so size alone makes no outcome unknown.
- Redis failed in between: ``PartlyRecorded``. With an idempotency key, the request can be sent again to complete it.
- Streams have changed since they were checked, and refuse what they would have taken: ``PartlyRefused``.

A slice is summed just before it is recorded, in a thread if it has many numbers, and let go of afterwards.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager

from service import heavy
from service.counters import Counters
from service.idempotency import Key, Stamps
from service.link import OutcomeUnknown, StoreUnavailable
from service.state import State
from service.store import Store
from service.stream import Readings
from service.summary import summarize
from service.verdicts import Committed, Refusal, Why

WEIGHT = 5_000  # Of a commit, in microseconds of Redis's time.
WHOLE = 9_000  # Of a request up to which it is committed at once.
MANY = 8_192  # Numbers in a commit; the event loop sums them in some milliseconds.
_STREAM, _COMPONENT = 40, 5  # Microseconds.
_FEW = 512  # Numbers up to which a slice is summed at once.
_PAUSE = 0.05  # Seconds before a slice is sent again.

Reason = Callable[[Mapping[str, Readings], list[Refusal]], Exception]


class PartlyRecorded(Exception):
    """Redis failed while a request was recorded: how many of its streams are recorded, are not, and may be."""

    def __init__(self, recorded: int, not_recorded: int, unknown: int) -> None:
        super().__init__(recorded, not_recorded, unknown)
        self.recorded = recorded
        self.not_recorded = not_recorded
        self.unknown = unknown


class PartlyRefused(Exception):
    """Some streams changed while a request was recorded, and refused it: how many are recorded and how many refused."""

    def __init__(self, recorded: int, refused: int) -> None:
        super().__init__(recorded, refused)
        self.recorded = recorded
        self.refused = refused


def load(readings: Mapping[str, Readings]) -> tuple[int, int, int]:
    """What readings cost: microseconds of Redis's time, numbers to sum, and how many readings they are."""
    weight = numbers = size = 0
    for _, columns, _, _ in readings.values():
        components, more = len(columns), len(columns[0])
        weight += _STREAM + _COMPONENT * components
        numbers += components * more
        size += more
    return weight, numbers, size


def slices(readings: Mapping[str, Readings]) -> Iterator[dict[str, Readings]]:
    """The readings in parts of at most ``WEIGHT`` and ``MANY`` numbers, or of one stream."""
    part: dict[str, Readings] = {}
    weight = numbers = 0
    for name, one in readings.items():
        more_weight, more_numbers, _ = load({name: one})
        if part and (weight + more_weight > WEIGHT or numbers + more_numbers > MANY):
            yield part
            part, weight, numbers = {}, 0, 0
        part[name] = one
        weight += more_weight
        numbers += more_numbers
    yield part


def states_of(readings: Mapping[str, Readings]) -> dict[str, State]:
    """The readings of each stream, summed."""
    return {name: State(one.shape, summarize(one.columns, one.first, one.last)) for name, one in readings.items()}


class Job:
    """One large request. ``turn`` makes a context in which nobody else of this process commits."""

    def __init__(
        self,
        readings: Mapping[str, Readings],
        key: Key | Stamps | None,
        store: Store,
        turn: Callable[[], AbstractAsyncContextManager[None]],
        reason: Reason,
        timeout: float,
        counters: Counters,
    ) -> None:
        self._key = key
        self._store = store
        self._turn = turn
        self._reason = reason
        self._timeout = timeout
        self._counters = counters
        self._streams = len(readings)
        self._parts = list(slices(readings))
        self._recorded = 0  # Streams.
        self._refusals: list[Refusal] = []

    async def run(self) -> tuple[Mapping[str, State], frozenset[str]]:
        """Checks and records it. Returns the states afterwards, if it was one slice, and which streams are duplicates.

        Raises what the module says.
        """
        if len(self._parts) > 1:
            await self._check()
        duplicates: set[str] = set()
        states: Mapping[str, State] = {}
        is_whole = len(self._parts) == 1
        self._parts.reverse()
        while self._parts:
            part = self._parts.pop()
            committed = await self._record(part, is_whole=is_whole)
            repeated = frozenset[str]().union(*committed.duplicates)
            duplicates |= repeated
            states = committed.states if is_whole else {}
        if self._refusals:
            if is_whole:
                raise self._reason(part, self._refusals)
            raise PartlyRefused(self._recorded, len(self._refusals))
        return states, frozenset(duplicates)

    async def _check(self) -> None:
        """Raises what the streams say against it."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + self._timeout
        refusals: list[Refusal] = []
        new = 0
        for part in self._parts:
            async with self._turn():
                if loop.time() >= latest:
                    raise TimeoutError
                try:
                    verdict = await self._store.check(part, loop.time() + self._timeout, self._key, new)
                except OutcomeUnknown as error:
                    raise StoreUnavailable from error
            refusals += verdict.refusals
            new += verdict.new
            latest = loop.time() + self._timeout
            if any(refusal.why is not Why.PARTLY_COUNTED for refusal in verdict.refusals):
                break
        if refusals:
            raise self._reason({name: one for part in self._parts for name, one in part.items()}, refusals)

    async def _record(self, part: dict[str, Readings], *, is_whole: bool) -> Committed:
        """Records a slice. Raises ``StoreUnavailable``, ``OutcomeUnknown`` or ``PartlyRecorded``."""
        _, numbers, _ = load(part)
        states = await heavy.run(states_of, part) if numbers > _FEW else states_of(part)
        groups = [states] if is_whole else [{name: state} for name, state in states.items()]
        started = time.perf_counter()
        committed = await self._send(groups)
        readings = recorded = repeated = 0
        for group, refusals, duplicates in zip(groups, committed.refusals, committed.duplicates, strict=True):
            size = sum([part[name].size for name in group])
            readings += size
            self._refusals += refusals
            if not refusals:
                self._recorded += len(group)
                recorded += size
                repeated += sum([part[name].size for name in duplicates])
        self._counters.committed(readings, recorded - repeated, repeated, time.perf_counter() - started)
        return committed

    async def _send(self, groups: list[dict[str, State]]) -> Committed:
        """Sends a slice; again if that is safe and of use, until it is known or its time is up."""
        loop = asyncio.get_running_loop()
        keys = {} if self._key is None else dict.fromkeys(range(len(groups)), self._key)
        deadline: float | None = None
        unknown: OutcomeUnknown | None = None
        while True:
            async with self._turn():
                deadline = deadline or loop.time() + self._timeout
                try:
                    return await self._store.commit(groups, deadline, keys)
                except StoreUnavailable as error:
                    failure: Exception = error
                    is_final = not self._recorded and unknown is None
                except OutcomeUnknown as error:
                    failure = unknown = error
                    is_final = self._key is None or error.answered
            if is_final or loop.time() + _PAUSE >= deadline:
                raise self._failed(failure if unknown is None else unknown, sum(map(len, groups)))
            await asyncio.sleep(_PAUSE)

    def _failed(self, error: Exception, under_way: int) -> Exception:
        unknown = under_way if isinstance(error, OutcomeUnknown) else 0
        if not self._recorded and unknown in (0, self._streams):
            return error
        return PartlyRecorded(self._recorded, self._streams - self._recorded - len(self._refusals) - unknown, unknown)
