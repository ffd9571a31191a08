"""Group commit: requests that arrive during one round trip to Redis share the next one.

Requests hand in their readings and wait. There is no timer: an idle service commits a reading at once. In a busy
service, dozens of requests arrive during a commit; the committer sums the readings of each stream first, and all of
them need only one round trip, one merge per stream and one fsync. That makes "200 means on disk" affordable.

A commit is a list of groups (``commit_batch.py``). Its **weight** is limited (``commit_weight.py``), so that the script
takes a few milliseconds for it. Requests beyond the limit wait for the next commit, where small requests do not wait
behind them. A request that exceeds the limit alone is recorded in slices between the other commits
(``large_requests.py``), so a large request does not delay others. Only the script knows the size of the stored states;
if necessary, it defers groups to the next commit.

The committer guarantees each caller:

- A request is in exactly one commit as a whole, or in slices that contain no other request. If the caller is cancelled,
  the commit continues and no other request is affected.
- A caller gets only the outcome of the commit with its readings: the states after it, a ``ShapeConflict``, or the
  store's ``StoreUnavailable`` (not recorded) or ``OutcomeUnknown``. The next commit is sent in any case.
- A caller gets the outcome within ``redis_timeout`` seconds. The clock of a commit starts with its first request, so
  later requests have less time.
- If too many readings wait already, the request is refused with ``Overloaded`` (``waiting_readings.py``).

If the outcome of a commit is unknown, the groups with idempotency keys are sent again until the outcome is known or
their time is up. Later commits wait until then: Redis has just failed, so they would fail, too, and one commit that is
retried twenty times a second is less load for a recovering server than all of them. If Redis did answer, with an error
that proves nothing, they are not sent again, because the answer would be the same.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from meanwhile.core.idempotency_keys import Key, Timestamps
from meanwhile.core.readings import Readings
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Batcher, Overloaded, fail_all
from meanwhile.storage.commit_batch import CommitBatch, CommitOutcome, Group, Waiter, identity_of
from meanwhile.storage.commit_weight import Measured, measure, split_by_weight
from meanwhile.storage.large_requests import PAUSE, LargeRequest
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.rejections import error_of
from meanwhile.storage.store import Store
from meanwhile.storage.waiting_readings import WaitingReadings
from meanwhile.storage.wide_streams import WideStreams
from meanwhile.telemetry.counters import Counters

T = TypeVar("T")

_MAX_INLINE_STREAMS = 1_000  # A request for more streams is measured in a thread.


class Committer:
    """Records all readings of a process in ``store``.

    ``max_waiting`` is that of ``WaitingReadings``, and ``redis_timeout`` is the time limit of a commit in seconds.
    ``counters`` count commits and waiting readings; the default is counters that nobody reads.
    """

    def __init__(
        self, store: Store, *, max_waiting: int, redis_timeout: float, counters: Counters | None = None
    ) -> None:
        self._store = store
        self._redis_timeout = redis_timeout
        self._counters = counters or Counters()
        self._batcher = Batcher(CommitBatch, self._commit, redis_timeout)
        self._wide = WideStreams(store, redis_timeout, self._batcher.exclusive)
        self._waiting = WaitingReadings(max_waiting, self._counters)
        self._tasks: set[asyncio.Task[Any]] = set()

    def record(
        self, readings: Mapping[str, Readings], key: Key | Timestamps | None = None
    ) -> "asyncio.Future[CommitOutcome]":
        """Commits the readings of one request, all or none. With a key, skips streams that have counted it before.

        Takes ownership of the numbers and may change them. The future raises ``Overloaded``, ``ShapeConflict``,
        ``StoreUnavailable``, ``OutcomeUnknown``, ``Unreadable``, ``TooManyStreams`` or ``StreamFull``. With a key, also
        raises ``KeyTooOld``, ``KeyAhead`` or ``TooManyProducers``; with a range of sequences, ``PartlyCounted``; with
        timestamps, ``MixedTimestamps``. A request that takes more than one commit also raises ``PartlyRecorded`` or
        ``PartlyRefused``.
        """
        if len(readings) > _MAX_INLINE_STREAMS:
            return self._start(self._measure_and_record(readings, key))
        measured = measure(readings)
        if measured.is_large() or not self._waiting.admit(measured.size):
            return self._start(self._record_measured(readings, key, measured))
        return self._enqueue(readings, key, measured)  # Without a task.

    async def _measure_and_record(
        self, readings: Mapping[str, Readings], key: Key | Timestamps | None
    ) -> CommitOutcome:
        return await self._record_measured(readings, key, await background_thread.run(measure, readings))

    async def _record_measured(
        self, readings: Mapping[str, Readings], key: Key | Timestamps | None, measured: Measured
    ) -> CommitOutcome:
        if measured.is_large():
            if not self._waiting.admit_large(measured.size):
                await self._waiting.refuse()
            return await self._record_large(readings, key, measured.size)
        if not self._waiting.admit(measured.size):
            await self._waiting.refuse()
        return await self._enqueue(readings, key, measured)

    def _start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _enqueue(self, readings: Mapping[str, Readings], key: Key | Timestamps | None, measured: Measured) -> Waiter:
        size, weight, numbers = measured
        if isinstance(key, Timestamps):
            weight += len(key.times)  # A microsecond each.
        identity = identity_of(readings, key)
        batch = self._batcher.open_batch()
        if not batch.has_room(identity, weight, numbers):
            batch = self._batcher.with_room(lambda one: one.has_room(identity, weight, numbers))
        return batch.add(identity, readings, key, size, weight, numbers)

    async def drain(self) -> None:
        """Returns when all requests have been committed and answered."""
        await self._batcher.drain()
        while self._tasks:  # A commit may leave wide streams to a task, and a task commits.
            await asyncio.wait(self._tasks)
            await self._batcher.drain()

    async def _record_large(
        self, readings: Mapping[str, Readings], key: Key | Timestamps | None, size: int
    ) -> CommitOutcome:
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        request = LargeRequest(
            self._store, self._wide, readings, key, self._redis_timeout, error_of, self._batcher.exclusive
        )
        self._start(self._run_large(request, waiter, size, loop.time() + self._redis_timeout))
        return await waiter

    async def _run_large(self, request: LargeRequest, waiter: Waiter, size: int, deadline: float) -> None:
        started = time.perf_counter()
        try:
            await request.run(deadline)
        except Exception as error:  # noqa: BLE001  # The caller must get any error.
            fail_all([waiter], error)
        else:
            if not waiter.done():
                duplicates = frozenset(request.duplicates)
                waiter.set_result(CommitOutcome(request.states, duplicates, request.repeated))
        finally:
            self._waiting.add_large(-size)
            new = request.counted - request.repeated
            self._counters.committed(size, new, request.repeated, time.perf_counter() - started)

    async def _commit(self, batch: CommitBatch) -> None:
        self._waiting.add(-batch.size)
        if batch.loop.time() >= batch.deadline:
            raise Overloaded
        groups = [*batch.groups.values()]
        may_exceed_limit = batch.may_exceed_limit()
        if may_exceed_limit:
            every, groups = groups, []
            for group in every:
                if group.is_wide():
                    self._start_wide(group)
                else:
                    groups.append(group)
        while groups:
            run, groups = split_by_weight(groups, map(Group.weight, groups)) if may_exceed_limit else (groups, [])
            try:
                deferred = await self._send(run, batch.deadline)
            except OutcomeUnknown as error:
                deferred = await self._retry_until_known(run, batch.deadline, error)
            except Exception as error:  # noqa: BLE001  # The callers must get any error.
                deferred = []
                for group in run:
                    fail_all(group.waiters, error)
            groups = deferred + groups

    def _start_wide(self, group: Group) -> None:
        self._waiting.add(group.size)
        self._start(self._commit_wide(group))

    async def _commit_wide(self, group: Group) -> None:
        """Commits a group that is too wide for the script. With a key, retries until the outcome is known."""
        try:
            await self._retry_wide(group)
        finally:
            self._waiting.add(-group.size)

    async def _retry_wide(self, group: Group) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._redis_timeout
        unknown: OutcomeUnknown | None = None
        while True:
            try:
                committed = await self._wide.commit(group.sum(), group.key, deadline)
            except (OutcomeUnknown, StoreUnavailable, Overloaded) as error:
                unknown = error if isinstance(error, OutcomeUnknown) else unknown
                is_final = unknown is None or group.key is None or unknown.answered
                if is_final or loop.time() + PAUSE >= deadline:
                    fail_all(group.waiters, unknown or error)
                    return
                await asyncio.sleep(PAUSE)
            except Exception as error:  # noqa: BLE001  # The callers must get any error.
                fail_all(group.waiters, error)
                return
            else:
                group.answer(committed.rejections[0], committed.duplicates[0], committed.states)
                repeated = group.repeated(committed.duplicates[0])
                recorded = 0 if committed.rejections[0] else group.size - repeated
                self._counters.committed(group.size, recorded, repeated, 0.0)
                return

    async def _retry_until_known(self, groups: list[Group], deadline: float, unknown: OutcomeUnknown) -> list[Group]:
        """Retries groups with keys until their outcome is known. Raises ``unknown`` in the callers of other groups."""
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
                # "Not recorded" is about this attempt, not the earlier ones.
                if loop.time() + PAUSE >= deadline:
                    for group in keyed:
                        fail_all(group.waiters, unknown)
                    return []
        return []

    async def _send(self, groups: list[Group], deadline: float) -> list[Group]:
        """Commits these groups, answers their callers, and returns the groups that were deferred.

        Raises what the store raises.
        """
        keys = {number: group.key for number, group in enumerate(groups) if group.key is not None}
        started = time.perf_counter()
        committed = await self._store.commit([group.sum() for group in groups], deadline, keys)
        seconds = time.perf_counter() - started
        readings = recorded = repeated = 0
        deferred = []
        for number, group in enumerate(groups):
            rejections, duplicates = committed.rejections[number], committed.duplicates[number]
            if rejections and committed.is_deferred(number):
                deferred.append(group)
                continue
            if rejections and committed.is_too_wide(number):
                self._start_wide(group)
                continue
            readings += group.size
            if not rejections:
                recorded += group.size
                repeated += group.repeated(duplicates) if duplicates else 0
            group.answer(rejections, duplicates, committed.states)
        self._counters.committed(readings, recorded - repeated, repeated, seconds)
        return deferred
