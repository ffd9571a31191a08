"""Which hosts an open service answers to: none that a web site can have, unless its operator says so."""

from pathlib import Path

import httpx
import pytest

from meanwhile.api.allowed_hosts import Hosts
from meanwhile.api.key_file import digest_of
from meanwhile.api.request_head import Headers
from tests.conftest import Api

PRIVATE = [
    *("localhost", "LOCALHOST:8000", "localhost.", "meanwhile", "meanwhile_1:8000", "pi.local", "pi.local.:80"),
    *("a.b.internal", "nas.home.arpa", "box.lan", "app.localhost:1"),
    *("127.0.0.1", "127.0.0.1:8000", "192.168.1.10:8000", "[::1]", "[::1]:8000", "[fe80::1%25eth0]:8000"),
]
PUBLIC = [
    *("evil.test", "evil.test:8000", "localhost.evil.test", "127.0.0.1.evil.test", "local", "pilocal.test"),
    *("example.org", "example.org.", "", "a b", "evil.test/", "127.0.0.1@evil.test", "evil.test#.local", "a..local"),
    *(".local", "-.local", "x" * 300, "é.local", "[::1]evil.test", "[evil.test]", "127.0.0.1:8000:9000"),
]


def answers(hosts: Hosts, host: str) -> bool:
    return hosts.allow(Headers([(b"accept", b"*/*"), (b"host", host.encode("latin-1"))]))


@pytest.mark.parametrize("host", PRIVATE)
def test_an_address_or_a_private_name_is_answered_to(host: str) -> None:
    assert answers(Hosts([]), host)


@pytest.mark.parametrize("host", [host for host in PUBLIC if host != "local"], ids=ascii)
def test_any_other_name_is_not(host: str) -> None:
    assert not answers(Hosts([]), host)


def test_names_that_are_allowed_are_answered_to() -> None:
    hosts = Hosts(["Meanwhile.Example.org", "*.example.com"])
    assert [True, True, True, True] == [
        answers(hosts, host)
        for host in ("meanwhile.example.org", "MEANWHILE.example.org:443", "a.example.com", "localhost")
    ]
    assert [False, False, False] == [answers(hosts, host) for host in ("example.org", "example.com", "x.example.org")]
    assert answers(Hosts(["*"]), "anything.example")


def test_a_request_of_http_1_0_may_name_no_host() -> None:
    assert Hosts([]).allow(Headers([(b"accept", b"*/*")]))


def test_what_is_remembered_of_hosts_is_bounded() -> None:
    hosts = Hosts([])
    for n in range(5_000):
        answers(hosts, f"{n}.evil.test")
    assert len(hosts._decisions) <= 1_000


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/"), ("GET", "/docs"), ("GET", "/v1/streams"), ("GET", "/v1/streams/s"), ("GET", "/metrics")),
        *(("POST", "/v1/streams/s/readings"), ("DELETE", "/v1/streams/s"), ("POST", "/write"), ("GET", "/nowhere")),
        *(("HEAD", "/v1/streams/s/average"), ("OPTIONS", "/v1/readings"), ("GET", "/v1/events?stream=s")),
    ],
)
async def test_on_an_open_service_every_route_is_421_to_a_public_host(api: Api, method: str, path: str) -> None:
    client: httpx.AsyncClient = await api()
    await client.post("/v1/streams/s/readings", json={"value": 1})
    reply = await client.request(method, path, headers={"Host": "evil.test"}, content=b'{"value": 1}')
    assert 421 == reply.status_code
    if method != "HEAD":
        assert "MEANWHILE_ALLOWED_HOSTS" in reply.json()["detail"]
    assert 1 == (await client.get("/v1/streams/s/count")).json()["count"]


async def test_with_api_keys_any_host_will_do(api: Api, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(f'[[key]]\nscopes = ["write"]\nsha256 = "{digest_of(b"secret")}"\n')
    client = await api(api_keys=tmp_path / "keys.toml")
    headers = {"Host": "meanwhile.example.org", "Authorization": "Bearer secret"}
    assert 200 == (await client.post("/v1/streams/s/readings", json={"value": 1}, headers=headers)).status_code


async def test_the_setting_allows_more(api: Api) -> None:
    client = await api(allowed_hosts="meanwhile.example.org, *.example.com")
    for host, status in (("meanwhile.example.org", 200), ("a.example.com:80", 200), ("example.net", 421)):
        reply = await client.post("/v1/streams/s/readings", json={"value": 1}, headers={"Host": host})
        assert status == reply.status_code
