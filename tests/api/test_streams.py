"""Reading, listing and deleting over HTTP: every reply as a whole, and which form of the average a client gets."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from tests.conftest import Api
from tests.support.paths import VERSION_1

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"


async def everything(client: httpx.AsyncClient, **query: Any) -> list[str]:
    """The names on all pages, after a check that no page is longer than it may be."""
    names: list[str] = []
    cursor: str | None = None
    while True:
        page = (await client.get("/v1/streams", params=query | ({"cursor": cursor} if cursor else {}))).json()
        assert {"streams", "cursor"} == page.keys()
        assert len(page["streams"]) <= query.get("limit", 1_000)
        names += page["streams"]
        cursor = page["cursor"]
        if cursor is None:
            return names


async def test_a_stream_is_everything_known_of_it(client: httpx.AsyncClient) -> None:
    for value, time in ((20.0, "2026-01-01T00:00:00Z"), (23.0, "2026-01-01T00:00:10.5Z"), (20.0, 1767225605)):
        await client.post("/v1/streams/kitchen/temperature/readings", json={"value": value, "time": time})
    reply = await client.get("/v1/streams/kitchen/temperature")
    assert 200 == reply.status_code
    assert "application/json" == reply.headers["content-type"]
    assert {
        "stream": "kitchen/temperature",
        "count": 3,
        "average": 21.0,
        "latest": 23.0,
        "minimum": 20.0,
        "maximum": 23.0,
        "standard_deviation": 1.7320508075688772,
        "first_reading_at": "2026-01-01T00:00:00.000Z",
        "last_reading_at": "2026-01-01T00:00:10.500Z",
    } == reply.json()


@pytest.mark.parametrize("value", [0.0, 21.5, [0.0, 1.0], {"a": 0.0}, {"key": [1.0], "value": [2.0, 3.0]}])
async def test_the_deviation_of_one_reading_is_null(client: httpx.AsyncClient, value: Any) -> None:
    await client.post("/v1/streams/s/readings", json={"value": value, "time": 0})
    assert {
        "stream": "s",
        "count": 1,
        "average": value,
        "latest": value,
        "minimum": value,
        "maximum": value,
        "standard_deviation": None,
        "first_reading_at": "1970-01-01T00:00:00.000Z",
        "last_reading_at": "1970-01-01T00:00:00.000Z",
    } == (await client.get("/v1/streams/s")).json()


@pytest.mark.parametrize(
    ("early", "late"),
    [
        (1.0, -2.5),
        ([0.0, 1.0], [3.0, 0.0]),
        ({"a": 5.0, "b": [1.0]}, {"b": [0.0], "a": 2.0}),
    ],
)
async def test_the_latest_value_is_that_of_the_latest_time_whenever_it_came(
    client: httpx.AsyncClient, early: Any, late: Any
) -> None:
    for value, time in ((early, 10), (late, 20), (early, 19.999)):
        await client.post("/v1/streams/s/readings", json={"value": value, "time": time})
    reply = (await client.get("/v1/streams/s")).json()
    assert (late, "1970-01-01T00:00:20.000Z") == (reply["latest"], reply["last_reading_at"])


async def test_of_equal_times_the_latest_value_is_the_one_committed_last(client: httpx.AsyncClient) -> None:
    for value in (3, 1, 2):
        await client.post("/v1/streams/s/readings", json={"value": value, "time": 20})
    assert 2.0 == (await client.get("/v1/streams/s")).json()["latest"]
    await client.post("/v1/streams/s/readings", json={"values": [5, 9, 4]})
    assert 4.0 == (await client.get("/v1/streams/s")).json()["latest"]


@pytest.mark.parametrize("name", ["one-reading", "array", "object"])
async def test_the_latest_value_of_a_state_of_version_1_is_null_until_a_reading_that_is_not_older(
    api: Api, redis: "Redis", prefix: str, name: str
) -> None:
    client = await api(prefix=prefix)
    await redis.set(f"{prefix}:stream:s", (VERSION_1 / f"{name}.msgpack").read_bytes())
    before = (await client.get("/v1/streams/s")).json()
    assert None is before["latest"]
    await client.post("/v1/streams/s/readings", json={"value": before["maximum"], "time": 0})
    assert None is (await client.get("/v1/streams/s")).json()["latest"]
    reading = {"value": before["minimum"], "time": before["last_reading_at"]}
    await client.post("/v1/streams/s/readings", json=reading)
    assert before["minimum"] == (await client.delete("/v1/streams/s")).json()["latest"]


async def test_an_average_of_zero_is_an_average(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/s/readings", json={"values": [-1, 1]})
    reply = (await client.get("/v1/streams/s")).json()
    assert (0.0, 1.4142135623730951, 2) == (reply["average"], reply["standard_deviation"], reply["count"])
    assert 0.0 == (await client.get("/v1/streams/s/average")).json()["average"]


async def test_the_deviation_of_equal_readings_is_zero(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/s/readings", json={"values": [20.1, 20.1]})
    assert 0.0 == (await client.get("/v1/streams/s")).json()["standard_deviation"]


async def test_the_average_is_flat(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/a/b/readings", json={"value": 1, "time": 10})
    await client.post("/v1/streams/a/b/readings", json={"value": 2, "time": 5})
    reply = await client.get("/v1/streams/a/b/average")
    assert 200 == reply.status_code
    assert "application/json" == reply.headers["content-type"]
    assert {
        "stream": "a/b",
        "average": 1.5,
        "count": 2,
        "last_reading_at": "1970-01-01T00:00:10.000Z",
    } == reply.json()


async def test_the_count_is_the_step_count(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/a/b/readings", json={"values": [[1, 2], [3, 4]]})
    reply = await client.get("/v1/streams/a/b/count")
    assert 200 == reply.status_code
    assert "application/json" == reply.headers["content-type"]
    assert {"stream": "a/b", "count": 2} == reply.json()


async def test_times_in_replies_are_rfc_3339_utc_with_milliseconds(client: httpx.AsyncClient) -> None:
    form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
    await client.post("/v1/streams/s/readings", json={"value": 1})
    state = (await client.get("/v1/streams/s")).json()
    average = (await client.get("/v1/streams/s/average")).json()
    for time in (state["first_reading_at"], state["last_reading_at"], average["last_reading_at"]):
        assert form.fullmatch(time) is not None


@pytest.mark.parametrize(
    "accept",
    [
        "text/plain",
        "TEXT/Plain",
        "text/plain; charset=utf-8",
        "text/plain;q=0.5",
        "text/plain, application/json;q=0.9",
        "application/json;q=0.1, text/plain;q=0.2",
        "text/plain, */*;q=0.1",
        "text/html, text/plain;q=0.9, */*;q=0.8",
        "text/plain, application/json;q=0",
    ],
)
async def test_a_client_that_prefers_plain_text_gets_the_bare_number(client: httpx.AsyncClient, accept: str) -> None:
    await client.post("/v1/streams/s/readings", json={"values": [21, 22]})
    reply = await client.get("/v1/streams/s/average", headers={"accept": accept})
    assert 200 == reply.status_code
    assert "text/plain; charset=utf-8" == reply.headers["content-type"]
    assert b"21.5" == reply.content


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "application/*",
        BROWSER,
        "text/html",
        "image/png",
        "",
        "application/json, text/plain, */*",
        "application/json, text/plain",
        "text/plain;q=0.5, application/json",
        "text/plain;q=0.5, application/json;q=0.6",
        "*/*, text/plain;q=0.1",
        "application/*, text/plain;q=0.1",
        "text/plain;q=0",
        "text/plain;q=0, */*",
        "text/plain;q=x",
        "text/plain;q=nan",
        "text/plainer",
        "application/text/plain",
        ",;,q=,;;",
    ],
)
async def test_every_other_client_gets_json(client: httpx.AsyncClient, accept: str) -> None:
    await client.post("/v1/streams/s/readings", json={"values": [21, 22]})
    reply = await client.get("/v1/streams/s/average", headers={"accept": accept})
    assert 200 == reply.status_code
    assert "application/json" == reply.headers["content-type"]
    assert {"stream", "average", "count", "last_reading_at"} == reply.json().keys()


async def test_a_client_that_says_nothing_of_what_it_accepts_gets_json(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/s/readings", json={"value": 21})
    request = client.build_request("GET", "/v1/streams/s/average")
    del request.headers["accept"]
    assert "application/json" == (await client.send(request)).headers["content-type"]


async def test_accept_in_two_lines_is_one_list(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/s/readings", json={"value": 21})
    two_lines = [("accept", "text/plain;q=0.5"), ("accept", "application/json")]
    for headers in (two_lines, two_lines[::-1]):
        request = client.build_request("GET", "/v1/streams/s/average")
        del request.headers["accept"]
        request.headers = httpx.Headers([*request.headers.multi_items(), *headers])
        assert "application/json" == (await client.send(request)).headers["content-type"]


@pytest.mark.parametrize("value", [0.1, 1e100, -1e-100, 12345678.9, 1e16, [0.1, 2.0], {"a": 0.1, "b": [1.0, 2.0]}])
async def test_plain_text_reads_back_as_the_average_to_the_bit(client: httpx.AsyncClient, value: Any) -> None:
    await client.post("/v1/streams/s/readings", json={"value": value})
    reply = await client.get("/v1/streams/s/average", headers={"accept": "text/plain"})
    assert value == json.loads(reply.text)


async def test_an_error_is_a_problem_even_for_a_client_that_wants_plain_text(client: httpx.AsyncClient) -> None:
    reply = await client.get("/v1/streams/none/average", headers={"accept": "text/plain"})
    assert 404 == reply.status_code
    assert "application/problem+json" == reply.headers["content-type"]


async def test_delete_answers_with_the_last_state_and_forgets_it(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/a/b/readings", json={"value": 1, "time": 0})
    await client.post("/v1/streams/a/b/readings", json={"value": 3, "time": 1})
    await client.post("/v1/streams/a/readings", json={"value": 7})
    reply = await client.delete("/v1/streams/a/b")
    assert 200 == reply.status_code
    assert "application/json" == reply.headers["content-type"]
    assert {
        "stream": "a/b",
        "count": 2,
        "average": 2.0,
        "latest": 3.0,
        "minimum": 1.0,
        "maximum": 3.0,
        "standard_deviation": 1.4142135623730951,
        "first_reading_at": "1970-01-01T00:00:00.000Z",
        "last_reading_at": "1970-01-01T00:00:01.000Z",
    } == reply.json()
    for path in ("", "/average", "/count"):
        assert 404 == (await client.get(f"/v1/streams/a/b{path}")).status_code
    assert 404 == (await client.delete("/v1/streams/a/b")).status_code
    assert ["a"] == await everything(client)


async def test_a_stream_that_was_deleted_starts_again_with_any_shape(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/s/readings", json={"values": [1, 2, 3]})
    await client.delete("/v1/streams/s")
    reply = await client.post("/v1/streams/s/readings", json={"value": {"a": 5, "b": [1]}})
    assert {"stream": "s", "count": 1, "average": {"a": 5.0, "b": [1.0]}} == reply.json()
    assert (await client.get("/v1/streams/s")).json()["standard_deviation"] is None


async def test_read_and_reset_loses_no_reading_and_counts_none_twice(client: httpx.AsyncClient) -> None:
    async def record() -> int:
        return (await client.post("/v1/streams/s/readings", json={"value": 1})).status_code

    async def reset() -> int:
        reply = await client.delete("/v1/streams/s")
        return int(reply.json()["count"]) if reply.status_code == 200 else 0

    resets: list[asyncio.Task[int]] = []
    records: list[asyncio.Task[int]] = []
    for _ in range(20):
        records += [asyncio.create_task(record()) for _ in range(10)]
        resets.append(asyncio.create_task(reset()))
        await records[-1]
    assert [200] * 200 == await asyncio.gather(*records)
    counts = [*await asyncio.gather(*resets), await reset()]
    assert 200 == sum(counts)
    assert sum(count > 0 for count in counts) > 2


async def test_without_streams_the_listing_is_empty(client: httpx.AsyncClient) -> None:
    reply = await client.get("/v1/streams")
    assert 200 == reply.status_code
    assert "application/json" == reply.headers["content-type"]
    assert {"streams": [], "cursor": None} == reply.json()


async def test_the_listing_names_what_exists(client: httpx.AsyncClient) -> None:
    await client.post("/v1/readings", json={"b": {"value": 1}, "a/b": {"value": [1, 2]}})
    reply = (await client.get("/v1/streams")).json()
    assert ["a/b", "b"] == sorted(reply["streams"])
    assert reply["cursor"] is None
    await client.delete("/v1/streams/b")
    assert {"streams": ["a/b"], "cursor": None} == (await client.get("/v1/streams")).json()


async def test_a_prefix_is_the_start_of_the_names_and_never_a_pattern(client: httpx.AsyncClient) -> None:
    names = ["air/co", "air/no2", "airport", "b/air", "a.r/x", "air"]
    await client.post("/v1/readings", json={name: {"value": 1} for name in names})
    assert ["air/co", "air/no2"] == sorted(await everything(client, prefix="air/"))
    assert ["air", "air/co", "air/no2", "airport"] == sorted(await everything(client, prefix="air"))
    assert ["a.r/x"] == await everything(client, prefix="a.r")
    assert ["airport"] == await everything(client, prefix="airport")
    assert [] == await everything(client, prefix="AIR")
    assert sorted(names) == sorted(await everything(client, prefix=""))


@pytest.mark.parametrize("limit", [1, 7, 60, 61, 10_000])
async def test_the_cursor_leads_through_all_names_once(client: httpx.AsyncClient, limit: int) -> None:
    names = [f"n/{i}" for i in range(60)]
    await client.post("/v1/readings", json={name: {"value": 1} for name in [*names, "other"]})
    assert sorted(names) == sorted(await everything(client, prefix="n/", limit=limit))


async def test_a_cursor_names_no_streams_outside_the_prefix(client: httpx.AsyncClient) -> None:
    """A page consisted of whatever names were in the cursor."""
    await client.post("/v1/readings", json={name: {"value": 1} for name in ("p/1", "q/1")})
    for cursor, status in (("0,p/1", 200), ("0,", 200), ("0,q/1", 400), ("0,p/1,q/1", 400), ("0,p", 400)):
        reply = await client.get("/v1/streams", params={"prefix": "p/", "cursor": cursor})
        assert status == reply.status_code
    assert 200 == (await client.get("/v1/streams", params={"cursor": "0,q/1"})).status_code


async def test_pages_are_as_long_as_asked_while_there_are_more(client: httpx.AsyncClient) -> None:
    await client.post("/v1/readings", json={f"n{i}": {"value": 1} for i in range(25)})
    first = (await client.get("/v1/streams", params={"limit": 10})).json()
    second = (await client.get("/v1/streams", params={"limit": 10, "cursor": first["cursor"]})).json()
    third = (await client.get("/v1/streams", params={"limit": 10, "cursor": second["cursor"]})).json()
    assert [10, 10, 5] == [len(page["streams"]) for page in (first, second, third)]
    assert third["cursor"] is None


async def test_a_stream_that_exists_throughout_is_listed_while_others_come_and_go(client: httpx.AsyncClient) -> None:
    kept = {f"kept/{i}" for i in range(50)}
    await client.post("/v1/readings", json={name: {"value": 1} for name in kept})
    await client.post("/v1/readings", json={f"gone/{i}": {"value": 1} for i in range(50)})
    seen: set[str] = set()
    cursor: str | None = None
    for step in range(200):
        page = (await client.get("/v1/streams", params={"limit": 3} | ({"cursor": cursor} if cursor else {}))).json()
        seen |= set(page["streams"])
        cursor = page["cursor"]
        if cursor is None:
            break
        await client.delete(f"/v1/streams/gone/{step}")
        await client.post(f"/v1/streams/new/{step}/readings", json={"value": 1})
    assert cursor is None
    assert kept <= seen


async def test_a_page_has_1000_names_unless_told_otherwise(client: httpx.AsyncClient) -> None:
    await client.post("/v1/readings", json={f"n{i}": {"value": 1} for i in range(1_001)})
    page = (await client.get("/v1/streams")).json()
    assert 1_000 == len(page["streams"])
    assert page["cursor"] is not None


async def test_a_service_lists_only_what_is_under_its_own_prefix(api: Api, prefix: str) -> None:
    mine, other = await api(), await api(prefix=f"{prefix}x")
    await mine.post("/v1/streams/a/readings", json={"value": 1})
    await other.post("/v1/streams/b/readings", json={"value": 1})
    assert ["a"] == await everything(mine)
    assert ["b"] == await everything(other)
    assert 404 == (await mine.get("/v1/streams/b")).status_code


async def test_the_process_is_live_and_ready(client: httpx.AsyncClient) -> None:
    live, ready = await client.get("/livez"), await client.get("/readyz")
    assert (200, {"status": "live"}) == (live.status_code, live.json())
    assert (200, {"status": "ready"}) == (ready.status_code, ready.json())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/streams/s",
        "/v1/streams/s/average",
        "/v1/streams/s/count",
        "/v1/streams",
        "/livez",
        "/readyz",
        "/openapi.json",
        "/v1/streams/none",
        "/v1/streams/none/count",
        "/v1/streams?limit=0",
        "/nowhere",
    ],
)
async def test_head_has_the_status_and_the_headers_of_get(client: httpx.AsyncClient, path: str) -> None:
    await client.post("/v1/streams/s/readings", json={"value": 1})
    get, head = await client.get(path), await client.head(path)
    assert get.status_code == head.status_code
    assert get.headers == head.headers
    assert int(head.headers["content-length"]) == len(get.content)


async def test_an_accept_header_of_thousands_of_ranges_is_not_interpreted(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/s/readings", json={"value": 1})
    reply = await client.get("/v1/streams/s/average", headers={"Accept": "text/plain" + "," * 5_000})
    assert "application/json" == reply.headers["content-type"]
