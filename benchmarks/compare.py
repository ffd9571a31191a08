"""CPU of requests, of this code against another checkout of it: ``python -m benchmarks.compare DIRECTORY``.

Both services run side by side, each with a Valkey of its own, and take turns under the load of wrk. What counts is the
CPU time that their processes have used a request, by /proc, so that a busy machine changes little; of several rounds,
the median of the ratios.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_POST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local function vector(length, seed)
  local numbers = {}
  for i = 1, length do numbers[i] = string.format("%.6f", math.sin(seed * 1000 + i) * 20) end
  return "[" .. table.concat(numbers, ",") .. "]"
end
local bodies = {}
for seed = 1, 50 do bodies[seed] = '{"value": ' .. BODY .. '}' end
local n = 0
request = function()
  n = n + 1
  return wrk.format(nil, "/v1/streams/NAME/" .. (n % 200) .. "/readings", nil, bodies[n % 50 + 1])
end
"""
_GET = """
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", "/v1/streams/number/" .. (n % 200) .. "/average")
end
"""


def _post(name: str, body: str) -> str:
    return _POST.replace("NAME", name).replace("BODY", body)


SCRIPTS = {
    "POST of a number": _post("number", 'string.format("%.2f", 21 + seed / 100)'),
    "GET of an average": _GET,
    "POST of a pair of 64+64": _post(
        "pair", """'{"key": ' .. vector(64, seed) .. ', "value": ' .. vector(64, seed + 50) .. '}'"""
    ),
    "POST of 1,024 numbers": _post("wide", "vector(1024, seed)"),
}
_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def service(checkout: Path) -> Iterator[tuple[str, int, int]]:
    """The URL of a running service of this checkout, and the processes of its worker and its Valkey."""
    with tempfile.TemporaryDirectory(prefix="mw", dir="/tmp") as directory:
        log = Path(directory) / "log"
        sources = checkout / "service"
        is_packaged = (sources / "meanwhile").is_dir()  # Once the package was named service itself.
        environment = os.environ | {"PYTHONPATH": str(sources if is_packaged else checkout)}
        own = checkout / ".venv" / "bin" / "python"  # It may need other packages.
        python = str(own) if own.exists() else sys.executable
        with log.open("w") as output:
            process = subprocess.Popen(
                [
                    python,
                    "-m",
                    "meanwhile" if is_packaged else "service",
                    "serve",
                    "--port",
                    "0",
                    "--data-dir",
                    f"{directory}/data",
                ],
                cwd=checkout,
                env=environment,
                stdout=output,
                stderr=output,
            )
        try:
            while (found := re.search(r"listens on (http://\S+) ", log.read_text())) is None:
                if process.poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(0.05)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            threads = Path(f"/proc/{process.pid}/task")
            every = [child for task in threads.iterdir() for child in (task / "children").read_text().split()]
            yield found[1], process.pid, int((children or every)[0])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def cpu(process: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def microseconds(url: str, worker: int, valkey: int, script: Path, seconds: int) -> tuple[float, float]:
    """CPU of the worker and of Valkey a request, under load."""
    before = cpu(worker), cpu(valkey)
    command = ["wrk", "-t1", "-c64", f"-d{seconds}s", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+) requests in", output)
    assert found is not None, output
    assert "Non-2xx" not in output, output
    used = cpu(worker) - before[0], cpu(valkey) - before[1]
    return used[0] / int(found[1]) * 1e6, used[1] / int(found[1]) * 1e6


def main() -> None:
    """Prints both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    here = Path(__file__).parent.parent
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [stack.enter_context(service(checkout)) for checkout in (options.before.absolute(), here)]
        for name, script in SCRIPTS.items():
            file = directory / "requests.lua"
            file.write_text(script)
            rounds = []
            for number in range(options.rounds + 1):  # The first one warms up.
                order = sides if number % 2 else sides[::-1]
                found = {url: microseconds(url, worker, valkey, file, options.seconds) for url, worker, valkey in order}
                rounds.append([found[url] for url, _, _ in sides])
            for part, what in enumerate(("worker", "Valkey")):
                pairs = [(one[0][part], one[1][part]) for one in rounds[1:]]
                ratio = statistics.median(after / before for before, after in pairs if before)
                medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
                print(
                    f"{name}, {what}: {medians[0]:.1f} us before, {medians[1]:.1f} us now, ratio {ratio:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
