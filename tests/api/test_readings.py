"""Recording over HTTP: what is accepted, what the replies say, and that a request is recorded whole or not at all.

The replies are compared as whole objects: a member too many is a promise nobody meant to make, and one too few breaks
a client.
"""

import asyncio
import gzip
import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from tests.conftest import Api


async def times(client: httpx.AsyncClient, stream: str) -> tuple[str, str]:
    """First and last time of a stream."""
    reply = (await client.get(f"/v1/streams/{stream}")).json()
    return reply["first_reading_at"], reply["last_reading_at"]


async def names(redis: "Redis", prefix: str) -> list[str]:
    """The streams that exist."""
    return sorted([key.decode().removeprefix(f"{prefix}:stream:") async for key in redis.scan_iter(f"{prefix}:*")])


async def test_a_reading_is_answered_with_name_count_and_average(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/streams/kitchen/temperature/readings", json={"value": 21.4})
    assert 200 == reply.status_code
    assert "application/json" == reply.headers["content-type"]
    assert {"stream": "kitchen/temperature", "count": 1, "average": 21.4} == reply.json()


async def test_the_reply_is_the_state_that_includes_the_reading(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/s/readings", json={"value": 1})
    reply = await client.post("/v1/streams/s/readings", json={"value": 2})
    assert {"stream": "s", "count": 2, "average": 1.5} == reply.json()


async def test_many_readings_of_one_stream_are_answered_like_one(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/streams/s/readings", json={"values": [1, 2.5, 4]})
    assert 200 == reply.status_code
    assert {"stream": "s", "count": 3, "average": 2.5} == reply.json()


async def test_batches_that_share_a_commit_are_told_their_own_number_of_readings(client: httpx.AsyncClient) -> None:
    sizes = [1, 2, 5, 3, 4, 6]
    replies = await asyncio.gather(
        *(client.post("/v1/readings", json={"s": {"values": [1.0] * size}}) for size in sizes)
    )
    assert [{"readings": size, "streams": 1} for size in sizes] == [reply.json() for reply in replies]


async def test_a_batch_is_answered_with_the_numbers_of_readings_and_streams(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/v1/readings", json={"a": {"value": 1}, "b/c": {"values": [2, 4, 6]}, "d": {"value": [1, 2], "time": 0}}
    )
    assert 200 == reply.status_code
    assert "application/json" == reply.headers["content-type"]
    assert {"readings": 5, "streams": 3} == reply.json()
    assert {"stream": "a", "count": 1} == (await client.get("/v1/streams/a/count")).json()
    assert {"stream": "b/c", "count": 3} == (await client.get("/v1/streams/b/c/count")).json()
    assert {"stream": "d", "count": 1} == (await client.get("/v1/streams/d/count")).json()


@pytest.mark.parametrize(
    ("values", "average", "minimum", "maximum", "deviation"),
    [
        ([1.0, 3.0], 2.0, 1.0, 3.0, 1.4142135623730951),
        ([[1.0, 10.0], [3.0, 30.0]], [2.0, 20.0], [1.0, 10.0], [3.0, 30.0], [1.4142135623730951, 14.142135623730951]),
        ([[5.0], [7.0]], [6.0], [5.0], [7.0], [1.4142135623730951]),
        (
            [{"temperature": 20.0, "humidity": 41.0}, {"humidity": 43.0, "temperature": 22.0}],
            {"temperature": 21.0, "humidity": 42.0},
            {"temperature": 20.0, "humidity": 41.0},
            {"temperature": 22.0, "humidity": 43.0},
            {"temperature": 1.4142135623730951, "humidity": 1.4142135623730951},
        ),
        (
            [{"key": [1.0, 2.0], "value": [0.0, 8.0, 1.0]}, {"key": [3.0, 2.0], "value": [0.0, 4.0, 1.0]}],
            {"key": [2.0, 2.0], "value": [0.0, 6.0, 1.0]},
            {"key": [1.0, 2.0], "value": [0.0, 4.0, 1.0]},
            {"key": [3.0, 2.0], "value": [0.0, 8.0, 1.0]},
            {"key": [1.4142135623730951, 0.0], "value": [0.0, 2.8284271247461903, 0.0]},
        ),
        (
            [{"z": 1.0, "vector": [1.0, 2.0]}, {"z": 2.0, "vector": [1.0, 4.0]}],
            {"z": 1.5, "vector": [1.0, 3.0]},
            {"z": 1.0, "vector": [1.0, 2.0]},
            {"z": 2.0, "vector": [1.0, 4.0]},
            {"z": 0.7071067811865476, "vector": [0.0, 1.4142135623730951]},
        ),
    ],
    ids=["number", "vector", "vector of one", "object", "pair of vectors", "object of a number and a vector"],
)
async def test_the_average_has_the_shape_of_the_reading(
    client: httpx.AsyncClient, values: list[Any], average: Any, minimum: Any, maximum: Any, deviation: Any
) -> None:
    first = await client.post("/v1/streams/s/readings", json={"value": values[0], "time": 0})
    assert {"stream": "s", "count": 1, "average": values[0]} == first.json()
    last = await client.post("/v1/streams/s/readings", json={"value": values[1], "time": 1})
    assert {"stream": "s", "count": 2, "average": average} == last.json()
    assert {
        "stream": "s",
        "count": 2,
        "average": average,
        "latest": values[1],
        "minimum": minimum,
        "maximum": maximum,
        "standard_deviation": deviation,
        "first_reading_at": "1970-01-01T00:00:00.000Z",
        "last_reading_at": "1970-01-01T00:00:01.000Z",
    } == (await client.get("/v1/streams/s")).json()


@pytest.mark.parametrize("name", ["a", "0", "plant-1/boiler:2/temp", "urn:dev:ow:10e2073a01080063", "A/b.c_d~e-f:g"])
async def test_names_of_senml_and_mqtt_are_names(client: httpx.AsyncClient, name: str) -> None:
    reply = await client.post(f"/v1/streams/{name}/readings", json={"value": 1})
    assert {"stream": name, "count": 1, "average": 1.0} == reply.json()
    assert {"stream": name, "count": 1} == (await client.get(f"/v1/streams/{name}/count")).json()


async def test_a_name_has_up_to_255_characters(client: httpx.AsyncClient) -> None:
    name = "a" * 255
    reply = await client.post(f"/v1/streams/{name}/readings", json={"value": 1})
    assert {"stream": name, "count": 1, "average": 1.0} == reply.json()


async def test_reserved_words_are_names_where_no_route_ends(client: httpx.AsyncClient) -> None:
    for name in ("average/x", "count/readings-1", "readings/events/a"):
        reply = await client.post(f"/v1/streams/{name}/readings", json={"value": 1})
        assert {"stream": name, "count": 1, "average": 1.0} == reply.json()
        assert {"stream": name, "count": 1} == (await client.get(f"/v1/streams/{name}/count")).json()


async def test_an_encoded_slash_is_a_slash(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/streams/kitchen%2Ftemperature/readings", json={"value": 1})
    assert {"stream": "kitchen/temperature", "count": 1, "average": 1.0} == reply.json()
    assert 1 == (await client.get("/v1/streams/kitchen/temperature/count")).json()["count"]


@pytest.mark.parametrize(
    ("literal", "average"),
    [
        ("0", 0.0),
        ("-0", 0.0),
        ("-0.0", 0.0),
        ("0e99999", 0.0),
        ("0.000e-99999", 0.0),
        ("1e140", 1e140),
        ("-1E+140", -1e140),
        ("1e-140", 1e-140),
        ("-1e-140", -1e-140),
        ("9007199254740993", 9007199254740992.0),
        ("123456789012345678901234567890", 1.2345678901234568e29),
        ("1" + "0" * 140, 1e140),
        ("0." + "3" * 5000, 0.3333333333333333),
        ("1" * 5 + "." + "0" * 5000, 11111.0),
        ("0.1e1", 1.0),
        ("5e-1", 0.5),
    ],
)
async def test_every_way_to_write_a_number_of_the_domain_is_read_as_the_nearest_double(
    client: httpx.AsyncClient, literal: str, average: float
) -> None:
    one = await client.post("/v1/streams/s/readings", content=f'{{"value": {literal}}}')
    assert repr(average) == repr(one.json()["average"])
    many = await client.post("/v1/streams/t/readings", content=f'{{"values": [{literal}, {literal}]}}')
    assert repr(average) == repr(many.json()["average"])
    batch = await client.post("/v1/readings", content=f'{{"u": {{"value": {{"x": {literal}}}}}}}')
    assert {"readings": 1, "streams": 1} == batch.json()
    assert repr(average) == repr((await client.get("/v1/streams/u/average")).json()["average"]["x"])


@pytest.mark.parametrize("zeros", ["[-0.0, 0.0]", "[0, -0]", "[-0.0]", "[-0.0, 1e-140, -1e-140]"])
async def test_a_zero_has_no_sign_whatever_came_first(client: httpx.AsyncClient, zeros: str) -> None:
    await client.post("/v1/streams/s/readings", content=f'{{"values": {zeros}}}')
    await client.post("/v1/streams/s/readings", content=f'{{"values": {zeros}}}')
    assert "-0.0" not in (await client.get("/v1/streams/s")).text


@pytest.mark.parametrize(
    "body",
    [
        b' \t\r\n{ "value" :\n1 } \n',
        b'{"\\u0076alue": 1}',
        b'{"time": 0, "value": 1}',
        b'{"values":[1]}',
    ],
)
async def test_every_way_to_write_the_same_json_is_read_alike(client: httpx.AsyncClient, body: bytes) -> None:
    reply = await client.post("/v1/streams/s/readings", content=body)
    assert {"stream": "s", "count": 1, "average": 1.0} == reply.json()


async def test_names_in_a_value_may_hold_what_json_can_say(client: httpx.AsyncClient) -> None:
    value = {'a:b"c\\d/e~f': 1.0, "température": 2.0, "🌡": 3.0, "{}": 4.0}
    reply = await client.post("/v1/streams/s/readings", content=json.dumps({"value": value}))
    assert {"stream": "s", "count": 1, "average": value} == reply.json()
    reply = await client.post("/v1/streams/s/readings", content=json.dumps({"value": value}, ensure_ascii=False))
    assert {"stream": "s", "count": 2, "average": value} == reply.json()


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01t00:00:00z", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01 00:00:00Z", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T01:30:00+01:30", "2026-01-01T00:00:00.000Z"),
        ("2025-12-31T23:00:00-01:00", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00.500Z"),
        ("2026-01-01T00:00:00.123999999Z", "2026-01-01T00:00:00.123Z"),
        ("2024-02-29T12:00:00Z", "2024-02-29T12:00:00.000Z"),
        ("1990-12-31T23:59:60Z", "1991-01-01T00:00:00.000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        (1767225600, "2026-01-01T00:00:00.000Z"),
        (1767225600.25, "2026-01-01T00:00:00.250Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.000Z"),
        (1e-9, "1970-01-01T00:00:00.000Z"),
        (-62135596800, "0001-01-01T00:00:00.000Z"),
    ],
)
async def test_a_time_is_rfc_3339_or_unix_seconds(client: httpx.AsyncClient, time: str | float, text: str) -> None:
    one = await client.post("/v1/streams/s/readings", json={"value": 1, "time": time})
    assert {"stream": "s", "count": 1, "average": 1.0} == one.json()
    assert (text, text) == await times(client, "s")
    batch = await client.post("/v1/readings", json={"t": {"value": 1, "time": time}})
    assert {"readings": 1, "streams": 1} == batch.json()
    assert (text, text) == await times(client, "t")


async def test_first_and_last_go_by_the_time_of_the_readings_not_by_their_arrival(client: httpx.AsyncClient) -> None:
    for time in (50, 10, "1970-01-01T00:01:40Z", 20):
        await client.post("/v1/streams/s/readings", json={"value": 1, "time": time})
    assert ("1970-01-01T00:00:10.000Z", "1970-01-01T00:01:40.000Z") == await times(client, "s")


async def test_a_reading_without_a_time_has_the_time_of_the_server(client: httpx.AsyncClient) -> None:
    before = datetime.now(UTC)
    await client.post("/v1/streams/s/readings", json={"value": 1})
    await client.post("/v1/streams/s/readings", json={"values": [1, 2]})
    after = datetime.now(UTC)
    first, last = map(datetime.fromisoformat, await times(client, "s"))
    assert before.replace(microsecond=before.microsecond // 1000 * 1000) <= first <= last <= after


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/vnd.weather-station+json",
        "application/problem+json; profile=x",
    ],
)
async def test_a_body_that_says_it_is_json_is_read_as_json(client: httpx.AsyncClient, media_type: str) -> None:
    headers = {"content-type": media_type}
    one = await client.post("/v1/streams/s/readings", content=b'{"value": 1}', headers=headers)
    assert {"stream": "s", "count": 1, "average": 1.0} == one.json()
    batch = await client.post("/v1/readings", content=b'{"s": {"value": 1}}', headers=headers)
    assert {"readings": 1, "streams": 1} == batch.json()


async def test_a_body_that_does_not_say_what_it_is_is_read_as_json(client: httpx.AsyncClient) -> None:
    request = client.build_request("POST", "/v1/streams/s/readings", content=b'{"value": 1}')
    assert "content-type" not in request.headers
    assert {"stream": "s", "count": 1, "average": 1.0} == (await client.send(request)).json()


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
async def test_a_gzip_body_is_inflated(client: httpx.AsyncClient, encoding: str) -> None:
    headers = {"content-encoding": encoding}
    one = await client.post("/v1/streams/s/readings", content=gzip.compress(b'{"values": [1, 2]}'), headers=headers)
    assert {"stream": "s", "count": 2, "average": 1.5} == one.json()
    batch = await client.post("/v1/readings", content=gzip.compress(b'{"s": {"value": 3}}'), headers=headers)
    assert {"readings": 1, "streams": 1} == batch.json()


async def test_a_gzip_body_may_have_several_members(client: httpx.AsyncClient) -> None:
    body = gzip.compress(b'{"values": ') + gzip.compress(b"") + gzip.compress(b"[1, 2]}")
    reply = await client.post("/v1/streams/s/readings", content=body, headers={"content-encoding": "gzip"})
    assert {"stream": "s", "count": 2, "average": 1.5} == reply.json()


async def test_identity_is_no_encoding(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/v1/streams/s/readings", content=b'{"value": 1}', headers={"content-encoding": "identity"}
    )
    assert {"stream": "s", "count": 1, "average": 1.0} == reply.json()


async def test_what_is_exactly_at_the_limits_is_recorded(api: Api) -> None:
    body = b'{"values": [1, 2, 3]}'
    client = await api(max_body=len(body), max_readings=3, max_components=4, max_names=2)
    reply = await client.post("/v1/streams/s/readings", content=body)
    assert {"stream": "s", "count": 3, "average": 2.0} == reply.json()
    client = await api(max_readings=3, max_components=4, max_names=2)
    reply = await client.post("/v1/streams/t/readings", json={"value": {"a": [1, 2, 3], "b": 4}})
    assert {"stream": "t", "count": 1, "average": {"a": [1.0, 2.0, 3.0], "b": 4.0}} == reply.json()
    reply = await client.post("/v1/readings", json={"s": {"value": 2}, "u": {"values": [[1, 2, 3, 4], [5, 6, 7, 8]]}})
    assert {"readings": 3, "streams": 2} == reply.json()


async def test_the_default_limits_are_those_of_the_contract(
    client: httpx.AsyncClient, redis: "Redis", prefix: str
) -> None:
    readings = await client.post("/v1/streams/a/readings", json={"values": [0.5] * 100_000})
    assert {"stream": "a", "count": 100_000, "average": 0.5} == readings.json()
    assert 413 == (await client.post("/v1/streams/a/readings", json={"values": [0.5] * 100_001})).status_code
    components = await client.post("/v1/streams/b/readings", json={"value": [0.5] * 1_024})
    assert {"stream": "b", "count": 1, "average": [0.5] * 1_024} == components.json()
    assert 422 == (await client.post("/v1/streams/c/readings", json={"value": [0.5] * 1_025})).status_code
    objects = await client.post("/v1/streams/d/readings", json={"value": {f"n{i}": 0.5 for i in range(64)}})
    assert {"stream": "d", "count": 1, "average": {f"n{i}": 0.5 for i in range(64)}} == objects.json()
    too_many = {f"n{i}": 0.5 for i in range(65)}
    assert 422 == (await client.post("/v1/streams/e/readings", json={"value": too_many})).status_code
    body = b'{"value": 1' + b" " * (8 * 1024 * 1024 - 12) + b"}"
    assert 200 == (await client.post("/v1/streams/f/readings", content=body)).status_code
    assert 413 == (await client.post("/v1/streams/f/readings", content=body + b" ")).status_code
    assert ["a", "b", "d", "f"] == await names(redis, prefix)


@pytest.mark.parametrize(
    ("status", "bad"),
    [
        (422, {"value": True}),
        (422, {"value": [1, 2], "time": "yesterday"}),
        (422, {"values": [1, 2, 1e141]}),
        (422, {"values": []}),
        (422, {}),
        (409, {"value": [1, 2]}),
        (409, {"values": [{"a": 1}]}),
    ],
)
async def test_one_bad_entry_of_a_batch_records_nothing(
    client: httpx.AsyncClient, redis: "Redis", prefix: str, status: int, bad: dict[str, Any]
) -> None:
    await client.post("/v1/streams/known/readings", json={"value": 1})
    await client.post("/v1/streams/other/readings", json={"value": 1})
    good = {"new": {"value": 5}, "other": {"values": [5, 6]}}
    for batch in ({"known": bad, **good}, {**good, "known": bad}):
        reply = await client.post("/v1/readings", json=batch)
        assert status == reply.status_code
        assert ["known", "other"] == await names(redis, prefix)
        assert {"stream": "known", "count": 1} == (await client.get("/v1/streams/known/count")).json()
        assert {"stream": "other", "count": 1} == (await client.get("/v1/streams/other/count")).json()
    assert {"readings": 3, "streams": 2} == (await client.post("/v1/readings", json=good)).json()


async def test_the_last_of_many_readings_decides_like_the_first(
    client: httpx.AsyncClient, redis: "Redis", prefix: str
) -> None:
    values: list[Any] = [1.0] * 10_000
    for bad in (None, True, "1", [1], 1e141, 1e-141):
        reply = await client.post("/v1/streams/s/readings", json={"values": [*values, bad]})
        assert 422 == reply.status_code
        assert "/values/10000" == reply.json()["pointer"]
    assert [] == await names(redis, prefix)


async def test_readings_that_arrive_at_once_are_each_answered_with_a_state_that_includes_them(
    client: httpx.AsyncClient,
) -> None:
    replies = await asyncio.gather(
        *(client.post("/v1/streams/s/readings", json={"value": 1}) for _ in range(50)),
        *(client.post("/v1/streams/s/readings", json={"values": [3, 3]}) for _ in range(25)),
    )
    assert {200} == {reply.status_code for reply in replies}
    assert 100 == max(reply.json()["count"] for reply in replies)
    assert {"stream": "s", "count": 100} == (await client.get("/v1/streams/s/count")).json()
    assert 2.0 == (await client.get("/v1/streams/s/average")).json()["average"]


async def test_of_two_shapes_that_arrive_at_once_one_makes_the_stream_and_the_other_is_refused(
    client: httpx.AsyncClient,
) -> None:
    replies = await asyncio.gather(
        *(client.post("/v1/streams/s/readings", json={"value": 1}) for _ in range(10)),
        *(client.post("/v1/streams/s/readings", json={"value": [1, 2]}) for _ in range(10)),
    )
    statuses = [reply.status_code for reply in replies]
    assert {200, 409} == set(statuses)
    assert len(set(statuses[:10])) == 1
    assert len(set(statuses[10:])) == 1
    assert {"stream": "s", "count": 10} == (await client.get("/v1/streams/s/count")).json()


async def test_what_was_recorded_is_there_for_the_next_process(api: Api) -> None:
    one, other = await api(), await api()
    await one.post("/v1/streams/s/readings", json={"value": 1})
    reply = await other.post("/v1/streams/s/readings", json={"value": 2})
    assert {"stream": "s", "count": 2, "average": 1.5} == reply.json()
