"""NDJSON uploads: lines are recorded as they come, the reply says which, and a key lets them come again."""

import asyncio
import gzip
import json
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from meanwhile.api.connection_timeouts import TIMEOUT
from meanwhile.api.key_file import digest_of, key_entry
from meanwhile.core.state import State, decode
from meanwhile.settings import Settings
from tests.conftest import Api
from tests.support import calls
from tests.support.clock import Clock
from tests.support.connections import answer, connected
from tests.support.in_process import listening
from tests.support.servers import Service, Valkey, eventually, service, valkey

NDJSON = {"content-type": "application/x-ndjson"}


def line(stream: str, value: Any) -> bytes:
    return json.dumps({"stream": stream, "value": value}).encode() + b"\n"


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    """A body that comes in pieces."""
    for chunk in chunks:
        yield chunk


async def upload(client: httpx.AsyncClient, *chunks: bytes, key: str | None = None, **headers: str) -> httpx.Response:
    keys = {} if key is None else {"idempotency-key": key}
    return await client.post("/v1/readings", content=pieces(*chunks), headers=NDJSON | keys | headers)


async def count(client: httpx.AsyncClient, stream: str) -> int:
    reply = await client.get(f"/v1/streams/{stream}/count")
    return int(reply.json()["count"]) if reply.status_code == 200 else 0


async def states(redis: "Redis", prefix: str, name: str, streams: int) -> list[State]:
    """The states of as many streams that are called ``name``/0 and so on."""
    stored: list[Any] = await redis.mget([f"{prefix}:stream:{name}/{i}" for i in range(streams)])
    return [decode(one) for one in stored]


async def until_counted(client: httpx.AsyncClient, stream: str) -> None:
    while not await count(client, stream):  # noqa: ASYNC110  # It happens in the server, which tells nobody.
        await asyncio.sleep(0.01)


def halves(body: bytes, *cuts: int) -> Iterable[bytes]:
    return (body[a:b] for a, b in zip((0, *cuts), (*cuts, len(body)), strict=True))


@pytest.mark.parametrize(
    "media_type", ["application/x-ndjson", "application/ndjson", "application/jsonl; charset=utf-8"]
)
async def test_lines_are_readings_however_the_body_is_cut(client: httpx.AsyncClient, media_type: str) -> None:
    body = line("a", 1) + b"\n" + line("b", [1, 2]) + line("a", 3).strip()
    headers = {"content-type": media_type}
    for cut in (1, len(line("a", 1)), len(body) - 2):
        reply = await client.post("/v1/readings", content=pieces(*halves(body, cut)), headers=headers)
        assert (200, {"readings": 3, "streams": 2}) == (reply.status_code, reply.json())
    assert (6, 3) == (await count(client, "a"), await count(client, "b"))


@pytest.mark.parametrize(
    ("media_type", "status"),
    [(None, 200), ("", 200), ("application/jsonl", 200), ("application/json", 415), ("text/plain", 415)],
)
async def test_without_a_media_type_put_records_ndjson(
    client: httpx.AsyncClient, media_type: str | None, status: int
) -> None:
    """curl -T sends none, and was answered with 415."""
    headers = {} if media_type is None else {"content-type": media_type}
    reply = await client.put("/v1/readings", content=line("a", 1) + line("b", 2), headers=headers)
    assert status == reply.status_code
    assert (1 if status == 200 else 0) == await count(client, "b")


@pytest.mark.parametrize("body", [b"\n", b"\n \r\n\n"])
async def test_an_upload_of_empty_lines_records_none(client: httpx.AsyncClient, body: bytes) -> None:
    reply = await upload(client, body)
    assert (200, {"readings": 0, "streams": 0}) == (reply.status_code, reply.json())


async def test_an_upload_without_a_line_is_no_success(client: httpx.AsyncClient) -> None:
    reply = await upload(client, b"")
    assert (422, "Expected at least one line.") == (reply.status_code, reply.json()["detail"])


@pytest.mark.parametrize(("bad", "status"), [(b"{", 400), (line("a", "x"), 422), (line("a/count", 1), 422)])
async def test_what_is_before_a_wrong_line_is_recorded(client: httpx.AsyncClient, bad: bytes, status: int) -> None:
    reply = await upload(client, line("a", 1), b"\n" + line("a", 2), line("a", 3) + bad.strip() + b"\n" + line("a", 4))
    assert status == reply.status_code
    assert "application/problem+json" == reply.headers["content-type"]
    assert (5, 4) == (reply.json()["line"], reply.json()["recorded"])
    assert 3 == await count(client, "a")


async def test_a_line_of_another_shape_than_the_stream_ends_an_upload_there(client: httpx.AsyncClient) -> None:
    await upload(client, line("vector", [1, 2]))
    reply = await upload(client, line("a", 1) + line("a", 2) + line("vector", 3) + line("a", 4))
    assert (409, 3, 2) == (reply.status_code, reply.json()["line"], reply.json()["recorded"])
    assert [{"stream": "vector", "expected": "an array of 2 numbers", "received": "a number"}] == reply.json()[
        "conflicts"
    ]
    assert (2, 1) == (await count(client, "a"), await count(client, "vector"))


async def test_sent_again_with_its_key_an_upload_is_counted_once_wherever_it_broke_off(
    client: httpx.AsyncClient,
) -> None:
    lines = [line("ab"[i % 3 == 0], i) for i in range(30)]
    body = b"".join(lines)
    at = [len(b"".join(lines[:n])) for n in (7, 12, 20)]
    await upload(client, *halves(body[: at[2]], at[0]), key="up:100")

    reply = await upload(client, *halves(body, at[1], at[2] + 5), key="up:100")
    assert {"readings": 10, "streams": 2, "duplicates": 20} == reply.json()
    reply = await upload(client, body, key="up:100")
    assert {"readings": 0, "streams": 0, "duplicates": 30} == reply.json()
    reply = await upload(client, b"".join(lines[25:]) + line("a", 30), key="up:125")
    assert {"readings": 1, "streams": 1, "duplicates": 5} == reply.json()
    assert 31 == await count(client, "a") + await count(client, "b")


async def test_sent_again_an_upload_that_broke_off_over_thousands_of_streams_is_counted_once(
    client: httpx.AsyncClient, redis: "Redis", prefix: str
) -> None:
    """Each stream has counted another part of it. It was a recursion for each of them, and a 500."""
    lines = [line(f"s/{i % 2_500}", i) for i in range(5_000)]
    for stop in (1_000, 2_600, 4_990):
        assert 200 == (await upload(client, b"".join(lines[:stop]), key="up:7")).status_code
    reply = await upload(client, b"".join(lines), key="up:7")
    assert {"readings": 10, "streams": 10, "duplicates": 4_990} == reply.json()
    assert {2} == {state.summary.count for state in await states(redis, prefix, "s", 2_500)}


async def test_however_far_each_stream_has_come_the_rest_is_counted(
    client: httpx.AsyncClient, redis: "Redis", prefix: str
) -> None:
    streams, rounds = 600, 3
    lines = [line(f"s/{i % streams}", i) for i in range(rounds * streams)]
    for stream in range(streams):  # As if the first block had ended elsewhere for each of them.
        some = b"".join(one if i % streams == stream else b"\n" for i, one in enumerate(lines[: streams + stream + 1]))
        assert {"readings": 2, "streams": 1, "duplicates": 0} == (await upload(client, some, key="up:7")).json()
    reply = await upload(client, b"".join(lines), key="up:7")
    assert {"readings": streams, "streams": streams, "duplicates": 2 * streams} == reply.json()
    assert {rounds} == {state.summary.count for state in await states(redis, prefix, "s", streams)}


async def test_a_line_of_another_shape_ends_an_upload_that_is_sent_again_there(client: httpx.AsyncClient) -> None:
    lines = [line("a", 1), line("b", 1), line("a", 2), line("b", [1, 2]), line("a", 3), line("b", 3)]
    assert 422 == (await upload(client, b"".join(lines), key="up:0")).status_code
    await client.post("/v1/readings", json={"late": {"value": [1, 2]}})
    mended = [*lines[:3], line("b", 2), line("late", 1), line("b", 3)]
    reply = await upload(client, b"".join(mended), key="up:0")
    assert (409, 5, 4) == (reply.status_code, reply.json()["line"], reply.json()["recorded"])
    assert [2, 2] == [await count(client, stream) for stream in "ab"]


async def test_empty_lines_have_sequences_too(client: httpx.AsyncClient) -> None:
    await upload(client, line("a", 1) + b"\n" + line("a", 2), key="up:0")
    assert {"readings": 0, "streams": 0, "duplicates": 1} == (await upload(client, line("a", 2), key="up:2")).json()
    assert {"readings": 1, "streams": 1, "duplicates": 0} == (await upload(client, line("a", 3), key="up:3")).json()


async def test_after_a_mended_line_the_whole_upload_can_be_sent_again(client: httpx.AsyncClient) -> None:
    await upload(client, line("a", 1) + line("b", 2) + b"oops\n" + line("a", 4), key="up:0")
    reply = await upload(client, line("a", 1) + line("b", 2) + line("c", 3) + line("a", 4), key="up:0")
    assert {"readings": 2, "streams": 2, "duplicates": 2} == reply.json()
    assert [2, 1, 1] == [await count(client, stream) for stream in "abc"]


async def test_sequences_end_below_2_to_the_53(client: httpx.AsyncClient) -> None:
    reply = await upload(client, line("a", 1) + line("a", 2) + line("a", 3), key="up:9007199254740990")
    assert (400, 0) == (reply.status_code, reply.json()["recorded"])
    assert "urn:meanwhile:problem:bad-idempotency-key" == reply.json()["type"]
    assert 0 == await count(client, "a")
    assert 200 == (await upload(client, line("a", 1) + line("a", 2), key="up:9007199254740990")).status_code


async def test_a_service_that_requires_keys_requires_one_of_an_upload(api: Api) -> None:
    client = await api(require_idempotency_key=True)
    assert 400 == (await upload(client, line("a", 1))).status_code
    assert 200 == (await upload(client, line("a", 1), key="up:1")).status_code


async def test_the_size_limit_is_that_of_a_line(api: Api) -> None:
    client = await api(max_body=60)
    assert 200 == (await upload(client, line("a", 1) * 50)).status_code
    long = line("a" * 40, 1) + line("a", 1)
    for chunks in ([line("a", 1) + long], [line("a", 1), long], [line("a", 1), *[b" " * 20] * 1000]):
        reply = await upload(client, *chunks)
        assert 413 == reply.status_code
        assert "60 bytes" in reply.json()["detail"]
        assert (2, 1) == (reply.json()["line"], reply.json()["recorded"])
    assert 53 == await count(client, "a")


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("empty", [b"\n", b" \r\n", b" " * 50 + b"\n"])
async def test_there_is_an_end_to_empty_lines(api: Api, encoding: str, empty: bytes) -> None:
    client = await api(max_body=100_000)

    async def send(*parts: bytes) -> httpx.Response:
        body = gzip.compress(b"".join(parts)) if encoding == "gzip" else b"".join(parts)
        return await upload(client, body, **{"content-encoding": encoding})

    some = empty * (60_000 // len(empty))
    reply = await send(line("a", 1), some, line("a", 1), some, line("a", 1))
    assert {"readings": 3, "streams": 1} == reply.json()
    reply = await send(line("a", 1), some, some, line("a", 1), line("a", 1))
    assert (413, "urn:meanwhile:problem:too-large") == (reply.status_code, reply.json()["type"])
    assert 3 + 1 == await count(client, "a")


async def test_a_commit_of_an_upload_has_few_components_and_all_are_recorded(
    client: httpx.AsyncClient, redis: "Redis", prefix: str
) -> None:
    wide = [line(f"w/{i % 50}", [i] * 1_024) for i in range(100)]
    narrow = [line(f"n/{i}", i) for i in range(2_000)]
    body = b"".join(wide) + b"".join(narrow)
    reply = await upload(client, body, key="up:0")
    assert {"readings": 2_100, "streams": 2_050, "duplicates": 0} == reply.json()
    reply = await upload(client, body, key="up:0")
    assert {"readings": 0, "streams": 0, "duplicates": 2_100} == reply.json()
    found = await states(redis, prefix, "w", 50)
    assert {(2, 1_024)} == {(one.summary.count, one.shape.components) for one in found}


async def test_an_upload_counts_its_streams_up_to_a_limit(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meanwhile.api.upload.MAX_STREAMS", 300)
    reply = await upload(client, b"".join(line(f"n/{i}", i) for i in range(2_000)), key="up:0")
    assert (413, "Expected at most 300 streams in an upload. Send the rest in another.") == (
        reply.status_code,
        reply.json()["detail"],
    )
    recorded = reply.json()["recorded"]
    assert [1, 0] == [await count(client, f"n/{recorded - 1}"), await count(client, f"n/{recorded}")]


async def test_lines_that_are_not_complete_have_a_limit_together(api: Api) -> None:
    client = await api(max_receiving=500_000)
    began, goes_on = asyncio.Event(), asyncio.Event()
    long = b" " * 400_000 + line("a", 1)

    async def slow() -> AsyncIterator[bytes]:
        yield line("a", 1) + long[:300_000]
        began.set()
        await goes_on.wait()
        yield long[300_000:]

    first = asyncio.create_task(client.post("/v1/readings", content=slow(), headers=NDJSON))
    await began.wait()
    await until_counted(client, "a")
    refused = await upload(client, line("a", 1), long[:300_000], long[300_000:])
    assert (503, "urn:meanwhile:problem:overloaded", 1) == (
        refused.status_code,
        refused.json()["type"],
        refused.json()["recorded"],
    )
    goes_on.set()
    assert {"readings": 2, "streams": 1} == (await first).json()
    assert 200 == (await upload(client, line("a", 1), long[:300_000], long[300_000:])).status_code


async def test_gzip_is_inflated_as_it_comes(client: httpx.AsyncClient) -> None:
    body = gzip.compress(line("a", 1) * 20_000) + gzip.compress(line("a", 1) * 5)
    reply = await upload(client, *halves(body, 1, 20, len(body) - 3), **{"content-encoding": "gzip"})
    assert {"readings": 20_005, "streams": 1} == reply.json()
    for broken in (body[:-30], body + b"x", b""):
        reply = await upload(client, broken, **{"content-encoding": "gzip"})
        assert (400, "urn:meanwhile:problem:bad-encoding") == (reply.status_code, reply.json()["type"])
        assert reply.json()["recorded"] in {0, 20_000, 20_005}
    assert 415 == (await upload(client, b"", **{"content-encoding": "br"})).status_code


async def test_a_key_for_some_streams_ends_an_upload_at_others(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f'[[key]]\nscopes = ["write", "read"]\nprefix = "mine/"\nsha256 = "{digest_of(b"secret")}"\n')
    client = await api(api_keys=file)
    client.headers["x-api-key"] = "secret"
    reply = await upload(client, line("mine/a", 1) + line("mine/a", 1) + line("other", 1) + line("mine/a", 1))
    assert (403, 3, 2) == (reply.status_code, reply.json()["line"], reply.json()["recorded"])
    assert 2 == await count(client, "mine/a")


async def test_more_uploads_than_may_be_open_are_told_to_come_again(api: Api) -> None:
    client = await api(max_uploads=1)
    goes_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield line("a", 1)
        await goes_on.wait()

    first = asyncio.create_task(client.post("/v1/readings", content=slow(), headers=NDJSON))
    await until_counted(client, "a")
    refused = await upload(client, line("a", 1), line("a", 1))
    goes_on.set()
    assert (503, "1") == (refused.status_code, refused.headers["retry-after"])
    assert 200 == (await first).status_code
    assert 200 == (await upload(client, line("a", 1), line("a", 1))).status_code
    assert 3 == await count(client, "a")


async def test_when_redis_goes_the_reply_says_how_many_lines_are_recorded(api: Api) -> None:
    with valkey() as server:
        client = await api(redis_url=server.url, redis_timeout=2)

        async def body() -> AsyncIterator[bytes]:
            yield line("a", 1) * 3
            await until_counted(client, "a")
            server.kill()
            yield line("a", 1) * 4

        reply = await client.post("/v1/readings", content=body(), headers=NDJSON | {"idempotency-key": "up:0"})
        assert reply.status_code in {503, 504}
        assert 3 == reply.json()["recorded"]
        assert reply.json()["detail"].startswith("The first 3 lines are recorded.")
        server.start()
        reply = await upload(client, line("a", 1) * 7, key="up:0")
        assert {"readings": 4, "streams": 1, "duplicates": 3} == reply.json()


# Connections ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service("--upload-idle-timeout", "3") as started:
        yield started
        assert "Traceback" not in started.log


@pytest.fixture
def stream() -> str:
    """A stream that no other test has."""
    return f"upload/{uuid.uuid4().hex}"


def count_of(running: Service, stream: str) -> int:
    reply = calls.get(f"{running.url}/v1/streams/{stream}/count")
    return int(reply.json()["count"]) if reply.status_code == 200 else 0


class Open:
    """An upload over a connection of its own, line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, running: Service, headers: str = "") -> "Open":
        return await cls.to_port(running.port, headers)

    @classmethod
    async def to_port(cls, port: int, headers: str = "") -> "Open":
        one = cls(*await asyncio.open_connection("127.0.0.1", port))
        one.writer.write(
            b"POST /v1/readings HTTP/1.1\r\nHost: meanwhile\r\nContent-Type: application/x-ndjson\r\n"
            b"Transfer-Encoding: chunked\r\n" + headers.encode() + b"\r\n"
        )
        return one

    @property
    def is_answered(self) -> bool:
        return bool(self.reader._buffer)  # type: ignore[attr-defined]  # Its way to say so would take it.

    def send(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def answer(self) -> tuple[int, dict[str, Any]]:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head.split(b" ")[1]), json.loads(await self.reader.readexactly(length))


async def test_an_upload_may_last_longer_than_a_request_but_not_without_lines(
    shared_valkey: Valkey, prefix: str, stream: str
) -> None:
    settings = Settings(redis_url=shared_valkey.url, prefix=prefix, upload_idle_timeout=3)
    async with (
        listening(settings) as port,
        calls.async_client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        clock = Clock(asyncio.get_running_loop())
        slow, silent, dripping, never = [await Open.to_port(port) for _ in range(4)]
        silent.send(line(stream + "/silent", 1))
        dripping.send(line(stream + "/dripping", 1) + b'{"stream":')
        half_seconds = 2 * int(TIMEOUT + 2)
        for now in range(half_seconds):
            slow.send(line(stream, 1))
            if not dripping.is_answered:
                dripping.send(b" ")
            while not await count(client, stream):
                pass  # A pause would last as long as the clock stands still.
            for _ in range(3):  # What was sent before has arrived, and what is due has happened.
                assert 200 == (await client.get("/livez")).status_code
            if now != 6:
                assert [now > 6] * 3 == [one.is_answered for one in (silent, dripping, never)], now
            clock.advance(0.5)
        slow.writer.write(b"0\r\n\r\n")

        status, reply = await slow.answer()
        assert (200, half_seconds) == (status, reply["readings"])
        for one, recorded in ((silent, 1), (dripping, 1), (never, 0)):
            status, reply = await one.answer()
            assert (408, recorded, "urn:meanwhile:problem:idle") == (status, reply["recorded"], reply["type"])
        assert half_seconds == await count(client, stream)
        for one in (slow, silent, dripping, never):
            one.writer.close()


async def test_when_a_connection_breaks_what_came_in_whole_lines_is_recorded(running: Service, stream: str) -> None:
    one = await Open.to(running)
    for _ in range(200):
        one.send(line(stream, 1))
    one.send(line(stream, 1).strip())
    await one.writer.drain()
    one.writer.close()
    await one.writer.wait_closed()
    await asyncio.to_thread(eventually, lambda: count_of(running, stream) >= 200)
    assert 200 == count_of(running, stream)


async def test_a_service_that_stops_ends_uploads_at_once_and_says_what_is_recorded() -> None:
    with service("--shutdown-timeout", "20") as running:
        one = await Open.to(running)
        one.send(line("a", 1) * 5 + b'{"stream"')
        await asyncio.to_thread(eventually, lambda: count_of(running, "a") == 5)
        stopping = asyncio.create_task(asyncio.to_thread(running.stop, signal.SIGTERM))
        status, reply = await one.answer()
        assert (503, 5, "urn:meanwhile:problem:stopping") == (status, reply["recorded"], reply["type"])
        assert 0 == await stopping
        assert "Cancel" not in running.log  # Nothing had to be cancelled when the time was up.
        one.writer.close()


OWN = key_entry("own", ["write", "read"], "mine/", "mw_own")
OTHER = key_entry("other", ["read"], "", "mw_other")
WITHDRAWN = {
    "revoked": (OTHER, 401, "unauthorized"),
    "the last one revoked": ("", 401, "unauthorized"),
    "another scope": (OWN.replace('["write", "read"]', '["read"]'), 403, "forbidden"),
    "a narrower prefix": (OWN.replace("mine/", "mine/of-all/"), 403, "forbidden"),
}


@pytest.mark.parametrize(("text", "status", "kind"), WITHDRAWN.values(), ids=WITHDRAWN.keys())
async def test_an_upload_ends_when_its_key_no_longer_allows_it(
    tmp_path: Path, shared_valkey: Valkey, prefix: str, text: str, status: int, kind: str
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(OWN)
    with service("--api-keys", str(keys), MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=prefix) as running:
        one = await Open.to(running, "X-API-Key: mw_own\r\n")
        one.send(line("mine/a", 1) * 5 + b'{"stream"')
        headers = {"x-api-key": "mw_own"}
        url = f"{running.url}/v1/streams/mine/a/count"
        await asyncio.to_thread(eventually, lambda: calls.get(url, headers=headers).json().get("count") == 5)
        keys.write_text(text)
        assert running.process is not None
        running.process.send_signal(signal.SIGHUP)
        code, reply = await one.answer()
        assert (status, 5, f"urn:meanwhile:problem:{kind}") == (code, reply["recorded"], reply["type"])
        one.writer.close()


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/v1/readings", "application/x-ndjson", line("mine/a", 1)),
        ("/v1/readings", "application/json", b'{"mine/a": {"value": 1}}'),
        ("/v1/streams/mine/a/readings", "application/json", b'{"value": 1}'),
        ("/write", "text/plain", b"mine/a value=1\n"),
    ],
)
async def test_a_body_that_arrives_after_its_key_was_revoked_is_not_recorded(
    tmp_path: Path, shared_valkey: Valkey, prefix: str, path: str, kind: str, body: bytes
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f"{OWN}\n{OTHER}")
    with service("--api-keys", str(keys), MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=prefix) as running:
        head = f"POST {path} HTTP/1.1\r\nHost: m\r\nX-API-Key: mw_own\r\nContent-Type: {kind}\r\n"
        async with connected(running.port) as (reader, writer):
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
            await asyncio.sleep(0.2)
            keys.write_text(OTHER)
            assert running.process is not None
            running.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(eventually, lambda: "API keys in use: 1" in running.log)
            writer.write(body)
            assert 401 == (await answer(reader))[0]
        assert [] == calls.get(f"{running.url}/v1/streams", headers={"x-api-key": "mw_other"}).json()["streams"]


async def test_what_a_key_allows_now_goes_for_the_lines_to_come(
    tmp_path: Path, shared_valkey: Valkey, prefix: str
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(OWN)
    with service("--api-keys", str(keys), MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=prefix) as running:
        one = await Open.to(running, "X-API-Key: mw_own\r\n")
        one.send(line("mine/a/b", 1))
        url = f"{running.url}/v1/streams/mine/a/b/count"
        counted = lambda: calls.get(url, headers={"x-api-key": "mw_own"}).is_success  # noqa: E731  # As eventually wants.
        await asyncio.to_thread(eventually, counted)
        keys.write_text(OWN.replace("mine/", "mine/a/"))
        assert running.process is not None
        running.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(eventually, lambda: "API keys in use: 1" in running.log)
        one.send(line("mine/a/b", 1) + line("mine/b", 1) + line("mine/a/b", 1) + b"\n")
        status, reply = await one.answer()
        assert (403, 2, 3) == (status, reply["recorded"], reply["line"])
        one.writer.close()


@pytest.mark.parametrize(
    "options",
    [[], ["-H", "Expect:"], ["-H", "Expect: 100-continue"], ["-H", "Content-Type: application/jsonl"]],
    ids=str,
)
def test_curl_uploads_from_a_pipe(running: Service, stream: str, options: list[str]) -> None:
    """curl sends the first lines while the pipe is open, and asks to continue before it does."""
    command = ["curl", "-sS", "-T", "-", *options]
    with subprocess.Popen(
        [*command, f"{running.url}/v1/readings"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as curl:
        assert curl.stdin is not None
        curl.stdin.write(line(stream, 1))
        curl.stdin.flush()
        eventually(lambda: count_of(running, stream) == 1)
        curl.stdin.write(line(stream, 3))
        output, _ = curl.communicate(timeout=20)
    assert {"readings": 2, "streams": 1} == json.loads(output)
