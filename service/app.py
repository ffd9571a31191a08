"""Puts the service together: the only place where settings, Redis, committer and routes meet."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service import problems
from service.api import health, models, readings, streams
from service.committer import Committer, Reader
from service.settings import Settings
from service.store import Store
from service.stream import Limits

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


def connect(url: str) -> "Redis":
    """A client that sends every command once and leaves time limits to its caller."""
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=None,
        socket_connect_timeout=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


def milliseconds_now() -> int:
    """The clock of the service: milliseconds since 1970 (UTC)."""
    return time.time_ns() // 1_000_000


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application. Without ``settings`` they come from the environment."""
    if settings is None:
        settings = Settings()
    client = connect(settings.redis_url or DEFAULT_REDIS_URL)
    store = Store(client, settings.prefix)
    committer = Committer(store, max_waiting=settings.max_waiting, patience=settings.patience)
    reader = Reader(store, patience=settings.patience)
    limits = Limits(settings.max_readings, settings.max_components, settings.max_names)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await committer.drain()
        await reader.drain()
        await client.aclose()

    app = FastAPI(
        title="Meanwhile",
        summary="Exact running averages of sensor streams, in constant space.",
        version=version("meanwhile"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.routes += [
        *readings.endpoints(committer, milliseconds_now, limits, settings.max_body),
        *streams.endpoints(store, reader, settings.patience),
        *health.endpoints(store),
    ]
    app.add_exception_handler(HTTPException, _refuse)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    """What the framework itself refuses, such as an unknown path, in the same form as everything else."""
    status, headers, body = problems.encode(error)
    response = Response(body, status)
    response.raw_headers = headers
    return response
