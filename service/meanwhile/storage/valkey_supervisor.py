"""Keeps a Valkey running on a data directory: one thread that starts it, looks after it, and starts it again.

The thread tries to get the lock of the server. Whoever gets it starts a server, which inherits it; whoever does not
knows that a server is running, waits until it answers, and looks at it every second until it is gone:

- It does not answer: logged after some seconds. At the start of the service, an adopted server that does not answer
  is an error.
- Its socket is gone: nobody can connect any more, so it is stopped and started again.
- The data directory is gone, or part of the append-only file was removed, replaced or cut short: the server continues
  to write to deleted files, or to one without its beginning, and the next start does not find what it acknowledges.
  It refuses writes until it has saved everything from memory again.
"""

import logging
import os
import signal
import threading
import time
from contextlib import suppress

import redis

from meanwhile.storage.append_only_file import AppendOnlyFile
from meanwhile.storage.data_directory import DataDir, EmbeddedError, Lock
from meanwhile.storage.valkey_server import Health, Valkey

log = logging.getLogger(__name__)

_POLL = 0.1  # Seconds between two attempts to get the lock of a running server.
_LOOK = 1.0  # Seconds between two looks at a running server.
_SILENCE = 5.0  # Seconds without an answer before it is reported; the attempt under way takes up to 2 more.
_REPORT = 10.0  # Seconds between two lines of the log about what goes on.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # Seconds before a server is started again; they double if it never lives.


class Keeper:
    """Keeps ``valkey`` running on ``data_dir`` from ``start`` until ``stop``."""

    def __init__(self, data_dir: DataDir, valkey: Valkey) -> None:
        self._dir = data_dir
        self._valkey = valkey
        self._files = AppendOnlyFile(data_dir)
        self._thread = threading.Thread(target=self._run, name="valkey-keeper", daemon=True)
        self._stopping = threading.Event()
        self._settled = threading.Event()  # The first server is ready, or there will be none.
        self._failure: str | None = None
        self._pid: int | None = None
        self._log_start = 0
        self._is_ours = False
        self._said: set[str] = set()

    def start(self) -> None:
        """Returns when a server is ready; as long as it takes to load. Raises ``EmbeddedError``."""
        self._thread.start()
        self._settled.wait()
        if self._failure is not None:
            raise EmbeddedError(self._failure)

    def stop(self, timeout: float) -> None:
        """Stops the server, whoever started it. Kills it if it has not stopped within ``timeout``, in seconds."""
        self._stopping.set()
        deadline = time.monotonic() + timeout
        while self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            if self._dir.socket.exists():
                self._valkey.shut_down(left)
            else:
                _send(self._pid, signal.SIGTERM)
            self._thread.join(min(2 * _POLL, max(left, 0)))
        if self._thread.is_alive():
            log.error(
                "Valkey%s on %s did not stop within %d s: killing it. Nothing that was fsynced is lost",
                _named(self._pid),
                self._dir.path,
                timeout,
            )
            _send(self._pid, signal.SIGKILL)
            self._thread.join(1)
        if self._thread.is_alive():
            return
        with suppress(OSError):
            if self._files.is_intact():
                self._files.remember()
            elif self._failure is None:
                log.error(
                    "part of %s was removed, replaced or cut short just before Valkey stopped: readings that were "
                    "acknowledged may be missing. Restore it from a backup",
                    self._dir.path / "appendonlydir",
                )

    def _run(self) -> None:
        pause = _SHORTEST_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                reason = f"Valkey is gone; starting it again ({self._keep_one()})"
            except Exception as error:  # noqa: BLE001  # Whatever it is, who waits for the start must hear of it.
                reason = str(error) if isinstance(error, EmbeddedError) else f"Valkey cannot be started: {error}."
                if not self._settled.is_set():
                    self._failure = reason
                    self._valkey.discard()
                    break
            if not self._stopping.is_set():
                log.warning("%s", reason)
            lived_long = time.monotonic() - began > _LONGEST_PAUSE
            pause = _SHORTEST_PAUSE if lived_long else min(2 * pause, _LONGEST_PAUSE)
            self._stopping.wait(pause)
        self._settled.set()

    def _keep_one(self) -> str:
        """Starts a server unless one is running, looks after it until it is gone, and says how it ended.

        Raises ``EmbeddedError`` if there can be no server, or the first one does not get ready; ``OSError``.
        """
        with self._dir.server_lock() as lock:
            if lock.acquire():
                self._start(lock)
        with self._dir.server_lock() as lock:
            self._attend(lock)
        how = self._valkey.reap()
        if self._is_ours and not self._settled.is_set():
            tail = self._dir.log_tail(self._log_start)
            advice = (
                f"\nIf that is about its append-only file, restore {self._dir.path / 'appendonlydir'} from a backup; "
                "valkey-check-aof --fix, which it may advise, throws readings away."
                if "AOF" in tail or "append" in tail
                else ""
            )
            raise EmbeddedError(f"Valkey did not start; the end of {self._dir.log} says:\n{tail}{advice}")
        return how

    def _start(self, lock: Lock) -> None:
        self._files.check()
        self._dir.rotate_log()
        self._log_start = self._dir.log.stat().st_size if self._dir.log.exists() else 0
        self._valkey.start(lock)
        self._is_ours = True

    def _attend(self, lock: Lock) -> None:
        """Looks after the server that holds ``lock`` until it is gone, and the lock held here."""
        self._pid = lock.pid
        if not self._is_ours:
            log.info("adopting the Valkey%s that is running on %s", _named(self._pid), self._dir.path)
        is_ready = is_leaving = False
        answered = look_at = time.monotonic()
        report_at = answered + _SILENCE
        while not lock.acquire():
            if self._stopping.is_set() or is_leaving or time.monotonic() < look_at:
                time.sleep(_POLL)
                continue
            health = self._valkey.health()
            now = time.monotonic()
            if health is not Health.SILENT:
                answered = now
            if health is Health.READY:
                if not is_ready:
                    self._greet()
                    is_ready = True
                    self._settled.set()
                is_leaving = not self._look()
                look_at, report_at = now + _LOOK, now + _SILENCE
            elif self._pid is not None and self._valkey.is_dead(self._pid):
                is_leaving = lock.acquire() or self._end_child(self._pid)
            elif is_ready and not self._dir.socket.exists():
                is_leaving = self._replace()
            elif now >= report_at:
                report_at = now + _REPORT
                self._report(health, now - answered)
            else:
                self._stopping.wait(_POLL / 5)
        self._pid = None

    def _greet(self) -> None:
        """Says and sets what there is to say and to set when a server is ready. Raises ``EmbeddedError``."""
        if self._is_ours:
            self._files.cut_off(self._dir.log_since(self._log_start))
            self._files.remember()
        try:
            for name, value in self._valkey.set_right().items():
                log.warning("the adopted Valkey had %s %r; it has what this service promises now", name, value)
            self._pid = self._valkey.pid()
            log.info("Valkey on %s is ready, with %s", self._dir.path, self._valkey.keys())
        except redis.RedisError as error:
            raise EmbeddedError(f"The Valkey{_named(self._pid)} on {self._dir.path} refuses: {error}.") from None

    def _look(self) -> bool:
        """Whether all is well with a server that answers, or it may go on all the same; else it is about to stop."""
        self._dir.rotate_log()
        has_moved = self._dir.has_moved()
        if has_moved or not self._files.is_intact():
            return not (self._save_again(has_moved=has_moved) and has_moved and self._replace())
        if not self._dir.socket.exists():
            return not self._replace()
        self._files.remember()
        return True

    def _end_child(self, pid: int) -> bool:
        """Ends what a server that is gone has left: a child that rewrites the append-only file, and holds the lock."""
        log.warning("Valkey (process %d) is gone, and a rewrite that it had begun is not; ending that", pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # The server leads a process group of its own.
        return True

    def _replace(self) -> bool:
        """Stops a server that nobody can connect to any more, so that another one is started."""
        log.error("the socket %s is gone; stopping Valkey, to start it again", self._dir.socket)
        _send(self._pid, signal.SIGTERM)
        return True

    def _save_again(self, *, has_moved: bool) -> bool:
        """Whether everything in the server's memory is on disk again, where it belongs."""
        what = (
            f"the data directory {self._dir.path} was removed or moved"
            if has_moved
            else f"part of {self._dir.path / 'appendonlydir'} was removed, replaced or cut short"
        )
        self._say_once(
            f"{what} while Valkey was running on it. Some streams are only in memory now; Valkey refuses writes until "
            "it has saved all streams again"
        )
        try:
            self._valkey.refuse_writes()
            if has_moved:
                self._dir.claim()
            self._valkey.save()
            self._valkey.accept_writes()
        except (EmbeddedError, redis.RedisError) as error:
            self._say_once(f"saving it again failed, and is tried again; until then writes are refused: {error}")
            return False
        log.warning("%s saved again in %s", self._valkey.keys(), self._dir.path)
        self._files.remember()
        self._said.clear()
        return True

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.error("%s", message)

    def _report(self, health: Health, seconds: float) -> None:
        """Logs that a server is not ready. Raises ``EmbeddedError`` at the start if it is a hanging one of others."""
        if health is Health.LOADING:
            log.warning("Valkey is loading the streams of %s: %s", self._dir.path, self._valkey.progress())
            return
        reason = (
            f"The Valkey{_named(self._pid)} that is running on {self._dir.path} has not answered for {seconds:.0f} s: "
            "it is stopped, or waits for the disk. If it does not recover, end it with "
            f"kill -9 {self._pid or '<its process id>'}; nothing that was fsynced is lost"
        )
        if not self._is_ours and not self._settled.is_set():
            raise EmbeddedError(f"{reason}. Then start the service again.")
        log.error("%s", reason)


def _named(pid: int | None) -> str:
    return "" if pid is None else f" (process {pid})"


def _send(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
