"""Runs the service: one listening socket, one Valkey, some workers; started in that order, stopped in reverse.

The parent process binds the socket, so a port that is taken is noticed first and every worker shares it. It starts the
embedded Valkey before any worker and stops it when the last one has drained. With one worker there is no second
process. Workers that lose their parent stop by themselves, so that killing the parent never leaves half a service.
"""

import fcntl
import os
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from logging.config import dictConfig
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from types import FrameType

import uvicorn
from uvicorn.supervisors import Multiprocess

from service.embedded import EmbeddedValkey
from service.key_file import read_keys
from service.link import connect
from service.logs import configuration
from service.settings import WORKERS_SHARE, Settings

_BACKLOG = 2048
_SHARED_PREFIX = "meanwhile-"
_KEEP_ALIVE = 75  # Seconds: a sensor that reports once a minute keeps its connection.


def serve(settings: Settings, announce: Callable[[str, str, int | None], None]) -> None:
    """Serves until SIGINT or SIGTERM.

    ``announce`` gets the base URL, where the data is and how many API keys there are (None without a file of them),
    once everything is there. Raises ``CannotListen``, ``EmbeddedError`` if Valkey cannot run, ``BadKeyFile``,
    ``BadRedisUrl``.

    A SIGHUP that comes before somebody listens to it waits; it would end the process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    keys = None if settings.api_keys is None else len(read_keys(settings.api_keys))
    if settings.redis_url is not None:
        connect(settings.redis_url)
    _raise_file_limit()
    dictConfig(configuration(settings.log_level, access_log=settings.access_log))
    signal.signal(signal.SIGTERM, _exit)
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(settings.host, settings.port))
        where = "the Redis at MEANWHILE_REDIS_URL"
        if settings.redis_url is None:
            appendfsync = "everysec" if settings.durability == "everysec" else "always"
            valkey = stack.enter_context(EmbeddedValkey(settings.data_dir, appendfsync=appendfsync))
            settings = settings.model_copy(update={"redis_url": valkey.url})
            where = str(settings.data_dir.expanduser().absolute())
        _export(settings)
        os.environ.pop(WORKERS_SHARE, None)
        if settings.workers > 1:
            os.environ[WORKERS_SHARE] = stack.enter_context(_shared_directory())
        config = uvicorn.Config(
            "service.worker:create",
            factory=True,
            workers=settings.workers,
            access_log=settings.access_log,
            log_config=configuration(settings.log_level, access_log=settings.access_log),
            proxy_headers=False,
            server_header=False,
            http="service.protocol:PatientProtocol",
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=settings.grace,
        )
        url = _base_url(settings.host, listener.getsockname()[1])
        if settings.workers == 1:
            config.load()
            announce(url, where, keys)
            uvicorn.Server(config).run(sockets=[listener])
        else:
            workers = _Workers(config, sockets=[listener])
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            announce(url, where, keys)
            workers.run()


class CannotListen(Exception):
    """The address cannot be bound; the message says why."""


class _Workers(Multiprocess):
    """uvicorn's supervisor, with two differences.

    On SIGHUP it would replace every worker; here they read their keys again and go on. And it asks each worker whether
    it is alive through a pipe of which it holds both ends, so that it waits 5 s for the answer of one that was killed
    meanwhile; here it holds its own end only, and hears at once that nobody is at the other.
    """

    def init_processes(self) -> None:
        """Starts the workers."""
        super().init_processes()
        self._let_go()

    def keep_subprocess_alive(self) -> None:
        """Replaces workers that are gone."""
        super().keep_subprocess_alive()
        self._let_go()

    def _let_go(self) -> None:
        for process in self.processes:
            process.child_conn.close()

    def handle_hup(self) -> None:
        """Passes SIGHUP on. A worker that is only starting dies of it, and the one after it reads the new file."""
        for process in self.processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGHUP)


def _exit(number: int, frame: FrameType | None) -> None:
    """SIGTERM leaves through every ``finally``, as SIGINT does."""
    raise SystemExit(0)


@contextmanager
def _shared_directory() -> Iterator[str]:
    """A directory for what workers count, in memory where there is such a place; a container may have no other.

    Its lock says that it is in use; what a killed service has left behind is removed.
    """
    memory = Path("/dev/shm")  # noqa: S108  # The directory made in it is for this user alone.
    parent = memory if os.access(memory, os.W_OK) else Path(gettempdir())
    for left in parent.glob(f"{_SHARED_PREFIX}*"):
        with suppress(OSError):  # Another user's, for example.
            is_old = time.time() - left.stat().st_mtime > 60  # One that is just made may not have its lock yet.
            with _locked(left):
                if is_old:
                    shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=_SHARED_PREFIX, dir=parent) as directory, _locked(Path(directory)):
        yield directory


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory. Raises ``BlockingIOError`` if another process does."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]  # The rest repeats the address.
        raise CannotListen(f"Cannot listen on {host} port {port}: {reason}.") from None


def _base_url(host: str, port: int) -> str:
    """The URL by which this machine reaches what listens on ``host``."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # Compared, not bound.
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _raise_file_limit() -> None:
    """Every connection is a file; the limit that a shell sets is low, and meant to be raised by those who need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _export(settings: Settings) -> None:
    """Puts the settings where the workers read theirs."""
    for name, value in settings.model_dump(mode="json").items():
        if value is not None:
            os.environ[f"MEANWHILE_{name.upper()}"] = str(value)
