"""The data directory of the embedded Valkey: its path, its permissions and its locks.

Only the owner has access: the directory has mode 0700 and its files have mode 0600, whatever the umask. Two lock files
show which processes are running. The kernel releases a lock when the last process that has the file open ends, for
whatever reason, so a lock cannot be stale:

``meanwhile.lock``  The service holds it. A second service cannot use the same directory, even by another path.
``valkey.lock``     The server inherits it and holds it; the file contains the process id of the server. Two servers
                    would corrupt the append-only file, so only the holder of this lock starts a server. A service that
                    cannot get the lock adopts the server that holds it, which a killed service has left running.

A lock belongs to the file, not to its name. If the directory is removed or moved, ``has_moved`` detects it. If
``valkey.lock`` is removed, another file of that name is not locked; so the server also holds a lock on the directory
itself, where the file system supports that.
"""

import errno
import fcntl
import logging
import os
import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

log = logging.getLogger(__name__)

_LOCK = "meanwhile.lock"
_MAX_SOCKET_PATH = 103  # Bytes of sockaddr_un.sun_path without the final NUL on macOS, the smallest of all systems.
_MAX_LOG = 1024 * 1024  # Bytes of valkey.log before it is copied to valkey.log.1.
_OWN_FILES = re.compile(r"meanwhile\.(lock|record|new)|valkey\.(lock|log|log\.1|sock)|appendonlydir|mqtt-.*|temp-.*")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # Surrogates stand for bytes that are not UTF-8.
_ADVICE = (
    "Choose another directory with --data-dir or MEANWHILE_DATA_DIR, or set MEANWHILE_REDIS_URL to a running server."
)


class EmbeddedError(Exception):
    """The embedded Valkey cannot run. The message says why and what to do."""


class Lock:
    """The open lock file at ``path``. A lock is held from ``acquire`` until all processes that inherited it have ended.

    Raises ``OSError`` if the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock, unless another process has inherited it."""
        os.close(self.descriptor)

    def acquire(self) -> bool:
        """Tries to get the lock and returns whether it is held. Raises ``EmbeddedError`` if locks are unsupported."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            raise EmbeddedError(
                f"The file system of the data directory does not support locks ({error.strerror}), like some network "
                f"file systems. {_ADVICE}"
            ) from None
        return True

    @property
    def pid(self) -> int | None:
        """The process id that the holder has written, if any."""
        text = os.pread(self.descriptor, 20, 0)
        return int(text) if text.strip().isdigit() else None

    @pid.setter
    def pid(self, pid: int) -> None:
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, b"%d\n" % pid, 0)


class ServerLock:
    """The locks of the server in the data directory ``path``: on the file ``valkey.lock`` and on the directory itself.

    ``acquire`` needs both: a server of an older version holds only the first, and the first may have been removed.
    Raises ``OSError`` if one of them cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = Lock(path / "valkey.lock")
        try:
            self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            self._file.close()
            raise

    def __enter__(self) -> "ServerLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._directory)
        self._file.close()

    @property
    def descriptors(self) -> tuple[int, int]:
        """What the server inherits."""
        return self._file.descriptor, self._directory

    @property
    def pid(self) -> int | None:
        """The process id that the holder has written, if any."""
        return self._file.pid

    @pid.setter
    def pid(self, pid: int) -> None:
        self._file.pid = pid

    def acquire(self) -> bool:
        """Tries to get both locks and returns whether they are held. Raises ``EmbeddedError`` without support."""
        if not self._file.acquire():
            return False
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._file.descriptor, fcntl.LOCK_UN)
            return False
        except OSError as error:
            log.debug("the file system does not support locks on directories: %s", error)  # NFS needs write access.
        return True


class DataDir:
    """The data directory at ``path``, which may start with ``~`` or be relative.

    Raises ``EmbeddedError`` if the path cannot be used.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.path = path.expanduser().absolute()
        except RuntimeError:  # No HOME, and no entry in the user database.
            raise EmbeddedError(
                f"There is no home directory for the data directory {path}: set HOME. {_ADVICE}"
            ) from None
        except OSError as error:
            raise EmbeddedError(f"The current directory cannot be used: {error.strerror}. {_ADVICE}") from None
        self.socket = self.path / "valkey.sock"
        self.log = self.path / "valkey.log"
        if _UNPRINTABLE.search(str(self.path)):
            raise EmbeddedError(
                "The path of the data directory contains a line break, another control character or bytes that are "
                f"not UTF-8: {str(self.path)!r}. {_ADVICE}"
            )
        self._lock: Lock | None = None

    @property
    def url(self) -> str:
        """The URL of the server while it runs. Raises ``EmbeddedError`` if the path is too long."""
        if len(os.fsencode(self.socket)) > _MAX_SOCKET_PATH:
            raise EmbeddedError(
                f"The path of the data directory is too long for a unix socket: {self.path}. "
                "Choose a shorter path with --data-dir or MEANWHILE_DATA_DIR."
            )
        return f"unix://{quote(str(self.socket))}"

    def claim(self) -> None:
        """Creates the directory if necessary, makes it private, and takes the lock of the service.

        Raises ``EmbeddedError`` if the directory cannot be used or another service holds the lock.
        """
        self.url  # noqa: B018  # Raises if the path is too long.
        try:
            self._make()
            lock = Lock(self.path / _LOCK)
        except OSError as error:
            raise EmbeddedError(f"The data directory {self.path} cannot be used: {error.strerror}. {_ADVICE}") from None
        self.release()
        self._lock = lock
        if not lock.acquire():
            self.release()
            raise EmbeddedError(f"Another meanwhile is running on {self.path}. Stop it, or choose another --data-dir.")

    def release(self) -> None:
        """Releases the lock of the service."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def has_moved(self) -> bool:
        """Returns whether the claimed directory is no longer at its path: removed, moved or replaced."""
        if self._lock is None:
            return True
        held = os.fstat(self._lock.descriptor)
        try:
            found = (self.path / _LOCK).stat()
        except OSError:
            return True
        return (held.st_dev, held.st_ino) != (found.st_dev, found.st_ino)

    def has_socket(self) -> bool:
        """Returns whether the socket of the server is at its path."""
        try:
            self.socket.stat()
        except OSError:
            return False
        return True

    def server_lock(self) -> ServerLock:
        """Opens the locks of the server without acquiring them. Raises ``OSError``."""
        return ServerLock(self.path)

    def rotate_log(self) -> None:
        """Copies a large server log to ``valkey.log.1`` and truncates it in place, because the server has it open."""
        with suppress(OSError):
            if self.log.stat().st_size > _MAX_LOG:
                shutil.copy(self.log, f"{self.log}.1")
                os.truncate(self.log, 0)

    def log_tail(self, start: int = 0) -> str:
        """Returns the last five lines of the server log after byte ``start``."""
        return "\n".join(self.log_since(start).splitlines()[-5:])

    def log_since(self, start: int) -> str:
        """Returns the server log from byte ``start``; empty if the log cannot be read."""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")
        return ""

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            if not self.path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
            self._make_private()
        else:
            self.path.chmod(0o700)  # The umask may have removed the owner's permissions.

    def _make_private(self) -> None:
        """Makes the service's files private, and the directory, too, if it contains no other files."""
        names = [path.name for path in self.path.iterdir()]
        for name in filter(_OWN_FILES.fullmatch, names):
            _remove_other_permissions(self.path / name)
            if name == "appendonlydir" and (self.path / name).is_dir():
                for file in (self.path / name).iterdir():
                    _remove_other_permissions(file)
        found = self.path.stat()
        if not found.st_mode & 0o077:
            return
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX and all(map(_OWN_FILES.fullmatch, names)):
            self.path.chmod(0o700)
            log.warning("the data directory %s had mode %s; changed it to 0700", self.path, mode)
        else:
            log.warning(
                "the data directory %s has mode %s and contains other files or belongs to another user: other users "
                "may list or change its content; use a separate directory with mode 0700",
                self.path,
                mode,
            )


def _remove_other_permissions(path: Path) -> None:
    with suppress(OSError):  # The file has another owner, or the file system has no modes.
        found = path.lstat()
        if found.st_mode & 0o077 and not stat.S_ISLNK(found.st_mode):
            path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
