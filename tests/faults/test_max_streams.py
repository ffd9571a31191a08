"""A client that makes up names: with a cap on streams it fills the database up to the cap, and not beyond."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from meanwhile.storage.redis_client import connect
from tests.faults.conftest import Row
from tests.faults.writers import tally
from tests.support import calls
from tests.support.servers import service, valkey

pytestmark = pytest.mark.faults

NAMES, CAP, CLIENTS, BATCH = 100_000, 10_000, 16, 50


async def test_100_000_new_names_make_no_more_streams_than_the_cap(report: Callable[[Row], None]) -> None:
    """Half of the requests name one stream, half of them fifty; every name is asked for once."""
    numbers = itertools.count()
    statuses: Counter[int] = Counter()
    made: set[str] = set()
    existing = Counter[int]()

    with (
        valkey() as server,
        service("--workers", "2", MEANWHILE_REDIS_URL=server.url, MEANWHILE_MAX_STREAMS=str(CAP)) as running,
    ):

        async def invent(client: httpx.AsyncClient) -> None:
            while (first := next(numbers) * (BATCH + 1)) < NAMES:
                names = [f"made-up/{n}" for n in range(first, min(first + BATCH, NAMES))]
                batch = await client.post("/v1/readings", json={name: {"value": 1} for name in names})
                single = await client.post(f"/v1/streams/made-up/{first + BATCH}/readings", json={"value": 1})
                for reply, asked in ((batch, names), (single, [f"made-up/{first + BATCH}"])):
                    statuses[reply.status_code] += 1
                    if reply.status_code == 200:
                        made.update(asked)
                    else:
                        assert "urn:meanwhile:problem:too-many-streams" == reply.json()["type"]
                        assert "60" == reply.headers["retry-after"]
                known = await client.post("/v1/streams/known/readings", json={"value": 1})
                existing[known.status_code] += 1

        async with asyncio.TaskGroup() as tasks:
            first = calls.async_client(base_url=running.url, timeout=30)
            assert 200 == (await first.post("/v1/streams/known/readings", json={"value": 1})).status_code
            clients = [first] + [calls.async_client(base_url=running.url, timeout=30) for _ in range(CLIENTS - 1)]
            for client in clients:
                tasks.create_task(invent(client))
        counted = (await first.get("/v1/streams/known/count")).json()["count"]
        for client in clients:
            await client.aclose()
        async with connect(server.url) as redis:
            keys = {key.decode().removeprefix("meanwhile:stream:") async for key in redis.scan_iter(count=5_000)}

    acknowledged = len(made) + 1 + existing[200]
    lost, doubled = len(made - keys) + max(0, 1 + existing[200] - counted), max(0, counted - 1 - existing[200])
    note = f"{len(keys)} streams with a cap of {CAP}; {tally(statuses)}; an existing stream: {tally(existing)}"
    report(Row("100,000 new stream names", f"{CLIENTS} clients", acknowledged, lost, doubled, 0, note=note))
    assert len(keys) <= CAP
    assert made | {"known"} == keys
    assert CAP - BATCH < len(keys)
    assert {200, 503} == statuses.keys()
    assert {200} == existing.keys()
