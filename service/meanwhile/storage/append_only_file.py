"""Checks that the append-only file of the embedded Valkey is still what it was at the last check.

Valkey keeps the streams in ``appendonlydir``: a base file, an incremental file to which it appends every commit, and a
manifest that lists them. After a power failure, Valkey handles damage correctly; it is too quiet about other damage:

- It truncates an incomplete write at the end. ``log_truncation`` logs how many bytes that were.
- Without the manifest, it starts with no streams and empties the files that it finds. ``check`` refuses to start it.
- It cannot tell that a file was truncated by somebody. ``check`` compares the size with ``meanwhile.record``, which
  ``save_record`` writes while the server runs: every second in which the files have grown.
- If somebody removes, replaces or truncates a file while the server runs, the server does not notice it, and continues
  to write to a file that the next start does not find. ``damage`` compares the files with those of the last check.
  Files that cannot be examined, whatever the error, may be gone, too.

The record also proves that the directory had data. To start with no streams, remove the record.
"""

import json
import logging
import os
import re
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from meanwhile.storage.data_directory import DataDir, EmbeddedError

log = logging.getLogger(__name__)

_CURRENT_FILE = re.compile(r"^file (\S+) seq (\d+) type [bi]\s*$", re.MULTILINE)
_ANY_FILE = re.compile(r"^file (\S+) ", re.MULTILINE)
_TRUNCATED = re.compile(r"Truncating the AOF (?:file )?(\S+) at offset (\d+)")
_TAIL = 256  # Bytes.
_MAX_MANIFEST = 64 * 1024 * 1024  # Bytes. Valkey writes a few hundred, and more with each rewrite that fails.


class _Seen(NamedTuple):
    """A file at the last check: its size, its device and inode, and the bytes at its end. None is not known."""

    size: int  # In bytes.
    identity: tuple[int, int] | None = None
    tail: bytes | None = None


class AppendOnlyFile:
    """The append-only file in ``data_dir``, the data directory of the embedded Valkey."""

    def __init__(self, data_dir: DataDir) -> None:
        self._directory = data_dir.path / "appendonlydir"
        self._manifest = self._directory / "appendonly.aof.manifest"
        self._record = data_dir.path / "meanwhile.record"
        self._recorded_sizes: dict[str, int] | None = None
        self._sizes_before: dict[str, int] = {}
        self._seen: dict[str, _Seen] | None = None  # By name; None until the first check of a server that is adopted.
        self._cannot_write = False  # Whether writing the record failed the last time.
        self._newest = 0  # The highest sequence number in the manifest at the last check.

    def check(self) -> None:
        """Checks the files before a server starts.

        Raises ``EmbeddedError`` if there were streams that the server would not find. Logs files that are shorter than
        recorded, or that this cannot be checked.
        """
        recorded = self._read_record()
        self._seen, self._newest = {}, 0  # The server that starts uses the current files.
        if not self._manifest.is_file():
            files = [file.name for file in _files(self._directory) if file.suffix == ".aof" and file.stat().st_size]
            if recorded is not None or files:
                raise EmbeddedError(
                    f"The streams of {self._record.parent} are gone: there is no file {self._manifest}"
                    f"{', which lists the remaining files' if files else ''}. Restore {self._directory} from a backup; "
                    f"or, to start with no streams, remove {self._record.name}"
                    f"{f' and {self._directory.name}' if self._directory.exists() else ''} from that directory."
                )
        elif recorded is None:
            self._log_unchecked("it does not exist")
        self._sizes_before = self.sizes()
        on_disk = {file.name for file in _files(self._directory)}
        if unlisted := sorted((recorded or {}).keys() & on_disk - self._manifest_files()):
            raise EmbeddedError(
                f"Streams of {self._record.parent} would be missing: {self._manifest} no longer names "
                f"{', '.join(unlisted)}. Restore {self._directory} from a backup; or, to go on without "
                f"that file, remove it and {self._record.name} from that directory."
            )
        for name, size in (recorded or {}).items():
            missing = size - self._sizes_before.get(name, size)
            if missing > 0:
                log.error(
                    "%s is %d bytes shorter than when Valkey last ran on it: acknowledged readings are missing. "
                    "If you did not remove them on purpose, stop the service and restore %s from a backup",
                    self._directory / name,
                    missing,
                    self._directory,
                )

    def log_truncation(self, server_log: str) -> None:
        """Logs what the server has truncated. ``server_log`` is the log of the server since it started."""
        for name, offset in _TRUNCATED.findall(server_log):
            path = self._directory / Path(name).name
            log.warning(
                "%s ended in an incomplete write, as after a power failure or on a full disk: Valkey truncated the "
                "last %d bytes. A write that was fsynced is never incomplete; if something else changed the file, "
                "restore %s from a backup",
                path,
                max(self._sizes_before.get(path.name, 0) - int(offset), 0),
                self._directory,
            )

    def sizes(self) -> dict[str, int]:
        """Returns the sizes in bytes of the files that the manifest lists, except missing ones."""
        with suppress(OSError):
            return {name: file.size for name, file in self._look(self._listed() or {}).items()}
        return {}

    def _listed(self) -> dict[str, int] | None:
        """Returns the files that the manifest lists, with their sequence numbers; None if there is no manifest."""
        try:
            with open(self._manifest, "rb", opener=_without_waiting) as file:  # Path.open takes no opener.
                manifest = file.read(_MAX_MANIFEST).decode(errors="replace")
        except FileNotFoundError:
            return None
        return {name: int(number) for name, number in _CURRENT_FILE.findall(manifest)}

    def _look(self, listed: Container[str]) -> dict[str, _Seen]:
        """Returns those of these files that exist."""
        found = {}
        for file in _files(self._directory):
            if file.name in listed:
                with suppress(FileNotFoundError):
                    status = file.stat()
                    found[file.name] = _Seen(status.st_size, (status.st_dev, status.st_ino))
        return found

    def _manifest_files(self) -> set[str]:
        """Returns all files that the manifest names, including those that a rewrite has replaced."""
        try:
            return set(_ANY_FILE.findall(self._manifest.read_text(errors="replace")))
        except OSError:  # The error message of Valkey is clearer.
            return set()

    def damage(self) -> str | None:
        """Describes what has happened to the files of a running server; None if they are intact.

        They are intact if the manifest and its files are those of the last ``save_record``, and no file is shorter.
        """
        try:
            if self._is_intact():
                return None
        except OSError as error:
            return f"{error.filename or self._directory} cannot be examined ({error.strerror or error})"
        return f"part of {self._directory} was removed, replaced or truncated while Valkey was running on it"

    def _is_intact(self) -> bool:
        listed = self._listed()
        if not listed:
            return False
        found = self._look(listed)
        if listed.keys() <= found.keys() and max(listed.values()) >= self._newest:
            seen = self._last_seen()
            if all(self._continues(name, file, seen.get(name)) for name, file in found.items()):
                return True
        return self._listed() not in (listed, None)  # A rewrite has replaced the files in the meantime.

    def save_record(self) -> None:
        """Remembers the files for ``damage``, and writes the record if their sizes have changed.

        A file that is not the one of the last check, or is shorter, stays as it was then, as long as the manifest lists
        its name: a file that somebody has replaced or truncated is not taken for what the server has written.
        """
        seen = self._last_seen()
        try:
            listed = self._listed()
            if not listed:
                return
            self._seen = {name: self._merged(name, file, seen.get(name)) for name, file in self._look(listed).items()}
        except OSError as error:
            log.debug("cannot read the append-only file: %s", error)
            return
        self._newest = max(self._newest, *listed.values())
        sizes = {name: file.size for name, file in self._seen.items()}
        if not sizes or sizes == self._recorded_sizes:
            return
        try:
            self._write_record(sizes)
        except OSError as error:
            if not self._cannot_write:
                log.warning(
                    "cannot write %s (%s): the next start may not notice that the append-only file was truncated",
                    self._record,
                    error.strerror or error,
                )
            self._cannot_write = True
        else:
            self._cannot_write = False
            self._recorded_sizes = sizes

    def _write_record(self, sizes: dict[str, int]) -> None:
        """Replaces the record, so that a power failure leaves the old or the new one. Raises ``OSError``.

        Fsyncs the files first: after a power failure they are not shorter than recorded, even if the server fsyncs them
        only every second.
        """
        for name, size in sizes.items():
            if size != (self._recorded_sizes or {}).get(name):
                _fsync(self._directory / name)
        new = self._record.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.touch(0o600)
        with new.open("w") as file:
            file.write(json.dumps(sizes))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._record)
        _fsync(self._record.parent)

    def _continues(self, name: str, file: _Seen, before: _Seen | None) -> bool:
        """Returns whether ``file`` is the one that it was before, to which the server can only have appended.

        A file that was truncated may be longer again at the next check; then the bytes at its former end have changed.
        """
        return before is None or (
            before.identity in (None, file.identity)
            and file.size >= before.size
            and (before.tail is None or before.tail == self._tail(name, before.size))
        )

    def _merged(self, name: str, file: _Seen, before: _Seen | None) -> _Seen:
        if before is not None and not self._continues(name, file, before):
            return before
        return file._replace(tail=self._tail(name, file.size))

    def _tail(self, name: str, end: int) -> bytes:
        """Returns the last bytes before the position ``end``; none if the file is gone."""
        start = max(0, end - _TAIL)
        try:
            with open(self._directory / name, "rb", opener=_without_waiting) as file:
                file.seek(start)
                return file.read(end - start)
        except FileNotFoundError:
            return b""

    def _last_seen(self) -> dict[str, _Seen]:
        """Returns the files of the last check. Before the first check of an adopted server, those in the record."""
        if self._seen is None:
            self._seen = {name: _Seen(size) for name, size in (self._read_record() or {}).items()}
        return self._seen

    def _read_record(self) -> dict[str, int] | None:
        """Returns the sizes in the record: None if there is no record, those that are valid if it is damaged."""
        try:
            with open(self._record, "rb", opener=_without_waiting) as file:
                found = json.load(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            found, reason = {}, f"it cannot be read: {error.strerror or error}"
        except (ValueError, RecursionError):  # A power failure may leave it empty.
            found, reason = {}, "it is empty or not valid JSON"
        else:
            reason = "it does not contain the sizes of files"
        entries = found if isinstance(found, dict) else {}
        sizes = {name: size for name, size in entries.items() if type(size) is int and size >= 0}
        if not sizes or sizes != found:
            self._log_unchecked(reason)
        return sizes

    def _log_unchecked(self, reason: str) -> None:
        log.warning(
            "cannot check whether %s is shorter than when Valkey last ran on it, because %s has no record of it: %s",
            self._directory,
            self._record,
            reason,
        )


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; a named pipe in its place must not block."""
    return os.open(path, flags | os.O_NONBLOCK)


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
