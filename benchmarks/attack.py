"""``make bench-attack``: how long honest clients wait while somebody attacks.

A service with an embedded Valkey is started for each of ``attacks.ATTACKS``. It is attacked once by one client and then
by eight at once, beside the clients of ``honest.py``. Attackers and honest clients have a process each, so that what
the one computes does not count as the waiting of the other. (They share the machine's cores all the same.) Each row is
printed when it is there, and in the end which rows miss a bar; then the exit code is 1.

The honest clients wait for a reply before they send the next request, so a standstill is one long latency for each of
them: look at the maximum beside the 99th percentile. An attack is broken off after ``--seconds``.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer
from redis import Redis

from benchmarks.attackers import Outcome
from benchmarks.attacks import ATTACKS, Attack
from benchmarks.honest import Latencies
from benchmarks.targets import disk_directory
from tests.support.servers import Service, service

MAX_P99 = 100.0  # Milliseconds that an honest client may wait.
MAX_GROWTH = 150.0  # MB by which a worker may grow.
_TOGETHER = (1, 8)
_SETTLE = 1.0  # Seconds of honest requests alone.
_TIMEOUT = 60.0  # Seconds for Redis to answer, and for the attackers to be ready and to end.
_TAIL = 0.3  # Seconds after an attack that still count.
_LOGGED = 1_000  # Microseconds from which SLOWLOG has a command.
_COLUMNS = (
    *("attack", "at once", "statuses", "seconds", "honest requests", "p99 before, ms"),
    *("p50, ms", "p99, ms", "max, ms", "honest errors", "worker grew by, MB", "longest script run, ms"),
)


@dataclass(frozen=True)
class Row:
    """What came of one attack; ``growth`` is in MB, of the worker that grew most, ``script`` in milliseconds."""

    attack: str
    together: int
    outcome: Outcome
    quiet: Latencies
    honest: Latencies
    growth: float
    script: float

    def misses(self) -> list[str]:
        """What is not as it should be."""
        failed = sum(times for status, times in self.honest.errors.items() if not 200 <= int(status) < 500)
        return [
            text
            for text, missed in (
                (f"honest p99 {self.honest.p99:.0f} ms", self.honest.p99 > MAX_P99),
                (f"worker grew by {self.growth:.0f} MB", self.growth > MAX_GROWTH),
                (f"{failed} honest requests failed", failed),
                ("answered with 500", "500" in self.outcome.statuses),
            )
            if missed
        ]

    def __str__(self) -> str:
        honest = self.honest
        cells = (
            *(self.attack, self.together, _counts(self.outcome.statuses), f"{self.outcome.seconds:.1f}"),
            *(honest.requests, f"{self.quiet.p99:.0f}", f"{honest.p50:.0f}", f"{honest.p99:.0f}", f"{honest.max:.0f}"),
            *(_counts(honest.errors) or 0, f"{self.growth:.0f}", f"{self.script:.0f}"),
        )
        return f"| {' | '.join(map(str, cells))} |"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(name if times == 1 else f"{times} x {name}" for name, times in counts.items())


class _Helper:
    """One of the other programs of this benchmark, which answers a line with a line."""

    def __init__(self, module: str, *arguments: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def has_answered(self, seconds: float) -> bool:
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def answer(self, seconds: float) -> bytes:
        assert self.process.stdout is not None
        if not self.has_answered(seconds):
            raise TimeoutError(f"{self.process.args!r} is silent")
        return self.process.stdout.readline()

    def ask(self, seconds: float = 20) -> bytes:
        self.tell()
        return self.answer(seconds)


@contextmanager
def _helper(module: str, *arguments: int) -> Iterator[_Helper]:
    running = _Helper(module, *arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        for pipe in (running.process.stdin, running.process.stdout):
            assert pipe is not None
            pipe.close()


def _workers(running: Service) -> list[psutil.Process]:
    """The processes of the service but Valkey."""
    assert running.process is not None
    parent = psutil.Process(running.process.pid)
    return [one for one in (parent, *parent.children(recursive=True)) if not one.name().endswith("-server")]


def _resident(workers: list[psutil.Process]) -> list[int]:
    """Bytes of each; 0 for one that is gone."""
    return [one.memory_info().rss if one.is_running() else 0 for one in workers]


def _longest_script(admin: Redis) -> float:
    """Milliseconds, since SLOWLOG was reset; 0 if none took ``_LOGGED`` microseconds."""
    logged: list[dict[str, bytes | int]] = admin.slowlog_get(10_000)
    runs = [int(entry["duration"]) for entry in logged if bytes(entry["command"]).startswith((b"EVAL", b"FCALL"))]
    return max(runs, default=0) / 1_000


def _measure(attack: Attack, together: int, seconds: int, running: Service, honest: _Helper, admin: Redis) -> Row:
    port = int(running.url.rpartition(":")[2])
    with _helper("attackers", ATTACKS.index(attack), together, seconds, port) as attackers:
        attackers.answer(_TIMEOUT)
        honest.ask()
        time.sleep(_SETTLE)
        quiet = msgspec.json.decode(honest.ask(), type=Latencies)
        admin.slowlog_reset()
        workers = _workers(running)
        before = _resident(workers)
        peaks = before
        begun = time.monotonic()
        attackers.tell()
        ends = begun + seconds + _TIMEOUT
        while not attackers.has_answered(0.01) and time.monotonic() < ends:
            peaks = list(map(max, peaks, _resident(workers)))
        outcome = msgspec.json.decode(attackers.answer(1), type=Outcome)
    ends = max(time.monotonic() + _TAIL, begun + _SETTLE)
    while time.monotonic() < ends:
        peaks = list(map(max, peaks, _resident(workers)))
        time.sleep(0.01)
    found = msgspec.json.decode(honest.ask(), type=Latencies)
    growth = max(peak - start for peak, start in zip(peaks, before, strict=True)) / 1e6
    return Row(attack.name, together, outcome, quiet, found, growth, _longest_script(admin))


@contextmanager
def _service(directory: Path, workers: int) -> Iterator[Service]:
    """A running service. Raises ``subprocess.TimeoutExpired`` if it does not stop when told to, and kills it."""
    with service("--workers", str(workers), data_dir=directory) as running:
        assert running.process is not None
        parent = psutil.Process(running.process.pid)
        processes = [*parent.children(recursive=True), parent]
        try:
            yield running
            running.stop()
        finally:
            for one in processes:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def _rows(attack: Attack, seconds: int, workers: int) -> Iterator[Row]:
    with disk_directory() as directory, _service(directory, workers) as running:
        admin = Redis(unix_socket_path=str(directory / "valkey.sock"), socket_timeout=_TIMEOUT)
        admin.config_set("slowlog-log-slower-than", _LOGGED)
        admin.config_set("slowlog-max-len", 10_000)
        with admin, _helper("honest", int(running.url.rpartition(":")[2])) as honest:
            for together in _TOGETHER:
                yield _measure(attack, together, seconds, running, honest, admin)


def main(
    only: Annotated[list[str] | None, typer.Option(help="Attacks whose names have this in them; repeatable.")] = None,
    seconds: Annotated[int, typer.Option(min=1, max=600, help="Seconds after which an attack is broken off.")] = 60,
    workers: Annotated[int, typer.Option(min=1, max=8, help="Worker processes of the service.")] = 1,
) -> None:
    """Measures honest clients beside each attack. The exit code is 1 if a bar is missed."""
    print(f"workers: {workers}; load averages at the start: {', '.join(f'{load:.1f}' for load in os.getloadavg())}\n")
    print(f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}")
    missed = []
    for attack in ATTACKS:
        if only and not any(part in attack.name for part in only):
            continue
        try:
            for row in _rows(attack, seconds, workers):
                print(row, flush=True)
                missed += [f"{row.attack}, {row.together} at once: {miss}" for miss in row.misses()]
        except subprocess.TimeoutExpired:
            missed.append(f"{attack.name}: the service did not stop after it")
    print(f"\nload averages at the end: {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    print("\n".join(["missed:", *missed]) if missed else "no bar is missed")
    raise typer.Exit(1 if missed else 0)


if __name__ == "__main__":
    typer.run(main)
