"""Requests that are too large for one commit: each is checked as a whole first, then recorded slice by slice.

A slice has as many streams as the script merges in a few milliseconds, and other requests are served between two
slices. One script run cannot hold all streams of a large request, so "all or nothing" takes two passes over them:

1. *Check.* The script checks whether any stream would refuse its readings. A check writes nothing. If a stream would
   refuse them, or if Redis fails, nothing is recorded.
2. *Record.* Each stream is recorded on its own. A write that certainly did not run is retried until its deadline. A
   write that may have run is retried only with an idempotency key, because then the stream knows whether it ran.

The worker merges streams that are too wide for the script (``wide_streams.py``).

If the second pass fails, the error says what was recorded: ``PartlyRefused`` if a stream refuses its readings because
another client has changed it in the meantime, ``PartlyRecorded`` if Redis failed. If the client resends a request with
a key, that completes it.

A request never fails for its size alone: its time limit applies to its first access to Redis, and then to each slice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import islice

from meanwhile.core.idempotency_keys import Key, Timestamps
from meanwhile.core.readings import Readings
from meanwhile.core.state import State
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.commit_reply import Committed, Rejection
from meanwhile.storage.commit_weight import (
    COMPONENT_WEIGHT,
    MAX_INLINE_NUMBERS,
    MAX_WEIGHT,
    STREAM_WEIGHT,
    split_by_weight,
    weight_of,
)
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.store import Claim, Store
from meanwhile.storage.wide_streams import WideStreams

PAUSE = 0.05  # Seconds before a retry.
_CLAIMS_PER_CHECK = 500

ErrorOf = Callable[[Mapping[str, Readings], list[Rejection]], Exception]


class PartlyRecorded(Exception):
    """Redis failed while a request was being recorded.

    The streams in ``recorded`` have their readings, those in ``unknown`` may have them, and those in ``not_recorded``
    do not.
    """

    def __init__(self, recorded: list[str], unknown: list[str], not_recorded: list[str]) -> None:
        super().__init__(recorded, unknown, not_recorded)
        self.recorded = recorded
        self.unknown = unknown
        self.not_recorded = not_recorded


class PartlyRefused(Exception):
    """Streams refused readings after the check had accepted them.

    The streams in ``recorded`` have their readings. Those in ``refused`` do not; ``reason`` says why.
    """

    def __init__(self, recorded: list[str], refused: list[str], reason: Exception) -> None:
        super().__init__(recorded, refused, reason)
        self.recorded = recorded
        self.refused = refused
        self.reason = reason


@dataclass(eq=False)
class LargeRequest:
    """Records one large request in ``store``, and by ``wide`` what is too wide for the script.

    ``readings`` are keyed by stream; ``key`` is the idempotency key or the timestamps of the request, if any.
    ``redis_timeout`` is the time limit of each access to Redis, in seconds.
    ``error_of`` makes an exception of rejections (``rejections.error_of``), and ``exclusive`` is
    ``Batcher.exclusive``.

    ``recorded`` and ``duplicates`` have the streams that are done so far. ``counted`` is the number of readings that
    their streams have counted, now or before, and ``repeated`` of those that they had counted before.
    """

    store: Store
    wide: WideStreams
    readings: Mapping[str, Readings]
    key: Key | Timestamps | None
    redis_timeout: float
    error_of: ErrorOf
    exclusive: Callable[[], AbstractAsyncContextManager[None]]
    recorded: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    counted: int = 0
    repeated: int = 0
    states: Mapping[str, State] = field(default_factory=dict)

    async def run(self, deadline: float) -> None:
        """Records the request. The first check fails with ``Overloaded`` if it cannot start by ``deadline``.

        Each script run has exclusive access. Raises what ``Committer.record`` raises.
        """
        if len(self.readings) > 1:
            await self._check(deadline)
        await self._record()
        if self.rejections:
            error = self.error_of(self.readings, self.rejections)
            if not self.recorded:
                raise error
            raise PartlyRefused(self.recorded, [rejection.stream for rejection in self.rejections], error)

    async def _check(self, deadline: float) -> None:
        names = iter(self.readings)
        rejections: list[Rejection] = []
        deferred: list[str] = []
        wide: list[str] = []
        new = 0
        while some := deferred + list(islice(names, _CLAIMS_PER_CHECK - len(deferred))):
            claims = [{name: _claim(self.readings[name])} for name in some]
            async with self.exclusive():
                now = asyncio.get_running_loop().time()
                if now >= deadline:
                    raise Overloaded
                deadline = now + 2 * self.redis_timeout  # Once begun, a request has this time for each check.
                committed = await self.store.check(claims, self.key, new, now + self.redis_timeout)
            new += committed.new
            deferred = []
            for number, name in enumerate(some):
                if committed.is_deferred(number):
                    deferred.append(name)
                elif committed.is_too_wide(number):  # Its shape is right.
                    wide.append(name)
                else:
                    rejections += committed.rejections[number]
        for name in wide:
            rejections += await self.wide.check(name, _claim(self.readings[name]), self.key)
        if rejections:
            raise self.error_of(self.readings, rejections)

    async def _record(self) -> None:
        for names in self._slices():
            numbers = sum(self.readings[name].size * self.readings[name].shape.components for name in names)
            states = await background_thread.run(self._sum, names) if numbers > MAX_INLINE_NUMBERS else self._sum(names)
            waiting = names
            while waiting:
                run, waiting = split_by_weight(waiting, (weight_of(states[name]) for name in waiting))
                waiting = await self._send({name: states[name] for name in run}) + waiting

    def _slices(self) -> Iterator[list[str]]:
        names: list[str] = []
        weight = 0
        for name, one in self.readings.items():
            added = STREAM_WEIGHT + COMPONENT_WEIGHT * one.shape.components
            if names and weight + added > MAX_WEIGHT:
                yield names
                names, weight = [], 0
            names.append(name)
            weight += added
        yield names

    def _sum(self, names: list[str]) -> dict[str, State]:
        chosen = {name: self.readings[name] for name in names}
        return {name: State(one.shape, one.summarize()) for name, one in chosen.items()}

    async def _send(self, states: dict[str, State]) -> list[str]:
        """Records these streams and returns those that were deferred. Raises ``PartlyRecorded`` if Redis fails."""
        names = [*states]
        if len(states) == 1 and weight_of(states[names[0]]) > MAX_WEIGHT:
            return await self._send_wide(states)
        groups = [{name: state} for name, state in states.items()]
        keys = {} if self.key is None else dict.fromkeys(range(len(groups)), self.key)

        async def commit() -> Committed:
            async with self.exclusive():
                return await self.store.commit(groups, asyncio.get_running_loop().time() + self.redis_timeout, keys)

        committed = await self._retry_until_known(commit, names)
        deferred = self._apply(names, committed)
        for number, name in enumerate(names):
            if committed.is_too_wide(number):
                await self._send_wide({name: states[name]})
        return deferred

    async def _commit_wide(self, states: dict[str, State]) -> Committed:
        return await self.wide.commit(states, self.key, asyncio.get_running_loop().time() + self.redis_timeout)

    async def _send_wide(self, states: dict[str, State]) -> list[str]:
        names = [*states]
        return self._apply(names, await self._retry_until_known(lambda: self._commit_wide(states), names))

    async def _retry_until_known(self, commit: Callable[[], Awaitable[Committed]], names: list[str]) -> Committed:
        """Commits. Retries if the commit did not run, and with a key also if it may have run.

        Raises what ``_failure`` returns.
        """
        loop = asyncio.get_running_loop()
        is_unknown = False
        deadline: float | None = None
        while True:
            try:
                return await commit()
            except OutcomeUnknown as error:
                is_unknown = True
                if self.key is None or error.answered:
                    raise self._failure(names, is_unknown=True, error=error) from error
                failure: Exception = error
            except (StoreUnavailable, Overloaded) as error:
                failure = error
            deadline = deadline or loop.time() + self.redis_timeout
            if loop.time() + PAUSE >= deadline:
                raise self._failure(names, is_unknown=is_unknown, error=failure)
            await asyncio.sleep(PAUSE)

    def _apply(self, names: list[str], committed: Committed) -> list[str]:
        deferred = []
        for number, name in enumerate(names):
            if committed.is_deferred(number):
                deferred.append(name)
            elif committed.is_too_wide(number):
                continue
            elif committed.rejections[number]:
                self.rejections += committed.rejections[number]
            else:
                size = self.readings[name].size
                self.counted += size
                if committed.duplicates[number]:
                    self.duplicates.append(name)
                    self.repeated += size
                else:
                    self.recorded.append(name)
        if len(self.readings) == 1:
            self.states = committed.states
        return deferred

    def _failure(self, names: list[str], *, is_unknown: bool, error: Exception) -> Exception:
        done = {*self.recorded, *self.duplicates, *(rejection.stream for rejection in self.rejections)}
        if not done and not is_unknown:
            return StoreUnavailable()
        if not done and len(names) == len(self.readings):
            return error if isinstance(error, OutcomeUnknown) else OutcomeUnknown()
        unknown = names if is_unknown else []
        done.update(unknown)
        rest = [name for name in self.readings if name not in done]
        return PartlyRecorded([*self.recorded, *self.duplicates], unknown, rest)


def _claim(one: Readings) -> Claim:
    return Claim(one.shape.text, one.size, one.first, one.last, one.shape.components)
