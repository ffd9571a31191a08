"""Metrics for Prometheus: of the service, and of the streams."""

import asyncio
from typing import Any

from meanwhile.api.auth import check_prefix_of
from meanwhile.api.operation import Operation
from meanwhile.api.query import parameters
from meanwhile.api.reply import Reply
from meanwhile.api.request import Request
from meanwhile.api.routes.streams import limit_of, single
from meanwhile.core.errors import Invalid
from meanwhile.core.state import State
from meanwhile.core.stream_names import check_prefix
from meanwhile.storage import background_thread
from meanwhile.storage.redis_checks import PROBLEMS, Examination
from meanwhile.storage.redis_client import StoreUnavailable
from meanwhile.storage.store import Store
from meanwhile.telemetry import prometheus_text
from meanwhile.telemetry.counters import Counters

MOST_AVERAGES = 10_000
_AVERAGES = 1_000
_AT_ONCE = 20  # Streams read in one step: at the largest shape some megabytes.

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
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST_AVERAGES, "default": _AVERAGES},
        "example": 100,
    },
]


def operations(
    store: Store, counters: Counters, examination: Examination, version: str, redis_timeout: float
) -> list[Operation]:
    """The routes that Prometheus scrapes. One answer reads from the store for at most ``redis_timeout`` seconds."""

    async def read_metrics(request: Request) -> Reply:
        """What the service counts of itself: requests, readings, commits, refusals; summed over all workers."""
        problems = {name: name in examination.problems for name in PROBLEMS}
        return _reply(
            *prometheus_text.encode(prometheus_text.of_service(counters, problems, version), _accept(request))
        )

    async def read_stream_metrics(request: Request) -> Reply:
        """Averages, counts and times of the streams, as many as fit the limit; says whether there are more."""
        query = parameters(request)
        prefix = check_prefix(single(query, "prefix") or request.grant.prefix)
        check_prefix_of(prefix, request.grant.prefix)
        limit = limit_of(single(query, "limit"), _AVERAGES, MOST_AVERAGES)
        deadline = asyncio.get_running_loop().time() + redis_timeout
        streams, is_cut = await _collect(store, prefix, limit, deadline)
        # Ten thousand averages take a while, and recording must not wait for it.
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
    """Streams with at most ``limit`` averages together, and whether there are more."""
    found: dict[str, State] = {}
    averages = 0
    cursor: str | None = None
    while True:
        page = await store.listing.page(prefix, _AT_ONCE, cursor, deadline)
        names = [name for name in page.streams if name not in found]  # A listing may name a stream twice.
        for name, state in zip(names, await store.read(names, deadline) if names else [], strict=True):
            if isinstance(state, State):  # It may be gone since it was listed, or be unreadable.
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
