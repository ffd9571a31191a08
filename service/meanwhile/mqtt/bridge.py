"""From deliveries to batches: in order, each message once, acknowledged when it is on disk.

Messages gather while a batch is under way, and the next batch is whatever has gathered: group commit once more. A batch
is written into the journal, recorded, and acknowledged; only then comes the next. So what is tried again keeps its
order, and a batch has at most as many messages as the broker may send ahead.

A message that the broker sends again, because its connection broke, takes the place of the earlier delivery if that is
still pending. If it was recorded, it is only acknowledged; the journal knows it.

Messages that are *held*, since their streams cannot record them now, are not acknowledged and are part of every batch
that follows, while messages of other streams go past them. The broker has at most Receive Maximum messages under way,
so at most that many can be held. Held messages of QoS 0, which the broker does not limit, are dropped beyond that.

What can never be recorded is acknowledged, too; otherwise it would come again and again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Protocol

from meanwhile.core.idempotency_keys import Key
from meanwhile.mqtt.journal import Journal
from meanwhile.mqtt.message_outcomes import Outcomes
from meanwhile.mqtt.messages import Delivery, Message, NewSession, PendingMessage
from meanwhile.mqtt.recorder import Recorder

log = logging.getLogger(__name__)

_HELD_PAUSE = 2.0  # Seconds until held messages are tried again, when no other message comes.


class Source(Protocol):
    """Where messages come from: the broker."""

    def arrivals(self) -> AsyncIterator[Delivery | NewSession]:
        """What arrives, in order."""

    def acknowledge(self, delivery: Delivery) -> None:
        """Says that a delivery needs no more to be done."""


class Bridge:
    """Records what ``source`` delivers with ``recorder``, and acknowledges it.

    ``journal`` outlives a crash, and ``outcomes`` counts what becomes of messages. A batch has at most ``max_batch``
    messages, not counting those that are held.
    """

    def __init__(
        self,
        source: Source,
        recorder: Recorder,
        journal: Journal,
        outcomes: Outcomes,
        *,
        max_batch: int,
    ) -> None:
        self._source = source
        self._recorder = recorder
        self._journal = journal
        self._counts = outcomes.counts
        self._outcomes = outcomes
        self._max_batch = max_batch
        self._gathered: list[PendingMessage] = []
        self._held: list[PendingMessage] = []
        self._by_mid: dict[int, PendingMessage] = {}
        self._wake = asyncio.Event()
        self._is_stopping = False

    async def recover(self) -> None:
        """Records what a killed process may or may not have recorded. To be awaited before ``run``."""
        if self._journal.batch:
            log.info("finishing %d messages that were under way when the process ended", len(self._journal.batch))
            await self._record([PendingMessage(message) for message in self._journal.batch])
            for one in self._held:
                if one.message.mid:
                    self._by_mid[one.message.mid] = one

    async def run(self) -> None:
        """Records and acknowledges what arrives, until ``stop``. Raises ``JournalError``, or what the source raises.

        What is held when it stops is not acknowledged; the journal keeps it.
        """
        tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._record_batches())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # Raises what it failed with.
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Makes ``run`` return when it has recorded and acknowledged what has arrived."""
        self._is_stopping = True
        self._wake.set()

    async def _receive(self) -> None:
        async for arrival in self._source.arrivals():
            if isinstance(arrival, NewSession):
                self._forget_session()
            else:
                self._gather(arrival)

    def _forget_session(self) -> None:
        """Keeps messages of the old session apart from those of the new one, which have the same identifiers."""
        for one in self._by_mid.values():
            one.message.mid = 0
        self._by_mid.clear()
        self._journal.forget()

    def _gather(self, delivery: Delivery) -> None:
        """Makes a delivery part of the next batch."""
        message = Message(
            delivery.mid, delivery.at, delivery.topic, delivery.payload, delivery.key, delivery.content_type
        )
        is_settled = False
        if delivery.is_redelivered:
            if self._replaces(delivery, message):
                return
            if self._journal.was_counted(message):
                self._counts["duplicates"] += 1
                is_settled = True
        elif delivery.mid:
            self._journal.check_reuse(delivery.mid)
        if delivery.is_copy:
            self._counts["copies"] += 1
            is_settled = True
        elif delivery.is_retained or delivery.is_own:
            self._counts["ignored"] += 1
            is_settled = True
        one = PendingMessage(message, delivery, is_settled)
        if delivery.mid:
            self._by_mid[delivery.mid] = one
        self._gathered.append(one)
        self._wake.set()

    def _replaces(self, delivery: Delivery, message: Message) -> bool:
        """Whether a message that is sent again is still pending; then this delivery will be acknowledged."""
        one = self._by_mid.get(delivery.mid)
        if one is None or one.message.fingerprint() != message.fingerprint():
            return False
        if one.delivery is not None:
            self._source.acknowledge(one.delivery)  # Its connection is gone, so this only makes room.
        one.delivery = delivery
        return True

    async def _record_batches(self) -> None:
        while self._gathered or not self._is_stopping:
            if not self._gathered:
                await self._wait()
            batch, self._gathered = self._gathered[: self._max_batch], self._gathered[self._max_batch :]
            tried = [*self._held, *batch]
            unsettled = [one for one in tried if not one.is_settled]
            if unsettled:
                self._journal.begin([one.message for one in unsettled])
                await self._record(unsettled)
            for one in tried:
                if not one.is_held:
                    self._settle(one)

    async def _wait(self) -> None:
        """Returns when there is something to do: messages have come, or those that are held are to be tried again."""
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_HELD_PAUSE if self._held else None):
                await self._wake.wait()

    async def _record(self, batch: Sequence[PendingMessage]) -> None:
        """Records messages under the journal's key, and tells the journal which of them are held."""
        held = await self._recorder.record(batch, Key(self._journal.producer, self._journal.sequence))
        self._held = self._without_excess(held)
        self._journal.end([one.message for one in self._held])

    def _without_excess(self, held: list[PendingMessage]) -> list[PendingMessage]:
        """Drops held messages of QoS 0 beyond ``max_batch``: no Receive Maximum limits them."""
        kept = held[: self._max_batch]
        for one in held[self._max_batch :]:
            if one.delivery is None or one.delivery.qos:
                kept.append(one)
            else:
                one.is_held = False
                reason = f"{one.message.topic!r}: too many messages of QoS 0 are held"
                self._outcomes.refuse("refused", 1, reason)
        return kept

    def _settle(self, one: PendingMessage) -> None:
        """Acknowledges a message that is done with."""
        if self._by_mid.get(one.message.mid) is one:
            del self._by_mid[one.message.mid]
        if one.delivery is not None:
            self._source.acknowledge(one.delivery)
