"""Line protocol over HTTP: what InfluxDB's clients send is recorded, and what they are told is what they act on."""

import base64
import gzip
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from meanwhile.api.key_file import digest_of
from meanwhile.formats import line_protocol
from tests.conftest import Api
from tests.support.servers import valkey

PATHS = ["/api/v2/write?org=o&bucket=b", "/write?db=d"]
KEY = f'[[key]]\nscopes = ["write"]\nprefix = "m"\nsha256 = "{digest_of(b"secret")}"\n'


async def write(client: httpx.AsyncClient, body: str | bytes, query: str = "", **headers: str) -> httpx.Response:
    return await client.post(f"/write?db=d{query}", content=body, headers=headers)


async def state(client: httpx.AsyncClient, stream: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/v1/streams/{stream}")).json()
    return found


async def counts(client: httpx.AsyncClient) -> dict[str, int]:
    names = (await client.get("/v1/streams")).json()["streams"]
    return {name: (await state(client, name))["count"] for name in sorted(names)}


def error(reply: httpx.Response) -> tuple[int, str, str]:
    """Status, code and message of an answer in the words of both versions of InfluxDB."""
    assert "application/json" == reply.headers["content-type"]
    members = reply.json()
    assert {"code", "message", "error"} == members.keys()
    assert members["message"] == members["error"]
    return reply.status_code, members["code"], members["message"]


@pytest.mark.parametrize("path", PATHS)
async def test_each_numeric_field_is_a_reading_and_success_says_nothing(client: httpx.AsyncClient, path: str) -> None:
    body = (
        'air,room=kitchen,floor=1 temperature=21.5,co2=480i,ok=true,note="x" 1767225600000000000\nair temperature=1\n'
    )
    reply = await client.post(path, content=body, headers={"content-type": "text/plain; charset=utf-8"})
    assert (204, b"") == (reply.status_code, reply.content)
    assert "content-length" not in reply.headers
    assert reply.headers["x-influxdb-version"]
    assert {"air/1/kitchen/temperature": 1, "air/1/kitchen/co2": 1, "air/temperature": 1} == await counts(client)
    assert "2026-01-01T00:00:00.000Z" == (await state(client, "air/1/kitchen/co2"))["first_reading_at"]


@pytest.mark.parametrize("body", ["", "\n", "# nothing\n", 'm s="x"'])
async def test_nothing_to_record_is_no_error(client: httpx.AsyncClient, body: str) -> None:
    assert 204 == (await write(client, body)).status_code
    assert {} == await counts(client)


@pytest.mark.parametrize("path", PATHS)
async def test_bad_lines_are_named_and_the_good_ones_recorded(client: httpx.AsyncClient, path: str) -> None:
    reply = await client.post(path, content="m f=1\nm f=\n\nm f=2\nm g=1e999\nm f=3\n")
    status, code, message = error(reply)
    assert (400, "invalid") == (status, code)
    assert message.startswith("partial write: line 2: expected ")
    assert "; line 5: expected " in message
    assert {"m/f": 3} == await counts(client)


async def test_the_message_of_many_bad_lines_is_short(client: httpx.AsyncClient) -> None:
    _, _, message = error(await write(client, "bad\n" * 10_000))
    assert message.endswith("; and 9980 more")
    assert len(message) < 5_000


async def test_a_stream_of_another_shape_refuses_its_lines_alone(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/m/v/readings", json={"value": [1, 2]})
    reply = await write(client, "m f=1\nm v=1,f=1\nm f=2\nm v=2")
    assert 400 == reply.status_code
    assert "line 2: expected the shape of the stream" in reply.json()["message"]
    assert "line 4: expected the shape of the stream" in reply.json()["message"]
    assert {"m/f": 2, "m/v": 1} == await counts(client)


@pytest.mark.parametrize(
    ("precision", "stamp"),
    [("ns", 1767225600 * 10**9), ("us", 1767225600 * 10**6), ("ms", 1767225600000), ("s", 1767225600), ("h", 490896)],
)
async def test_the_precision_is_the_unit_of_timestamps(client: httpx.AsyncClient, precision: str, stamp: int) -> None:
    assert 204 == (await write(client, f"m f=1 {stamp}", f"&precision={precision}")).status_code
    assert "2026-01-01T00:00:00.000Z" == (await state(client, "m/f"))["first_reading_at"]


@pytest.mark.parametrize("path", ["/api/v2/write", "/write"])
@pytest.mark.parametrize("name", ["dedupe", "precision", "org", "bucket", "db", "u", "p"])
@pytest.mark.parametrize("values", [("{}", "{}"), ("", "{}"), ("{}", "")])
async def test_a_repeated_parameter_is_refused(
    client: httpx.AsyncClient, path: str, name: str, values: tuple[str, str]
) -> None:
    """The last one was used, so dedupe=timestamp&dedupe=off counted points twice."""
    valid = {"dedupe": "timestamp", "precision": "s"}.get(name, "x")
    assert 204 == (await client.post(f"{path}?{name}={valid}", content="m f=1 1")).status_code
    before = await counts(client)
    first, second = (value.format(valid) for value in values)
    status, code, message = error(await client.post(f"{path}?{name}={first}&{name}={second}", content="m f=1 2"))
    assert (400, "invalid", f"Expected the parameter {name} at most once.") == (status, code, message)
    assert before == await counts(client)


async def test_an_empty_parameter_is_an_absent_one(client: httpx.AsyncClient) -> None:
    query = "&precision=&dedupe=&u=&p="
    assert 204 == (await write(client, f"m f=1 {1767225600 * 10**9}", query)).status_code
    assert "2026-01-01T00:00:00.000Z" == (await state(client, "m/f"))["first_reading_at"]


@pytest.mark.parametrize("query", ["&precision=d", "&precision=NS", "&dedupe=yes"])
async def test_other_options_are_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (400, "invalid") == error(await write(client, "m f=1", query))[:2]
    assert {} == await counts(client)


async def test_bodies_may_be_gzipped_and_have_a_largest_size(api: Api) -> None:
    client = await api(max_body=100)
    assert 204 == (await write(client, gzip.compress(b"m f=1\n"), **{"content-encoding": "gzip"})).status_code
    assert (413, "request too large") == error(await write(client, "m f=1\n" * 20))[:2]
    packed = gzip.compress(b"m f=1\n" * 20)
    assert (413, "request too large") == error(await write(client, packed, **{"content-encoding": "gzip"}))[:2]
    assert (400, "invalid") == error(await write(client, b"m f=1", **{"content-encoding": "gzip"}))[:2]
    assert 415 == error(await write(client, b"m f=1", **{"content-encoding": "br"}))[0]
    assert {"m/f": 1} == await counts(client)


async def test_too_many_readings_are_too_large(api: Api) -> None:
    client = await api(max_readings=2)
    assert (413, "request too large") == error(await write(client, "m a=1,b=2,c=3"))[:2]
    assert {} == await counts(client)


BASIC = "Basic " + base64.b64encode(b"anyone:secret").decode()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("authorization", ["Token secret", "Bearer secret", BASIC])
async def test_a_key_is_a_token_or_a_password(api: Api, tmp_path: Path, path: str, authorization: str) -> None:
    (tmp_path / "keys.toml").write_text(KEY)
    client = await api(api_keys=tmp_path / "keys.toml")
    reply = await client.post(path, content="m f=1", headers={"authorization": authorization})
    assert 204 == reply.status_code
    for wrong in ({}, {"authorization": "Token wrong"}):
        reply = await client.post(path, content="m f=1", headers=wrong)
        assert (401, "unauthorized", "unauthorized access") == error(reply)
        assert reply.headers["www-authenticate"]
    reply = await client.post(path, content="m f=1\nother f=1", headers={"authorization": authorization})
    assert (403, "forbidden") == error(reply)[:2]


async def test_influxdb_1_takes_the_password_in_the_query_and_nothing_else_does(api: Api, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(KEY)
    client = await api(api_keys=tmp_path / "keys.toml")
    assert 204 == (await write(client, "m f=1", "&u=anyone&p=secret")).status_code
    assert 204 == (await write(client, "m f=1", "&p=secret")).status_code
    assert 401 == (await write(client, "m f=1", "&u=secret")).status_code
    assert 401 == (await write(client, "m f=1", "&u=x&p=wrong")).status_code
    assert 401 == (await client.post("/api/v2/write?p=secret&u=x", content="m f=1")).status_code
    assert 401 == (await client.post("/v1/readings?p=secret&u=x", json={"m": {"value": 1}})).status_code
    assert 204 == (await client.get("/ping")).status_code


async def test_without_redis_clients_are_told_to_come_again(api: Api) -> None:
    client = await api(redis_url="unix:///nowhere/at/all.sock", redis_timeout=1)
    for path in PATHS:
        reply = await client.post(path, content="m f=1\nbad")
        assert (503, "unavailable") == error(reply)[:2]
        assert "1" == reply.headers["retry-after"]
    reply = await client.get("/health")
    assert (503, "unavailable") == error(reply)[:2]
    assert 204 == (await client.get("/ping")).status_code


@pytest.mark.parametrize("dedupe", [False, True])
async def test_at_the_limit_of_streams_points_of_others_are_recorded_and_those_of_new_ones_named(
    api: Api, dedupe: bool
) -> None:
    with valkey() as server:
        client = await api(redis_url=server.url, max_streams=1, line_protocol_dedupe=dedupe)
        assert 204 == (await write(client, "m f=1 1")).status_code
        reply = await write(client, "m f=2 2\nnew f=1 2\nm f=3 3")
        assert 400 == reply.status_code
        assert "line 2: expected a stream that exists" in reply.json()["message"]
        assert {"m/f": 3} == await counts(client)


async def test_ping_and_health(client: httpx.AsyncClient) -> None:
    for reply in (await client.get("/ping"), await client.head("/ping")):
        assert (204, b"") == (reply.status_code, reply.content)
        assert reply.headers["x-influxdb-version"].startswith("2.7.0-meanwhile-")
    reply = await client.get("/health")
    assert (200, "pass", []) == (reply.status_code, reply.json()["status"], reply.json()["checks"])


async def test_a_pattern_names_the_streams(api: Api) -> None:
    client = await api(line_protocol_stream="influx/{measurement}/{pairs}/{field}")
    assert 204 == (await write(client, "m,b=1,a=x f=1")).status_code
    assert {"influx/m/a:x/b:1/f": 1} == await counts(client)


# Counted once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["ns", "us", "ms", "s"])
async def test_with_dedupe_a_stream_counts_each_timestamp_once(client: httpx.AsyncClient, precision: str) -> None:
    body = "m f=1,g=1 5000\nm f=2,g=2 7000\nm f=9 5000\nm f=3 9000"
    query = f"&precision={precision}&dedupe=timestamp"
    assert 204 == (await write(client, body, query)).status_code
    assert {"m/f": 3, "m/g": 2} == await counts(client)
    assert 2.0 == (await state(client, "m/f"))["average"]

    again = await write(client, "m f=7 9000\nm g=1 7000\nm f=4 9001\nm f=5 11000\nm f=6 8999", query)
    assert 204 == again.status_code
    assert {"m/f": 6, "m/g": 2} == await counts(client)

    assert 204 == (await write(client, "m f=1 9000", f"&precision={precision}")).status_code
    assert {"m/f": 7, "m/g": 2} == await counts(client)


async def test_with_dedupe_a_nanosecond_makes_two_points_and_the_precision_none(client: httpx.AsyncClient) -> None:
    stamp = 1_767_225_600
    body = f"m f=1 {stamp}000000000\nm f=2 {stamp}000000001"
    for _ in range(2):
        assert 204 == (await write(client, body, "&dedupe=timestamp")).status_code
    assert {"m/f": 2} == await counts(client)
    for precision, text in (("s", f"{stamp}"), ("ms", f"{stamp}000"), ("us", f"{stamp}000000")):
        assert 204 == (await write(client, f"m f=1 {text}", f"&dedupe=timestamp&precision={precision}")).status_code
    assert {"m/f": 2} == await counts(client)

    seconds = "\n".join(f"m g=1 {stamp + i}" for i in range(60))  # A client that forgets to say the precision.
    assert 204 == (await write(client, seconds, "&dedupe=timestamp")).status_code
    assert 60 == (await counts(client))["m/g"]


async def test_with_dedupe_points_without_a_time_or_ahead_or_of_which_nothing_is_known_are_named(api: Api) -> None:
    client = await api(line_protocol_dedupe=True)
    assert 204 == (await write(client, "m f=1 1000", "&precision=s")).status_code
    reply = await write(client, "m f=2 935\nm f=3 936\nm f=4\nm f=5 -1\nm f=6 4000000000\nbad", "&precision=s")
    assert 400 == reply.status_code
    assert ["line 3: ", "line 5: ", "line 6: "] == re.findall(r"line \d+: ", reply.json()["message"])
    assert {"m/f": 4} == await counts(client)

    later = "\n".join(f"m f=1 {stamp}" for stamp in range(1_001, 1_064))
    assert 204 == (await write(client, later, "&precision=s")).status_code  # So 936 is the latest that is dropped.
    reply = await write(client, "m f=1 935\nm f=1 936\nm f=1 937\nm f=1 1000", "&precision=s")
    assert ["line 1: ", "line 2: "] == re.findall(r"line \d+: ", reply.json()["message"])
    assert {"m/f": 4 + 63 + 1} == await counts(client)
    assert 204 == (await write(client, "m f=7", "&dedupe=off")).status_code


async def test_with_dedupe_a_stream_of_another_shape_refuses_its_points_alone(client: httpx.AsyncClient) -> None:
    await client.post("/v1/streams/m/v/readings", json={"value": [1, 2]})
    reply = await write(client, "m f=1 1\nm v=1 1\nm f=2 2", "&precision=s&dedupe=timestamp")
    assert 400 == reply.status_code
    assert "line 2: expected the shape" in reply.json()["message"]
    assert {"m/f": 2, "m/v": 1} == await counts(client)


async def test_where_keys_are_required_dedupe_is(api: Api) -> None:
    client = await api(require_idempotency_key=True)
    assert (400, "invalid") == error(await write(client, "m f=1 1"))[:2]
    assert 204 == (await write(client, "m f=1 1", "&dedupe=timestamp")).status_code
    assert {"m/f": 1} == await counts(client)


async def test_thousands_of_points_are_counted_once_and_a_batch_sent_again_is_no_error(
    client: httpx.AsyncClient,
) -> None:
    body = "\n".join(f"m,t={i % 3} f={i} {i}" for i in range(7_500))
    for _ in range(3):
        assert 204 == (await write(client, body, "&precision=s&dedupe=timestamp")).status_code
        assert 7_500 == sum((await counts(client)).values())
    newer = "\n".join(f"m,t={i % 3} f={i} {i}" for i in range(7_490, 7_600))
    assert 204 == (await write(client, newer, "&precision=s&dedupe=timestamp")).status_code
    assert 7_600 == sum((await counts(client)).values())
    parts = "\n".join(f"m,t={i % 3} f={i} {i}" for i in range(10, 100))  # Of no batch, and older than what is known.
    assert 400 == (await write(client, parts, "&precision=s&dedupe=timestamp")).status_code
    assert 7_600 == sum((await counts(client)).values())


@pytest.mark.parametrize("key", ["gw:1", "nonsense"])
@pytest.mark.parametrize("query", ["", "&dedupe=off", "&dedupe=timestamp"])
async def test_an_idempotency_key_is_refused_because_it_would_be_ignored(
    client: httpx.AsyncClient, key: str, query: str
) -> None:
    for _ in range(2):
        reply = await write(client, "m f=1 1767225600000000000", query, **{"Idempotency-Key": key})
        assert (400, True) == (error(reply)[0], "dedupe=timestamp" in error(reply)[2])
    assert {} == await counts(client)


async def test_a_bug_is_logged_once(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await api()
    monkeypatch.setattr(line_protocol, "decode", lambda *_: 1 / 0)
    assert 500 == (await write(client, "m f=1")).status_code
    assert 1 == sum("because of a bug" in record.getMessage() for record in caplog.records)
