"""Processes of the command ``meanwhile``, each forked from one that has imported the service already.

Importing it takes most of a second of CPU, and the tests start it hundreds of times. So each test process has one
process beside it that has imported everything and does nothing else; it forks the commands. In its fork a command has
the arguments, environment, directory, standard streams and session of its own, is run as ``python -m meanwhile`` runs
it, and leaves through the interpreter's usual end. ``cold`` starts an interpreter instead, as a user does.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing import util
from pathlib import Path
from typing import IO, Any, Protocol

_PRELOADED = [  # What the commands import when they run.
    *(
        "meanwhile.cli.commands",
        "meanwhile.cli.csv_reader",
        "meanwhile.cli.demo_sensors",
        "meanwhile.cli.terminal_table",
    ),
    *("meanwhile.mqtt.run", "meanwhile.process.server", "meanwhile.process.worker"),
    *("multiprocessing.popen_spawn_posix", "multiprocessing.resource_tracker"),
    *("httpcore", "rich.progress", "rich.table", "typer.rich_utils", "uvicorn.loops.uvloop", "uvicorn.lifespan.on"),
]
_LARGEST = 256 * 1024  # Bytes of a request: arguments and environment.


class Process(Protocol):
    """What the tests use of ``subprocess.Popen``."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Forked:
    """A forked command; ``status`` is a pipe that says its process id and, at its end, its exit code."""

    def __init__(self, status: int) -> None:
        self._status = os.fdopen(status, "rb", buffering=0)
        self._code: int | None = None
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._code is None and select.select([self._status], [], [], 0)[0]:
            self._code = int(self._status.readline())
            self._status.close()
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises ``subprocess.TimeoutExpired``."""
        if self._code is None and not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("meanwhile", timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # It ended just now.
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_is_cold = False


@contextmanager
def cold() -> Iterator[None]:
    """Inside, each command is started in an interpreter of its own."""
    global _is_cold  # noqa: PLW0603  # What starts a command is far below what knows how.
    before, _is_cold = _is_cold, True
    try:
        yield
    finally:
        _is_cold = before


def start(
    *arguments: str, env: Mapping[str, str], stdout: IO[Any], stderr: IO[Any], start_new_session: bool = False
) -> Process:
    """Starts ``meanwhile`` with these arguments; what it reads is empty."""
    if _is_cold or sys.platform != "linux":
        return subprocess.Popen(
            [sys.executable, "-m", "meanwhile", *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=start_new_session,
        )
    readable, writable = os.pipe()
    request = {"arguments": arguments, "env": dict(env), "cwd": str(Path.cwd()), "is_session": start_new_session}
    try:
        socket.send_fds(_fork_server(), [json.dumps(request).encode()], [stdout.fileno(), stderr.fileno(), writable])
    finally:
        os.close(writable)
    return Forked(readable)


@cache
def _fork_server() -> socket.socket:
    """The socket of this process's fork server, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.processes", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )

    def end() -> None:
        ours.close()
        process.wait(20)

    atexit.register(end)
    return ours


# The fork server ----------------------------------------------------------------------------------------------------


def _serve(requests: socket.socket) -> list[str]:
    """Forks for each request, and returns in the fork alone, with its arguments."""
    for module in _PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    wake_up, woken = os.pipe()
    os.set_blocking(wake_up, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([requests.fileno(), wake_up], [], [])
        if wake_up in readable:
            os.read(wake_up, 4096)
            for pid in list(running):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    _say(running.pop(pid), os.waitstatus_to_exitcode(status), ends=True)
        if requests.fileno() not in readable:
            continue
        data, files, _, _ = socket.recv_fds(requests, _LARGEST, 3, socket.MSG_CMSG_CLOEXEC)
        if not data:
            sys.exit()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            requests.close()
            for one in (wake_up, woken, *running.values()):
                os.close(one)
            return _become(json.loads(data), *files)
        running[pid] = files.pop()
        _say(running[pid], pid)
        for one in files:
            os.close(one)


def _say(file: int, number: int, *, ends: bool = False) -> None:
    with contextlib.suppress(BrokenPipeError):  # Nobody asks any more.
        os.write(file, b"%d\n" % number)
    if ends:
        os.close(file)


def _become(request: dict[str, Any], stdout: int, stderr: int, status: int) -> list[str]:
    """Makes this process the one that was asked for; returns its arguments."""
    if request["is_session"]:
        os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for one in (stdout, stderr, status):
        os.close(one)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    time.tzset()
    util.spawnv_passfds = _spawn  # type: ignore[assignment]  # The names of the parameters differ.
    return list(request["arguments"])


# The workers of a command -------------------------------------------------------------------------------------------

_spawn_cold = util.spawnv_passfds


def _spawn(path: bytes, arguments: Sequence[Any], files: Sequence[int]) -> int:
    """Forks a worker, where multiprocessing would start an interpreter for it. Returns its process id."""
    *_, code, flag = arguments
    if "spawn_main" not in code:
        return int(_spawn_cold(path, arguments, files))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid == 0:
        _be_a_worker(code, flag, set(files), mask)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _be_a_worker(code: str, flag: str, files: set[int], mask: set[int | signal.Signals]) -> None:
    """Runs what the interpreter would have run, in a process that has kept no more than it would have; ends it.

    The stack still has the frames of the command, which clean up after the command. So none of them is returned to.
    """
    status = 1
    try:
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(-1)
        for one in [int(file.name) for file in Path("/proc/self/fd").iterdir()]:
            if one > 2 and one not in files:
                with contextlib.suppress(OSError):  # The one that listed them.
                    os.close(one)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # For as long as the process lives.
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  # Likewise.
        sys.argv = ["-c", flag]
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        exec(code, {})
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:  # noqa: BLE001  # As the interpreter does.
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    import runpy

    sys.argv = ["meanwhile", *_serve(socket.socket(fileno=int(sys.argv[1])))]
    runpy.run_module("meanwhile", run_name="__main__", alter_sys=True)
