"""The clients of InfluxDB, unmodified, against the real service: points, batches, gzip, and sending again after 503."""

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Timer
from typing import Any

import pytest
from influxdb import InfluxDBClient as InfluxDB1
from influxdb.exceptions import InfluxDBClientError, InfluxDBServerError
from influxdb_client import InfluxDBClient, Point, WriteOptions, WritePrecision
from influxdb_client.client.write.retry import WritesRetry
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from meanwhile.api.key_file import digest_of
from tests.support import calls
from tests.support.servers import Service, Valkey, service, valkey

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = f'[[key]]\nscopes = ["write", "read"]\nsha256 = "{digest_of(b"secret")}"\n'


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with valkey() as started:
        yield started


@pytest.fixture(scope="module")
def running(server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(KEY)
    with service("--api-keys", str(keys), MEANWHILE_REDIS_URL=server.url, MEANWHILE_REDIS_TIMEOUT="2") as started:
        yield started
        assert "Traceback" not in started.log


def stream(running: Service, name: str) -> dict[str, Any]:
    reply = calls.get(f"{running.url}/v1/streams/{name}", headers={"x-api-key": "secret"})
    found: dict[str, Any] = reply.raise_for_status().json()
    return found


def client_2(running: Service, **options: Any) -> InfluxDBClient:
    return InfluxDBClient(running.url, token=options.pop("token", "secret"), org="any", **options)


def client_1(running: Service, **options: Any) -> InfluxDB1:
    return InfluxDB1("127.0.0.1", running.port, "any", options.pop("password", "secret"), "db", **options)


def points(measurement: str, n: int) -> list[Point]:
    return [
        Point(measurement)
        .tag("room", "big room")
        .field("t", i / 2)
        .field("ok", True)
        .time(START + timedelta(seconds=i))
        for i in range(n)
    ]


@pytest.mark.parametrize("enable_gzip", [False, True])
def test_influxdb_client_writes_points_of_every_precision(running: Service, enable_gzip: bool) -> None:
    measurement = f"sync{enable_gzip}"
    with client_2(running, enable_gzip=enable_gzip) as client:
        assert client.ping()
        assert client.version().startswith("2.7.0-meanwhile")
        write = client.write_api(SYNCHRONOUS)
        for precision in (WritePrecision.NS, WritePrecision.US, WritePrecision.MS, WritePrecision.S):
            write.write("any", record=points(measurement, 10), write_precision=precision)
        write.write("any", record={"measurement": measurement, "tags": {"room": "big room"}, "fields": {"t": 1}})
        write.write("any", record=f"{measurement},room=big\\ room t=2i")
    found = stream(running, f"{measurement}/big~20room/t")
    assert (42, "2026-01-01T00:00:00.000Z") == (found["count"], found["first_reading_at"])
    assert (4 * 22.5 + 3) / 42 == found["average"]


def test_influxdb_client_writes_in_batches(running: Service) -> None:
    options = WriteOptions(batch_size=100, flush_interval=50)
    with client_2(running, enable_gzip=True) as client, client.write_api(options) as write:
        for point in points("batches", 950):
            write.write("any", record=point)
    assert 950 == stream(running, "batches/big~20room/t")["count"]


def test_influxdb_client_raises_what_it_raises_with_influxdb(running: Service) -> None:
    with client_2(running) as client, pytest.raises(ApiException) as refused:
        client.write_api(SYNCHRONOUS).write("any", record="good f=1\nbad f=\ngood f=2")
    assert 400 == refused.value.status
    assert refused.value.message.startswith("partial write: line 2: ")
    assert 2 == stream(running, "good/f")["count"]
    with client_2(running, token="wrong") as client, pytest.raises(ApiException) as unauthorized:
        client.write_api(SYNCHRONOUS).write("any", record="good f=1")
    assert (401, "unauthorized access") == (unauthorized.value.status, unauthorized.value.message)


def test_influxdb_client_sends_again_until_redis_is_back(running: Service, server: Valkey) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The client warns of its retries.
        server.kill()
        timer = Timer(1, server.start)
        timer.start()
        try:
            retries = WritesRetry(
                total=8, allowed_methods={"POST"}, retry_interval=1, exponential_base=1, max_retry_delay=1
            )
            with client_2(running, retries=retries) as client:
                client.write_api(SYNCHRONOUS).write("any", record=points("again", 20))
        finally:
            timer.join()
    assert 20 == stream(running, "again/big~20room/t")["count"]


def test_influxdb_1_writes_points_and_lines_and_sends_again(running: Service, server: Valkey) -> None:
    rows = [
        {
            "measurement": "one",
            "tags": {"room": "a"},
            "time": START.isoformat(),
            "fields": {"t": float(i), "s": "x", "n": i},
        }
        for i in range(250)
    ]
    client = client_1(running, gzip=True)
    assert client.ping().startswith("2.7.0-meanwhile")
    assert client.write_points(rows, time_precision="ms", batch_size=100)
    assert client.write_points([])  # As Home Assistant tests its connection.
    assert client_1(running).write_points(["one,room=a t=1", "one,room=a t=2 1767225600000000000"], protocol="line")
    assert (252, 250) == (stream(running, "one/a/t")["count"], stream(running, "one/a/n")["count"])
    with pytest.raises(InfluxDBClientError, match=r"401: .*unauthorized"):
        client_1(running, password="wrong").write_points(rows)
    with pytest.raises(InfluxDBClientError, match=r"400: .*partial write: line 2"):
        client.write_points(["one,room=a t=1", "bad"], protocol="line")

    server.kill()
    with pytest.raises(InfluxDBServerError, match=r"503|not available|unavailable"):
        client.write_points(rows)
    server.start()
    assert client.write_points(rows)
    assert 503 == stream(running, "one/a/t")["count"]
