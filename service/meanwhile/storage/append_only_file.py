"""The append-only file of the embedded Valkey: whether it is still what it was at the last look.

Valkey keeps the streams in ``appendonlydir``: a base file, an incremental file that every commit is appended to, and a
manifest that names them. What it does about damage is right after a power failure, and too quiet for everything else:

- It cuts off an incomplete write at the end. ``cut_off`` reports how many bytes that were.
- Without the manifest it starts with no streams, and empties the files that it finds. ``check`` refuses that.
- A file that somebody has truncated looks to it like one that never had more. ``check`` knows how long it was from
  ``meanwhile.record``, which ``remember`` writes while the server runs.
- If somebody removes, replaces or truncates a file while the server runs, the server does not notice it, and continues
  to write to a file that the next start does not find. ``is_intact`` compares with the last look.

The record is also what says that there has been data: to start with none, remove it.
"""

import json
import logging
import re
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from meanwhile.storage.data_directory import DataDir, EmbeddedError

log = logging.getLogger(__name__)

_LISTED = re.compile(r"^file (\S+) seq (\d+) type [bi]\s*$", re.MULTILINE)
_NAMED = re.compile(r"^file (\S+) ", re.MULTILINE)
_TAIL = 256  # Bytes.
_CUT = re.compile(r"Truncating the AOF (?:file )?(\S+) at offset (\d+)")


class _Seen(NamedTuple):
    """A file at the last look: its size, its device and inode, and the bytes at its end. None is not known."""

    size: int  # In bytes.
    identity: tuple[int, int] | None = None
    tail: bytes | None = None


class AppendOnlyFile:
    """The append-only file in ``data_dir``."""

    def __init__(self, data_dir: DataDir) -> None:
        self._directory = data_dir.path / "appendonlydir"
        self._manifest = self._directory / "appendonly.aof.manifest"
        self._record = data_dir.path / "meanwhile.record"
        self._remembered: dict[str, int] | None = None
        self._before: dict[str, int] = {}
        self._seen: dict[str, _Seen] | None = None  # By name; None until the first look at a server that is adopted.
        self._newest = 0  # The highest sequence number in the manifest at the last look.

    def check(self) -> None:
        """Looks at the files before a server starts.

        Raises ``EmbeddedError`` if there were streams that the server would not find. Logs what is shorter than it was.
        """
        recorded = self._read_record()
        self._seen, self._newest = {}, 0  # The server that starts uses the files that are there now.
        if not self._manifest.is_file():
            files = [file.name for file in _files(self._directory) if file.suffix == ".aof" and file.stat().st_size]
            if recorded is not None or files:
                raise EmbeddedError(
                    f"The streams of {self._record.parent} are gone: there is no file {self._manifest}"
                    f"{', which names the files there are' if files else ''}. Restore {self._directory} from a backup; "
                    f"or, to start with no streams, remove {self._record.name}"
                    f"{f' and {self._directory.name}' if self._directory.exists() else ''} from that directory."
                )
        self._before = self.sizes()
        on_disk = {file.name for file in _files(self._directory)}
        if unlisted := sorted((recorded or {}).keys() & on_disk - self._named()):
            raise EmbeddedError(
                f"Streams of {self._record.parent} would be missing: {self._manifest} no longer names "
                f"{', '.join(unlisted)}. Restore {self._directory} from a backup; or, to go on without "
                f"that file, remove it and {self._record.name} from that directory."
            )
        for name, size in (recorded or {}).items():
            missing = size - self._before.get(name, size)
            if missing > 0:
                log.error(
                    "%s is %d bytes shorter than when Valkey last ran on it: readings that were acknowledged are "
                    "missing. If nobody meant to remove them, stop the service and restore %s from a backup",
                    self._directory / name,
                    missing,
                    self._directory,
                )

    def cut_off(self, server_log: str) -> None:
        """Logs what the server, according to its log since it started, has cut off."""
        for name, offset in _CUT.findall(server_log):
            path = self._directory / Path(name).name
            log.warning(
                "%s ended within a write, as after a power failure or on a full disk: Valkey has cut off the last %d "
                "bytes. A write that was fsynced is never incomplete; if the file was changed by other means, restore "
                "%s from a backup",
                path,
                max(self._before.get(path.name, 0) - int(offset), 0),
                self._directory,
            )

    def sizes(self) -> dict[str, int]:
        """The files that the manifest lists, with their sizes in bytes; those that are missing are left out."""
        with suppress(OSError):
            return {name: file.size for name, file in self._look(self._listed() or {}).items()}
        return {}

    def _listed(self) -> dict[str, int] | None:
        """The files that the manifest lists, with their sequence numbers; None if there is no manifest."""
        try:
            manifest = self._manifest.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return None
        return {name: int(number) for name, number in _LISTED.findall(manifest)}

    def _look(self, listed: Container[str]) -> dict[str, _Seen]:
        """Those of these files that are there."""
        found = {}
        for file in _files(self._directory):
            if file.name in listed:
                with suppress(FileNotFoundError):
                    status = file.stat()
                    found[file.name] = _Seen(status.st_size, (status.st_dev, status.st_ino))
        return found

    def _named(self) -> set[str]:
        """Every file that the manifest names, also those that a rewrite has replaced."""
        try:
            return set(_NAMED.findall(self._manifest.read_text(errors="replace")))
        except OSError:  # What Valkey will say of it is clearer.
            return set()

    def is_intact(self) -> bool:
        """Whether the manifest and the files that it lists are those of the last ``remember``, and none is shorter.

        Raises ``OSError`` if the disk does not say.
        """
        listed = self._listed()
        if not listed:
            return False
        found = self._look(listed)
        if listed.keys() <= found.keys() and max(listed.values()) >= self._newest:
            seen = self._before_now()
            if all(self._continues(name, file, seen.get(name)) for name, file in found.items()):
                return True
        return self._listed() not in (listed, None)  # A rewrite has replaced the files meanwhile.

    def remember(self) -> None:
        """Keeps what there is for ``is_intact``, and writes the record if it has changed.

        A file that is not the one of the last look, or is shorter, stays as it was then, as long as the manifest lists
        its name: what somebody has replaced or truncated is not taken for what the server has written.
        """
        seen = self._before_now()
        try:
            listed = self._listed()
            if not listed:
                return
            self._seen = {name: self._merged(name, file, seen.get(name)) for name, file in self._look(listed).items()}
        except OSError as error:
            log.debug("the append-only file cannot be read: %s", error)
            return
        self._newest = max(self._newest, *listed.values())
        sizes = {name: file.size for name, file in self._seen.items()}
        if not sizes or sizes == self._remembered:
            return
        new = self._record.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            new.touch(0o600)
            new.write_text(json.dumps(sizes))
            new.replace(self._record)
        except OSError as error:
            log.debug("the record of the append-only file cannot be written: %s", error)
        else:
            self._remembered = sizes

    def _continues(self, name: str, file: _Seen, before: _Seen | None) -> bool:
        """Whether ``file`` is the one that it was before, to which the server can only have appended.

        A file that was truncated may be longer again by the next look; the bytes that were at its end have moved then.
        """
        return before is None or (
            before.identity in (None, file.identity)
            and file.size >= before.size
            and before.tail in (None, self._tail(name, before.size))
        )

    def _merged(self, name: str, file: _Seen, before: _Seen | None) -> _Seen:
        if before is not None and not self._continues(name, file, before):
            return before
        return file._replace(tail=self._tail(name, file.size))

    def _tail(self, name: str, end: int) -> bytes:
        """The last bytes before the position ``end``; none if the file is gone."""
        start = max(0, end - _TAIL)
        try:
            with (self._directory / name).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except FileNotFoundError:
            return b""

    def _before_now(self) -> dict[str, _Seen]:
        """The files at the last look. Before the first look at a server that is adopted, those in the record."""
        if self._seen is None:
            self._seen = {name: _Seen(size) for name, size in (self._read_record() or {}).items()}
        return self._seen

    def _read_record(self) -> dict[str, int] | None:
        """The sizes in the record; None if there is no record, empty if it cannot be read."""
        try:
            found = json.loads(self._record.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):  # A power failure may leave it empty.
            return {}
        return {name: size for name, size in found.items() if isinstance(size, int)} if isinstance(found, dict) else {}


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
