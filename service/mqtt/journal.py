"""What must outlive a crash, so that a message that the broker sends again is not counted again.

At QoS 1 a broker sends a message until it is acknowledged, and we acknowledge it when its commit is on disk. A crash
between the two means: committed, and sent again. MQTT itself does not tell such a copy from a new message with the same
payload, but it says three things that together suffice:

- A message that is sent again in a session has the packet identifier that it had, and DUP set (MQTT 5, 4.4).
- An identifier is used for the next message only after the broker has its acknowledgement (2.2.1), then without DUP.
- Acknowledgements are sent in order (4.6), and we send them promptly. So what was committed and may be sent again is
  among the last messages that came: at most Receive Maximum (4.9), if the broker keeps to it. Mosquitto 2.0.11 does not
  after a reconnect, so we remember more.

So we remember the identifiers, with a fingerprint of the content, of the last few thousand messages that were
committed: *counted*. A message with DUP whose identifier and content are among them was counted; one without DUP takes
its identifier out.

The journal keeps that on disk. Before a batch is committed it is written down, with the messages themselves and the
sequence of its idempotency key. If the process dies, its next start commits that batch again, with the same key: the
streams know what they have counted. After that the batch is among the counted ones, whatever had happened before.

**A broker that reuses identifiers early** would spoil this: killed between the delivery of a message and its entry
here, we would take it, when it is sent again, for an older one of the same identifier, topic and payload. Mosquitto
counts up to 65,535 before the first is used again. But the specification allows it, so when it is seen to happen,
nothing is remembered any more at this broker: what was under way when we are killed is then counted twice rather than
lost.

The file is a log: a record a batch, fsynced, behind its length and checksum; the first one has the state at that time.
When it has grown to a megabyte it is written anew, beside it, and put in its place. It belongs to one client id at one
broker, and must not be put back from a backup: its sequences would come twice.
"""

import fcntl
import logging
import os
import secrets
import struct
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import msgspec

log = logging.getLogger(__name__)

VERSION = 1
WINDOW = 4_096  # Messages that are remembered at least.
_LARGEST = 1024 * 1024  # Bytes of the file before it is written anew.
_FRAME = struct.Struct(">II")


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


class _Record(msgspec.Struct, array_like=True):
    """A batch; the one before it is counted by then. ``counted`` is there if everything before does not matter."""

    version: int
    producer: str
    sequence: int
    reuses: bool
    counted: list[tuple[int, bytes]] | None
    batch: list[Note]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


class Journal:
    """The journal in ``file``. Remembers twice as many messages as ``in_flight``, ``WINDOW`` at least.

    ``producer`` names this journal in idempotency keys. ``batch`` is what a killed process was about to commit, with
    the sequence ``sequence``. Raises ``JournalError``.
    """

    def __init__(self, file: Path, in_flight: int) -> None:
        self._file = file
        self._window = max(WINDOW, 2 * in_flight)
        self.producer = f"mqtt-{secrets.token_hex(8)}"
        self.sequence = 0
        self.batch: list[Note] = []
        self._counted: dict[int, bytes] = {}
        self._reuses = False
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for record in _records(file.read_bytes() if file.exists() else b""):
                self._read(record)
        except BlockingIOError:
            raise JournalError(f"Another meanwhile mqtt runs with the journal {file}.") from None
        except OSError as error:
            raise JournalError(f"The journal {file} cannot be used: {error.strerror}; choose --journal.") from None
        except msgspec.DecodeError:
            raise JournalError(f"{file} is no journal of this version.") from None
        self._log = self._write_anew()

    def begin(self, batch: list[Note]) -> None:
        """Writes a batch down, with the next sequence. Returns when it is on disk. Raises ``JournalError``."""
        self.sequence += 1
        self.batch = batch
        try:
            if os.fstat(self._log).st_size > _LARGEST:
                os.close(self._log)
                self._log = self._write_anew()
            else:
                _write(self._log, self._record(None))
        except OSError as error:
            raise self._unwritable(error) from None

    def end(self) -> None:
        """The batch is committed: its messages are counted."""
        if not self._reuses:
            for note in self.batch:
                if note.mid:
                    self._counted.pop(note.mid, None)
                    self._counted[note.mid] = note.fingerprint()
            for mid in list(self._counted)[: -self._window]:
                del self._counted[mid]
        self.batch = []

    def was_counted(self, note: Note) -> bool:
        """Whether a message with DUP is one that was counted."""
        return self._counted.get(note.mid) == note.fingerprint()

    def is_new(self, mid: int) -> None:
        """A message without DUP has this identifier, so the one that had it before is acknowledged."""
        if mid in self._counted:
            log.warning(
                "the broker reuses packet identifiers early; a crash can count messages twice that are under way"
            )
            self._reuses = True
            self.forget()

    def forget(self) -> None:
        """Nothing that was counted is sent again: the broker has no session of ours. Raises ``JournalError``."""
        self._counted.clear()
        self.save()

    def save(self) -> None:
        """Writes down what is known, so that a next start has nothing to finish. Raises ``JournalError``."""
        os.close(self._log)
        self._log = self._write_anew()

    def close(self) -> None:
        """Lets another process use it."""
        os.close(self._log)
        os.close(self._lock)

    def _read(self, record: _Record) -> None:
        if record.version != VERSION:
            raise JournalError(f"{self._file} is no journal of this version.")
        self.producer, self.sequence, self._reuses = record.producer, record.sequence, record.reuses
        self.end()
        if record.counted is not None:
            self._counted = dict(record.counted)
        self.batch = record.batch

    def _record(self, counted: dict[int, bytes] | None) -> _Record:
        entries = None if counted is None else list(counted.items())
        return _Record(VERSION, self.producer, self.sequence, self._reuses, entries, self.batch)

    def _write_anew(self) -> int:
        """Writes the state into a new file, puts it in the place of the old one, and returns its descriptor."""
        draft = f"{self._file}.new"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            _write(descriptor, self._record(self._counted))
            Path(draft).replace(self._file)
            directory = os.open(self._file.parent, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
        except OSError as error:
            raise self._unwritable(error) from None
        return descriptor

    def _unwritable(self, error: OSError) -> JournalError:
        return JournalError(f"The journal {self._file} cannot be written: {error.strerror}.")


def _write(descriptor: int, record: _Record) -> None:
    content = _encode(record)
    frame = memoryview(_FRAME.pack(len(content), crc32(content)) + content)
    while frame:
        frame = frame[os.write(descriptor, frame) :]
    os.fsync(descriptor)


def _records(content: bytes) -> Iterator[_Record]:
    """The records of a log, up to one that was not written to its end, and so never acted upon."""
    if 0 < len(content) < _FRAME.size:
        raise msgspec.DecodeError
    position = 0
    while position + _FRAME.size <= len(content):
        length, checksum = _FRAME.unpack_from(content, position)
        position += _FRAME.size
        record = content[position : position + length]
        if len(record) < length or crc32(record) != checksum:
            if position == _FRAME.size:
                raise msgspec.DecodeError
            return
        position += length
        yield _decode(record)
