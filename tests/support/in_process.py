"""The application behind real sockets in the test's own process and event loop, whose clock the test may hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from meanwhile.api.app import create_app
from meanwhile.api.connection import ConnectionProtocol
from meanwhile.settings import Settings


def configuration(app: Any) -> uvicorn.Config:
    """What uvicorn needs for this application, with the connections that the service has."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        lifespan="off",
        http=ConnectionProtocol,
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
    )
    config.load()
    return config


@asynccontextmanager
async def listening(settings: Settings) -> AsyncIterator[int]:
    """The port of 127.0.0.1 on which an application answers, with the connections that the service has."""
    app = create_app(settings)
    config = configuration(app)
    loop, state = asyncio.get_running_loop(), ServerState()

    def connect() -> ConnectionProtocol:
        return ConnectionProtocol(config=config, server_state=state, app_state={}, _loop=loop)

    async with app.router.lifespan_context(app), await loop.create_server(connect, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for connection in list(state.connections):
            connection.shutdown()
