"""The floor of Valkey: the same script, called as often as it can be, by a client that pipelines prepared bytes.

The commands are encoded beforehand and their replies only counted, so the time is Valkey's: reading commands, running
``commit.lua``, and fsyncing the append-only file before it answers. One reading a run is what a service without group
commit would ask of it at best; 32 streams a run is what ours asks under load.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1
from time import perf_counter

import hiredis
import msgspec

from benchmarks.targets import disk_directory
from benchmarks.workloads import STREAMS, sensor_batch
from meanwhile.core.shapes import NUMBER
from meanwhile.core.state import State, to_delta
from meanwhile.core.summary import summarize
from meanwhile.storage.commit_script import script
from tests.support.servers import Valkey

_DEPTH = 64  # Commands on their way.


@dataclass
class Script:
    """Runs of the script on streams of one reading each, ``streams`` of them a run."""

    name: str
    title: str
    server: Valkey
    streams: int

    def measure(self, seconds: float) -> dict[str, float]:
        """Keeps so many commands on their way for some seconds."""
        commands = [self._command(start) for start in range(0, len(STREAMS), self.streams)]
        reader = hiredis.Reader()
        sent = answered = 0
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.server.socket))
            start = perf_counter()
            while (elapsed := perf_counter() - start) < seconds or answered < sent:
                if elapsed < seconds and sent - answered <= _DEPTH // 2:
                    more = [commands[(sent + i) % len(commands)] for i in range(_DEPTH // 2)]
                    connection.sendall(b"".join(more))
                    sent += len(more)
                reader.feed(connection.recv(1 << 20))
                while (reply := reader.gets()) is not False:
                    if isinstance(reply, hiredis.ReplyError):
                        raise reply
                    answered += 1
        return {"requests_per_second": answered / elapsed, "readings_per_second": answered * self.streams / elapsed}

    def _command(self, start: int) -> bytes:
        names = [STREAMS[(start + i) % len(STREAMS)] for i in range(self.streams)]
        values = sensor_batch(self.streams)
        states = [State(NUMBER, summarize([value], 1, start, start)) for value in values]
        group = [[(i, to_delta(state)) for i, state in enumerate(states, start=1)]]
        keys = [f"meanwhile:stream:{name}" for name in names]
        return _packed("EVALSHA", _sha(), len(keys), *keys, msgspec.msgpack.encode([group]), "0", "0")


def _packed(*command: str | int | bytes) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows commands of one word only
    return packed


def _sha() -> str:
    return sha1(script(), usedforsecurity=False).hexdigest()


@contextmanager
def scripts() -> Iterator[list[Script]]:
    """Both, on a server of their own that fsyncs always and knows the script."""
    with disk_directory() as directory:
        server = Valkey(directory)
        server.start()
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(server.socket))
                connection.sendall(_packed("SCRIPT", "LOAD", script()))
                connection.recv(4096)
            yield [
                Script("script_one", "Valkey and the script alone, 1 reading a run (fsync)", server, 1),
                Script("script_many", "Valkey and the script alone, 32 streams a run (fsync)", server, 32),
            ]
        finally:
            server.stop()
