"""What Prometheus reads: the service's own metrics, and those of its streams."""

import asyncio
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import pytest
from prometheus_client import parser
from redis.asyncio import Redis

from meanwhile.api.key_file import key_entry, new_secret
from meanwhile.api.problems import REASONS
from meanwhile.api.routes.metrics import MAX_AVERAGES
from meanwhile.core.readings import Limits
from tests.conftest import Api
from tests.support.paths import VERSION_1

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(reply: httpx.Response) -> Samples:
    """The samples of a reply by name and labels; each once."""
    assert 200 == reply.status_code, reply.text
    found = [
        (one.name, frozenset(one.labels.items()), one.value)
        for family in parser.text_string_to_metric_families(reply.text)
        for one in family.samples
    ]
    by_name = {(name, labels): value for name, labels, value in found}
    assert len(found) == len(by_name)
    return by_name


def value(read: Samples, name: str, **labels: str) -> float | None:
    return read.get((name, frozenset(labels.items())))


async def scrape(client: httpx.AsyncClient, path: str = "/metrics", **headers: str) -> Samples:
    return samples(await client.get(path, headers=headers))


async def post(client: httpx.AsyncClient, stream: str, *values: Any, **headers: str) -> int:
    url = f"/v1/streams/{stream}/readings"
    return (await client.post(url, json={"values": values}, headers=headers)).status_code


async def test_requests_are_counted_by_method_route_and_status(client: httpx.AsyncClient) -> None:
    route = {"method": "POST", "route": "/v1/streams/{stream}/readings"}
    for stream in ("a", "b/c", "d"):
        assert 200 == await post(client, stream, 1.0)
    assert 422 == await post(client, "a", "1")
    read = await scrape(client)
    assert 3.0 == value(read, "meanwhile_requests_total", **route, status="200")
    assert 1.0 == value(read, "meanwhile_requests_total", **route, status="422")
    assert 3.0 == value(read, "meanwhile_request_duration_seconds_count", **route, status="200")
    assert 3.0 == value(read, "meanwhile_request_duration_seconds_bucket", **route, status="200", le="+Inf")
    total = value(read, "meanwhile_request_duration_seconds_sum", **route, status="200")
    assert total is not None
    assert 0 < total < 60


async def test_no_label_has_what_a_client_sent(client: httpx.AsyncClient) -> None:
    await client.get("/secret-path")
    await client.request("SECRET", "/v1/streams")
    await post(client, "secret", 1.0)
    await client.get("/v1/streams/secret")
    reply = await client.get("/metrics")
    assert "secret" not in reply.text.lower()
    read = samples(reply)
    assert 1.0 == value(read, "meanwhile_requests_total", method="other", route="other", status="404")
    assert 1.0 == value(read, "meanwhile_requests_total", method="other", route="other", status="405")


async def test_readings_duplicates_and_commits_are_counted(client: httpx.AsyncClient) -> None:
    await post(client, "a", 1.0, 2.0, 3.0, **{"Idempotency-Key": "p:1"})
    await post(client, "a", 1.0, 2.0, 3.0, **{"Idempotency-Key": "p:1"})
    await post(client, "a", [1.0])
    read = await scrape(client)
    assert 3.0 == value(read, "meanwhile_readings_recorded_total")
    assert 3.0 == value(read, "meanwhile_readings_duplicate_total")
    assert 0.0 == value(read, "meanwhile_readings_waiting")
    assert 3.0 == value(read, "meanwhile_commit_readings_count")
    assert 7.0 == value(read, "meanwhile_commit_readings_sum")
    assert 1.0 == value(read, "meanwhile_commit_readings_bucket", le="2.0")
    assert 3.0 == value(read, "meanwhile_commit_duration_seconds_count")


async def test_refusals_are_counted_by_reason(client: httpx.AsyncClient) -> None:
    await post(client, "a", 1.0)
    await post(client, "a", [1.0])
    await client.get("/nothing")
    await client.delete("/v1/readings")
    await client.get("/v1/streams/none")
    read = await scrape(client)
    counts = {reason: value(read, "meanwhile_refusals_total", reason=reason) for reason in REASONS}
    seen = {"shape-conflict", "not-found", "method-not-allowed", "no-such-stream"}
    assert {reason: float(reason in seen) for reason in REASONS} == counts


async def test_commands_that_redis_did_not_carry_out_are_counted(api: Api) -> None:
    client = await api(redis_url="unix:///nowhere/v.sock")
    assert 503 == await post(client, "a", 1.0)
    read = await scrape(client)
    count = value(read, "meanwhile_redis_errors_total", outcome="unavailable")
    assert count is not None
    assert count >= 1
    assert 0.0 == value(read, "meanwhile_redis_errors_total", outcome="unknown")


async def test_streams_have_their_average_count_and_time(client: httpx.AsyncClient) -> None:
    await client.post("/v1/readings", json={"a/b": {"value": 0.1, "time": 12.5}, "c": {"values": [1, 2]}})
    read = await scrape(client, "/metrics/streams")
    assert 0.1 == value(read, "meanwhile_average", stream="a/b")
    assert 1.5 == value(read, "meanwhile_average", stream="c")
    assert 2.0 == value(read, "meanwhile_latest", stream="c")
    assert 2.0 == value(read, "meanwhile_readings_total", stream="c")
    assert 12.5 == value(read, "meanwhile_last_reading_timestamp_seconds", stream="a/b")
    assert 0.0 == value(read, "meanwhile_streams_truncated")


@pytest.mark.parametrize(("metric", "plus"), [("meanwhile_average", 0.0), ("meanwhile_latest", 1.0)])
async def test_vectors_and_objects_have_an_average_and_a_latest_number_for_each_component(
    client: httpx.AsyncClient, metric: str, plus: float
) -> None:
    for shift in (-1.0, 1.0):
        await post(client, "vector", [1.0 + shift, 2.0 + shift])
        await post(client, "object", {"key": [3.0 + shift], "a/b~": 4.0 + shift})
    read = await scrape(client, "/metrics/streams")
    numbers = {
        (dict(labels)["stream"], dict(labels)["component"]): one - plus
        for (name, labels), one in read.items()
        if name == metric
    }
    assert {("vector", "0"): 1.0, ("vector", "1"): 2.0, ("object", "key/0"): 3.0, ("object", "a~1b~0"): 4.0} == numbers


async def test_a_latest_number_that_is_not_known_is_left_out(api: Api, redis: "Redis", prefix: str) -> None:
    client = await api(prefix=prefix)
    await redis.set(f"{prefix}:stream:old", (VERSION_1 / "number.msgpack").read_bytes())
    await post(client, "new", 7.0)
    read = await scrape(client, "/metrics/streams")
    assert {"old", "new"} == {dict(labels)["stream"] for name, labels in read if name == "meanwhile_average"}
    assert {"new": 7.0} == {
        dict(labels)["stream"]: one for (name, labels), one in read.items() if name == "meanwhile_latest"
    }
    text = (await client.get("/metrics/streams")).text
    assert (
        "# HELP meanwhile_latest Value of the latest reading of the stream, if it is known.\n"
        "# TYPE meanwhile_latest gauge\n" in text
    )


async def test_a_name_inside_an_object_may_have_any_printable_character(client: httpx.AsyncClient) -> None:
    await post(client, "odd", {'quo"te\\': 1.0, "grüße 🌡": 2.0})
    read = await scrape(client, "/metrics/streams")
    assert 1.0 == value(read, "meanwhile_average", stream="odd", component='quo"te\\')
    assert 2.0 == value(read, "meanwhile_average", stream="odd", component="grüße 🌡")


async def test_streams_can_be_chosen_by_prefix(client: httpx.AsyncClient) -> None:
    for stream in ("a/1", "a/2", "b/1"):
        await post(client, stream, 1.0)
    read = await scrape(client, "/metrics/streams?prefix=a/")
    assert {"a/1", "a/2"} == {dict(labels)["stream"] for name, labels in read if name == "meanwhile_average"}


@pytest.mark.parametrize(("limit", "streams", "truncated"), [(4, 4, 0.0), (3, 3, 1.0), (1, 1, 1.0)])
async def test_what_is_cut_says_so(client: httpx.AsyncClient, limit: int, streams: int, truncated: float) -> None:
    await client.post("/v1/readings", json={f"s{i}": {"value": i} for i in range(4)})
    read = await scrape(client, f"/metrics/streams?limit={limit}")
    assert streams == sum(name == "meanwhile_readings_total" for name, _ in read)
    assert truncated == value(read, "meanwhile_streams_truncated")


async def test_a_vector_counts_with_each_component_against_the_limit(client: httpx.AsyncClient) -> None:
    await post(client, "v", [0.0] * 10)
    assert 0.0 == value(await scrape(client, "/metrics/streams?limit=10"), "meanwhile_streams_truncated")
    read = await scrape(client, "/metrics/streams?limit=9")
    assert {"meanwhile_streams_truncated"} == {name for name, _ in read}
    assert 1.0 == value(read, "meanwhile_streams_truncated")


async def test_a_thousand_streams_are_all_there(client: httpx.AsyncClient) -> None:
    await client.post("/v1/readings", json={f"s/{i}": {"value": i} for i in range(1_000)})
    read = await scrape(client, "/metrics/streams")
    assert [float(i) for i in range(1_000)] == [value(read, "meanwhile_average", stream=f"s/{i}") for i in range(1_000)]


async def test_a_state_that_cannot_be_read_hides_no_other(
    client: httpx.AsyncClient, redis: "Redis", prefix: str
) -> None:
    await redis.set(f"{prefix}:stream:bad", b"x")
    await post(client, "good", 1.0)
    assert 1.0 == value(await scrape(client, "/metrics/streams"), "meanwhile_average", stream="good")


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "limit=1&limit=2", "prefix=*", "prefix=%00"])
async def test_queries_that_make_no_sense_are_refused(client: httpx.AsyncClient, query: str) -> None:
    assert 422 == (await client.get(f"/metrics/streams?{query}")).status_code


async def test_streams_are_503_while_redis_is_away_and_the_own_metrics_are_not(api: Api) -> None:
    client = await api(redis_url="unix:///nowhere/v.sock")
    assert 503 == (await client.get("/metrics/streams")).status_code
    assert 200 == (await client.get("/metrics")).status_code


@pytest.fixture
async def guarded(api: Api, tmp_path: Path) -> tuple[httpx.AsyncClient, dict[str, str]]:
    """A client of a service with keys, and the keys: with the scopes read and write, and one for a prefix."""
    keys = {name: new_secret() for name in ("read", "write", "plant")}
    file = tmp_path / "keys.toml"
    scopes = {"read": ["read"], "write": ["write"], "plant": ["read", "write"]}
    file.write_text(
        "\n".join(key_entry(name, scopes[name], "plant/" * (name == "plant"), key) for name, key in keys.items())
    )
    return await api(api_keys=file), keys


@pytest.mark.parametrize("path", ["/metrics", "/metrics/streams"])
async def test_both_need_the_scope_read(guarded: tuple[httpx.AsyncClient, dict[str, str]], path: str) -> None:
    client, keys = guarded
    assert 401 == (await client.get(path)).status_code
    assert 403 == (await client.get(path, headers={"X-API-Key": keys["write"]})).status_code
    assert 200 == (await client.get(path, headers={"X-API-Key": keys["read"]})).status_code


async def test_a_key_with_a_prefix_sees_the_streams_below_it_only(
    guarded: tuple[httpx.AsyncClient, dict[str, str]],
) -> None:
    client, keys = guarded
    await post(client, "plant/1", 1.0, **{"X-API-Key": keys["write"]})
    await post(client, "other/1", 1.0, **{"X-API-Key": keys["write"]})
    headers = {"X-API-Key": keys["plant"]}
    read = await scrape(client, "/metrics/streams", **headers)
    assert 1.0 == value(read, "meanwhile_average", stream="plant/1")
    assert None is value(read, "meanwhile_average", stream="other/1")
    assert 200 == (await client.get("/metrics/streams?prefix=plant/1", headers=headers)).status_code
    assert 403 == (await client.get("/metrics/streams?prefix=other", headers=headers)).status_code


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=1.0.0,*/*;q=0.1", "application/openmetrics-text; version=1.0.0;"),
        ("application/openmetrics-text;version=;q=x,,;", "application/openmetrics-text; version=1.0.0;"),
    ],
)
async def test_the_form_is_what_prometheus_asks_for(client: httpx.AsyncClient, accept: str, media_type: str) -> None:
    await post(client, "a", 1.0)
    for path in ("/metrics", "/metrics/streams"):
        reply = await client.get(path, headers={"Accept": accept})
        assert 200 == reply.status_code
        assert reply.headers["content-type"].startswith(media_type)
        assert reply.text.endswith("# EOF\n") == media_type.startswith("application/openmetrics")


async def test_promtool_finds_nothing_to_complain_about(client: httpx.AsyncClient) -> None:
    promtool = which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; on Debian: apt install prometheus")
    await post(client, "a/b", 1.0)
    await post(client, "v", [1.0, 2.0])
    await client.get("/nothing")
    for path in ("/metrics", "/metrics/streams"):
        text = (await client.get(path)).text
        checked = await asyncio.to_thread(
            subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30
        )
        assert (0, "") == (checked.returncode, checked.stdout + checked.stderr)


def test_the_largest_value_fits_into_the_largest_answer() -> None:
    assert Limits().components <= MAX_AVERAGES
