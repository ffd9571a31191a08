"""What must outlive a crash, so that a message that the broker sends again is not counted again.

At QoS 1 a broker sends a message until it is acknowledged, and we acknowledge it when its commit is on disk. A crash
between the two means: committed, and sent again. MQTT itself does not tell such a copy from a new message with the same
payload, but it says three things that together suffice:

- A message that is sent again in a session has the packet identifier that it had, and DUP set (MQTT 5, 4.4).
- An identifier is used for the next message only after the broker has its acknowledgement (2.2.1), then without DUP.
- At most Receive Maximum messages are unacknowledged, and acknowledgements are sent in order (4.6, 4.9). So whatever
  the broker may send again is among the last Receive Maximum messages that came.

So we remember the identifiers, with a fingerprint of the content, of the last messages that were committed: *counted*.
A message with DUP whose identifier and content are among them was counted; one without DUP takes its identifier out.

The journal keeps that on disk. Before a batch is committed it is written down, with the messages themselves and the
sequence of its idempotency key. If the process dies, its next start commits that batch again, with the same key: the
streams know what they have counted. After that the batch is among the counted ones, whatever had happened before.

What is left: a broker that reuses, within the last few hundred messages, the identifier of one that it has just heard
acknowledged, for a message of the same topic and payload, which we did not get to write down before we were killed. The
identifiers of Mosquitto, EMQX and others count up to 65,535 before the first is used again.

The file is replaced as a whole, so it is never half written, and fsynced, so it survives a power cut. It belongs to
one client id at one broker.
"""

import fcntl
import os
import secrets
from hashlib import blake2b
from pathlib import Path

import msgspec

VERSION = 1


class JournalError(Exception):
    """The journal cannot be used; the message says why."""


class Note(msgspec.Struct, array_like=True):
    """A message: packet identifier (0 at QoS 0), when it came (ms since 1970), topic, payload, and its idempotency key
    and content type if it has them."""

    mid: int
    at: int
    topic: str
    payload: bytes
    key: str | None = None
    content_type: str | None = None

    def fingerprint(self) -> bytes:
        """Identifies the content."""
        content = msgspec.msgpack.encode((self.topic, self.payload, self.key, self.content_type))
        return blake2b(content, digest_size=8).digest()


class _Page(msgspec.Struct, array_like=True):
    version: int
    producer: str
    sequence: int
    counted: list[tuple[int, bytes]]
    batch: list[Note]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Page).decode


class Journal:
    """The journal in ``file``; remembers ``window`` messages. Raises ``JournalError``.

    ``producer`` names this journal in idempotency keys. ``batch`` is what a killed process was about to commit, with
    the sequence ``sequence``.
    """

    def __init__(self, file: Path, window: int) -> None:
        self._file = file
        self._window = window
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            page = _decode(file.read_bytes()) if file.exists() else None
        except BlockingIOError:
            raise JournalError(f"Another meanwhile mqtt runs with the journal {file}.") from None
        except OSError as error:
            raise JournalError(
                f"The journal {file} cannot be used: {error.strerror}. Choose one with --journal."
            ) from None
        except msgspec.DecodeError:
            raise JournalError(f"{file} is no journal of this version.") from None
        if page is None:
            page = _Page(VERSION, f"mqtt-{secrets.token_hex(8)}", 0, [], [])
        if page.version != VERSION:
            raise JournalError(f"{file} is no journal of this version.")
        self.producer, self.sequence, self.batch = page.producer, page.sequence, page.batch
        self._counted = dict(page.counted)

    def begin(self, batch: list[Note]) -> None:
        """Writes a batch down, with the next sequence. Returns when it is on disk. Raises ``JournalError``."""
        self.sequence += 1
        self.batch = batch
        page = _Page(VERSION, self.producer, self.sequence, list(self._counted.items()), batch)
        draft = f"{self._file}.new"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                with os.fdopen(descriptor, "wb", closefd=False) as stream:
                    stream.write(_encode(page))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            Path(draft).replace(self._file)
        except OSError as error:
            raise JournalError(f"The journal {self._file} cannot be written: {error.strerror}.") from None

    def end(self) -> None:
        """The batch is committed: its messages are counted. It is written down with the next batch."""
        for note in self.batch:
            if note.mid:
                self._counted.pop(note.mid, None)
                self._counted[note.mid] = note.fingerprint()
        self.batch = []
        for mid in list(self._counted)[: -self._window]:
            del self._counted[mid]

    def was_counted(self, note: Note) -> bool:
        """Whether a message with DUP is one that was counted."""
        return self._counted.get(note.mid) == note.fingerprint()

    def is_new(self, mid: int) -> None:
        """A message without DUP has this identifier: the one that had it before is acknowledged."""
        self._counted.pop(mid, None)

    def forget(self) -> None:
        """The broker has no session of ours: it sends nothing again, and identifiers mean nothing any more."""
        self._counted.clear()

    def close(self) -> None:
        """Lets another process use it."""
        os.close(self._lock)
