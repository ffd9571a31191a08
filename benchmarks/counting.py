"""What counting a request costs: ``python -m benchmarks.counting``.

Ours in memory and on a mapped file, beside a Counter and a Histogram of prometheus-client, alone and in its
multiprocess mode. Best of five rounds each; nothing here touches a disk.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

OURS = "from service.counters import Counters; f = Counters({}).route('POST', '/').answered"
THEIRS = (
    "from prometheus_client import CollectorRegistry, Counter, Histogram; r = CollectorRegistry(); "
    "c = Counter('c', 'c', ['route', 'status'], registry=r); h = Histogram('h', 'h', ['route', 'status'], registry=r)"
)
LABELLED = "c.labels('/', '200').inc(); h.labels('/', '200').observe(0.001)"


def measure(name: str, setup: str, statement: str, **environment: str) -> None:
    """Prints the line of ``python -m timeit``, in a process of its own."""
    command = [sys.executable, "-m", "timeit", "-s", setup, statement]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)
    print(f"{name:45} {done.stdout.strip()}")


def main() -> None:
    """Prints four lines."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
        shared = f"__import__('pathlib').Path({directory!r})"
        measure("ours, one worker", OURS.format(None), "f(200, 0.001)")
        measure("ours, several workers", OURS.format(shared), "f(200, 0.001)")
        measure("prometheus-client, one worker", THEIRS, LABELLED)
        measure("prometheus-client, several workers", THEIRS, LABELLED, PROMETHEUS_MULTIPROC_DIR=directory)


if __name__ == "__main__":
    main()
