"""API keys over HTTP: who is told 401 and who 403, on every route, and that neither changes anything."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from redis.asyncio import Redis

from meanwhile.api.key_file import key_entry
from tests.conftest import Api

TYPE = "urn:meanwhile:problem:"
SECRETS = {
    "read": "mw_read",
    "write": "mw_write",
    "admin": "mw_admin",
    "read plant": "mw_read_plant",
    "write plant": "mw_write_plant",
    "admin plant": "mw_admin_plant",
}


class Route(NamedTuple):
    """A route that needs a key of this scope, and a request of a stream that the keys for plant/ do not reach."""

    scope: str
    method: str
    path: str
    body: Any = None


ROUTES = [
    Route("write", "POST", "/v1/streams/s/readings", {"value": 1}),
    Route("write", "POST", "/v1/readings", {"plant/s": {"value": 1}, "s": {"value": 1}}),
    Route("read", "GET", "/v1/streams/s"),
    Route("read", "HEAD", "/v1/streams/s"),
    Route("read", "GET", "/v1/streams/s/average"),
    Route("read", "GET", "/v1/streams/s/count"),
    Route("read", "GET", "/v1/streams"),
    Route("read", "GET", "/v1/streams?prefix=s"),
    Route("read", "GET", "/v1/streams?prefix=plant"),
    Route("read", "GET", "/openapi.json"),
    Route("admin", "DELETE", "/v1/streams/s"),
]
routes = pytest.mark.parametrize("route", ROUTES, ids=[f"{route.method} {route.path}" for route in ROUTES])


def using(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS[name]}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    keys = tmp_path / "keys.toml"
    entries = [
        key_entry(name, [name.split()[0]], "plant/" if "plant" in name else "", secret)
        for name, secret in SECRETS.items()
    ]
    keys.write_text("\n".join(entries))
    return keys


@pytest.fixture
async def guarded(api: Api, file: Path) -> httpx.AsyncClient:
    """A client of a service with keys, in which the stream ``s`` has one reading."""
    client: httpx.AsyncClient = await api(api_keys=file)
    assert 200 == (await client.post("/v1/streams/s/readings", json={"value": 1}, headers=using("write"))).status_code
    return client


@pytest.fixture
async def unchanged(redis: "Redis", prefix: str, guarded: httpx.AsyncClient) -> AsyncIterator[None]:
    """Holds that a test leaves ``s`` as it is and makes no other stream."""
    before = await redis.get(f"{prefix}:stream:s")
    yield
    assert before == await redis.get(f"{prefix}:stream:s")
    assert [f"{prefix}:stream:s".encode()] == [key async for key in redis.scan_iter(f"{prefix}:*")]


@routes
async def test_a_key_with_the_scope_opens_the_route(guarded: httpx.AsyncClient, route: Route) -> None:
    assert (
        200
        == (await guarded.request(route.method, route.path, json=route.body, headers=using(route.scope))).status_code
    )


@routes
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer mw_wrong"},
        {"Authorization": "Basic " + base64.b64encode(b"u:mw_wrong").decode()},
        {"X-API-Key": "mw_wrong"},
        {"Authorization": "Bearer mw_read", "X-API-Key": "mw_write"},
    ],
    ids=["no key", "a wrong one", "a wrong password", "a wrong one in X-API-Key", "two"],
)
async def test_without_a_key_that_is_known_every_route_is_401_and_says_how(
    guarded: httpx.AsyncClient, unchanged: None, route: Route, headers: dict[str, str]
) -> None:
    reply = await guarded.request(route.method, route.path, json=route.body, headers=headers)
    assert 401 == reply.status_code
    assert 'Bearer realm="meanwhile", Basic realm="meanwhile"' == reply.headers["www-authenticate"]
    if route.method != "HEAD":
        assert TYPE + "unauthorized" == reply.json()["type"]
        assert "mw_" not in reply.text


@routes
async def test_a_key_of_another_scope_is_403(guarded: httpx.AsyncClient, unchanged: None, route: Route) -> None:
    for other in {"read", "write", "admin"} - {route.scope}:
        reply = await guarded.request(route.method, route.path, json=route.body, headers=using(other))
        assert 403 == reply.status_code
        assert "www-authenticate" not in reply.headers
        if route.method != "HEAD":
            assert TYPE + "forbidden" == reply.json()["type"]
            assert f"Expected a key with the scope {route.scope}." == reply.json()["detail"]


@routes
async def test_a_key_for_other_streams_is_403(guarded: httpx.AsyncClient, unchanged: None, route: Route) -> None:
    reply = await guarded.request(route.method, route.path, json=route.body, headers=using(f"{route.scope} plant"))
    assert (200 if route.path == "/openapi.json" else 403) == reply.status_code  # The document names no stream.


@routes
@pytest.mark.parametrize("name", ["key", "api_key", "apikey", "access_token", "token", "x-api-key", "authorization"])
async def test_a_key_in_the_query_is_never_accepted(guarded: httpx.AsyncClient, route: Route, name: str) -> None:
    target = f"{route.path}{'&' if '?' in route.path else '?'}{name}={SECRETS[route.scope]}"
    assert 401 == (await guarded.request(route.method, target, json=route.body)).status_code


@pytest.mark.parametrize("name", ["plant/a", "plant/a/b", "plant/average/x"])
async def test_a_key_for_some_streams_opens_them(guarded: httpx.AsyncClient, name: str) -> None:
    stream = f"/v1/streams/{name}"
    posted = await guarded.post(f"{stream}/readings", json={"value": 1}, headers=using("write plant"))
    batch = await guarded.post("/v1/readings", json={name: {"value": 3}}, headers=using("write plant"))
    average = await guarded.get(f"{stream}/average", headers=using("read plant"))
    listed = await guarded.get("/v1/streams?prefix=plant/", headers=using("read plant"))
    deleted = await guarded.delete(stream, headers=using("admin plant"))
    assert [200] * 5 == [reply.status_code for reply in (posted, batch, average, listed, deleted)]
    assert 2.0 == average.json()["average"] == deleted.json()["average"]
    assert [name] == listed.json()["streams"]


@pytest.mark.parametrize("name", ["plant", "plants/a", "Plant/a", "x/plant/a", "plant%2", "%70lant"])
async def test_nothing_that_only_looks_like_the_prefix_is_reached(guarded: httpx.AsyncClient, name: str) -> None:
    reply = await guarded.post(f"/v1/streams/{name}/readings", json={"value": 1}, headers=using("write plant"))
    assert 403 == reply.status_code


@pytest.mark.parametrize("name", ["plant/%2E%2E/s", "plant%2F%2E%2E%2Fs", "plant/%2E/s", "plant//s"])
async def test_no_path_leads_out_of_the_prefix(guarded: httpx.AsyncClient, unchanged: None, name: str) -> None:
    for method, path in (("POST", f"/v1/streams/{name}/readings"), ("DELETE", f"/v1/streams/{name}")):
        scope = "write plant" if method == "POST" else "admin plant"
        reply = await guarded.request(method, path, json={"value": 1}, headers=using(scope))
        assert reply.status_code in {403, 422}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer mw_read"},
        {"Authorization": "Token mw_read"},
        {"X-API-Key": "mw_read"},
        {"Authorization": "Basic " + base64.b64encode(b"anybody:mw_read").decode()},
    ],
)
async def test_a_key_is_presented_in_four_ways(guarded: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert {"stream": "s", "count": 1} == (await guarded.get("/v1/streams/s/count", headers=headers)).json()


@pytest.mark.parametrize("route", ["/v1/streams/s/readings", "/v1/readings", "NDJSON"])
async def test_a_producer_belongs_to_the_key_that_uses_it(api: Api, tmp_path: Path, route: str) -> None:
    keys = tmp_path / "keys.toml"
    owners = {"mw_own": "gateway", "mw_new": "gateway", "mw_other": "other", "mw_nobodys": ""}
    keys.write_text("\n".join(key_entry(name, ["read", "write"], "", secret) for secret, name in owners.items()))
    client: httpx.AsyncClient = await api(api_keys=keys)

    async def post(secret: str, sequence: int) -> int:
        headers = {"x-api-key": secret, "idempotency-key": f"gateway:{sequence}"}
        if route == "NDJSON":
            headers["content-type"] = "application/x-ndjson"
            reply = await client.post("/v1/readings", content='{"stream": "s", "value": 1}', headers=headers)
        else:
            reading = {"value": 1} if route != "/v1/readings" else {"s": {"value": 1}}
            reply = await client.post(route, json=reading, headers=headers)
        assert 200 == reply.status_code, reply.text
        return int((await client.get("/v1/streams/s/count", headers={"x-api-key": "mw_own"})).json()["count"])

    assert [1, 2, 3] == [await post(secret, 2**53 - 1) for secret in ("mw_own", "mw_other", "mw_nobodys")]
    assert [3, 3] == [await post(secret, 2**53 - 1) for secret in ("mw_new", "mw_other")]


@pytest.mark.parametrize("route", ["/v1/streams/s/readings", "/v1/readings"])
async def test_a_strangers_sequence_does_not_lock_a_gateway_out(api: Api, tmp_path: Path, route: str) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        key_entry("gateway", ["write"], "", "mw_own") + "\n" + key_entry("other", ["write"], "", "mw_other")
    )
    client: httpx.AsyncClient = await api(api_keys=keys)
    reading = {"value": 1} if route != "/v1/readings" else {"s": {"value": 1}}
    for secret, sequence in (("mw_own", 7), ("mw_other", 2**53 - 1), ("mw_own", 8), ("mw_own", 6)):
        headers = {"x-api-key": secret, "idempotency-key": f"gateway:{sequence}"}
        assert 200 == (await client.post(route, json=reading, headers=headers)).status_code


async def test_health_and_the_page_need_no_key_and_their_data_does(guarded: httpx.AsyncClient) -> None:
    for path in ("/openapi.json", "/metrics", "/v1/streams", "/v1/events"):
        assert 401 == (await guarded.get(path)).status_code
    for path in ("/livez", "/readyz", "/ping", "/health", "/", "/docs", "/web/main.js"):
        for headers in ({}, {"Authorization": "Bearer mw_wrong"}):
            assert (204 if path == "/ping" else 200) == (await guarded.get(path, headers=headers)).status_code


async def test_a_stream_that_does_not_exist_is_not_told_apart_without_a_key(guarded: httpx.AsyncClient) -> None:
    replies = [await guarded.get(f"/v1/streams/{name}") for name in ("s", "none", "a//b")]
    assert [401] * 3 == [reply.status_code for reply in replies]
    assert 1 == len({reply.text for reply in replies})
    replies = [await guarded.get(f"/v1/streams/{name}", headers=using("read plant")) for name in ("s", "none")]
    assert [403] * 2 == [reply.status_code for reply in replies]
    assert 1 == len({reply.text for reply in replies})


async def test_a_body_is_not_read_for_who_may_not_send_it(guarded: httpx.AsyncClient) -> None:
    reply = await guarded.post("/v1/readings", content=b"no JSON", headers={"Content-Type": "text/plain"})
    assert 401 == reply.status_code


# Without keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
async def test_without_keys_writes_of_other_sites_are_403_and_reads_are_not(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    await client.post("/v1/streams/s/readings", json={"value": 1})
    for _, method, path, body in ROUTES:
        reply = await client.request(method, path, json=body, headers=headers)
        assert (200 if method in {"GET", "HEAD"} else 403) == reply.status_code, (method, path)
    assert {"stream": "s", "count": 1} == (await client.get("/v1/streams/s/count")).json()


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {}])
async def test_without_keys_everybody_else_may_do_everything(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    for _, method, path, body in ROUTES:
        assert 200 == (await client.request(method, path, json=body, headers=headers)).status_code, (method, path)
