"""Time series databases, each started on the loopback interface and filled with one value a millisecond."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.accuracy.peer import Answer, Answers, Peer
from tests.support.servers import eventually, free_port

_START = 1_699_999_200  # Seconds. A multiple of two hours, so that all values are in one block or shard.
_LINES = 10_000  # Of line protocol, in a request.


def prometheus() -> Peer | None:
    """Returns Prometheus, or None if it is not installed. Its deviation is that of the population."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        return None
    return Peer(
        "Prometheus",
        _version("prometheus", "--version"),
        "`avg_over_time`, `stddev_over_time` (of the population)",
        "every value",
        _prometheus,
        is_population=True,
    )


def _prometheus(series: Mapping[str, Sequence[float]]) -> Answers:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path:
        directory = Path(path)
        with (directory / "text").open("w") as file:
            file.write("# TYPE reading gauge\n")
            for number, values in enumerate(series.values()):
                file.writelines(
                    f'reading{{series="{number}"}} {value!r} {_START + i // 1000}.{i % 1000:03}\n'
                    for i, value in enumerate(values, 1)
                )
            file.write("# EOF\n")
        (directory / "config.yml").write_text("")
        load = ("promtool", "tsdb", "create-blocks-from", "openmetrics", directory / "text", directory / "data")
        subprocess.run(load, capture_output=True, check=True)
        port = free_port()
        command = [
            "prometheus",
            f"--config.file={directory}/config.yml",
            f"--storage.tsdb.path={directory}/data",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with _running(command, f"http://127.0.0.1:{port}", "/-/ready") as client:

            def query(function: str, number: int, count: int) -> float:
                expression = f'{function}(reading{{series="{number}"}}[{count}ms])'
                time = f"{_START + count // 1000}.{count % 1000:03}"
                reply = client.post("/api/v1/query", data={"query": expression, "time": time}).raise_for_status()
                (result,) = reply.json()["data"]["result"]
                return float(result["value"][1])

            return {
                name: Answer(*(query(f"{kind}_over_time", number, len(values)) for kind in ("avg", "stddev")))
                for number, (name, values) in enumerate(series.items())
            }


def influxdb() -> Peer | None:
    """Returns InfluxDB 1.x, or None if it is not installed."""
    if shutil.which("influxd") is None:
        return None
    return Peer("InfluxDB", _version("influxd", "version"), "`MEAN(x)`, `STDDEV(x)`", "every value", _influxdb)


def _influxdb(series: Mapping[str, Sequence[float]]) -> Answers:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        port = free_port()
        (Path(directory) / "config").write_text(f"""
reporting-disabled = true
bind-address = "127.0.0.1:{free_port()}"
[meta]
dir = "{directory}/meta"
[data]
dir = "{directory}/data"
wal-dir = "{directory}/wal"
[http]
bind-address = "127.0.0.1:{port}"
log-enabled = false
[monitor]
store-enabled = false
""")
        command = ["influxd", "run", "-config", f"{directory}/config"]
        with _running(command, f"http://127.0.0.1:{port}", "/ping") as client:
            client.post("/query", data={"q": "CREATE DATABASE d"}).raise_for_status()
            found = {}
            for number, (name, values) in enumerate(series.items()):
                for start in range(0, len(values), _LINES):
                    lines = "\n".join(
                        f"m{number} x={value!r} {_START * 1000 + i}"
                        for i, value in enumerate(values[start : start + _LINES], start)
                    )
                    client.post("/write", params={"db": "d", "precision": "ms"}, content=lines).raise_for_status()
                query = {"db": "d", "q": f"SELECT COUNT(x), MEAN(x), STDDEV(x) FROM m{number}"}
                reply = client.get("/query", params=query).raise_for_status()
                ((_, count, mean, deviation),) = reply.json()["results"][0]["series"][0]["values"]
                assert count == len(values)
                found[name] = Answer(mean, deviation)
            return found


@contextmanager
def _running(command: Sequence[str], url: str, ready: str) -> Iterator[httpx.Client]:
    """Starts a server and yields a client of it once ``ready`` answers; stops the server at the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            eventually(_answers(client, ready), 30)
            yield client
    finally:
        process.terminate()
        process.wait(30)


def _answers(client: httpx.Client, path: str) -> Callable[[], bool]:
    def does() -> bool:
        try:
            return client.get(path).is_success
        except httpx.TransportError:
            return False

    return does


def _version(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"\d+\.\d+[\w.~]*", ran.stdout + ran.stderr)
    assert found is not None
    return found[0]
