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

**Messages that wait** because their stream cannot take them now are in every batch until they are recorded. A message
of several streams carries the names of those that have it, so that the others can follow without counting it twice.

**A damaged file.** A last record that is cut short was never acted upon, since a commit starts when its record is on
disk. Anything else that cannot be read may have been committed, under sequences that are then not known. So the records
that can be read on both sides of it are used, the file is kept as ``<file>.damaged-<time>``, the log says so, and what
comes next has another producer: no new message can be taken for one that was counted under an old sequence.

The file is a log: a record a batch, fsynced, behind its length and checksum; the first one has the state at that time.
When it has grown to a megabyte it is written anew, beside it, and put in its place. It belongs to one client id at one
broker, and must not be put back from a backup: its sequences would come twice.
"""

import fcntl
import logging
import os
import re
import secrets
import struct
import time
from collections.abc import Collection
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import msgspec

log = logging.getLogger(__name__)

VERSION = 1
WINDOW = 4_096  # Messages that are remembered at least.
_LARGEST = 1024 * 1024  # Bytes of the file before it is written anew.
_FRAME = struct.Struct(">II")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # What the decoder of records raises.
_LIKE_A_RECORD = re.compile(rb"\A.{8}[\x96\x97]|mqtt-[0-9a-f]{16}", re.DOTALL)
_START = re.compile(rb"(?=[\x96\x97]\x01\xb5mqtt-)")  # How every record starts: an array, the version, the producer.


class JournalError(Exception):
    """The journal cannot be used; the message says why."""


class Note(msgspec.Struct, array_like=True):
    """A message: packet identifier (0 at QoS 0), when it came (ms since 1970), topic, payload, and its idempotency key
    and content type if it has them. ``done`` has the streams that need it no more; ``keyless`` if the journal's key is
    to be used although the message has a sequence."""

    mid: int
    at: int
    topic: str
    payload: bytes
    key: str | None = None
    content_type: str | None = None
    done: list[str] = []
    keyless: bool = False

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
    renews: bool = False  # The next batch has another producer.


class _Damage(Enum):
    CUT_SHORT = "the last record was not written to its end"
    ELSEWHERE = "anything else"


def _new_producer() -> str:
    return f"mqtt-{secrets.token_hex(8)}"


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
        self.producer = _new_producer()
        self.sequence = 0
        self.batch: list[Note] = []
        self._counted: dict[int, bytes] = {}
        self._reuses = False
        self._renews = False
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.exists():
                if content := file.read_bytes():
                    self._load(content)
                else:
                    log.warning("the journal %s is empty: messages that were under way may be counted twice", file)
        except JournalError:
            os.close(self._lock)
            raise
        except BlockingIOError:
            raise JournalError(f"Another meanwhile mqtt runs with the journal {file}.") from None
        except OSError as error:
            raise JournalError(f"The journal {file} cannot be used: {error.strerror}; choose --journal.") from None
        self._log = self._write_anew()

    def begin(self, batch: list[Note]) -> None:
        """Writes a batch down, with the next sequence. Returns when it is on disk. Raises ``JournalError``."""
        self._advance()
        self.batch = batch
        try:
            if os.fstat(self._log).st_size > _LARGEST:
                os.close(self._log)
                self._log = self._write_anew()
            else:
                _write(self._log, self._record(None))
        except OSError as error:
            raise self._unwritable(error) from None

    def end(self, waiting: Collection[Note] = ()) -> None:
        """The batch is committed: its messages are counted, but for those that are still ``waiting``."""
        left = {id(note) for note in waiting}
        if not self._reuses:
            for note in self.batch:
                if id(note) in left:
                    continue
                if note.mid:
                    self._counted.pop(note.mid, None)
                    self._counted[note.mid] = note.fingerprint()
            for mid in list(self._counted)[: -self._window]:
                del self._counted[mid]
        self.batch = list(waiting)
        if self.batch:
            self._advance()  # If this is saved, it is finished under a sequence that nothing was recorded under.

    def _advance(self) -> None:
        if self._renews:
            self._renews = False
            self.producer, self.sequence = _new_producer(), 0
        self.sequence += 1

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

    def _load(self, content: bytes) -> None:
        """Takes over what the file holds. Raises ``JournalError`` if that is no journal."""
        records, damage = _records(content)
        if not records and _is_whole(content):
            raise self._of_another_version()
        if not records and not (damage and _LIKE_A_RECORD.search(content)):
            raise JournalError(
                f"{self._file} is no journal of this version. Choose another --journal, or move the file away to start "
                "a new one; messages that were under way may then be counted twice."
            )
        for record in records:
            self._read(record)
        if damage is None:
            return
        self._renews = bool(records)
        if damage is _Damage.CUT_SHORT:
            log.info("the last record of the journal %s was cut short, and is left out", self._file)
            return
        aside = self._file.with_name(f"{self._file.name}.damaged-{time.time_ns()}")
        aside.write_bytes(content)
        log.error(
            "the journal %s is damaged: what can be read of it is used, and it goes on with a new producer, so no new "
            "message is lost; up to %d messages that were under way may be counted twice. Check the disk; the "
            "damaged file is kept as %s",
            *(self._file, self._window, aside),
        )

    def _read(self, record: _Record) -> None:
        if record.version != VERSION:
            raise JournalError(
                f"{self._file} is no journal of this version; use the version of Meanwhile that wrote it."
            )
        self.producer, self.sequence, self._reuses = record.producer, record.sequence, record.reuses
        self._renews = record.renews
        self.end()
        if record.counted is not None:
            self._counted = dict(record.counted)
        self.batch = record.batch
        for note in self.batch:
            self._counted.pop(note.mid, None)  # One that waited was in the batch before, too.

    def _record(self, counted: dict[int, bytes] | None) -> _Record:
        entries = None if counted is None else list(counted.items())
        return _Record(VERSION, self.producer, self.sequence, self._reuses, entries, self.batch, self._renews)

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

    def _of_another_version(self) -> JournalError:
        return JournalError(
            f"{self._file} is no journal of this version: use the version of Meanwhile that wrote it, or choose "
            "another --journal."
        )

    def _unwritable(self, error: OSError) -> JournalError:
        return JournalError(f"The journal {self._file} cannot be written: {error.strerror}.")


def _write(descriptor: int, record: _Record) -> None:
    content = _encode(record)
    frame = memoryview(_FRAME.pack(len(content), crc32(content)) + content)
    while frame:
        frame = frame[os.write(descriptor, frame) :]
    os.fsync(descriptor)


def _records(content: bytes) -> tuple[list[_Record], _Damage | None]:
    """The records of a log that can be read, and what is wrong with it, if anything is."""
    records: list[_Record] = []
    damage: _Damage | None = None
    position = 0
    while position < len(content):
        found = _record_at(content, position)
        if found is not None:
            records.append(found[0])
            position = found[1]
            continue
        starts = (match.start() - _FRAME.size for match in _START.finditer(content, position + _FRAME.size + 1))
        following = next((start for start in starts if _record_at(content, start)), None)
        if following is None:
            return records, damage or (_Damage.CUT_SHORT if _is_cut(content[position:]) else _Damage.ELSEWHERE)
        damage, position = _Damage.ELSEWHERE, following
    return records, damage


def _record_at(content: bytes, position: int) -> tuple[_Record, int] | None:
    """The record there and where it ends; None if there is none that can be read."""
    if position + _FRAME.size > len(content):
        return None
    length, checksum = _FRAME.unpack_from(content, position)
    end = position + _FRAME.size + length
    record = content[position + _FRAME.size : end]
    if not length or len(record) < length or crc32(record) != checksum:
        return None
    try:
        return _decode(record), end
    except _UNREADABLE:
        return None


def _is_whole(content: bytes) -> bool:
    """Whether the first record is as it was written, whatever it says."""
    if len(content) < _FRAME.size:
        return False
    length, checksum = _FRAME.unpack_from(content)
    record = content[_FRAME.size : _FRAME.size + length]
    return bool(length) and len(record) == length and crc32(record) == checksum


def _is_cut(rest: bytes) -> bool:
    """Whether the last record lacks its end; what lacks it may be there as zeros. No whole record ends with a zero."""
    if len(rest) < _FRAME.size or rest.endswith(b"\0"):
        return True
    if _FRAME.unpack_from(rest)[0] <= len(rest) - _FRAME.size:
        return False
    try:
        _decode(rest[_FRAME.size :])
    except _UNREADABLE:
        return True
    return False  # It is whole, and its length is wrong.
