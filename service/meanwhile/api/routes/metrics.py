"""Metrics for Prometheus: those of the service, and those of the streams."""

import asyncio
from typing import Any

from meanwhile.api.auth import check_allowed_prefix
from meanwhile.api.operation import Operation
from meanwhile.api.query_parameters import parameters, parse_limit, single_value
from meanwhile.api.request import Request
from meanwhile.api.response import Reply
from meanwhile.core.errors import Invalid
from meanwhile.core.state import State
from meanwhile.core.stream_names import check_prefix
from meanwhile.storage import background_thread
from meanwhile.storage.redis_checks import PROBLEMS, RedisChecks
from meanwhile.storage.redis_client import StoreUnavailable
from meanwhile.storage.store import Store
from meanwhile.telemetry import prometheus_text
from meanwhile.telemetry.counters import Counters

MAX_AVERAGES = 10_000
_DEFAULT_LIMIT = 1_000
_STREAMS_PER_READ = 20  # A few megabytes if all streams have the maximum number of components.

_TEXTS = {
    "text/plain": "# TYPE meanwhile_readings_recorded_total counter\nmeanwhile_readings_recorded_total 1042.0\n",
    "application/openmetrics-text": "# TYPE meanwhile_readings_recorded counter\n"
    "meanwhile_readings_recorded_total 1042.0\n# EOF\n",
}
_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "prefix",
        "in": "query",
        "description": "Start of the names.",
        "schema": {"type": "string"},
        "example": "kitchen/",
    },
    {
        "name": "limit",
        "in": "query",
        "description": "Averages in the answer; a vector has one for each component.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_AVERAGES, "default": _DEFAULT_LIMIT},
        "example": 100,
    },
]


def operations(
    store: Store, counters: Counters, redis_checks: RedisChecks, version: str, redis_timeout: float
) -> list[Operation]:
    """Returns the routes that Prometheus scrapes. ``redis_timeout`` limits the reads of one scrape, in seconds."""

    async def read_metrics(request: Request) -> Reply:
        """Returns the metrics of the service, summed over all workers: requests, readings, commits and refusals."""
        problems = {name: name in redis_checks.problems for name in PROBLEMS}
        return _reply(
            *prometheus_text.encode(prometheus_text.of_service(counters, problems, version), _accept(request))
        )

    async def read_stream_metrics(request: Request) -> Reply:
        """Returns averages, latest values, counts and times of streams, up to the limit, and whether there are more."""
        query = parameters(request)
        prefix = check_prefix(single_value(query, "prefix") or request.grant.prefix)
        check_allowed_prefix(prefix, request.grant.prefix)
        limit = parse_limit(single_value(query, "limit"), _DEFAULT_LIMIT, MAX_AVERAGES)
        deadline = asyncio.get_running_loop().time() + redis_timeout
        streams, is_cut = await _collect(store, prefix, limit, deadline)
        # Encoding ten thousand averages takes long and must not delay recording.
        encoded = await background_thread.run(
            prometheus_text.encode, prometheus_text.of_streams(streams, is_cut=is_cut), _accept(request)
        )
        return _reply(*encoded)

    return [
        Operation(method="GET", path="/metrics", handler=read_metrics, scope="read", reply=None, media_types=_TEXTS),
        Operation(
            method="GET",
            path="/metrics/streams",
            handler=read_stream_metrics,
            scope="read",
            reply=None,
            media_types=_TEXTS,
            parameters=_PARAMETERS,
            refusals=(Invalid, StoreUnavailable),
        ),
    ]


async def _collect(
    store: Store, prefix: str, limit: int, deadline: float
) -> tuple[list[prometheus_text.StreamSample], bool]:
    """Returns streams with at most ``limit`` averages in total, and whether there are more streams."""
    found: dict[str, State] = {}
    averages = 0
    cursor: str | None = None
    while True:
        page = await store.listing.page(prefix, _STREAMS_PER_READ, cursor, deadline)
        names = [name for name in page.streams if name not in found]  # A listing may name a stream twice.
        for name, state in zip(names, await store.read(names, deadline) if names else [], strict=True):
            if isinstance(state, State):  # It may have been deleted since, or be unreadable.
                averages += state.shape.components
                if averages > limit:
                    return _flat(found), True
                found[name] = state
        cursor = page.cursor
        if cursor is None:
            return _flat(found), False


def _flat(streams: dict[str, State]) -> list[prometheus_text.StreamSample]:
    return [(name, *state) for name, state in sorted(streams.items())]


def _accept(request: Request) -> str:
    return b",".join(request.headers.all(b"accept")).decode("latin-1")


def _reply(body: bytes, media_type: str) -> Reply:
    return Reply(body, media_type.encode())
