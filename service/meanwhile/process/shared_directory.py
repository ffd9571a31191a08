"""The directory with the counters, and a copy of the API key file, that the workers of one service share.

The parent creates it, and the last process that uses it removes it. It is in memory (/dev/shm) if possible, which in a
container may be the only writable place. Two locks show whether it is in use: the parent holds a lock on the directory,
and every worker holds a shared lock on ``workers.lock``. So a service that starts later can tell the directory of a
killed service from one that is still used by workers whose parent was killed.

Other users may create files with the same name in a place like /dev/shm. The directory of this service belongs to this
user, has mode 0700 and contains only files with known names; nothing else is opened or removed.
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
_CONTENT = re.compile(r"\d+\.cells|workers\.lock|api-keys\.toml|\d+\.new")
_LOCK = "workers.lock"
_YOUNG = 60  # Seconds. A newer directory may not be locked yet.


class NoSharedDirectory(Exception):
    """The directory cannot be created anywhere; the message says which places were tried."""


@contextmanager
def shared_directory(size: int) -> Iterator[Path]:
    """A directory with room for ``size`` bytes, removed at the end. Raises ``NoSharedDirectory``."""
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
    """Marks the directory as used by this worker, until it ends. Returns the membership that ``leave`` takes."""
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def leave(directory: Path, membership: int) -> None:
    """Removes the directory if no other worker uses it. A worker calls this if its parent is gone."""
    with suppress(OSError):
        fcntl.flock(membership, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(directory)


def orphans_are_finishing() -> bool:
    """Whether this user has workers that are still finishing although their parent was killed."""
    return any(
        _is_ours(directory) and _is_free(directory) and not _is_free(directory / _LOCK)
        for place in _places()
        for directory in place.glob(f"{_PREFIX}*")
    )


def _places() -> list[Path]:
    """The possible places for the directory, best first."""
    places = [Path("/dev/shm")]  # noqa: S108  # Only this user can open the directory created in it.
    with suppress(OSError):  # gettempdir raises if no temporary directory is writable.
        places.append(Path(gettempdir()))
    return places


def _make(size: int) -> Path:
    reasons = []
    for place in _places():
        directory = None
        try:
            directory = Path(mkdtemp(prefix=_PREFIX, dir=place))
            with (directory / "0.cells").open("wb") as room:
                room.write(
                    bytes(size)
                )  # Unlike truncate, this fails if there is no room; later, a worker would get a signal.
            (directory / "0.cells").unlink()
        except OSError as error:
            reasons.append(f"{place}: {error.strerror}")
            if directory is not None:
                _remove(directory)
        else:
            return directory
    raise NoSharedDirectory(
        f"Cannot create the directory for the workers' counters, which needs {size} bytes ({'; '.join(reasons)}). "
        "Free some space, set TMPDIR, or use one worker."
    )


def _remove_left(directory: Path) -> None:
    """Removes the directory that a killed service left behind."""
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
    """Whether no process holds the lock of a directory or file; a missing one is free."""
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
    """Locks a file or directory. Raises ``BlockingIOError`` if another process holds the lock, or ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
