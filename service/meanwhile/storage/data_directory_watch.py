"""Watches the data directory of a running Valkey, and saves all data again if it was moved or its files are damaged.

If the data directory is removed or moved, or part of the append-only file is removed, replaced or truncated, or cannot
be examined, the server may still write to deleted files, or to one without its beginning. So the next start would not
find what it acknowledges. The server has to refuse writes until it has saved all data from memory again, into files
that are intact. It also saves all data if the files are intact again before that, and if it is adopted while it refuses
writes.
"""

import logging

import redis

from meanwhile.storage.append_only_file import AppendOnlyFile
from meanwhile.storage.data_directory import DataDir, EmbeddedError
from meanwhile.storage.valkey_server import Valkey

log = logging.getLogger(__name__)


class DataDirectoryWatch:
    """Watches ``data_dir``, with the append-only file ``files``, while ``valkey`` runs on it.

    ``refuses_writes`` is true until the server has saved all data again.
    """

    def __init__(self, data_dir: DataDir, files: AppendOnlyFile, valkey: Valkey) -> None:
        self._dir = data_dir
        self._files = files
        self._valkey = valkey
        self.refuses_writes = False
        self._logged: set[str] = set()

    def check(self) -> bool:
        """Checks the files of a server that answers. Returns False if nobody can connect to the server any more."""
        has_moved = self._dir.has_moved()
        damage = self._files.damage()
        if has_moved or damage is not None or self.refuses_writes:
            return not (self._save_again(damage, has_moved=has_moved) and has_moved)
        if not self._dir.has_socket():
            return False
        self._files.save_record()
        return True

    def _save_again(self, damage: str | None, *, has_moved: bool) -> bool:
        """Saves all data from memory again; the server refuses writes meanwhile. Returns whether that succeeded."""
        if has_moved:
            damage = f"the data directory {self._dir.path} was removed or moved while Valkey was running on it"
        if damage is not None:
            self._log_once(
                f"{damage}. Some streams may only be in memory now; Valkey refuses writes until it has saved all data "
                "again"
            )
        try:
            self.refuses_writes = True
            self._valkey.refuse_writes()
            if has_moved:
                self._dir.claim()
            keys = self._save()
            self._valkey.accept_writes()
        except (EmbeddedError, OSError, redis.RedisError) as error:
            self._log_once(f"saving the data again failed; retrying, and refusing writes until it succeeds: {error}")
            return False
        self.refuses_writes = False
        log.warning("%s saved again in %s; Valkey accepts writes", keys, self._dir.path)
        self._logged.clear()
        return True

    def _save(self) -> str:
        """Saves all data and returns the number of keys, in words. Raises ``EmbeddedError`` if that did not help."""
        self._valkey.save()
        if damage := self._files.damage():
            raise EmbeddedError(damage)
        self._files.save_record()
        return self._valkey.keys()

    def _log_once(self, message: str) -> None:
        first_line = message.partition("\n")[0]  # The rest, from the log of the server, differs each time.
        if first_line not in self._logged:
            self._logged.add(first_line)
            log.error("%s", message)
