"""Metrics with several workers, and as the real Prometheus reads them."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from tempfile import mkdtemp
from typing import Any
from urllib.request import Request, urlopen

import httpx
import pytest
from prometheus_client import parser

from tests.support import calls
from tests.support.paths import ROOT
from tests.support.servers import Service, eventually, service, short_directory

DASHBOARD = ROOT / "docs" / "grafana-dashboard.json"
SHM = Path("/dev/shm")


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    """A service of two workers, used by nobody else."""
    with service("--workers", "2") as started:
        yield started


def scrape(running: Service, path: str = "/metrics") -> list[tuple[str, dict[str, str], float]]:
    with urlopen(running.url + path, timeout=20) as reply:  # On a connection of its own, so any worker answers.
        text = reply.read().decode()
    return [
        (one.name, one.labels, one.value)
        for family in parser.text_string_to_metric_families(text)
        for one in family.samples
    ]


def total(running: Service, name: str, **labels: str) -> float:
    return sum(value for one, has, value in scrape(running) if one == name and labels.items() <= has.items())


def post(running: Service, stream: str, value: Any) -> None:
    body = json.dumps({"value": value}).encode()
    url = f"{running.url}/v1/streams/{stream}/readings"
    urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=20).close()


def test_the_counters_of_two_workers_are_one_sum_whichever_answers(running: Service) -> None:
    route = {"route": "/v1/streams/{stream}/readings", "status": "200"}
    before = total(running, "meanwhile_requests_total", **route)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: post(running, f"worker-test/{i % 7}", float(i)), range(200)))
    seen = {
        (
            total(running, "meanwhile_requests_total", **route) - before,
            total(running, "meanwhile_readings_recorded_total"),
        )
        for _ in range(20)
    }
    assert [200.0] == [requests for requests, _ in seen]


def test_what_workers_share_is_removed_when_the_service_stops_or_by_the_next_one() -> None:
    if not os.access(SHM, os.W_OK):
        pytest.skip("there is no /dev/shm here")
    left = Path(mkdtemp(prefix="meanwhile-", dir=SHM))  # As a service that was killed, workers and all, leaves it.
    (left / "0.cells").touch()
    os.utime(left, (0, 0))
    with service("--workers", "2") as started:
        assert started.process is not None
        parent = started.process.pid
        eventually(lambda: len(_mapped(parent)) == 2)  # The first worker answers while the second one starts.
        shared = _mapped(parent)
        assert not left.exists()
        assert all(Path(file).exists() for file in shared)
        assert 0 == started.stop()
        assert not any(Path(file).parent.exists() for file in shared)


def _mapped(parent: int) -> set[str]:
    """The files in which the workers of a service count."""
    maps = [path.read_text() for pid in _children(parent) if (path := Path(f"/proc/{pid}/maps")).exists()]
    return {line.split()[-1] for text in maps for line in text.splitlines() if line.endswith(".cells")}


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


@contextmanager
def prometheus(target: str) -> Iterator[str]:
    """The URL of a real Prometheus that scrapes ``target`` five times a second, both of its paths."""
    binary = which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed; on Debian: apt install prometheus")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    jobs = [
        {"job_name": name, "metrics_path": path, "static_configs": [{"targets": [target]}]}
        for name, path in (("service", "/metrics"), ("streams", "/metrics/streams"))
    ]
    with short_directory() as directory:
        config = directory / "prometheus.yml"  # JSON is YAML.
        config.write_text(json.dumps({"global": {"scrape_interval": "200ms"}, "scrape_configs": jobs}))
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(binary, f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"),
                    *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
                ],
                stdout=log,
                stderr=log,
            )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def test_the_real_prometheus_reads_the_averages_and_answers_queries_about_them(running: Service) -> None:
    values = [0.1, 0.2, 0.3, 1e-3]
    for value in values:
        post(running, "plant/boiler", value)
    post(running, "plant/pump", {"flow": 2.5, "axes": [1.0, 3.0]})
    with prometheus(running.url.removeprefix("http://")) as url:
        client = calls.client(base_url=url, timeout=10)

        def query(text: str) -> list[dict[str, Any]]:
            try:
                reply = client.get("/api/v1/query", params={"query": text})
            except httpx.TransportError:
                return []
            if reply.status_code == 503:
                return []
            assert 200 == reply.status_code, reply.text
            result: list[dict[str, Any]] = reply.json()["data"]["result"]
            return result

        def values_of(text: str) -> list[float]:
            return [float(one["value"][1]) for one in query(text)]

        average = calls.get(f"{running.url}/v1/streams/plant/boiler/average").json()["average"]
        eventually(lambda: [average] == values_of('meanwhile_average{stream="plant/boiler"}'), seconds=40)
        assert [4.0] == values_of('meanwhile_readings_total{stream="plant/boiler"}')
        assert [3.0] == values_of('meanwhile_average{component="axes/1"}')
        assert [2.5] == values_of('meanwhile_average{stream="plant/pump", component="flow"}')
        eventually(lambda: values_of("sum(meanwhile_readings_recorded_total)") != [])
        assert [1.0, 1.0] == values_of("up")
        # A query of the dashboard that Prometheus cannot parse is answered with 400.
        for expression in expressions():
            query(expression)
        client.close()


def expressions() -> list[str]:
    """The queries of the dashboard, with values for the variables of Grafana."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return [one.replace("$__rate_interval", "1m").replace("$stream", ".*") for one in found]


def test_every_metric_that_the_dashboard_queries_exists(running: Service) -> None:
    post(running, "dashboard/test", 1.0)
    exported = {name for path in ("/metrics", "/metrics/streams") for name, _, _ in scrape(running, path)}
    queried = {name for one in expressions() for name in re.findall(r"\bmeanwhile_\w+", one)}
    assert queried
    assert set() == queried - exported


def test_every_label_that_the_dashboard_queries_exists(running: Service) -> None:
    labels = {
        label for path in ("/metrics", "/metrics/streams") for _, has, _ in scrape(running, path) for label in has
    }
    used = {
        label.strip()
        for one in expressions()
        for found in re.findall(r"by \(([^)]*)\)|(\w+)=~?\"", one)
        for label in (found[0] or found[1]).split(",")
    }
    assert set() == used - labels - {"component"}
