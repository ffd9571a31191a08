"""The contract of the service, for machines: /openapi.json."""

import asyncio
from collections.abc import Callable
from typing import Any

from meanwhile.api.openapi import models
from meanwhile.api.operation import Operation
from meanwhile.api.reply import Reply, json_reply
from meanwhile.api.request import Request


def operations(document: Callable[[], dict[str, Any]]) -> list[Operation]:
    """The route of the document; it follows the same keys as what it describes."""

    async def read_contract(request: Request) -> Reply:
        """This document."""
        return json_reply(await asyncio.to_thread(document))  # The first time it takes a tenth of a second.

    return [Operation(method="GET", path="/openapi.json", handler=read_contract, scope="read", reply=models.Document)]
