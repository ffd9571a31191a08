"""The data directory of the embedded Valkey: where it is, who may read it, and who holds it.

It is for its owner alone: the directory has mode 0700 and its files 0600, whatever the umask. Two locks in it say who
is running. The kernel drops a lock when the last process that holds its open file is gone, whatever killed it, so
a lock cannot be stale:

``meanwhile.lock``  held by the service. A second service on the same directory is refused, through whatever path.
``valkey.lock``     held by the server, which inherits it; the file has the server's process id. Two servers on one
                    append-only file would ruin it, so only the holder of this lock starts a server. A service that
                    cannot get it adopts the server that holds it, which a killed service has left behind.

The lock belongs to the file, not to its name. If the directory is removed or moved, ``has_moved`` says so.
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
_MAX_SOCKET_PATH = 103  # Bytes in sockaddr_un.sun_path, less the final NUL, on the system with the smallest: macOS.
_MAX_LOG = 1024 * 1024  # Bytes of valkey.log, after which it becomes valkey.log.1.
_OURS = re.compile(r"meanwhile\.(lock|record|new)|valkey\.(lock|log|log\.1|sock)|appendonlydir|mqtt-.*|temp-.*")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # Surrogates stand for bytes that are not UTF-8.
_ELSEWHERE = (
    "Choose another one with --data-dir or MEANWHILE_DATA_DIR, or set MEANWHILE_REDIS_URL to a server that runs."
)


class EmbeddedError(Exception):
    """The embedded Valkey cannot run; the message says why and what to do."""


class Lock:
    """A lock file, opened; held from ``acquire`` until every process that inherited it is gone. Raises ``OSError``."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the lock up, unless another process has inherited it."""
        os.close(self.descriptor)

    def acquire(self) -> bool:
        """Whether the lock is held now. Raises ``EmbeddedError`` where the file system has no locks."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            raise EmbeddedError(
                f"The file system of the data directory has no locks ({error.strerror}), as some network file "
                f"systems. {_ELSEWHERE}"
            ) from None
        return True

    @property
    def pid(self) -> int | None:
        """The process id that the holder has left, if any."""
        text = os.pread(self.descriptor, 20, 0)
        return int(text) if text.strip().isdigit() else None

    @pid.setter
    def pid(self, pid: int) -> None:
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, b"%d\n" % pid, 0)


class DataDir:
    """The data directory at ``path``, which may start with ``~`` or be relative.

    Raises ``EmbeddedError`` for a path that cannot be one.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.path = path.expanduser().absolute()
        except RuntimeError:  # No HOME, and no user in the user database either.
            raise EmbeddedError(
                f"There is no home directory for the data directory {path}: set HOME. {_ELSEWHERE}"
            ) from None
        except OSError as error:
            raise EmbeddedError(f"The current directory cannot be used: {error.strerror}. {_ELSEWHERE}") from None
        self.socket = self.path / "valkey.sock"
        self.log = self.path / "valkey.log"
        if _UNPRINTABLE.search(str(self.path)):
            raise EmbeddedError(
                "The path of the data directory contains a line break, another control character or bytes that are "
                f"not UTF-8: {str(self.path)!r}. {_ELSEWHERE}"
            )
        self._lock: Lock | None = None

    @property
    def url(self) -> str:
        """Where the server listens while it runs. Raises ``EmbeddedError`` if the path is too long."""
        if len(os.fsencode(self.socket)) > _MAX_SOCKET_PATH:
            raise EmbeddedError(
                f"The path of the data directory is too long for a unix socket: {self.path}. "
                "Choose a shorter one with --data-dir or MEANWHILE_DATA_DIR."
            )
        return f"unix://{quote(str(self.socket))}"

    def claim(self) -> None:
        """Makes the directory if it is not there, makes it private, and takes the lock of the service.

        Raises ``EmbeddedError`` if it cannot be used or another service holds it.
        """
        self.url  # noqa: B018  # Raises if the path is too long.
        try:
            self._make()
            lock = Lock(self.path / _LOCK)
        except OSError as error:
            raise EmbeddedError(
                f"The data directory {self.path} cannot be used: {error.strerror}. {_ELSEWHERE}"
            ) from None
        self.release()
        self._lock = lock
        if not lock.acquire():
            self.release()
            raise EmbeddedError(f"Another meanwhile is running on {self.path}. Stop it, or choose another --data-dir.")

    def release(self) -> None:
        """Gives up the lock of the service."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def has_moved(self) -> bool:
        """Whether the directory that was claimed is no longer at its path: removed, moved, or replaced."""
        if self._lock is None:
            return True
        held = os.fstat(self._lock.descriptor)
        try:
            found = (self.path / _LOCK).stat()
        except OSError:
            return True
        return (held.st_dev, held.st_ino) != (found.st_dev, found.st_ino)

    def server_lock(self) -> Lock:
        """The lock of the server, not yet held. Raises ``OSError``."""
        return Lock(self.path / "valkey.lock")

    def rotate_log(self) -> None:
        """Copies a large log of the server to ``valkey.log.1`` and empties it; the server appends to it, open."""
        with suppress(OSError):
            if self.log.stat().st_size > _MAX_LOG:
                shutil.copy(self.log, f"{self.log}.1")
                os.truncate(self.log, 0)

    def log_tail(self, start: int = 0) -> str:
        """The last five lines of the server's log, of those behind byte ``start``."""
        return "\n".join(self.log_since(start).splitlines()[-5:])

    def log_since(self, start: int) -> str:
        """The server's log from byte ``start``; empty if it cannot be read."""
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
            self.path.chmod(0o700)  # The umask may have taken away from the owner, too.

    def _make_private(self) -> None:
        """Takes permissions of others away from our files, and from a directory that has nothing else in it."""
        names = [path.name for path in self.path.iterdir()]
        for name in filter(_OURS.fullmatch, names):
            _take_from_others(self.path / name)
            if name == "appendonlydir" and (self.path / name).is_dir():
                for file in (self.path / name).iterdir():
                    _take_from_others(file)
        found = self.path.stat()
        if not found.st_mode & 0o077:
            return
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX and all(map(_OURS.fullmatch, names)):
            self.path.chmod(0o700)
            log.warning("the data directory %s had mode %s; it has 0700 now", self.path, mode)
        else:
            log.warning(
                "the data directory %s has mode %s and is not ours alone: others may list or change what is in it; "
                "use a directory that nothing else uses, with mode 0700",
                self.path,
                mode,
            )


def _take_from_others(path: Path) -> None:
    with suppress(OSError):  # Another owner's, or a file system without modes.
        found = path.lstat()
        if found.st_mode & 0o077 and not stat.S_ISLNK(found.st_mode):
            path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
