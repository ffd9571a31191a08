"""The OpenAPI document of the service: /openapi.json."""

import asyncio
from collections.abc import Callable
from typing import Any

from meanwhile.api.openapi import models
from meanwhile.api.operation import Operation
from meanwhile.api.request import Request
from meanwhile.api.response import Reply, json_reply


def operations(document: Callable[[], dict[str, Any]]) -> list[Operation]:
    """Returns the route of the document. It needs an API key like the routes that it describes."""

    async def read_contract(request: Request) -> Reply:
        """Returns this document."""
        return json_reply(await asyncio.to_thread(document))  # The first call takes a tenth of a second.

    return [Operation(method="GET", path="/openapi.json", handler=read_contract, scope="read", reply=models.Document)]
