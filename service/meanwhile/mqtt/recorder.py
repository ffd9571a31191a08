"""From messages to commits: a batch is decoded, summed by stream, and committed until the outcome is known.

The readings of one stream are summed and recorded under one idempotency key, the batch's; a message that has a key or a
sequence is recorded by itself. All of a batch is in one commit, in the order of the messages. If Redis is not
available, if too many readings are waiting, or if the outcome is unknown, the commit is sent again until the outcome is
known; its keys make sure that nothing is counted twice.

What a stream refuses for now (too many streams, an unreadable state, too many producers) makes its messages *held*:
they are to be recorded again with the next batch, while messages of other streams are recorded.

A sequence that reads as a time in the future is from a wrong clock, and would be refused until then. Its message is
held once and then recorded under the batch's key, as if it had no sequence; that key protects it from being counted
twice when the broker sends it again, but not when the publisher does.

What can never be recorded is counted and logged.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meanwhile.core import idempotency_keys
from meanwhile.core.errors import Invalid
from meanwhile.core.idempotency_keys import Key
from meanwhile.core.readings import Limits, Readings
from meanwhile.core.state import Unreadable
from meanwhile.formats.mqtt_payload import Decoded, Options, decode
from meanwhile.formats.strict_json import Malformed
from meanwhile.mqtt.message_outcomes import Outcomes
from meanwhile.mqtt.messages import Message, PendingMessage
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.committer import Committer
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.rejections import KeyAhead, KeyTooOld, ShapeConflict, StreamFull, TooManyProducers
from meanwhile.storage.store import TooManyStreams

_RETRY_PAUSE = 0.2  # Seconds until a commit is tried again.
_LARGE = 8_192  # Bytes of a payload that is decoded in a thread.
_SEQUENCES = "mqtt"  # The producer of sequences in payloads; a stream has one topic, so one producer is enough.
_PASSING = (StoreUnavailable, OutcomeUnknown, Overloaded)
_FINAL = (ShapeConflict, StreamFull)
_HELD: dict[type[Exception], str] = {
    TooManyProducers: "the stream has too many active producers; use fewer client ids, or wait",
    Unreadable: "the state of the stream cannot be read; restore or delete the stream",
    TooManyStreams: "there are too many streams; delete some, or raise --max-streams",
}


@dataclass(eq=False, slots=True)
class _Part:
    """Readings that are recorded under one key, and the messages that they are from."""

    readings: Mapping[str, Readings]
    key: Key
    messages: list[PendingMessage]
    is_done: bool = False
    is_held: bool = False


class Recorder:
    """Records messages through ``committer``, and counts in ``outcomes`` what becomes of them.

    ``options`` say how topics and payloads are read, unless a message has its own; ``limits`` say how much one payload
    may hold.
    """

    def __init__(self, committer: Committer, outcomes: Outcomes, *, options: Options, limits: Limits) -> None:
        self._committer = committer
        self._outcomes = outcomes
        self._options = options
        self._limits = limits

    async def record(self, batch: Sequence[PendingMessage], key: Key) -> list[PendingMessage]:
        """Records messages, under ``key`` unless they have one. Returns the messages that are held."""
        held = sum(one.is_held for one in batch)
        parts = await self._parts(batch, key)
        while open_parts := [part for part in parts if not part.is_done]:
            await asyncio.gather(*(self._commit(part, held) for part in open_parts))
            if not all(part.is_done for part in open_parts):
                await asyncio.sleep(_RETRY_PAUSE)
        for one in batch:
            one.is_held = False
        for part in parts:
            for one in part.messages:
                one.is_held = one.is_held or part.is_held
        for part in parts:
            if not part.is_held:
                for one in part.messages:
                    if one.is_held:
                        one.message.done.extend(part.readings)
        return [one for one in batch if one.is_held]

    async def _parts(self, batch: Sequence[PendingMessage], batch_key: Key) -> list[_Part]:
        """What is to be recorded, the streams summed over the messages; counts and leaves out malformed messages."""
        by_stream: dict[tuple[str, str], list[tuple[Readings, PendingMessage]]] = {}
        parts: list[_Part] = []
        for number, one in enumerate(batch):
            message = one.message
            try:
                decoded = one.decoded = one.decoded or await self._decode(message)
                key = None if message.keyless else _key(message, decoded.sequence)
            except (Malformed, Invalid) as error:
                self._outcomes.refuse("malformed", 1, f"{message.topic!r}: {error.detail}")
                continue
            if number % 16 == 15:
                await asyncio.sleep(0)  # A batch does not hold up the event loop.
            if key is not None and decoded.readings:
                parts.append(_Part(decoded.readings, key, [one]))
                continue
            for stream, readings in decoded.readings.items():
                if stream not in message.done:
                    by_stream.setdefault((stream, readings.shape.text), []).append((readings, one))
        for (stream, _), several in by_stream.items():
            joined = _join([readings for readings, _ in several])
            parts.append(_Part({stream: joined}, batch_key, [one for _, one in several]))
        return parts

    async def _decode(self, message: Message) -> Decoded:
        options = message.options or self._options
        arguments = (message.topic, message.payload, message.at, options, self._limits, message.content_type)
        if len(message.payload) < _LARGE:
            decoded = decode(*arguments)
        else:
            decoded = await background_thread.run(decode, *arguments)
        if not message.done and not message.keyless:  # Otherwise they were counted before a restart.
            self._outcomes.counts["skipped fields"] += decoded.skipped
        return decoded

    async def _commit(self, part: _Part, held: int) -> None:
        """Commits a part. It is done, unless the reason for a failure will pass; ``held`` messages were held before."""
        counts = self._outcomes.counts
        names = ", ".join(part.readings)
        try:
            outcome = await self._committer.record(part.readings, part.key)
        except _PASSING:
            return
        except KeyTooOld:
            # Messages of a topic come in order, so what is too old was counted before what is newer.
            counts["duplicates"] += len(part.messages)
        except KeyAhead:
            for one in part.messages:
                one.message.keyless = True
            part.is_held = True
            self._outcomes.hold(f"{names}: the sequence reads as a time in the future; recorded without it", held)
        except tuple(_HELD) as error:
            part.is_held = True
            self._outcomes.hold(f"{names}: held until it can be recorded, since {_HELD[type(error)]}", held)
        except _FINAL as error:
            self._outcomes.refuse("refused", len(part.messages), f"{names}: {_reason(error)}")
        else:
            is_duplicate = outcome.duplicates.issuperset(part.readings)
            counts["duplicates" if is_duplicate else "recorded"] += len(part.messages)
        part.is_done = True


def _key(message: Message, sequence: int | None) -> Key | None:
    """The message's own key. Raises ``Invalid``."""
    if message.key is not None:
        key = idempotency_keys.parse(message.key)
        if key is None:
            raise Invalid(idempotency_keys.FORM)
        return key
    return None if sequence is None else Key(_SEQUENCES, sequence)


def _join(several: Sequence[Readings]) -> Readings:
    """Readings of one shape as one; the originals stay as they are."""
    if len(several) == 1:
        return several[0]
    joined = several[0]._replace(numbers=several[0].numbers.copy())
    for one in several[1:]:
        joined = joined.extend(one)
    return joined


def _reason(error: Exception) -> str:
    if isinstance(error, ShapeConflict):
        return "; ".join(f"the stream has {one.expected}, this is {one.received}" for one in error.conflicts)
    return (type(error).__doc__ or "").partition(":")[0]
