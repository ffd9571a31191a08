"""Runs the service: a listening socket, Valkey and the workers, started in that order and stopped in reverse.

The parent process binds the socket, so a port in use is reported before anything else starts, and all workers share the
socket. It starts the embedded Valkey before the workers and stops it after the last worker has finished. With one
worker, the parent serves requests itself. Workers whose parent is gone stop by themselves, so a killed parent leaves no
workers behind.
"""

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from logging.config import dictConfig
from types import FrameType

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from meanwhile.api.key_file import read_keys
from meanwhile.process.late_connections import LateConnections
from meanwhile.process.shared_directory import orphans_are_finishing, shared_directory
from meanwhile.settings import WORKERS_SHARE, Settings
from meanwhile.storage.embedded_valkey import EmbeddedValkey
from meanwhile.storage.redis_checks import refuse_unusable
from meanwhile.telemetry.counters import CELLS
from meanwhile.telemetry.logs import configuration

log = logging.getLogger(__name__)

_BACKLOG = 2048
_POLL = 0.1  # Seconds between attempts to bind the port.
_KEEP_ALIVE = 75  # Seconds, so that a sensor that reports once a minute keeps its connection.


def serve(settings: Settings, announce: Callable[[str, str, int | None], None]) -> None:
    """Serves until SIGINT or SIGTERM.

    Calls ``announce`` when the service is ready, with the base URL, where the streams are stored and the number of API
    keys (None without a file of API keys). Raises ``CannotListen``, ``EmbeddedError`` if Valkey cannot run,
    ``BadKeyFile``, ``BadRedisUrl`` or ``NoSharedDirectory``.

    After the signal, running requests have ``shutdown_timeout`` seconds to finish, and the last commits have
    ``redis_timeout``. Whatever still runs after ``stop_timeout`` is killed, and the exit code is 1.

    SIGHUP is blocked until it has a handler; otherwise it would end the process. ``__main__.py`` blocks it before.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    keys = None if settings.api_keys is None else len(read_keys(settings.api_keys))
    if settings.redis_url is not None:
        asyncio.run(refuse_unusable(settings.redis_url))
    _raise_file_limit()
    dictConfig(configuration(settings.log_level, access_log=settings.access_log))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(settings.host, settings.port, settings.stop_timeout))
        where = "the Redis at MEANWHILE_REDIS_URL"
        if settings.redis_url is None:
            appendfsync = "everysec" if settings.durability == "everysec" else "always"
            valkey = stack.enter_context(EmbeddedValkey(settings.data_dir, appendfsync=appendfsync))
            settings = settings.model_copy(update={"redis_url": valkey.url})
            where = str(valkey.path)
        _export(settings)
        os.environ.pop(WORKERS_SHARE, None)
        if settings.workers > 1:
            size = 8 * CELLS * settings.workers
            os.environ[WORKERS_SHARE] = str(stack.enter_context(shared_directory(size)))
        config = uvicorn.Config(
            "meanwhile.process.worker:create",
            factory=True,
            workers=settings.workers,
            access_log=settings.access_log,
            log_config=configuration(settings.log_level, access_log=settings.access_log),
            proxy_headers=False,
            server_header=False,
            http="meanwhile.api.connection:ConnectionProtocol",
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE,
            limit_concurrency=settings.max_connections,
            timeout_graceful_shutdown=settings.shutdown_timeout,
        )
        late = stack.enter_context(closing(LateConnections(listener.dup())))
        url = _base_url(settings.host, listener.getsockname()[1])
        if settings.workers == 1:
            config.load()
            announce(url, where, keys)
            _Server(config, settings.stop_timeout, stack.close, late).run(sockets=[listener])
        else:
            workers = _Workers(config, listener, settings.stop_timeout, late)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            announce(url, where, keys)
            workers.run()


class CannotListen(Exception):
    """The address cannot be bound; the message says why."""


class _Server(uvicorn.Server):
    """uvicorn's server. If it does not stop within ``timeout`` seconds, it calls ``close`` and ends the process.

    ``late`` takes over the listening socket when the shutdown begins.
    """

    def __init__(
        self, config: uvicorn.Config, timeout: float, close: Callable[[], None], late: LateConnections
    ) -> None:
        super().__init__(config)
        self._late = late
        self._timeout = timeout
        self._close = close
        self._stopped = threading.Event()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until a signal."""
        try:
            super().run(sockets)
        finally:
            self._stopped.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins the shutdown and starts its timeout."""
        if not self.should_exit:
            threading.Thread(target=self._end_in_time, name="stop-timeout", daemon=True).start()
            self._late.start()
        super().handle_exit(sig, frame)

    def _end_in_time(self) -> None:
        if not self._stopped.wait(self._timeout):
            log.error("the service did not stop within %g s; killing it", self._timeout)
            self._close()
            os._exit(1)


class _Workers(Multiprocess):
    """uvicorn's supervisor with five changes.

    - On SIGHUP, uvicorn replaces every worker. Here, the workers read their API keys again and continue.
    - uvicorn checks through a pipe whether a worker is alive, and holds both ends of it, so it waits 5 s for the reply
      of a killed worker. Here, it holds only its own end and notices a killed worker at once.
    - uvicorn waits for stopping workers without a limit. Here, those that have not ended within ``timeout`` seconds are
      killed.
    - uvicorn resets connections that no worker has accepted when it stops. Here, ``late`` replies to them.
    - uvicorn always exits with 0. Here, the exit code is not 0 if a worker could not start or was killed.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket, timeout: float, late: LateConnections) -> None:
        super().__init__(config, [listener])
        self._late = late
        self._timeout = timeout
        self._exit_code = 0

    def run(self) -> None:
        """Serves until a signal. Raises ``SystemExit`` if a worker could not start or had to be killed."""
        super().run()
        if self._exit_code:
            raise SystemExit(self._exit_code)

    def init_processes(self) -> None:
        """Starts the workers."""
        with _without_sighup():
            super().init_processes()
        self._close_child_ends()

    def keep_subprocess_alive(self) -> None:
        """Replaces workers that have ended."""
        if self.should_exit.is_set():
            return
        with _without_sighup():
            super().keep_subprocess_alive()
        if self.should_exit.is_set():
            self._exit_code = STARTUP_FAILURE
        self._close_child_ends()

    def terminate_all(self) -> None:
        """Stops the workers, and replies to the connections that are made from then on."""
        super().terminate_all()
        self._late.start()

    def join_all(self) -> None:
        """Waits for the workers to end, and kills those that do not end in time."""
        deadline = time.monotonic() + self._timeout
        for process in self.processes:
            process.process.join(max(deadline - time.monotonic(), 0))
            if process.exitcode is None:
                log.error("worker %d did not stop within %g s; killing it", process.pid, self._timeout)
                process.kill()
                process.join()
                self._exit_code = 1

    def _close_child_ends(self) -> None:
        for process in self.processes:
            process.child_conn.close()

    def handle_hup(self) -> None:
        """Passes SIGHUP on to the workers. A worker that is still starting receives it when it has a handler."""
        for process in self.processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGHUP)


@contextmanager
def _without_sighup() -> Iterator[None]:
    """Blocks SIGHUP in the processes that are started inside, until they have a handler for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _exit(number: int, frame: FrameType | None) -> None:
    """Ends the process through every ``finally``, on SIGTERM too; a second signal does not interrupt that."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(0)


def _listen(host: str, port: int, timeout: float) -> socket.socket:
    """A listening socket. Raises ``CannotListen``.

    Waits up to ``timeout`` seconds if the port is held by workers whose parent was killed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + timeout
    is_waiting = False
    while True:
        try:
            return socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            reason = str(error.strerror or error).partition(" (while")[0]  # The rest repeats the address.
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline or not orphans_are_finishing():
                raise CannotListen(f"Cannot listen on {host} port {port}: {reason}.") from None
        if not is_waiting:
            log.warning(
                "port %d is in use by workers of a service that was killed; waiting up to %d s for them to finish",
                port,
                timeout,
            )
            is_waiting = True
        time.sleep(_POLL)


def _base_url(host: str, port: int) -> str:
    """The URL at which this machine reaches a server that listens on ``host``."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # Compared, not bound.
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _raise_file_limit() -> None:
    """Raises the limit of open files: every connection needs one, and the default limit is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _export(settings: Settings) -> None:
    """Exports the settings to the environment, from which the workers read them."""
    for name, value in settings.model_dump(mode="json").items():
        if value is not None:
            text = " ".join(value) if isinstance(value, list) else str(value)
            os.environ[f"MEANWHILE_{name.upper()}"] = text
