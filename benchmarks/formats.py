"""``python -m benchmarks.formats``: how much of one worker's CPU time the body formats take.

Two rates for each format, both by CPU time, which other load on the machine disturbs less than it does the clock:

    reading      bytes to readings by stream, in this process: what the module in ``service/formats/`` does
    recording    everything that a worker does, from the socket to the reply: its CPU time, as /proc has it

The bars are those of the issues. They count lines or records of one reading each.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cbor2
import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.targets import disk_directory
from service.formats import line_names, line_protocol, ndjson, senml
from service.stream import Limits
from tests.servers import service

LINES = 100_000  # In a body.
STREAMS = 50
_ROUNDS = 3
_BODIES = 5  # That are recorded in a round.
_LIMITS = Limits()


@dataclass(frozen=True)
class Format:
    """A body of ``LINES`` readings, what reads it, where it is sent, and how many lines a second it has to reach."""

    title: str
    body: bytes
    read: Callable[[bytes], Any]
    path: str
    media_type: str
    bar: int | None = None


def formats() -> list[Format]:
    """What is measured."""
    readings = [(f"plant/boiler-{i % STREAMS}/temp", i % 90 + i % 7 / 10) for i in range(LINES)]
    now = 1_767_225_600_000
    senml_pack = [{"n": name, "u": "Cel", "v": value, "t": now / 1000 + i} for i, (name, value) in enumerate(readings)]
    labels = {"n": 0, "u": 1, "v": 2, "t": 6}
    return [
        Format(
            "line protocol",
            "".join(
                f"plant,boiler=boiler-{i % STREAMS} temp={value!r} {now * 10**6 + i}\n"
                for i, (_, value) in enumerate(readings)
            ).encode(),
            lambda body: line_protocol.decode(body, 1, now, line_names.DEFAULT, _LIMITS),
            "/api/v2/write",
            "text/plain",
            300_000,
        ),
        Format(
            "SenML JSON",
            json.dumps(senml_pack, separators=(",", ":")).encode(),
            lambda body: senml.decode_json(body, now, _LIMITS),
            "/v1/readings",
            "application/senml+json",
            200_000,
        ),
        Format(
            "SenML CBOR",
            cbor2.dumps([{labels[key]: value for key, value in record.items()} for record in senml_pack]),
            lambda body: senml.decode_cbor(body, now, _LIMITS),
            "/v1/readings",
            "application/senml+cbor",
        ),
        Format(
            "NDJSON",
            "".join(f'{{"stream":"{name}","value":{value!r}}}\n' for name, value in readings).encode(),
            lambda body: ndjson.decode(body, now, _LIMITS),
            "/v1/readings",
            "application/x-ndjson",
            300_000,
        ),
    ]


def measure(rounds: int = _ROUNDS, bodies: int = _BODIES) -> list[dict[str, Any]]:
    """Title, bar and rates of every format, in interleaved rounds; a rate is the median, lowest and highest.

    Rates are in lines a second of CPU time.
    """
    found = formats()
    reading: dict[str, list[float]] = {one.title: [] for one in found}
    recording: dict[str, list[float]] = {one.title: [] for one in found}
    with disk_directory() as directory, service(data_dir=directory) as running:
        assert running.process is not None
        with httpx.Client(base_url=running.url, timeout=60) as client:
            for number in range(rounds + 1):
                for one in found:
                    rates = LINES / _reading(one), bodies * LINES / _recording(one, client, running.process.pid, bodies)
                    if number:  # The first round warms up.
                        reading[one.title].append(rates[0])
                        recording[one.title].append(rates[1])
    return [
        {"title": one.title, "bar": one.bar}
        | {"reading": _spread(reading[one.title]), "recording": _spread(recording[one.title])}
        for one in found
    ]


def show(measured: list[dict[str, Any]], console: Console) -> None:
    """As a table."""
    table = Table("lines per CPU second", "reading", "spread", "recording", "spread", "bar")
    for one in measured:
        met = "" if one["bar"] is None else "met" if one["recording"]["median"] >= one["bar"] else "missed"
        cells = []
        for rate in (one["reading"], one["recording"]):
            cells += [f"{rate['median']:,.0f}", f"{rate['lowest']:,.0f} to {rate['highest']:,.0f}"]
        table.add_row(one["title"], *cells, "" if one["bar"] is None else f"{one['bar']:,}: {met}")
    console.print(table)


def _reading(one: Format) -> float:
    start = time.process_time()
    one.read(one.body)
    return time.process_time() - start


def _recording(one: Format, client: httpx.Client, pid: int, bodies: int) -> float:
    """Seconds of CPU time that the service takes for so many bodies."""
    start = _cpu_time(pid)
    for _ in range(bodies):
        client.post(one.path, content=one.body, headers={"content-type": one.media_type}).raise_for_status()
    return _cpu_time(pid) - start


def _cpu_time(pid: int) -> float:
    """Seconds that a process has run, in user and kernel mode (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _spread(values: list[float]) -> dict[str, int]:
    return {"median": round(median(values)), "lowest": round(min(values)), "highest": round(max(values))}


if __name__ == "__main__":
    show(measure(), Console(highlight=False))
