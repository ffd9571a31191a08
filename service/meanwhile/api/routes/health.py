"""Is the process up, and can it do with its Redis what it promises?"""

import asyncio

from meanwhile.api.openapi import models
from meanwhile.api.operation import Operation
from meanwhile.api.reply import Reply, json_reply
from meanwhile.api.request import Request
from meanwhile.storage.redis_checks import Examination, NotReady
from meanwhile.storage.redis_client import StoreUnavailable
from meanwhile.storage.store import Store

_LONGEST_PING = 1.0  # Seconds: who asks whether the service is ready wants to know now.


def operations(store: Store, examination: Examination) -> list[Operation]:
    """The routes for supervisors and load balancers."""

    async def live(request: Request) -> Reply:
        """Answers while the process is up."""
        return json_reply({"status": "live"})

    async def ready(request: Request) -> Reply:
        """Answers 200 when Redis answers and can do what the service promises, 503 otherwise."""
        deadline = asyncio.get_running_loop().time() + _LONGEST_PING
        with examination.expecting_answers():
            await store.ping(deadline)
        await examination.check(deadline)
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
