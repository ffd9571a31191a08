"""Group commit: while one round trip to Redis is under way, whatever arrives shares the next one.

Requests hand in their readings and wait. Nothing is timed: an idle service commits a reading at once; a busy one finds
that dozens have gathered while the last commit was away, sums those of the same stream first, and pays one round trip,
one merge a stream and one fsync for all of them. That is why "200 means on disk" is affordable.

A commit is a list of groups (``commit_batch.py``). Its **weight** is limited so that the script takes some milliseconds
for it (``weight.py``): what is more waits for the next one, where what is small does not wait behind it, and a request
that is more by itself is recorded in slices between the others (``large_requests.py``). So nobody waits for somebody
else's size. What the stored states weigh only the script knows; it leaves groups for the next commit if need be.

What a waiter can count on:

- Its request is in exactly one commit, whole, or in slices of its own. If the waiter is cancelled, that goes on and
  nobody notices.
- It hears of its own commit only: the states after it, a ``ShapeConflict``, or the store's ``StoreUnavailable`` (not
  recorded) or ``OutcomeUnknown``. The next commit leaves in any case.
- It hears within ``redis_timeout`` seconds. The clock of a commit starts with its first reading, so the one that waits
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

from meanwhile.core.idempotency_keys import Key, Stamps
from meanwhile.core.readings import Readings
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Batcher, Overloaded, fail_all
from meanwhile.storage.commit_batch import CommitBatch, CommitOutcome, Group, Waiter, identity_of
from meanwhile.storage.large_requests import PAUSE, LargeRequest
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.rejections import reason_of
from meanwhile.storage.store import Store
from meanwhile.storage.weight import MAX_STRETCH, MAX_WEIGHT, STAMPS, cut, measure
from meanwhile.storage.wide_streams import Wide
from meanwhile.telemetry.counters import Counters

_MANY = 1_000  # Streams, past which a request is measured in a thread.
_SHED_PAUSE = 0.25  # Seconds that a refusal for overload takes.


class Committer:
    """The one way to record readings in a process."""

    def __init__(
        self, store: Store, *, max_waiting: int, redis_timeout: float, counters: Counters | None = None
    ) -> None:
        self._store = store
        self._max_waiting = max_waiting
        self._redis_timeout = redis_timeout
        self._counters = counters or Counters()
        self._batcher = Batcher(CommitBatch, self._commit, redis_timeout)
        self._wide = Wide(store, redis_timeout, self._batcher.between)
        self._waiting = 0  # Readings, without those of large requests.
        self._waiting_large = 0  # Those.
        self._jobs: set[asyncio.Task[None]] = set()

    async def record(self, readings: Mapping[str, Readings], key: Key | Stamps | None = None) -> CommitOutcome:
        """Commits the readings of one request, all or none; with a key, those that were not counted before.

        The committer takes over the numbers and may change them. Raises ``Overloaded``, ``ShapeConflict``,
        ``StoreUnavailable``, ``OutcomeUnknown``, ``Unreadable``, ``TooManyStreams`` or ``StreamFull``; with a key also
        ``KeyTooOld``, ``KeyAhead`` or ``TooManyProducers``, with a range of sequences ``PartlyCounted``, with
        timestamps ``MixedStamps``; for what takes more than one commit also ``PartlyRecorded`` or ``PartlyRefused``.
        """
        size, weight, numbers = (
            await background_thread.run(measure, readings) if len(readings) > _MANY else measure(readings)
        )
        is_large = weight > MAX_WEIGHT or numbers > MAX_STRETCH
        waiting = self._waiting_large if is_large else self._waiting
        if waiting and waiting + size > self._max_waiting:
            await asyncio.sleep(_SHED_PAUSE)
            raise Overloaded
        if is_large:
            return await self._record_large(readings, key, size)
        if isinstance(key, Stamps):
            weight += len(key.times) // STAMPS
        self._waiting += size
        self._counters.gathered(self._waiting + self._waiting_large)
        identity = identity_of(readings, key)
        batch = self._batcher.open_batch()
        if not batch.has_room(identity, weight, numbers):
            batch = self._batcher.with_room(lambda one: one.has_room(identity, weight, numbers))
        return await batch.add(identity, readings, key, size, weight, numbers)

    async def drain(self) -> None:
        """Returns when everything handed in is committed and answered."""
        while self._jobs:
            await asyncio.wait(self._jobs)
        await self._batcher.drain()

    async def _record_large(
        self, readings: Mapping[str, Readings], key: Key | Stamps | None, size: int
    ) -> CommitOutcome:
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        self._waiting_large += size
        self._counters.gathered(self._waiting + self._waiting_large)
        request = LargeRequest(self._store, readings, key, self._redis_timeout, reason_of, self._batcher.between)
        job = loop.create_task(self._record_in_turns(request, waiter, size, loop.time() + self._redis_timeout))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return await waiter

    async def _record_in_turns(self, request: LargeRequest, waiter: Waiter, size: int, deadline: float) -> None:
        started = time.perf_counter()
        try:
            await request.run(deadline)
        except Exception as error:  # noqa: BLE001  # Whatever it is, who waits must hear of it.
            fail_all([waiter], error)
        else:
            if not waiter.done():
                duplicates = frozenset(request.duplicates)
                waiter.set_result(CommitOutcome(request.states, duplicates, request.repeated))
        finally:
            self._waiting_large -= size
            new = request.counted - request.repeated
            self._counters.committed(size, new, request.repeated, time.perf_counter() - started)

    async def _commit(self, batch: CommitBatch) -> None:
        self._waiting -= batch.size
        self._counters.gathered(self._waiting + self._waiting_large)
        if batch.loop.time() >= batch.deadline:
            raise Overloaded
        groups = [*batch.groups.values()]
        may_be_heavy = batch.may_be_heavy()
        while groups:
            run, groups = cut(groups, map(Group.weight, groups)) if may_be_heavy else (groups, [])
            try:
                put_off = await self._send(run, batch.deadline)
            except OutcomeUnknown as error:
                put_off = await self._retry_until_known(run, batch.deadline, error)
            except Exception as error:  # noqa: BLE001  # Whatever it is, those who wait must hear of it.
                put_off = []
                for group in run:
                    fail_all(group.waiters, error)
            groups = put_off + groups

    async def _commit_wide(self, group: Group) -> None:
        """Commits a group that the script found too wide; with a key, again until it is known what became of it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._redis_timeout
        unknown: OutcomeUnknown | None = None
        while True:
            try:
                committed = await self._wide.commit(group.sum(), group.key)
            except (OutcomeUnknown, StoreUnavailable) as error:
                unknown = error if isinstance(error, OutcomeUnknown) else unknown
                is_final = unknown is None or group.key is None or unknown.answered
                if is_final or loop.time() + PAUSE >= deadline:
                    fail_all(group.waiters, unknown or error)
                    return
                await asyncio.sleep(PAUSE)
            except Exception as error:  # noqa: BLE001  # Whatever it is, who waits must hear of it.
                fail_all(group.waiters, error)
                return
            else:
                group.answer(committed.rejections[0], committed.duplicates[0], committed.states)
                repeated = group.repeated(committed.duplicates[0])
                recorded = 0 if committed.rejections[0] else group.size - repeated
                self._counters.committed(group.size, recorded, repeated, 0.0)
                return

    async def _retry_until_known(self, groups: list[Group], deadline: float, unknown: OutcomeUnknown) -> list[Group]:
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

    async def _send(self, groups: list[Group], deadline: float) -> list[Group]:
        """One commit of these groups; answers those who wait, and returns the groups that were put off.

        Raises what the store raises.
        """
        keys = {number: group.key for number, group in enumerate(groups) if group.key is not None}
        started = time.perf_counter()
        committed = await self._store.commit([group.sum() for group in groups], deadline, keys)
        seconds = time.perf_counter() - started
        readings = recorded = repeated = 0
        put_off = []
        for number, group in enumerate(groups):
            rejections, duplicates = committed.rejections[number], committed.duplicates[number]
            if rejections and committed.is_put_off(number):
                put_off.append(group)
                continue
            if rejections and committed.is_wide(number):
                job = asyncio.get_running_loop().create_task(self._commit_wide(group))
                self._jobs.add(job)
                job.add_done_callback(self._jobs.discard)
                continue
            readings += group.size
            if not rejections:
                recorded += group.size
                repeated += group.repeated(duplicates) if duplicates else 0
            group.answer(rejections, duplicates, committed.states)
        self._counters.committed(readings, recorded - repeated, repeated, seconds)
        return put_off
