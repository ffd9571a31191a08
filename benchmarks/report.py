"""What a run found: the machine, the tables, the JSON, and the section of docs/performance.md that is made from it."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Column, Table

from benchmarks import sizes
from benchmarks.bars import BARS, Bar, Found
from benchmarks.plan import Measurement
from benchmarks.targets import disk_directory
from meanwhile.storage.valkey_server import server_binary

_START, _END = "<!-- make bench: from here -->", "<!-- make bench: to here -->"
_PACKAGES = ("uvicorn", "uvloop", "httptools", "fastapi", "redis", "hiredis", "msgspec")


def machine(wrk_version: str) -> dict[str, Any]:
    """What the figures depend on; taken before the load, so the load average is that of others."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 1),
        "fsync_ms": round(_fsync() * 1e3, 3),
        "python": platform.python_version(),
        "valkey": _valkey(),
        "wrk": wrk_version,
        **{package: version(package) for package in _PACKAGES},
    }


def results(
    plan: Sequence[Measurement], found: Found, machine: Mapping[str, Any], settings: Mapping[str, int]
) -> dict[str, Any]:
    """Everything, in the form of the JSON file."""
    options = " ".join(f"--{name} {value}" for name, value in settings.items())
    return {
        "command": f'make bench ARGS="{options}"',
        "measured_on": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "bars": [_compared(bar, found) for bar in BARS],
        "figures": {
            one.name: {"title": one.title, **{name: _spread(values) for name, values in found[one.name].items()}}
            for one in plan
        },
        "sizes": {
            name: {
                "title": title,
                "bytes": found["sizes"][f"{name}_bytes"][0],
                "value_bytes": found["sizes"][f"{name}_value_bytes"][0],
            }
            for name, title in sizes.TITLES.items()
        },
    }


def write(found: Mapping[str, Any], path: Path) -> None:
    """As indented JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")


def show(found: Mapping[str, Any], console: Console) -> None:
    """As tables."""
    console.print(found["command"], style="bold", soft_wrap=True)
    console.print(", ".join(f"{name} {value}" for name, value in found["machine"].items()), style="dim", soft_wrap=True)
    columns = ("requests/s", "spread", "p50 ms", "p99 ms", "readings/s", "CPU s per million: service", "Valkey")
    figures = Table("figure", *map(_right, columns))
    for one in found["figures"].values():
        figures.add_row(one["title"], *_cells(one))
    console.print(figures)
    compared = Table("figure or ratio, by round", *map(_right, ("median", "spread")), "bar", "aim")
    for one in found["bars"]:
        compared.add_row(
            one["title"], _number(one["value"]["median"]), _range(one["value"]), _asked(one), _number(one["aim"])
        )
    console.print(compared)
    taken = Table("state", *map(_right, ("bytes, key and all", "bytes of the value")))
    for one in found["sizes"].values():
        taken.add_row(one["title"], _number(one["bytes"]), _number(one["value_bytes"]))
    console.print(taken)


def section(found: Mapping[str, Any]) -> str:
    """The figures of ``docs/performance.md``, between its marks."""
    about = found["machine"]
    lines = [
        _START,
        f"Measured on {found['measured_on']} with `{found['command']}`, on {about['cores']} cores "
        f"({about['processor']}, {about['system']}), where an fsync takes {about['fsync_ms']} ms, with Python "
        f"{about['python']} and Valkey {about['valkey']}. wrk drives the load from the same cores: 64 clients "
        "that keep their connections, on 200 streams; 8 for 10,000 readings at once. "
        "The figures are medians of interleaved rounds; the ratios hold better than the rates.",
        "",
        "| figure | median | spread | bar | aim |",
        "|---|---|---|---|---|",
        *(
            f"| {one['title']} | {_number(one['value']['median'])} | {_range(one['value'])} | {_asked(one)} | "
            f"{_number(one['aim'])} |"
            for one in found["bars"]
        ),
        "",
        "| load | requests/s | spread | p50 ms | p99 ms | readings/s | CPU s per million readings: service | Valkey |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {one['title']} | {' | '.join(_cells(one))} |" for one in found["figures"].values()),
        "",
        "| state | bytes in Valkey, key and all | bytes of the value |",
        "|---|---|---|",
        *(
            f"| {one['title']} | {_number(one['bytes'])} | {_number(one['value_bytes'])} |"
            for one in found["sizes"].values()
        ),
        _END,
    ]
    return "\n".join(lines)


def replace_section(readme: str, found: Mapping[str, Any]) -> str:
    """``readme`` with this run's section in the place of the last one's."""
    before, _, rest = readme.partition(_START)
    _, _, after = rest.partition(_END)
    return before + section(found) + after


def _cells(one: Mapping[str, Any]) -> list[str]:
    rate = one["requests_per_second"]
    others = ("p50_ms", "p99_ms", "readings_per_second", "service_seconds_per_million", "valkey_seconds_per_million")
    return [
        _number(rate["median"]),
        _range(rate),
        *(_number(one[name]["median"] if name in one else None) for name in others),
    ]


def _asked(one: Mapping[str, Any]) -> str:
    if one["met"] is None:
        return ""
    side, value = ("at least", one["at_least"]) if one["at_least"] is not None else ("at most", one["at_most"])
    return f"{side} {_number(value)}: {'met' if one['met'] else 'missed'}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _range(spread: Mapping[str, float]) -> str:
    return (
        "" if spread["lowest"] == spread["highest"] else f"{_number(spread['lowest'])} to {_number(spread['highest'])}"
    )


def _right(title: str) -> Column:
    return Column(title, justify="right")


def _compared(bar: Bar, found: Found) -> dict[str, Any]:
    value = _spread(bar.values(found))
    asked = {"at_least": bar.at_least, "at_most": bar.at_most, "aim": bar.aim}
    return {"title": bar.title, "value": value, **asked, "met": bar.is_met(value["median"])}


def _spread(values: Sequence[float]) -> dict[str, float]:
    found = {"median": median(values), "lowest": min(values), "highest": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _processor() -> str:
    """The processor's name where the system tells it; Linux does not tell Python."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor()


def _valkey() -> str:
    output = subprocess.run([server_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    numbered = re.search(r"\bv=(\S+)", output)
    return numbered[1] if numbered else output.strip()


def _fsync() -> float:
    """Seconds that a small write and its fsync take where the streams are kept: next to nothing, if that is memory."""
    taken = []
    with disk_directory() as directory, (directory / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            start = time.perf_counter()
            file.write(b"." * 4096)
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - start)
    return median(taken)
