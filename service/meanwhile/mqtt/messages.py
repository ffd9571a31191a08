"""MQTT messages in their three forms: as the broker delivers them, while they are pending, and in the journal."""

from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from meanwhile.formats.mqtt_payload import Decoded, Options


@dataclass(slots=True, eq=False)
class Delivery:
    """A message as it came on one connection."""

    connection: int  # The number of the connection.
    mid: int  # The packet identifier; 0 at QoS 0.
    qos: int
    is_redelivered: bool  # DUP: the broker has sent it before, in this session.
    is_retained: bool
    topic: str
    payload: bytes
    key: str | None  # The user property Idempotency-Key.
    content_type: str | None
    at: int  # When it came, in milliseconds since 1970.
    is_copy: bool = False  # The message also comes for another of our filters.
    is_own: bool = False  # This process has published the message.


class NewSession:
    """The broker has no session of ours: its packet identifiers start again, and nothing is delivered again."""


class Message(msgspec.Struct, array_like=True):
    """A message as the journal keeps it: what it says, and what of it is still to be recorded."""

    mid: int  # The packet identifier; 0 at QoS 0, or when the session of the identifier is gone.
    at: int  # When it came, in milliseconds since 1970.
    topic: str
    payload: bytes
    key: str | None = None
    content_type: str | None = None
    done: list[str] = []  # The streams that have recorded it already.
    keyless: bool = False  # Whether it is recorded under the journal's key although it has a sequence.
    options: Options | None = None  # How it is read, if an earlier process with other options has begun to record it.

    def fingerprint(self) -> bytes:
        """A digest that identifies the content."""
        content = msgspec.msgpack.encode((self.topic, self.payload, self.key, self.content_type))
        return blake2b(content, digest_size=8).digest()


@dataclass(slots=True, eq=False)
class PendingMessage:
    """A message between its first delivery and its acknowledgement."""

    message: Message
    delivery: Delivery | None = None  # The latest one; None for what a killed process has left, until it comes again.
    is_settled: bool = False  # Nothing is to be recorded, only to be acknowledged.
    is_held: bool = False  # It waits until its streams can record it.
    decoded: Decoded | None = None
