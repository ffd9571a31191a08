"""How much of one worker's CPU time the body formats take.

Two rates for each format, both by CPU time, which other load on the machine disturbs less than it does the clock:

    reading      bytes to readings by stream, in this process: what the module in ``service/formats/`` does
    recording    everything that a worker does, from the socket to the reply: its CPU time, as /proc has it

A line or record has one reading.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cbor2
import httpx

from benchmarks.targets import disk_directory
from meanwhile.core.readings import Limits
from meanwhile.formats import line_protocol, line_protocol_names, ndjson, senml
from tests.support.servers import service

LINES = 100_000  # In a body.
STREAMS = 50
_BODIES = 5  # That are recorded in a round.
_LIMITS = Limits()


@dataclass(frozen=True)
class Format:
    """A body of ``LINES`` readings, what reads it, and where it is sent."""

    name: str
    body: bytes
    read: Callable[[bytes], Any]
    path: str
    media_type: str


def formats() -> list[Format]:
    """What is measured."""
    readings = [(f"plant/boiler-{i % STREAMS}/temp", i % 90 + i % 7 / 10) for i in range(LINES)]
    now = 1_767_225_600_000
    senml_pack = [{"n": name, "u": "Cel", "v": value, "t": now / 1000 + i} for i, (name, value) in enumerate(readings)]
    labels = {"n": 0, "u": 1, "v": 2, "t": 6}
    return [
        Format(
            "line_protocol",
            "".join(
                f"plant,boiler=boiler-{i % STREAMS} temp={value!r} {now * 10**6 + i}\n"
                for i, (_, value) in enumerate(readings)
            ).encode(),
            lambda body: line_protocol.decode(body, 1, now, line_protocol_names.DEFAULT, _LIMITS),
            "/api/v2/write",
            "text/plain",
        ),
        Format(
            "senml_json",
            json.dumps(senml_pack, separators=(",", ":")).encode(),
            lambda body: senml.decode_json(body, now, _LIMITS),
            "/v1/readings",
            "application/senml+json",
        ),
        Format(
            "senml_cbor",
            cbor2.dumps([{labels[key]: value for key, value in record.items()} for record in senml_pack]),
            lambda body: senml.decode_cbor(body, now, _LIMITS),
            "/v1/readings",
            "application/senml+cbor",
        ),
        Format(
            "ndjson",
            "".join(f'{{"stream":"{name}","value":{value!r}}}\n' for name, value in readings).encode(),
            lambda body: ndjson.decode(body, now, _LIMITS),
            "/v1/readings",
            "application/x-ndjson",
        ),
    ]


def measure(rounds: int) -> dict[str, list[float]]:
    """Lines a second of CPU time, by round: ``<name>_reading`` and ``<name>_recording`` of every format."""
    found: dict[str, list[float]] = {}
    with disk_directory() as directory, service(data_dir=directory) as running:
        assert running.process is not None
        with httpx.Client(base_url=running.url, timeout=60) as client:
            for number in range(rounds + 1):
                for one in formats():
                    rates = {
                        f"{one.name}_reading": LINES / _reading(one),
                        f"{one.name}_recording": _BODIES * LINES / _recording(one, client, running.process.pid),
                    }
                    for name, rate in rates.items() if number else ():  # The first round warms up.
                        found.setdefault(name, []).append(rate)
    return found


def _reading(one: Format) -> float:
    start = time.process_time()
    one.read(one.body)
    return time.process_time() - start


def _recording(one: Format, client: httpx.Client, pid: int) -> float:
    """Seconds of CPU time that the service takes for some bodies."""
    start = _cpu_time(pid)
    for _ in range(_BODIES):
        client.post(one.path, content=one.body, headers={"content-type": one.media_type}).raise_for_status()
    return _cpu_time(pid) - start


def _cpu_time(pid: int) -> float:
    """Seconds that a process has run, in user and kernel mode (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
