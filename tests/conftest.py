"""What most tests need: one Valkey a session, and in it a part of its own for every test."""

import os
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import certifi
import httpx
import pytest
from _pytest.doctest import DoctestModule
from redis.asyncio import Redis

from meanwhile.api.app import create_app
from meanwhile.settings import Settings
from meanwhile.storage.redis_client import connect
from meanwhile.storage.store import Store
from tests.support.servers import Valkey, valkey

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _not_skipped(report: Report) -> Report:
    """With MEANWHILE_NO_SKIPS what is skipped has failed: CI has all that the tests need."""
    if os.environ.get("MEANWHILE_NO_SKIPS") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which MEANWHILE_NO_SKIPS forbids: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Of a test."""
    return _not_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Of a module, which may be skipped as a whole."""
    return _not_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Without the doctests of the tests, which have none: to look for them takes a third of the collection."""
    return [one for one in (yield) if not isinstance(one, DoctestModule)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What breaks things or starts containers takes longer."""
    for item in items:
        if item.get_closest_marker("faults") or item.get_closest_marker("docker"):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session", autouse=True)
def _few_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clients trust one authority: they load all that they trust when they start, which takes 50 ms for the usual 140.

    The servers of the tests have certificates of their own or none, so none of the usual authorities matters.
    """
    end = "-----END CERTIFICATE-----\n"
    file = tmp_path_factory.mktemp("certificates") / "one.pem"
    file.write_text(certifi.contents().partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[Valkey]:
    """The session's server. Nobody kills, stops or flushes this one."""
    with valkey() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test has."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
async def redis(shared_valkey: Valkey) -> AsyncIterator["Redis"]:
    """A client of the session's server."""
    async with connect(shared_valkey.url) as client:
        yield client


@pytest.fixture
def store(redis: "Redis", prefix: str) -> Store:
    """An empty store."""
    return Store(redis, prefix)


Api = Callable[..., Any]


@pytest.fixture
async def api(shared_valkey: Valkey, prefix: str) -> AsyncIterator[Api]:
    """Makes HTTP clients of applications in this process: ``client = await api(max_body=100)``."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> httpx.AsyncClient:
            app = create_app(Settings(**{"redis_url": shared_valkey.url, "prefix": prefix} | settings))
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app, raise_app_exceptions=True)
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://meanwhile"))

        yield make


@pytest.fixture
async def client(api: Api) -> httpx.AsyncClient:
    """An HTTP client of an application with the default limits."""
    made: httpx.AsyncClient = await api()
    return made
