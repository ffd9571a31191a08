"""What a run found: the machine, the table, and the JSON that the README's figures come from."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Column, Table

from benchmarks.plan import RATIOS, Measurement, Ratio, ratios
from benchmarks.targets import disk_directory
from service.embedded import server_binary


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
        **{package: version(package) for package in ("uvicorn", "uvloop", "httptools", "fastapi", "redis", "hiredis")},
    }


def results(plan: list[Measurement], machine: dict[str, Any], settings: dict[str, int]) -> dict[str, Any]:
    """Everything, in the form of the JSON file."""
    figures = {
        one.name: {
            "title": one.title,
            "per_second": _spread(one.rates, 0),
            "p50_ms": _spread([sample.p50 for sample in one.samples], 2),
            "p99_ms": _spread([sample.p99 for sample in one.samples], 2),
        }
        for one in plan
    }
    by_name = {one.name: one for one in plan}
    options = " ".join(f"--{name} {value}" for name, value in settings.items())
    return {
        "command": f'make bench ARGS="{options}"',
        "measured_on": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "settings": settings,
        "figures": figures,
        "ratios": [_compared(ratio, by_name) for ratio in RATIOS],
    }


def write(found: dict[str, Any], path: Path) -> None:
    """As indented JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")


def show(found: dict[str, Any], console: Console) -> None:
    """As tables."""
    console.print(found["command"], style="bold", soft_wrap=True)
    console.print(", ".join(f"{name} {value}" for name, value in found["machine"].items()), style="dim", soft_wrap=True)
    figures = Table("figure", *(_right("per second"), _right("spread"), _right("p50 ms"), _right("p99 ms")))
    for one in found["figures"].values():
        rate = one["per_second"]
        figures.add_row(
            one["title"],
            f"{rate['median']:,.0f}",
            f"{rate['lowest']:,.0f} to {rate['highest']:,.0f}",
            f"{one['p50_ms']['median']:.1f}",
            f"{one['p99_ms']['median']:.1f}",
        )
    console.print(figures)
    compared = Table("ratio, by round", _right("median"), _right("spread"), "bar")
    for one in found["ratios"]:
        compared.add_row(
            f"{found['figures'][one['figure']]['title']} / {found['figures'][one['reference']]['title']}",
            f"{one['ratio']['median']:.2f}",
            f"{one['ratio']['lowest']:.2f} to {one['ratio']['highest']:.2f}",
            "" if one["bar"] is None else f"at least {one['bar']}: {'met' if one['met'] else '[bold red]missed[/]'}",
        )
    console.print(compared)


def _right(title: str) -> Column:
    return Column(title, justify="right", no_wrap=True)


def _compared(ratio: Ratio, by_name: dict[str, Measurement]) -> dict[str, Any]:
    spread = _spread(ratios(by_name[ratio.figure], by_name[ratio.reference]), 3)
    met = None if ratio.bar is None else spread["median"] >= ratio.bar
    return {"figure": ratio.figure, "reference": ratio.reference, "ratio": spread, "bar": ratio.bar, "met": met}


def _spread(values: Sequence[float], digits: int) -> dict[str, float]:
    found = {"median": median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


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
