"""Liveness and readiness: whether the process runs, and whether Redis keeps what the service promises."""

import asyncio

from meanwhile.api.openapi import models
from meanwhile.api.operation import Operation
from meanwhile.api.request import Request
from meanwhile.api.response import Reply, json_reply
from meanwhile.storage.redis_checks import NotReady, RedisChecks
from meanwhile.storage.redis_client import StoreUnavailable
from meanwhile.storage.store import Store

_PING_TIMEOUT = 1.0  # Seconds; short, because a readiness probe needs a quick answer.


def operations(store: Store, redis_checks: RedisChecks) -> list[Operation]:
    """Returns the routes for supervisors and load balancers."""

    async def live(request: Request) -> Reply:
        """Returns 200 while the process runs."""
        return json_reply({"status": "live"})

    async def ready(request: Request) -> Reply:
        """Returns 200 if Redis answers and keeps what the service promises, and 503 otherwise."""
        deadline = asyncio.get_running_loop().time() + _PING_TIMEOUT
        with redis_checks.expecting_answers():
            await store.ping(deadline)
        await redis_checks.check(deadline)
        return json_reply({"status": "ready"})

    return [
        Operation(method="GET", path="/livez", handler=live, scope=None, reply=models.Status),
        Operation(
            method="GET",
            path="/readyz",
            handler=ready,
            scope=None,
            reply=models.Status,
            refusals=(StoreUnavailable, NotReady),
        ),
    ]
