"""The directory in which the workers of one service count together: made by the parent, removed by the last to leave.

It is in memory where there is such a place; a container may have no other that can be written to. Two locks say
whether it is in use: the parent holds the one of the directory, and each worker shares the one of ``workers.lock``. So
a later service can tell what a killed one has left behind from what workers are still using that have lost their
parent and are finishing.

Others may have files of any kind with such a name in a place like /dev/shm. Ours is a directory of this user with mode
0700 and nothing in it but cells and the lock; nothing else is opened or removed.
"""

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp

_PREFIX = "meanwhile-"
_CONTENT = re.compile(r"\d+\.cells|workers\.lock")
_LOCK = "workers.lock"
_YOUNG = 60  # Seconds: one that is just made may not have its lock yet.


class NoSharedDirectory(Exception):
    """There is no place for the directory; the message says what was tried."""


@contextmanager
def shared_directory(size: int) -> Iterator[Path]:
    """A directory with room for ``size`` bytes, removed in the end. Raises ``NoSharedDirectory``."""
    for place in _places():
        for left in place.glob(f"{_PREFIX}*"):
            _remove_left(left)
    directory = _make(size)
    with _locked(directory):
        try:
            yield directory
        finally:
            _remove(directory)


def join(directory: Path) -> int:
    """Says that one more worker uses the directory, until it ends or leaves. Returns what ``leave`` wants."""
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def leave(directory: Path, membership: int) -> None:
    """Removes the directory if this is the last worker in it; called by one that has lost its parent."""
    with suppress(OSError):
        fcntl.flock(membership, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(directory)


def orphans_are_finishing() -> bool:
    """Whether workers of this user are still running that have lost their parent."""
    return any(
        _is_ours(directory) and _is_free(directory) and not _is_free(directory / _LOCK)
        for place in _places()
        for directory in place.glob(f"{_PREFIX}*")
    )


def _places() -> list[Path]:
    """Where the directory may be, best first."""
    places = [Path("/dev/shm")]  # noqa: S108  # The directory made in it is for this user alone.
    with suppress(OSError):  # There is no temporary directory that can be written to.
        places.append(Path(gettempdir()))
    return places


def _make(size: int) -> Path:
    reasons = []
    for place in _places():
        directory = None
        try:
            directory = Path(mkdtemp(prefix=_PREFIX, dir=place))
            with (directory / "0.cells").open("wb") as room:
                room.write(bytes(size))  # Not truncate: a full memory is noticed here, not by a signal to a worker.
            (directory / "0.cells").unlink()
        except OSError as error:
            reasons.append(f"{place}: {error.strerror}")
            if directory is not None:
                _remove(directory)
        else:
            return directory
    raise NoSharedDirectory(
        f"Workers need a directory to count in together, and {size} bytes in it ({'; '.join(reasons)}). "
        "Make room, set TMPDIR, or use one worker."
    )


def _remove_left(directory: Path) -> None:
    """Removes what a killed service has left."""
    with suppress(OSError):
        if _is_ours(directory) and time.time() - directory.stat().st_mtime > _YOUNG:
            with _locked(directory):
                if _is_free(directory / _LOCK):
                    _remove(directory)


def _is_ours(directory: Path) -> bool:
    try:
        found = directory.lstat()
        return (
            stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.geteuid()
            and stat.S_IMODE(found.st_mode) == 0o700
            and all(_CONTENT.fullmatch(file.name) for file in directory.iterdir())
        )
    except OSError:
        return False


def _is_free(path: Path) -> bool:
    """Whether no process holds the lock of a directory, or of a file that may be missing."""
    try:
        with _locked(path):
            return True
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _remove(directory: Path) -> None:
    with suppress(OSError):
        for file in directory.iterdir():
            if _CONTENT.fullmatch(file.name):
                file.unlink()
        directory.rmdir()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file or directory. Raises ``BlockingIOError`` if another process does, or ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
