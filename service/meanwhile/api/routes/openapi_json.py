"""The contract of the service, for machines: /openapi.json."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope

from meanwhile.api.endpoint import Endpoint, Reply, json_reply
from meanwhile.api.openapi import models


def endpoints(document: Callable[[], dict[str, Any]]) -> list[Endpoint]:
    """The route of the document; it follows the same keys as what it describes."""

    async def read_contract(scope: Scope, receive: Receive) -> Reply:
        """This document."""
        return json_reply(await asyncio.to_thread(document))  # The first time it takes a tenth of a second.

    return [Endpoint("GET", "/openapi.json", read_contract, scope="read", reply=models.Document)]
