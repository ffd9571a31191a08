"""Requests that are too large for one commit: all of it is checked first, then it is recorded, slice by slice.

A slice has as many streams as the script takes in some milliseconds, and others have their turn between any two. No
script run can hold all streams of a large request, so "all or nothing" takes two passes over them:

1. *Check.* Every stream is asked whether it would refuse its readings. That writes nothing. If one would, nothing is
   recorded; if Redis fails, neither.
2. *Record.* Each stream is recorded by itself. What was certainly not run is sent again for a while; what may have run
   only with an idempotency key, because then the stream knows.

A stream that is too wide for the script is merged by the worker (``wide_streams.py``).

What can still go wrong in the second pass is said as it is: ``PartlyRefused`` if a stream was made with another shape
in between, ``PartlyRecorded`` if Redis failed. With a key, sending the request again completes it.

Size alone fails nothing: the time limit of a request goes for its first turn, and then for each slice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from itertools import islice

from meanwhile.core.idempotency_keys import Key, Stamps
from meanwhile.core.readings import Readings
from meanwhile.core.state import State
from meanwhile.core.summary import summarize
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.commit_reply import Committed, Rejection
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.store import Claim, Store
from meanwhile.storage.weight import HEAVY, MAX_STRETCH, MAX_WEIGHT, STREAM, cut, weight_of
from meanwhile.storage.wide_streams import Wide

PAUSE = 0.05  # Seconds before something is sent again.
_CLAIMS = 500  # Streams in a check.

Reason = Callable[[Mapping[str, Readings], list[Rejection]], Exception]


class PartlyRecorded(Exception):
    """Redis failed while a request was recorded: some streams have their readings, others have not or may have."""

    def __init__(self, recorded: list[str], unknown: list[str], not_recorded: list[str]) -> None:
        super().__init__(recorded, unknown, not_recorded)
        self.recorded = recorded
        self.unknown = unknown
        self.not_recorded = not_recorded


class PartlyRefused(Exception):
    """Streams refused readings that they would have taken a moment before; the others have theirs."""

    def __init__(self, recorded: list[str], refused: list[str], reason: Exception) -> None:
        super().__init__(recorded, refused, reason)
        self.recorded = recorded
        self.refused = refused
        self.reason = reason


class LargeRequest:
    """The readings of a request.

    ``redis_timeout`` is in seconds; ``reason`` words rejections; ``turn`` is ``Batcher.between``.

    ``recorded`` and ``duplicates`` say what has become of which streams so far.
    """

    def __init__(
        self,
        store: Store,
        readings: Mapping[str, Readings],
        key: Key | Stamps | None,
        redis_timeout: float,
        reason: Reason,
        turn: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._store = store
        self._readings = readings
        self._key = key
        self._redis_timeout = redis_timeout
        self._reason = reason
        self._turn = turn
        self._wide = Wide(store, redis_timeout, turn)
        self.recorded: list[str] = []
        self.duplicates: list[str] = []
        self.counted = 0  # Readings that the streams have now.
        self.repeated = 0  # Those of them that they had before.
        self.states: Mapping[str, State] = {}
        self._rejections: list[Rejection] = []

    async def run(self, deadline: float) -> None:
        """Records the request; each run of the script in a turn of its own. By ``deadline`` the first has its turn.

        Raises what ``Committer.record`` raises.
        """
        if len(self._readings) > 1:
            await self._check(deadline)
        await self._record()
        if self._rejections:
            why = self._reason(self._readings, self._rejections)
            if not self.recorded:
                raise why
            raise PartlyRefused(self.recorded, [rejection.stream for rejection in self._rejections], why)

    async def _check(self, deadline: float) -> None:
        names = iter(self._readings)
        rejections: list[Rejection] = []
        put_off: list[str] = []
        new = 0
        while some := put_off + list(islice(names, _CLAIMS - len(put_off))):
            claims = [{name: _claim(self._readings[name])} for name in some]
            async with self._turn():
                now = asyncio.get_running_loop().time()
                if now >= deadline:
                    raise Overloaded
                deadline = now + 2 * self._redis_timeout  # It has begun: size alone fails nothing.
                committed = await self._store.check(claims, self._key, new, now + self._redis_timeout)
            new += committed.new
            put_off = []
            for number, name in enumerate(some):
                if committed.is_put_off(number):
                    put_off.append(name)
                elif not committed.is_wide(number):  # Of which the script says more when it is recorded.
                    rejections += committed.rejections[number]
        if rejections:
            raise self._reason(self._readings, rejections)

    async def _record(self) -> None:
        for names in self._slices():
            numbers = sum(self._readings[name].size * self._readings[name].shape.components for name in names)
            states = await background_thread.run(self._sum, names) if numbers > MAX_STRETCH else self._sum(names)
            waiting = names
            while waiting:
                run, waiting = cut(waiting, (weight_of(states[name]) for name in waiting))
                waiting = await self._send({name: states[name] for name in run}) + waiting

    def _slices(self) -> Iterator[list[str]]:
        names: list[str] = []
        weight = 0
        for name, one in self._readings.items():
            added = STREAM + one.shape.components
            if names and weight + added > MAX_WEIGHT:
                yield names
                names, weight = [], 0
            names.append(name)
            weight += added
        yield names

    def _sum(self, names: list[str]) -> dict[str, State]:
        chosen = {name: self._readings[name] for name in names}
        return {name: State(one.shape, summarize(one.columns, one.first, one.last)) for name, one in chosen.items()}

    async def _send(self, states: dict[str, State]) -> list[str]:
        """Records these streams and returns those that were put off. Raises ``PartlyRecorded`` if Redis fails."""
        names = [*states]
        if len(states) == 1 and weight_of(states[names[0]]) > HEAVY:
            return await self._send_wide(states)
        groups = [{name: state} for name, state in states.items()]
        keys = {} if self._key is None else dict.fromkeys(range(len(groups)), self._key)

        async def commit() -> Committed:
            async with self._turn():
                return await self._store.commit(groups, asyncio.get_running_loop().time() + self._redis_timeout, keys)

        committed = await self._retry_until_known(commit, names)
        put_off = self._settle(names, committed)
        for number, name in enumerate(names):
            if committed.is_wide(number):
                await self._send_wide({name: states[name]})
        return put_off

    async def _send_wide(self, states: dict[str, State]) -> list[str]:
        names = [*states]
        return self._settle(names, await self._retry_until_known(lambda: self._wide.commit(states, self._key), names))

    async def _retry_until_known(self, commit: Callable[[], Awaitable[Committed]], names: list[str]) -> Committed:
        """Commits; again if it was not run, and with a key also if it may have been. Raises ``PartlyRecorded``."""
        loop = asyncio.get_running_loop()
        is_unknown = False
        deadline: float | None = None
        while True:
            try:
                return await commit()
            except OutcomeUnknown as error:
                is_unknown = True
                if self._key is None or error.answered:
                    raise self._broken_off(names, is_unknown=True, error=error) from error
                failure: Exception = error
            except StoreUnavailable as error:
                failure = error
            deadline = deadline or loop.time() + self._redis_timeout
            if loop.time() + PAUSE >= deadline:
                raise self._broken_off(names, is_unknown=is_unknown, error=failure)
            await asyncio.sleep(PAUSE)

    def _settle(self, names: list[str], committed: Committed) -> list[str]:
        put_off = []
        for number, name in enumerate(names):
            if committed.is_put_off(number):
                put_off.append(name)
            elif committed.is_wide(number):
                continue
            elif committed.rejections[number]:
                self._rejections += committed.rejections[number]
            else:
                size = self._readings[name].size
                self.counted += size
                if committed.duplicates[number]:
                    self.duplicates.append(name)
                    self.repeated += size
                else:
                    self.recorded.append(name)
        if len(self._readings) == 1:
            self.states = committed.states
        return put_off

    def _broken_off(self, names: list[str], *, is_unknown: bool, error: Exception) -> Exception:
        done = {*self.recorded, *self.duplicates, *(rejection.stream for rejection in self._rejections)}
        if not done and not is_unknown:
            return StoreUnavailable()
        if not done and len(names) == len(self._readings):
            return error if isinstance(error, OutcomeUnknown) else OutcomeUnknown()
        unknown = names if is_unknown else []
        done.update(unknown)
        rest = [name for name in self._readings if name not in done]
        return PartlyRecorded([*self.recorded, *self.duplicates], unknown, rest)


def _claim(one: Readings) -> Claim:
    return Claim(one.shape.text, one.size, one.first, one.last, one.shape.components)
