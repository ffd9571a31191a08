"""Idempotency keys over HTTP: what the header may be, what a retry is answered, and when the service itself retries.

The replies of a real Valkey are dropped by a proxy after the request has passed, because that is the one failure in
which a resend doubles a reading if anything about keys is wrong.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from meanwhile.core.idempotency_keys import Key
from meanwhile.core.readings import Limits, collect
from meanwhile.storage.committer import Committer
from meanwhile.storage.large_requests import PAUSE
from meanwhile.storage.redis_client import OutcomeUnknown, connect
from meanwhile.storage.store import Store
from tests.conftest import Api
from tests.support.keys import MALFORMED, digits
from tests.support.servers import ReplyDropper, Streams, Valkey, reply_dropper

TYPE = "urn:meanwhile:problem:"


async def post(client: httpx.AsyncClient, stream: str, value: float, key: str) -> httpx.Response:
    return await client.post(f"/v1/streams/{stream}/readings", json={"value": value}, headers={"Idempotency-Key": key})


async def post_batch(client: httpx.AsyncClient, batch: dict[str, Any], key: str) -> httpx.Response:
    return await client.post("/v1/readings", json=batch, headers={"Idempotency-Key": key})


# The header ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [header for header in MALFORMED if header.isascii()], ids=ascii)
async def test_a_header_that_is_no_key_is_400_with_its_form_and_records_nothing(
    client: httpx.AsyncClient, redis: "Redis", prefix: str, header: str
) -> None:
    replies = [await post(client, "s", 1, header), await post_batch(client, {"s": {"value": 1}}, header)]
    for reply in replies:
        assert (400, TYPE + "bad-idempotency-key") == (reply.status_code, reply.json()["type"])
        assert "<producer>:<sequence>" in reply.json()["detail"]
    assert [] == [key async for key in redis.scan_iter(f"{prefix}:*")]


@pytest.mark.parametrize("second", ["p:1", "p:2", ""])
async def test_two_headers_are_400_even_if_they_are_equal(client: httpx.AsyncClient, second: str) -> None:
    headers = [("Idempotency-Key", "p:1"), ("idempotency-key", second)]
    one = await client.post("/v1/streams/s/readings", json={"value": 1}, headers=headers)
    batch = await client.post("/v1/readings", json={"s": {"value": 1}}, headers=headers)
    for reply in (one, batch):
        assert (400, TYPE + "bad-idempotency-key") == (reply.status_code, reply.json()["type"])
    assert 404 == (await client.get("/v1/streams/s/count")).status_code


async def test_quotes_around_a_key_make_no_other_key(client: httpx.AsyncClient) -> None:
    assert {"stream": "s", "count": 1, "average": 1.0} == (await post(client, "s", 1, '"p:7"')).json()
    assert {"stream": "s", "count": 1, "average": 1.0, "duplicate": True} == (await post(client, "s", 1, "p:7")).json()


async def test_a_key_can_be_made_mandatory(api: Api) -> None:
    client = await api(require_idempotency_key=True)
    one = await client.post("/v1/streams/s/readings", json={"value": 1})
    batch = await client.post("/v1/readings", json={"s": {"value": 1}})
    for reply in (one, batch):
        assert (400, TYPE + "bad-idempotency-key") == (reply.status_code, reply.json()["type"])
    assert 404 == (await client.get("/v1/streams/s/count")).status_code
    assert 200 == (await post(client, "s", 1, "p:1")).status_code
    assert 200 == (await post_batch(client, {"s": {"value": 1}}, "p:2")).status_code
    assert {"stream": "s", "count": 2} == (await client.get("/v1/streams/s/count")).json()


async def test_the_setting_that_makes_a_key_mandatory_comes_from_the_environment(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEANWHILE_REQUIRE_IDEMPOTENCY_KEY", "true")
    client = await api()
    assert 400 == (await client.post("/v1/streams/s/readings", json={"value": 1})).status_code


# Retries ---------------------------------------------------------------------------------------------------------


async def test_a_retry_with_the_same_key_is_counted_once(client: httpx.AsyncClient) -> None:
    assert {"stream": "s", "count": 1, "average": 4.0} == (await post(client, "s", 4, "p:1")).json()
    assert {"stream": "s", "count": 2, "average": 10.0} == (await post(client, "s", 16, "p:2")).json()
    for key, value in (("p:1", 4), ("p:2", 16), ("p:1", 64)):
        reply = await post(client, "s", value, key)
        assert 200 == reply.status_code
        assert {"stream": "s", "count": 2, "average": 10.0, "duplicate": True} == reply.json()


async def test_fifty_copies_at_once_are_counted_once_and_49_are_told_so(api: Api) -> None:
    clients = [await api(), await api()]  # As two workers.
    replies = await asyncio.gather(*[post(clients[n % 2], "s", 4, "p:1") for n in range(50)])
    assert {200} == {reply.status_code for reply in replies}
    assert 49 == sum(reply.json().get("duplicate", False) for reply in replies)
    assert {"stream": "s", "count": 1} == (await clients[0].get("/v1/streams/s/count")).json()


async def test_a_batch_says_how_many_of_its_readings_were_duplicates(client: httpx.AsyncClient) -> None:
    batch = {"a": {"values": [1, 2, 3]}, "b": {"value": 1}, "c": {"values": [1, 2]}}
    assert {"readings": 6, "streams": 3, "duplicates": 0} == (await post_batch(client, batch, "p:1")).json()
    assert {"readings": 0, "streams": 0, "duplicates": 6} == (await post_batch(client, batch, "p:1")).json()


async def test_a_retry_after_a_partial_failure_completes_what_is_missing(client: httpx.AsyncClient) -> None:
    batch = {"a": {"values": [1, 2, 3]}, "b": {"value": 1}, "c": {"values": [1, 2]}}
    await post_batch(client, {name: batch[name] for name in "ac"}, "p:1")
    assert {"readings": 1, "streams": 1, "duplicates": 5} == (await post_batch(client, batch, "p:1")).json()
    counts = [(await client.get(f"/v1/streams/{name}/count")).json()["count"] for name in "abc"]
    assert [3, 1, 2] == counts


async def test_every_stream_has_its_own_memory_of_a_key(client: httpx.AsyncClient) -> None:
    for stream in "abc":
        reply = await post(client, stream, 1, "p:1")
        assert {"stream": stream, "count": 1, "average": 1.0} == reply.json()
    await post(client, "a", 1, "p:1000")  # Moves the window of this stream alone.
    assert 409 == (await post(client, "a", 1, "p:2")).status_code
    assert {"stream": "b", "count": 2, "average": 1.0} == (await post(client, "b", 1, "p:2")).json()


async def test_every_producer_has_its_own_sequences(client: httpx.AsyncClient) -> None:
    await post(client, "s", 1, "p:1000")
    assert {"stream": "s", "count": 2, "average": 1.0} == (await post(client, "s", 1, "q:1")).json()
    assert {"stream": "s", "count": 3, "average": 1.0} == (await post(client, "s", 1, "p:1:1")).json()


@pytest.mark.parametrize(("sequence", "status"), [(935, 409), (936, 200), (999, 200), (0, 409)])
async def test_below_the_window_of_64_is_409_and_not_counted(
    client: httpx.AsyncClient, sequence: int, status: int
) -> None:
    await post(client, "s", 1, "p:1000")
    reply = await post(client, "s", 1, f"p:{sequence}")
    assert status == reply.status_code
    assert {"stream": "s", "count": 2 if status == 200 else 1} == (await client.get("/v1/streams/s/count")).json()
    if status == 409:
        assert TYPE + "key-too-old" == reply.json()["type"]
        batch = await post_batch(client, {"s": {"value": 1}, "new": {"value": 1}}, f"p:{sequence}")
        assert (409, TYPE + "key-too-old") == (batch.status_code, batch.json()["type"])
        assert 404 == (await client.get("/v1/streams/new/count")).status_code


async def test_hundreds_of_producers_of_a_stream_keep_nobody_out_and_nothing_counts_twice(
    client: httpx.AsyncClient,
) -> None:
    for _ in range(2):
        for n in range(100):
            assert 200 == (await post(client, "s", 1, f"p{n}:1")).status_code
    assert {"stream": "s", "count": 100} == (await client.get("/v1/streams/s/count")).json()
    assert 200 == (await post(client, "s", 1, "p0:2")).status_code
    assert {"stream": "s", "count": 101} == (await client.get("/v1/streams/s/count")).json()


async def test_a_key_of_a_clock_that_is_years_ahead_is_refused_and_the_producer_goes_on(
    client: httpx.AsyncClient,
) -> None:
    now = time.time_ns() // 1_000
    assert 200 == (await post(client, "s", 1, f"p:{now}")).status_code
    hiccup = await post(client, "s", 1, f"p:{now + 10 * 365 * 86_400 * 10**6}")
    assert (409, TYPE + "key-ahead") == (hiccup.status_code, hiccup.json()["type"])
    assert 200 == (await post(client, "s", 1, f"p:{now + 1}")).status_code
    assert {"stream": "s", "count": 2} == (await client.get("/v1/streams/s/count")).json()


async def test_the_last_reading_cannot_be_pinned_in_the_future(client: httpx.AsyncClient) -> None:
    before = time.time()
    for at in ("9999-12-31T23:59:59.999Z", 253402300799, before + 3_600):
        reply = await client.post("/v1/streams/s/readings", json={"value": 1, "time": at})
        assert 200 == reply.status_code
    state = (await client.get("/v1/streams/s")).json()
    for member in ("first_reading_at", "last_reading_at"):
        assert before - 1 <= datetime.fromisoformat(state[member]).timestamp() <= time.time() + 1
    soon = time.time() + 300  # Clocks are a little off.
    await client.post("/v1/streams/s/readings", json={"value": 1, "time": soon})
    state = (await client.get("/v1/streams/s")).json()
    assert abs(datetime.fromisoformat(state["last_reading_at"]).timestamp() - soon) < 0.01


async def test_after_delete_a_key_is_new_again(client: httpx.AsyncClient) -> None:
    await post(client, "s", 1, "p:1000")
    assert 200 == (await client.delete("/v1/streams/s")).status_code
    assert {"stream": "s", "count": 1, "average": 4.0} == (await post(client, "s", 4, "p:1")).json()


async def test_a_refused_request_does_not_use_up_its_key(client: httpx.AsyncClient) -> None:
    assert 422 == (await client.post("/v1/streams/s/readings", json={}, headers={"Idempotency-Key": "p:1"})).status_code
    assert {"stream": "s", "count": 1, "average": 1.0} == (await post(client, "s", 1, "p:1")).json()
    conflict = await client.post(
        "/v1/readings", json={"s": {"value": [1]}, "t": {"value": 1}}, headers={"Idempotency-Key": "p:2"}
    )
    assert 409 == conflict.status_code
    batch = await post_batch(client, {"s": {"value": 1}, "t": {"value": 1}}, "p:2")
    assert {"readings": 2, "streams": 2, "duplicates": 0} == batch.json()


# A reply that is lost --------------------------------------------------------------------------------------------


class First:
    """Drops the replies to the first ``count`` runs of the script, and counts all of them."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.runs = 0

    def __call__(self, request: bytes) -> bool:
        if b"EVALSHA" not in request or b":stream:probe" in request:  # The probe of scripts is no commit.
            return False
        self.runs += 1
        self.left -= 1
        return self.left >= 0


@asynccontextmanager
async def dropping(server: Valkey, drops: First) -> AsyncIterator[ReplyDropper]:
    """A way to the server on which replies are dropped."""

    async def upstream() -> Streams:
        return await asyncio.open_unix_connection(str(server.socket))

    async with reply_dropper(upstream, drops) as proxy:
        yield proxy


async def load_script(store: Store) -> None:
    """So that every run that the proxy sees is EVALSHA, and none is refused with NOSCRIPT."""
    await store.commit([], asyncio.get_running_loop().time() + 10)


async def test_a_commit_whose_reply_is_lost_is_sent_again_if_it_has_a_key(
    api: Api, shared_valkey: Valkey, store: Store
) -> None:
    await load_script(store)
    drops = First(3)

    async with dropping(shared_valkey, drops) as proxy:
        client = await api(redis_url=f"redis://127.0.0.1:{proxy.port}", redis_timeout=5.0)
        reply = await post(client, "s", 4, "p:1")
        await client.aclose()
        assert (200, "s", 1, 4.0) == (reply.status_code, *(reply.json()[m] for m in ("stream", "count", "average")))
        assert (4, 3) == (drops.runs, proxy.dropped)
        assert [1] == await digits(store, "s")


async def test_a_commit_whose_reply_is_lost_is_504_and_sent_once_if_it_has_no_key(
    api: Api, shared_valkey: Valkey, store: Store
) -> None:
    await load_script(store)
    drops = First(1)

    async with dropping(shared_valkey, drops) as proxy:
        client = await api(redis_url=f"redis://127.0.0.1:{proxy.port}", redis_timeout=5.0)
        reply = await client.post("/v1/streams/s/readings", json={"value": 4})
        assert (504, TYPE + "outcome-unknown") == (reply.status_code, reply.json()["type"])
        assert 200 == (await client.get("/v1/streams/s/count")).status_code
        assert (1, 1) == (drops.runs, proxy.dropped)
        assert [1] == await digits(store, "s")


async def test_replies_that_are_lost_till_the_deadline_are_504_then_and_the_retry_finds_it_counted(
    api: Api, shared_valkey: Valkey, store: Store
) -> None:
    await load_script(store)
    drops = First(1_000_000)

    async with dropping(shared_valkey, drops) as proxy:
        client = await api(redis_url=f"redis://127.0.0.1:{proxy.port}", redis_timeout=0.5)
        reply = await post(client, "s", 4, "p:1")
        assert (504, TYPE + "outcome-unknown") == (reply.status_code, reply.json()["type"])
        assert 2 < drops.runs <= 0.5 / PAUSE + 1
        drops.left = 0
        retry = await post(client, "s", 4, "p:1")
        assert {"stream": "s", "count": 1, "average": 4.0, "duplicate": True} == retry.json()
        assert [1] == await digits(store, "s")


async def test_of_a_commit_with_both_only_what_has_a_key_is_sent_again(
    shared_valkey: Valkey, store: Store, prefix: str
) -> None:
    await load_script(store)
    drops = First(1)

    async with (
        dropping(shared_valkey, drops) as proxy,
        connect(f"redis://127.0.0.1:{proxy.port}") as redis,
    ):
        committer = Committer(Store(redis, prefix), max_waiting=100, redis_timeout=5.0)
        bare, keyed, other = await asyncio.gather(
            committer.record({"s": collect([1.0], 0, 0, Limits())}),
            committer.record({"s": collect([4.0], 0, 0, Limits())}, Key("p", 1)),
            committer.record({"t": collect([1.0], 0, 0, Limits())}, Key("p", 1)),
            return_exceptions=True,
        )
        assert isinstance(bare, OutcomeUnknown)
        assert not isinstance(keyed, BaseException)
        assert not isinstance(other, BaseException)
        assert 2 == keyed.states["s"].summary.count
        assert 1 == other.states["t"].summary.count
        assert 2 == drops.runs
        assert [0, 1] == await digits(store, "s")
        assert [0] == await digits(store, "t")
