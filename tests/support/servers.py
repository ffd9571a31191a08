"""Real servers for the tests, each in a directory of its own, on a unix socket or a free port."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from meanwhile.storage.valkey_server import server_binary
from tests.support import processes
from tests.support.processes import Process

FSYNC_ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits until ``condition`` holds; fails if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not become true within {seconds} s"
        time.sleep(0.01)


@contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory whose path leaves room for the name of a unix socket."""
    with tempfile.TemporaryDirectory(prefix="mw", dir="/tmp", ignore_cleanup_errors=True) as path:
        yield Path(path)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def answers_ping(path: Path) -> bool:
    """Whether a Redis at this unix socket answers commands now."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


@dataclass
class Valkey:
    """A Valkey process that a test may kill and start again on the same data."""

    directory: Path
    arguments: tuple[str, ...] = FSYNC_ALWAYS
    process: subprocess.Popen[bytes] | None = None
    launcher: tuple[str, ...] = ()  # A program that becomes the server, such as env with options.
    program: str = ""  # Instead of the one in the wheel.

    @property
    def socket(self) -> Path:
        return self.directory / "v.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(
                        *self.launcher,
                        self.program or str(server_binary()),
                        "--port",
                        "0",
                        "--unixsocket",
                        str(self.socket),
                    ),
                    *("--dir", str(self.directory), "--save", "", *self.arguments),
                ],
                stdout=log,
                stderr=log,
            )
        eventually(lambda: answers_ping(self.socket))

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(20)


@contextmanager
def valkey(*arguments: str, launcher: tuple[str, ...] = (), program: str = "") -> Iterator[Valkey]:
    """A running Valkey, with fsync always unless ``arguments`` say otherwise."""
    with short_directory() as directory:
        server = Valkey(directory, arguments or FSYNC_ALWAYS, launcher=launcher, program=program)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def clean_environment() -> dict[str, str]:
    """The environment without anybody's settings for the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MEANWHILE_")}


def meanwhile(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        env = clean_environment() | {"COLUMNS": "200"} | environment
        process = processes.start(*arguments, env=env, stdout=output, stderr=errors)
        code = process.wait(100)
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(["meanwhile", *arguments], code, output.read(), errors.read())


@dataclass
class Service:
    """The real command ``meanwhile serve`` as a process, on a free port."""

    data_dir: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    process: Process | None = None
    url: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        return (self.data_dir / "service.log").read_text()

    def start(self, port: int = 0, *, until_live: bool = True) -> None:
        """Starts the service and waits until it is live, unless told not to."""
        with (self.data_dir / "service.log").open("w") as log:
            self.process = processes.start(
                *("serve", "--port", str(port), "--data-dir", str(self.data_dir), *self.arguments),
                env=clean_environment() | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if until_live:
            eventually(self.is_up, seconds=30)

    def is_up(self) -> bool:
        """Whether it has said where it listens, and answers there. Fails if it is gone."""
        assert self.process is not None
        assert self.process.poll() is None, self.log
        announced = re.search(r"listens on (http://\S+:(\d+)) ", self.log)
        if announced is None:
            return False
        self.url = announced[1]
        with socket.socket() as probe:
            probe.settimeout(1)
            try:
                probe.connect(("127.0.0.1", int(announced[2])))
                probe.sendall(b"GET /livez HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                return probe.recv(64).startswith(b"HTTP/1.1 200")
            except OSError:
                return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signals the parent process alone, waits until it is gone, and returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(40)


@contextmanager
def service(*arguments: str, data_dir: Path | None = None, **environment: str) -> Iterator[Service]:
    """A running service; without MEANWHILE_REDIS_URL in ``environment`` on an embedded Valkey."""
    with short_directory() as directory:
        running = Service(data_dir or directory, environment, arguments)
        running.start()
        try:
            yield running
        finally:
            running.stop()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ReplyDropper:
    """A TCP proxy that passes requests on and may swallow the reply, and then hangs up on both sides.

    ``drops`` is asked when the server's reply to a request is there, so that the request has run: it gets what the
    client sent since the reply before, and says whether to swallow this one.
    """

    def __init__(self, connect: Callable[[], Awaitable[Streams]], drops: Callable[[bytes], bool]) -> None:
        self._connect = connect
        self._drops = drops
        self.port = 0
        self.dropped = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        writers = [writer]
        request = bytearray()

        async def forward(to: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await reader.read(65536):
                    request.extend(data)
                    to.write(data)
            to.close()

        forwarding = None
        try:
            with suppress(OSError):
                up_reader, up_writer = await self._connect()
                writers.append(up_writer)
                forwarding = asyncio.create_task(forward(up_writer))
                while data := await up_reader.read(65536):
                    if self._drops(bytes(request)):
                        self.dropped += 1
                        break
                    request.clear()
                    writer.write(data)
        finally:
            if forwarding is not None:
                forwarding.cancel()
            for one in writers:
                one.close()
            for one in writers:
                with suppress(OSError):
                    await one.wait_closed()


@asynccontextmanager
async def reply_dropper(
    connect: Callable[[], Awaitable[Streams]], drops: Callable[[bytes], bool]
) -> AsyncIterator[ReplyDropper]:
    """A running proxy on 127.0.0.1."""
    proxy = ReplyDropper(connect, drops)
    running: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", backlog=1_000)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
