"""From deliveries to commits: in order, each message once, acknowledged when it is on disk.

Deliveries gather while a batch is under way, and the next batch is whatever has gathered: group commit once more. A
batch is written into the journal, committed, and acknowledged; only then comes the next. So what is tried again keeps
its order, and a batch has at most as many messages as the broker may have under way to us.

Inside a batch the readings of a stream are summed and recorded under one idempotency key, the journal's; a message with
a key of its own is recorded by itself. A key holds whatever happens: an unknown outcome is asked again until it is
known, a killed process finds its batch in the journal.

While Redis is away, or too much waits, the batch is tried again, and nothing is acknowledged. What a stream refuses for
now (too many streams, a state that cannot be read, too many producers) is *held*: it is not acknowledged, it
is in every batch that follows, while messages of other streams go past it. The broker has at most Receive Maximum
messages under way, so that many can be held; the log says what to do. Held messages of QoS 0, which the broker does not
count, are dropped past that number.

A sequence that reads as a time in the future is from a wrong clock, and would be refused until then. Its reading
is recorded in the next batch under the journal's key, as if it had no sequence; that key protects it from being counted
twice when the broker sends it again, but not when the publisher does.

What can never be recorded is counted, logged (not every one) and acknowledged, or it would come again for ever.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from meanwhile.core import idempotency_keys
from meanwhile.core.errors import Invalid
from meanwhile.core.idempotency_keys import Key
from meanwhile.core.readings import Limits, Readings
from meanwhile.core.state import Unreadable
from meanwhile.formats.mqtt_payload import Decoded, Options, decode
from meanwhile.formats.strict_json import Malformed
from meanwhile.mqtt.broker import Delivery
from meanwhile.mqtt.journal import Journal, Note
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.committer import Committer
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.rejections import KeyAhead, KeyTooOld, ShapeConflict, StreamFull, TooManyProducers
from meanwhile.storage.store import TooManyStreams

log = logging.getLogger(__name__)

_PAUSE = 0.2  # Seconds before a batch is tried again.
_QUIET = 10.0  # Seconds between two lines of the log about what cannot be recorded.
_HELD_PAUSE = 2.0  # Seconds before messages that are held are tried again, when no other message comes.
_SLOW = 8_192  # Bytes of a payload from which on it is read in a thread.
_LONGEST_REASON = 500  # Characters of one line of the log: topics and lists of streams can be long.
_PASSING = (StoreUnavailable, OutcomeUnknown, Overloaded)
_LASTING = (ShapeConflict, StreamFull)
_HELD: dict[type[Exception], str] = {
    TooManyProducers: "the stream has too many active producers; use fewer client ids, or wait",
    Unreadable: "the state of the stream cannot be read; restore or delete the stream",
    TooManyStreams: "there are too many streams; delete some, or raise --max-streams",
}
_SEQUENCES = "mqtt"  # The producer of sequences in payloads; a stream has one topic, so one producer is enough.


@dataclass(eq=False, slots=True)
class _Waiting:
    """A message between its first delivery and its acknowledgement."""

    delivery: Delivery | None  # The latest one; none so far for what a killed process has left.
    note: Note
    is_settled: bool  # It was counted before, or is not to be: there is only the acknowledgement to give.


@dataclass(eq=False, slots=True)
class _Part:
    """What is recorded in one step: readings, their key, and the messages that they are from."""

    readings: Mapping[str, Readings]
    key: Key
    notes: list[Note]
    is_done: bool = False
    is_held: bool = False

    @property
    def messages(self) -> int:
        return len(self.notes)


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
        self._held: list[_Waiting] = []
        self._by_mid: dict[int, _Waiting] = {}
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._acknowledge: Callable[[Delivery], None] = lambda delivery: None
        self._said = -_QUIET
        self._unsaid = 0
        self._said_held = -_QUIET
        self.counts: Counter[str] = Counter()

    def arrived(self, delivery: Delivery) -> None:
        """A message came."""
        key, content_type = delivery.key, delivery.content_type
        note = Note(delivery.mid, self._clock(), delivery.topic, delivery.payload, key, content_type)
        is_settled = False
        if delivery.is_again:
            waiting = self._by_mid.get(delivery.mid)
            if waiting is not None and waiting.note.fingerprint() == note.fingerprint():
                if waiting.delivery is not None:
                    self._acknowledge(waiting.delivery)  # Its connection is gone, so it only makes room.
                waiting.delivery = delivery
                return
            if self._journal.was_counted(note):
                self.counts["duplicates"] += 1
                is_settled = True
        elif delivery.mid:
            self._journal.is_new(delivery.mid)
        if delivery.is_copy:
            self.counts["copies"] += 1
            is_settled = True
        elif delivery.is_retained or self._is_own(delivery.topic):
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
            waiting = [_Waiting(None, note, False) for note in self._journal.batch]
            await self._commit(waiting)
            for one in self._held:
                if one.note.mid:
                    self._by_mid[one.note.mid] = one

    async def run(self, acknowledge: Callable[[Delivery], None]) -> None:
        """Records what arrives, and acknowledges it, until ``stop``. Raises ``JournalError``.

        What is held when it stops is not acknowledged; the journal keeps it.
        """
        self._acknowledge = acknowledge
        while self._gathered or not self._is_stopping:
            if not self._gathered:
                self._wake.clear()
                await self._pause()
            batch, self._gathered = self._gathered[: self._most], self._gathered[self._most :]
            open_ones = [*self._held, *(waiting for waiting in batch if not waiting.is_settled)]
            tried = [*self._held, *batch]
            if open_ones:
                self._journal.begin([waiting.note for waiting in open_ones])
                await self._commit(open_ones)
            held = {id(waiting) for waiting in self._held}
            for waiting in tried:
                if id(waiting) not in held:
                    self._settle(waiting)

    async def _pause(self) -> None:
        """Returns when there is something to do: messages have come, or those that are held are to be tried again."""
        try:
            await asyncio.wait_for(self._wake.wait(), _HELD_PAUSE if self._held else None)
        except TimeoutError:
            return

    def _settle(self, waiting: _Waiting) -> None:
        if self._by_mid.get(waiting.note.mid) is waiting:
            del self._by_mid[waiting.note.mid]
        if waiting.delivery is not None:
            self._acknowledge(waiting.delivery)

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        """Records messages, however long it takes, tells the journal, and holds those that cannot be recorded yet."""
        parts = await self._parts([waiting.note for waiting in batch])
        while open_parts := [part for part in parts if not part.is_done]:
            # All of them are in one commit, in this order.
            await asyncio.gather(*(self._record(part) for part in open_parts))
            if not all(part.is_done for part in open_parts):
                await asyncio.sleep(_PAUSE)
        held = {id(note) for part in parts if part.is_held for note in part.notes}
        for part in parts:
            if not part.is_held:
                for note in part.notes:
                    if id(note) in held:
                        note.done += part.readings
        self._held = [waiting for waiting in batch if id(waiting.note) in held]
        self._drop_what_nobody_bounds()
        self._journal.end([waiting.note for waiting in self._held])

    def _drop_what_nobody_bounds(self) -> None:
        """At QoS 0 there is no Receive Maximum: the newest messages that are held go, past so many."""
        for waiting in self._held[self._most :]:
            if waiting.delivery is not None and not waiting.delivery.qos:
                self._refuse("refused", 1, f"{waiting.note.topic!r}: too many messages of QoS 0 wait for their streams")
        self._held = [
            waiting
            for place, waiting in enumerate(self._held)
            if place < self._most or waiting.delivery is None or waiting.delivery.qos
        ]

    async def _parts(self, notes: Sequence[Note]) -> list[_Part]:
        common = Key(self._journal.producer, self._journal.sequence)
        summed: dict[tuple[str, str], list[tuple[Readings, Note]]] = {}
        parts: list[_Part] = []
        for number, note in enumerate(notes):
            try:
                decoded = await self._decode(note)
                key = None if note.keyless else self._key(note, decoded.sequence)
            except (Malformed, Invalid) as error:
                self._refuse("malformed", 1, f"{note.topic!r}: {error.detail}")
                continue
            if number % 16 == 15:
                await asyncio.sleep(0)  # Nothing that comes with a batch holds up the loop.
            self.counts["skipped fields"] += 0 if note.done or note.keyless else decoded.skipped
            if key is not None and decoded.readings:
                parts.append(_Part(decoded.readings, key, [note]))
                continue
            for stream, readings in decoded.readings.items():
                if stream not in note.done:
                    summed.setdefault((stream, readings.shape.text), []).append((readings, note))
        for (stream, _), several in summed.items():
            joined = _join([readings for readings, _ in several])
            parts.append(_Part({stream: joined}, common, [note for _, note in several]))
        return parts

    async def _decode(self, note: Note) -> Decoded:
        arguments = (note.topic, note.payload, note.at, self._options, self._limits, note.content_type)
        if len(note.payload) < _SLOW:
            return decode(*arguments)
        return await asyncio.to_thread(decode, *arguments)

    def _key(self, note: Note, sequence: int | None) -> Key | None:
        if note.key is not None:
            key = idempotency_keys.parse(note.key)
            if key is None:
                raise Invalid(idempotency_keys.FORM)
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
        except KeyAhead:
            for note in part.notes:
                note.keyless = True
            part.is_held = True
            self._warn(f"{', '.join(part.readings)}: the sequence reads as a time in the future; recorded without it")
        except tuple(_HELD) as error:
            part.is_held = True
            self._warn(f"{', '.join(part.readings)}: held until it can be recorded, since {_HELD[type(error)]}")
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
            log.warning("not recorded, from %s%s", reason[:_LONGEST_REASON], others)
            self._said = time.monotonic()
            self._unsaid = 0

    def _warn(self, reason: str) -> None:
        """Says what is held, not too often."""
        if time.monotonic() - self._said_held >= _QUIET:
            log.warning("%s (%d messages were held before)", reason[:_LONGEST_REASON], len(self._held))
            self._said_held = time.monotonic()


def _join(several: Sequence[Readings]) -> Readings:
    """Readings of one shape as one."""
    if len(several) == 1:
        return several[0]
    numbers = [x for one in several for x in one.numbers]
    first, last = min(one.first for one in several), max(one.last for one in several)
    return several[0]._replace(numbers=numbers, first=first, last=last)


def _words(error: Exception) -> str:
    if isinstance(error, ShapeConflict):
        return "; ".join(f"the stream has {one.expected}, this is {one.received}" for one in error.conflicts)
    return (type(error).__doc__ or "").partition(":")[0]
