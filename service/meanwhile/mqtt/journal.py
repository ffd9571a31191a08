"""The journal: what must outlive a crash, so that a message that the broker sends again is not counted again.

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

The journal keeps that on disk. Before a batch is committed, the messages are written into the journal, with the
sequence of the batch's idempotency key. If the process dies, its next start commits that batch again, with the same
key, and the streams find what they have counted. After that the batch is among the counted ones, whatever had happened
before.

**A broker that reuses identifiers early** would spoil this: if the process is killed between the delivery of a message
and its record here, the message, when it is sent again, would be taken for an older one of the same identifier, topic
and payload. Mosquitto counts up to 65,535 before the first is used again. But the specification allows early reuse, so
when it is found, nothing is remembered any more at this broker: what is under way when the process is killed is then
counted twice rather than lost.

**Messages that are held**, because their streams cannot record them now, are in every batch until they are recorded. A
message of several streams carries the names of those that have recorded it, so that the others can follow without
counting it twice.

**Other options.** What is under way is finished, and what is held is recorded, with the options that it was read with
first: they say which streams it is for, and only those know whether they have counted it. A record has the options of
its process, and a message those of an earlier process, if they differ.

**A damaged file.** A last record that is cut short is left out. Anything else that cannot be read may have been
committed, under sequences that are then not known. So the records that can be read on both sides of it are used
(``journal_records.py``), the file is kept as ``<file>.damaged-<time>``, the log says so, and what comes next has
another producer: no new message can be taken for one that was counted under an old sequence.

The file is a log: a record a batch, fsynced; the first one has the state at that time. When the log has grown to a
megabyte, a new file with the state alone replaces it. The journal belongs to one client id at one broker, and must not
be restored from a backup: its sequences would come twice.
"""

import errno
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Collection
from pathlib import Path

from meanwhile.formats.mqtt_payload import Options
from meanwhile.mqtt import journal_records
from meanwhile.mqtt.journal_records import VERSION, Damage, Record
from meanwhile.mqtt.messages import Message

log = logging.getLogger(__name__)

MIN_REMEMBERED = 4_096  # Messages.
_USUAL = Options()
_MAX_SIZE = 1024 * 1024  # Bytes of the file that is then replaced.


class JournalError(Exception):
    """The journal cannot be used; the message says why."""


class Journal:
    """The journal in ``file``.

    It remembers twice as many messages as the broker may send ahead, ``in_flight``, and at least ``MIN_REMEMBERED``.
    ``options`` are those that messages are read with, unless they were in a batch of a process with others.
    ``producer`` names this journal in idempotency keys. ``batch`` is what a killed process was about to commit, with
    the sequence ``sequence``. Raises ``JournalError``.
    """

    def __init__(self, file: Path, in_flight: int, options: Options = _USUAL) -> None:
        # Resolved once: a file that replaces a symbolic link would leave what the link points to behind.
        self._file = file = Path(os.path.realpath(file))
        self._options = options
        self._max_remembered = max(MIN_REMEMBERED, 2 * in_flight)
        self.producer = _new_producer()
        self.sequence = 0
        self.batch: list[Message] = []
        self._counted: dict[int, bytes] = {}
        self._reuses = False
        self._renews = False
        try:
            _check_kind(file)
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
        self._log = self._replace_file()

    def begin(self, batch: list[Message]) -> None:
        """Writes a batch, with the next sequence. Returns when it is on disk. Raises ``JournalError``."""
        self._advance()
        self.batch = batch
        try:
            if os.fstat(self._log).st_size > _MAX_SIZE:
                os.close(self._log)
                self._log = self._replace_file()
            else:
                journal_records.write(self._log, self._record(None))
        except OSError as error:
            raise self._unwritable(error) from None

    def end(self, held: Collection[Message] = ()) -> None:
        """The batch is committed: its messages are counted, except those that are ``held``."""
        held_ids = {id(message) for message in held}
        if not self._reuses:
            for message in self.batch:
                if message.mid and id(message) not in held_ids:
                    self._counted.pop(message.mid, None)
                    self._counted[message.mid] = message.fingerprint()
            for mid in list(self._counted)[: -self._max_remembered]:
                del self._counted[mid]
        self.batch = list(held)
        if self.batch:
            self._advance()  # If this is saved, it is finished under a sequence that nothing was recorded under.

    def was_counted(self, message: Message) -> bool:
        """Whether a message with DUP is one that was counted."""
        return self._counted.get(message.mid) == message.fingerprint()

    def check_reuse(self, mid: int) -> None:
        """Stops remembering if a message without DUP has the identifier of a counted one, which is early."""
        if mid in self._counted:
            log.warning(
                "the broker reuses packet identifiers early; a crash can count messages twice that are under way"
            )
            self._reuses = True
            self.forget()

    def forget(self) -> None:
        """Forgets what was counted, since the broker has no session that sends it again. Raises ``JournalError``."""
        self._counted.clear()
        self.save()

    def save(self) -> None:
        """Writes what is counted and held, so that the next start finishes nothing else. Raises ``JournalError``."""
        os.close(self._log)
        self._log = self._replace_file()

    def close(self) -> None:
        """Makes the journal free for another process."""
        os.close(self._log)
        os.close(self._lock)

    def _advance(self) -> None:
        if self._renews:
            self._renews = False
            self.producer, self.sequence = _new_producer(), 0
        self.sequence += 1

    def _load(self, content: bytes) -> None:
        """Takes over what the file holds. Raises ``JournalError`` if that is no journal."""
        records, damage = journal_records.read(content)
        if not records and journal_records.has_whole_frame(content):
            raise JournalError(
                f"{self._file} is no journal of this version: use the version of Meanwhile that wrote it, or choose "
                "another --journal."
            )
        if not records and not (damage and journal_records.resembles_records(content)):
            raise JournalError(
                f"{self._file} is no journal of this version. Choose another --journal, or move the file away to start "
                "a new one; messages that were under way may then be counted twice."
            )
        for record in records:
            self._apply(record)
        if damage is None:
            return
        self._renews = bool(records)
        if damage is Damage.CUT_SHORT:
            log.info("the last record of the journal %s was cut short, and is left out", self._file)
            return
        aside = self._file.with_name(f"{self._file.name}.damaged-{time.time_ns()}")
        with open(aside, "xb", opener=_open_private) as kept:
            kept.write(content)
        log.error(
            "the journal %s is damaged: what can be read of it is used, and it continues with a new producer, so no "
            "new message is lost; up to %d messages that were under way may be counted twice. Check the disk; the "
            "damaged file is kept as %s",
            *(self._file, self._max_remembered, aside),
        )

    def _apply(self, record: Record) -> None:
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
        for message in self.batch:
            self._counted.pop(message.mid, None)  # One that was held was in the batch before, too.
            if message.options is None and record.options != self._options:
                message.options = record.options
            elif message.options == self._options:
                message.options = None

    def _record(self, counted: dict[int, bytes] | None) -> Record:
        entries = None if counted is None else list(counted.items())
        return Record(
            VERSION, self.producer, self.sequence, self._reuses, entries, self.batch, self._renews, self._options
        )

    def _replace_file(self) -> int:
        """Replaces the file by one with the state alone, and returns its descriptor."""
        draft = f"{self._file}.new"
        try:
            Path(draft).unlink(missing_ok=True)  # A crash may have left it; a link or a FIFO is not followed.
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            journal_records.write(descriptor, self._record(self._counted))
            Path(draft).replace(self._file)
            directory = os.open(self._file.parent, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
        except OSError as error:
            raise self._unwritable(error) from None
        return descriptor

    def _unwritable(self, error: OSError) -> JournalError:
        return JournalError(f"The journal {self._file} cannot be written: {error.strerror}.")


def _check_kind(file: Path) -> None:
    """Raises ``OSError`` if it exists and is not a regular file: a FIFO would block, a device would be replaced."""
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "Is not a regular file")


def _open_private(path: str, flags: int) -> int:
    """Opens a file that only its owner can read: it holds messages."""
    return os.open(path, flags, 0o600)


def _new_producer() -> str:
    return f"mqtt-{secrets.token_hex(8)}"
