"""From deliveries to commits: in order, each message once, acknowledged when it is on disk.

Deliveries gather while a batch is under way, and the next batch is whatever has gathered: group commit once more. A
batch is written into the journal, committed, and acknowledged; only then comes the next. So what is tried again keeps
its order, and a batch has at most as many messages as the broker may have under way to us.

Inside a batch the readings of a stream are summed and recorded under one idempotency key, the journal's; a message with
a key of its own is recorded by itself. A key holds whatever happens: an unknown outcome is asked again until it is
known, a killed process finds its batch in the journal.

While Redis is away, or the service's limit is reached, the batch waits and is tried again, and nothing is acknowledged.
What can never be recorded is counted, logged (not every one) and acknowledged, or it would come again for ever.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from service import idempotency
from service.committer import Committer, KeyTooOld, Overloaded, ShapeConflict, TooManyProducers
from service.formats.mqtt import Options, decode
from service.formats.pairs import Malformed
from service.idempotency import Key
from service.link import OutcomeUnknown, StoreUnavailable
from service.mqtt.broker import Delivery
from service.mqtt.journal import Journal, Note
from service.state import Unreadable
from service.store import Crowded
from service.stream import Invalid, Limits, Readings

log = logging.getLogger(__name__)

_PAUSE = 0.2  # Seconds before a batch is tried again.
_QUIET = 10.0  # Seconds between two lines of the log about what cannot be recorded.
_PASSING = (StoreUnavailable, OutcomeUnknown, Overloaded)
_LASTING = (ShapeConflict, TooManyProducers, Unreadable, Crowded)
_SEQUENCES = "mqtt"  # The producer of sequences in payloads; a stream has one topic, so one producer is enough.


@dataclass(eq=False, slots=True)
class _Waiting:
    """A message between its first delivery and its acknowledgement."""

    delivery: Delivery  # The latest one.
    note: Note
    is_settled: bool  # It was counted before, or is not to be: there is only the acknowledgement to give.


@dataclass(eq=False, slots=True)
class _Part:
    """What is recorded in one step: readings, their key, and how many messages they are from."""

    readings: Mapping[str, Readings]
    key: Key
    messages: int
    is_done: bool = False


class Bridge:
    """Takes deliveries and records them. ``is_own`` tells the topics of our own publications.

    A batch has at most ``most`` messages. ``counts`` has what became of messages: recorded, duplicates, malformed,
    refused, ignored.
    """

    def __init__(
        self,
        committer: Committer,
        journal: Journal,
        *,
        clock: Callable[[], int],
        options: Options,
        limits: Limits,
        most: int,
        is_own: Callable[[str], bool] = lambda topic: False,
    ) -> None:
        self._committer = committer
        self._journal = journal
        self._clock = clock
        self._options = options
        self._limits = limits
        self._most = most
        self._is_own = is_own
        self._gathered: list[_Waiting] = []
        self._by_mid: dict[int, _Waiting] = {}
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._acknowledge: Callable[[Delivery], None] = lambda delivery: None
        self._said = -_QUIET
        self._unsaid = 0
        self.counts: Counter[str] = Counter()

    def arrived(self, delivery: Delivery) -> None:
        """A message came."""
        key, content_type = delivery.key, delivery.content_type
        note = Note(delivery.mid, self._clock(), delivery.topic, delivery.payload, key, content_type)
        is_settled = False
        if delivery.is_again:
            waiting = self._by_mid.get(delivery.mid)
            if waiting is not None and waiting.note.fingerprint() == note.fingerprint():
                self._acknowledge(waiting.delivery)  # Its connection is gone, so it only makes room.
                waiting.delivery = delivery
                return
            if self._journal.was_counted(note):
                self.counts["duplicates"] += 1
                is_settled = True
        elif delivery.mid:
            self._journal.is_new(delivery.mid)
        if delivery.is_retained or self._is_own(delivery.topic):
            self.counts["ignored"] += 1
            is_settled = True
        waiting = _Waiting(delivery, note, is_settled)
        if delivery.mid:
            self._by_mid[delivery.mid] = waiting
        self._gathered.append(waiting)
        self._wake.set()

    def resumed(self, has_session: bool) -> None:
        """A connection is there; ``has_session`` if the broker knows what it has sent us."""
        if not has_session:
            for waiting in self._by_mid.values():
                waiting.note.mid = 0  # Of a session that is no more: not to be taken for one of this.
            self._by_mid.clear()
            self._journal.forget()

    def stop(self) -> None:
        """Makes ``run`` return when it has recorded and acknowledged what has arrived."""
        self._is_stopping = True
        self._wake.set()

    async def recover(self) -> None:
        """Commits what a killed process may or may not have committed. To be awaited before anything arrives."""
        if self._journal.batch:
            log.info("finishing %d messages that were under way when the process ended", len(self._journal.batch))
            await self._commit(self._journal.batch)

    async def run(self, acknowledge: Callable[[Delivery], None]) -> None:
        """Records what arrives, and acknowledges it, until ``stop``. Raises ``JournalError``."""
        self._acknowledge = acknowledge
        while self._gathered or not self._is_stopping:
            if not self._gathered:
                self._wake.clear()
                await self._wake.wait()
            batch, self._gathered = self._gathered[: self._most], self._gathered[self._most :]
            notes = [waiting.note for waiting in batch if not waiting.is_settled]
            if notes:
                self._journal.begin(notes)
                await self._commit(notes)
            for waiting in batch:
                if self._by_mid.get(waiting.note.mid) is waiting:
                    del self._by_mid[waiting.note.mid]
                acknowledge(waiting.delivery)

    async def _commit(self, notes: Sequence[Note]) -> None:
        """Records messages, however long it takes, and tells the journal."""
        parts = self._parts(notes)
        while open_parts := [part for part in parts if not part.is_done]:
            # All of them are in one commit, in this order.
            await asyncio.gather(*(self._record(part) for part in open_parts))
            if not all(part.is_done for part in open_parts):
                await asyncio.sleep(_PAUSE)
        self._journal.end()

    def _parts(self, notes: Sequence[Note]) -> list[_Part]:
        common = Key(self._journal.producer, self._journal.sequence)
        summed: dict[tuple[str, str], list[Readings]] = {}
        parts: list[_Part] = []
        for note in notes:
            try:
                decoded = decode(note.topic, note.payload, note.at, self._options, self._limits, note.content_type)
                key = self._key(note, decoded.sequence)
            except (Malformed, Invalid) as error:
                self._refuse("malformed", 1, f"{note.topic!r}: {error.detail}")
                continue
            self.counts["skipped fields"] += decoded.skipped
            if key is not None and decoded.readings:
                parts.append(_Part(decoded.readings, key, 1))
                continue
            for stream, readings in decoded.readings.items():
                summed.setdefault((stream, readings.shape.text), []).append(readings)
        parts += [_Part({stream: _join(several)}, common, len(several)) for (stream, _), several in summed.items()]
        return parts

    def _key(self, note: Note, sequence: int | None) -> Key | None:
        if note.key is not None:
            key = idempotency.parse(note.key)
            if key is None:
                raise Invalid(idempotency.FORM)
            return key
        return None if sequence is None else Key(_SEQUENCES, sequence)

    async def _record(self, part: _Part) -> None:
        try:
            recorded = await self._committer.record(part.readings, part.key)
        except _PASSING:
            return
        except KeyTooOld:
            # Messages of a topic come in order, so what is below the window was counted before what is above it.
            self.counts["duplicates"] += part.messages
        except _LASTING as error:
            names = ", ".join(part.readings)
            self._refuse("refused", part.messages, f"{names}: {_words(error)}")
        else:
            repeated = recorded.duplicates.issuperset(part.readings)
            self.counts["duplicates" if repeated else "recorded"] += part.messages
        part.is_done = True

    def _refuse(self, what: str, messages: int, reason: str) -> None:
        self.counts[what] += messages
        self._unsaid += messages
        if time.monotonic() - self._said >= _QUIET:
            others = f" ({self._unsaid - messages} more since the last such line)" if self._unsaid > messages else ""
            log.warning("not recorded, from %s%s", reason, others)
            self._said = time.monotonic()
            self._unsaid = 0


def _join(several: Sequence[Readings]) -> Readings:
    """Readings of one shape as one."""
    if len(several) == 1:
        return several[0]
    columns = [[x for part in parts for x in part] for parts in zip(*(one.columns for one in several), strict=True)]
    first, last = min(one.first for one in several), max(one.last for one in several)
    return several[0]._replace(columns=columns, first=first, last=last)


def _words(error: Exception) -> str:
    if isinstance(error, ShapeConflict):
        return "; ".join(f"the stream has {one.expected}, this is {one.received}" for one in error.conflicts)
    return (type(error).__doc__ or "").partition(":")[0]
