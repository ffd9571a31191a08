"""Whoever has no key, or the wrong one, on every route and under load: refused every time, and nothing is recorded."""

import asyncio
import base64
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from meanwhile.api.key_file import key_entry
from tests.faults.conftest import Row
from tests.faults.writers import tally
from tests.support import calls
from tests.support.servers import service

pytestmark = pytest.mark.faults

ROUNDS = 50
KEYS = {"mw_read": ("read", ""), "mw_write": ("write", ""), "mw_plant": ("write", "plant/"), "mw_admin": ("admin", "")}

# What asks for a stream that exists, by the scope it needs.
REQUESTS = [
    ("write", "POST", "/v1/streams/s/readings", '{"value": 1}'),
    ("write", "POST", "/v1/readings", '{"s": {"value": 1}}'),
    ("read", "GET", "/v1/streams/s", ""),
    ("read", "GET", "/v1/streams/s/average", ""),
    ("read", "GET", "/v1/streams/s/count", ""),
    ("read", "GET", "/v1/streams", ""),
    ("admin", "DELETE", "/v1/streams/s", ""),
]


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"u:{password}".encode()).decode()


def attempts() -> list[tuple[int, str, str, str, dict[str, str]]]:
    """The status that each must get, and the request."""
    found = []
    for scope, method, path, body in REQUESTS:
        unknown = [
            *({}, {"X-API-Key": "mw_wrong"}, {"Authorization": "Bearer mw_wrong"}, {"Authorization": "Token mw_wrong"}),
            *({"Authorization": basic("mw_wrong")}, {"Authorization": "Bearer mw_write", "X-API-Key": "mw_read"}),
        ]
        found += [(401, method, path, body, headers) for headers in unknown]
        found += [(401, method, f"{path}?key={key}&api_key={key}&access_token={key}", body, {}) for key in KEYS]
        for key, (allowed, prefix) in KEYS.items():
            if allowed != scope or prefix:
                found.append((403, method, path, body, {"Authorization": f"Bearer {key}"}))
                found.append((403, method, path, body, {"Authorization": basic(key)}))
    return found


async def test_who_has_no_key_for_it_is_refused_every_time(tmp_path: Path, report: Callable[[Row], None]) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("\n".join(key_entry(key, [scope], prefix, key) for key, (scope, prefix) in KEYS.items()))
    answered: Counter[tuple[int, int]] = Counter()
    work = itertools.chain.from_iterable(itertools.repeat(attempts(), ROUNDS))

    with service("--workers", "2", MEANWHILE_API_KEYS=str(file)) as running:

        async def ask() -> None:
            async with calls.async_client(base_url=running.url, timeout=30) as client:
                for expected, method, path, body, headers in work:
                    reply = await client.request(method, path, content=body, headers=headers)
                    answered[expected, reply.status_code] += 1

        async with calls.async_client(base_url=running.url, timeout=30) as owner:
            reading = {"content": '{"value": 7}', "headers": {"X-API-Key": "mw_write"}}
            assert 200 == (await owner.post("/v1/streams/s/readings", **reading)).status_code  # type: ignore[arg-type]  # two kinds of arguments in one dict
            await asyncio.gather(*[ask() for _ in range(16)])
            counted = (await owner.get("/v1/streams/s", headers={"X-API-Key": "mw_read"})).json()
            listed = (await owner.get("/v1/streams", headers={"X-API-Key": "mw_read"})).json()

    tries = sum(answered.values())
    statuses = dict(Counter({status: n for (_, status), n in answered.items()}))
    report(
        Row(
            *("wrong keys, other prefix, read key on POST, key in the query", f"{tries} requests, 16 clients", 1),
            *(1 - counted["count"] if counted["count"] < 1 else 0, max(0, counted["count"] - 1), 0),
            note=tally(statuses),
        )
    )
    assert {(401, 401), (403, 403)} == answered.keys()
    assert (1, 7.0) == (counted["count"], counted["average"])
    assert ["s"] == listed["streams"]
