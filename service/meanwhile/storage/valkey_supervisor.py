"""Keeps a Valkey running on a data directory: one thread starts it, supervises it, and restarts it.

The thread tries to get the lock of the server. If it gets the lock, no server is running, so it starts one, which
inherits the lock. If it does not, a server is running: the thread waits until the server answers, and then checks it
every second until it ends:

- The server does not answer: the thread logs this after a few seconds. At the start of the service, an adopted server
  that does not answer is an error.
- The socket is gone: nobody can connect, so the thread stops the server and starts it again.
- The data directory has moved, or its files are damaged: ``data_directory_watch.py`` saves all data again.
"""

import logging
import os
import signal
import threading
import time
from contextlib import suppress

import redis

from meanwhile.storage.append_only_file import AppendOnlyFile
from meanwhile.storage.data_directory import DataDir, EmbeddedError, ServerLock
from meanwhile.storage.data_directory_watch import DataDirectoryWatch
from meanwhile.storage.valkey_server import Health, Valkey

log = logging.getLogger(__name__)

_POLL_INTERVAL = 0.1  # Seconds between two attempts to get the lock of a running server.
_CHECK_INTERVAL = 1.0  # Seconds between two checks of a running server.
_SILENCE_LIMIT = 5.0  # Seconds without an answer before this is logged; the current attempt takes up to 2 more.
_REPORT_INTERVAL = 10.0  # Seconds between two log lines about a server that is not ready.
_EXIT_LIMIT = 1.0  # Seconds in which a killed server, which has released its lock, also closes its socket.
_MIN_BACKOFF, _MAX_BACKOFF = 0.1, 5.0  # Seconds before a restart; doubled each time a server ends early.


class ValkeySupervisor:
    """Keeps ``valkey`` running on ``data_dir`` from ``start`` until ``stop``."""

    def __init__(self, data_dir: DataDir, valkey: Valkey) -> None:
        self._dir = data_dir
        self._valkey = valkey
        self._files = AppendOnlyFile(data_dir)
        self._data = DataDirectoryWatch(data_dir, self._files, valkey)
        self._thread = threading.Thread(target=self._run, name="valkey-supervisor", daemon=True)
        self._stopping = threading.Event()
        self._settled = threading.Event()  # The first server is ready, or has failed to start.
        self._failure: str | None = None
        self._pid: int | None = None
        self._log_start = 0
        self._is_ours = False

    def start(self) -> None:
        """Returns when a server is ready, however long it takes to load its data. Raises ``EmbeddedError``."""
        self._thread.start()
        self._settled.wait()
        if self._failure is not None:
            raise EmbeddedError(self._failure)

    def stop(self, timeout: float) -> None:
        """Stops the server, started here or adopted. Kills it if it does not stop within ``timeout`` seconds."""
        self._stopping.set()
        deadline = time.monotonic() + timeout
        while self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            if self._dir.has_socket():
                self._valkey.shut_down(left)
            else:
                _signal(self._pid, signal.SIGTERM)
            self._thread.join(min(2 * _POLL_INTERVAL, max(left, 0)))
        if self._thread.is_alive():
            log.error(
                "Valkey%s on %s did not stop within %d s: killing it. Nothing that was fsynced is lost",
                _process_text(self._pid),
                self._dir.path,
                timeout,
            )
            _signal(self._pid, signal.SIGKILL)
            self._thread.join(1)
        if self._thread.is_alive():
            return
        damage = self._files.damage()
        if damage is None:
            self._files.save_record()
        elif self._failure is None:
            log.error(
                "%s, and Valkey stopped before it had saved all data again: readings that were acknowledged may be "
                "missing. Restore %s from a backup",
                damage,
                self._dir.path / "appendonlydir",
            )

    def _run(self) -> None:
        backoff = _MIN_BACKOFF
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                reason = f"Valkey is gone; starting it again ({self._run_one()})"
            except Exception as error:  # noqa: BLE001  # ``start`` must get any error.
                reason = str(error) if isinstance(error, EmbeddedError) else f"Valkey cannot be started: {error}."
                if not self._settled.is_set():
                    self._failure = reason
                    self._valkey.discard()
                    break
            if not self._stopping.is_set():
                log.warning("%s", reason)
            lived_long = time.monotonic() - began > _MAX_BACKOFF
            backoff = _MIN_BACKOFF if lived_long else min(2 * backoff, _MAX_BACKOFF)
            self._stopping.wait(backoff)
        self._settled.set()

    def _run_one(self) -> str:
        """Starts a server unless one is running, supervises it until it ends, and describes how it ended.

        Raises ``EmbeddedError`` if a server cannot run or the first one does not become ready; or ``OSError``.
        """
        with self._dir.server_lock() as lock:
            if lock.acquire():
                self._start(lock)
        with self._dir.server_lock() as lock:
            try:
                self._watch(lock)
            except (OSError, redis.RedisError) as error:
                raise EmbeddedError(
                    f"The Valkey{_process_text(self._pid)} on {self._dir.path} cannot be supervised; trying again: "
                    f"{error}."
                ) from error
        how = self._valkey.reap()
        if self._is_ours and not self._settled.is_set():
            tail = self._dir.log_tail(self._log_start)
            advice = (
                f"\nIf this is about the append-only file, restore {self._dir.path / 'appendonlydir'} from a backup. "
                "Valkey may advise valkey-check-aof --fix, which discards readings."
                if "AOF" in tail or "append" in tail
                else ""
            )
            raise EmbeddedError(f"Valkey did not start; the end of {self._dir.log} says:\n{tail}{advice}")
        return how

    def _start(self, lock: ServerLock) -> None:
        self._refuse_second()
        self._files.check()
        self._dir.rotate_log()
        self._log_start = self._dir.log.stat().st_size if self._dir.log.exists() else 0
        self._valkey.start(lock)
        self._is_ours = True
        self._data.refuses_writes = False  # The server has what is in the files.

    def _refuse_second(self) -> None:
        """Raises ``EmbeddedError`` if a server is running without the lock, which may have been removed."""
        deadline = time.monotonic() + _EXIT_LIMIT
        while self._valkey.is_listening():
            if time.monotonic() > deadline:
                pid = None
                with suppress(redis.RedisError):
                    pid = self._valkey.pid()
                raise EmbeddedError(
                    f"A Valkey{_process_text(pid)} is running on {self._dir.path} but does not hold the lock of "
                    "valkey.lock, as if that file was removed. Stop that Valkey with SIGTERM; then start the service "
                    "again."
                )
            time.sleep(_POLL_INTERVAL)

    def _watch(self, lock: ServerLock) -> None:
        """Supervises the server that holds ``lock`` until it ends and this thread gets the lock."""
        self._pid = lock.pid
        if not self._is_ours:
            log.info("adopting the Valkey%s that is running on %s", _process_text(self._pid), self._dir.path)
        is_ready = is_stopping = False
        answered = check_at = time.monotonic()
        report_at = answered + _SILENCE_LIMIT
        while not lock.acquire():
            if self._stopping.is_set() or is_stopping or time.monotonic() < check_at:
                time.sleep(_POLL_INTERVAL)
                continue
            health = self._valkey.health()
            now = time.monotonic()
            if health is not Health.SILENT:
                answered = now
            if health is Health.READY:
                if not is_ready:
                    self._on_ready()
                    is_ready = True
                    self._settled.set()
                self._dir.rotate_log()
                is_stopping = not self._data.check() and self._replace()
                check_at, report_at = now + _CHECK_INTERVAL, now + _SILENCE_LIMIT
            elif self._pid is not None and self._valkey.is_dead(self._pid):
                is_stopping = lock.acquire() or self._kill_rewrite(self._pid)
            elif is_ready and not self._dir.has_socket():
                is_stopping = self._replace()
            elif now >= report_at:
                report_at = now + _REPORT_INTERVAL
                self._report(health, now - answered)
            else:
                self._stopping.wait(_POLL_INTERVAL / 5)
        self._pid = None

    def _on_ready(self) -> None:
        """Corrects the settings of a server that has become ready, and logs it. Raises ``EmbeddedError``."""
        if self._is_ours:
            self._files.log_truncation(self._dir.log_since(self._log_start))
            self._files.save_record()
        try:
            for name, value in self._valkey.correct_settings().items():
                log.warning("the adopted Valkey had %s %r; changed it to what this service promises", name, value)
            self._pid = self._valkey.pid()
            self._data.refuses_writes |= self._valkey.refuses_writes()
            log.info("Valkey on %s is ready, with %s", self._dir.path, self._valkey.keys())
        except redis.RedisError as error:
            raise EmbeddedError(f"The Valkey{_process_text(self._pid)} on {self._dir.path} refuses: {error}.") from None

    def _kill_rewrite(self, pid: int) -> bool:
        """Kills a child of a server that has ended: it rewrites the append-only file and holds the lock."""
        log.warning("Valkey (process %d) is gone, but its rewrite of the append-only file still runs; ending it", pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # The server leads a separate process group.
        return True

    def _replace(self) -> bool:
        """Stops a server to which nobody can connect, so that it is started again."""
        log.error("the socket %s is gone; stopping Valkey, to start it again", self._dir.socket)
        _signal(self._pid, signal.SIGTERM)
        return True

    def _report(self, health: Health, seconds: float) -> None:
        """Logs that the server is not ready. Raises ``EmbeddedError`` at the start if an adopted server is silent."""
        if health is Health.LOADING:
            log.warning("Valkey is loading the streams of %s: %s", self._dir.path, self._valkey.progress())
            return
        reason = (
            f"The Valkey{_process_text(self._pid)} that is running on {self._dir.path} has not answered for "
            f"{seconds:.0f} s: it is suspended or waiting for the disk. If it does not recover, end it with "
            f"kill -9 {self._pid or '<its process id>'}; nothing that was fsynced is lost"
        )
        if not self._is_ours and not self._settled.is_set():
            raise EmbeddedError(f"{reason}. Then start the service again.")
        log.error("%s", reason)


def _process_text(pid: int | None) -> str:
    return "" if pid is None else f" (process {pid})"


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
