"""Puts the service together: the only place where settings, Redis, committer and routes meet."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from meanwhile.api import problems
from meanwhile.api.allowed_hosts import MISDIRECTED, Hosts
from meanwhile.api.auth import Guard
from meanwhile.api.connection import ConnectionProtocol
from meanwhile.api.endpoint import Endpoint
from meanwhile.api.large_bodies import Places
from meanwhile.api.openapi import document
from meanwhile.api.openapi.operations import described
from meanwhile.api.operation import Operation
from meanwhile.api.request import Request
from meanwhile.api.request_body import Bodies
from meanwhile.api.routes import events, health, influx, metrics, openapi_json, page, readings, streams
from meanwhile.api.upload import Uploads
from meanwhile.core.readings import Limits
from meanwhile.core.stream_names import RESERVED
from meanwhile.live.poller import Poller
from meanwhile.settings import Settings
from meanwhile.storage.committer import Committer
from meanwhile.storage.reader import Reader
from meanwhile.storage.redis_checks import Examination
from meanwhile.storage.redis_client import connect
from meanwhile.storage.store import Store
from meanwhile.telemetry.clock import milliseconds_now
from meanwhile.telemetry.counters import Counters

log = logging.getLogger(__name__)

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"

VERSION = version("meanwhile-server")

_STREAMS = "/v1/streams/"
_A_STREAM = "/v1/streams/{stream:path}"
_BELOW_A_STREAM = f"{_A_STREAM}/"


class Meanwhile(FastAPI):
    """FastAPI, with a short way to the operations.

    The framework's middleware and the search through its routes cost more than recording a reading, so a table finds
    the operation of a request and its ``Endpoint`` answers it. FastAPI has the same routes: it documents them, and
    refuses the paths and methods that they do not have. ``make bench`` shows what this pays.

    ``operations`` are what can be asked for, and ``guard`` decides who may ask. ``hosts`` are those that the service
    answers to, all where it is None.
    """

    def __init__(
        self, operations: Sequence[Operation], guard: Guard, counters: Counters, hosts: Hosts | None, **options: Any
    ) -> None:
        super().__init__(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, **options)
        self.guard = guard
        self._counters = counters
        self._hosts = hosts
        self._operations = [*operations, *openapi_json.operations(self.openapi)]
        endpoints = [Endpoint(operation, guard, counters) for operation in self._operations]
        self._by_path = {(one.operation.method, one.path): one for one in endpoints}
        self._by_last_segment = {
            (one.operation.method, one.path.removeprefix(_BELOW_A_STREAM)): one
            for one in endpoints
            if one.path.startswith(_BELOW_A_STREAM)
        }
        self.router.routes += [*endpoints, *page.routes()]
        self.add_exception_handler(HTTPException, self._refuse)
        self.add_exception_handler(Exception, self._refuse)

    def openapi(self) -> dict[str, Any]:
        """The document at /openapi.json, with the schema of the problems that every route can answer."""
        if self.openapi_schema is None:
            self.openapi_schema = get_openapi(
                title=self.title,
                version=self.version,
                summary=self.summary,
                routes=[described(operation) for operation in self._operations],
            )
            document.complete(self.openapi_schema)
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what any ASGI server has received."""
        await self.answer(None, scope, receive, send)

    def answer(
        self, connection: ConnectionProtocol | None, scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[None]:
        """Answers what came over a connection. HEAD is GET without the body, on every route."""
        if scope["type"] != "http":
            return super().__call__(scope, receive, send)
        request = Request(scope, receive, connection)
        if self._hosts is not None and not self._hosts.are_answered(request.headers):
            return self._misdirect(scope, receive, send)
        endpoint = None if scope.get("root_path") else self._find(request)
        if endpoint is not None:
            return endpoint.answer(request, send)
        if request.is_head:
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        return super().__call__(scope, receive, send)

    def _find(self, request: Request) -> Endpoint | None:
        """What answers a request; the name of the stream in its path is left in the request."""
        path = request.path
        if not path.startswith(_STREAMS):
            return self._by_path.get((request.method, path))
        above, _, last = path.rpartition("/")
        endpoint = self._by_last_segment.get((request.method, last))
        if endpoint is not None and len(above) >= len(_STREAMS):
            request.stream = above[len(_STREAMS) :]
            return endpoint
        if last in RESERVED:  # With another method, or without the name of a stream.
            return None
        request.stream = path[len(_STREAMS) :]
        return self._by_path.get((request.method, _A_STREAM))

    async def _misdirect(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._refuse(StarletteRequest(scope), MISDIRECTED)
        await response(scope, receive, send)

    async def _refuse(self, request: StarletteRequest, error: Exception) -> Response:
        """What the framework itself refuses, such as an unknown path, in the same form as everything else."""
        status, headers, body = problems.encode(error)
        self._counters.not_routed(status)
        self._counters.refused(problems.reason(error))
        response = Response(body, status)
        response.raw_headers = [header for header in headers if header[0] != b"allow"]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["allow"] = ", ".join(sorted(self._methods(request.scope)))
        return response

    def _methods(self, scope: Scope) -> set[str]:
        """What the path of a request can be asked for; RFC 9110 wants it in the Allow header of a 405."""
        paths = [route.path for route in self.router.routes if isinstance(route, Route) and _fits(route, scope)]
        routes = [route for route in self.router.routes if isinstance(route, Route) and route.path in paths[:1]]
        methods = set().union(*(route.methods or () for route in routes))
        return methods | {"HEAD"} if "GET" in methods else methods


def create_app(settings: Settings | None = None, shared: Path | None = None) -> Meanwhile:
    """The ASGI application. Without ``settings`` they come from the environment.

    ``shared`` is a directory in which the workers of one service count together.
    """
    if settings is None:
        settings = Settings()
    counters = Counters(shared, problems.REASONS)
    client = connect(settings.redis_url or DEFAULT_REDIS_URL)
    replicas = settings.replicas if settings.durability == "replicated" else 0
    store = Store(
        client,
        settings.prefix,
        max_streams=settings.max_streams,
        replicas=replicas,
        failed=counters.redis_failed,
    )
    examination = Examination(client, settings.prefix, settings.durability, strict=settings.strict)
    committer = Committer(
        store, max_waiting=settings.max_waiting, redis_timeout=settings.redis_timeout, counters=counters
    )
    reader = Reader(store, redis_timeout=settings.redis_timeout)
    live = Poller(store, redis_timeout=settings.redis_timeout, max_subscribers=settings.max_subscribers)
    limits = Limits(settings.max_readings, settings.max_components, settings.max_names, settings.max_numbers)
    places = Places(settings.redis_timeout)
    guard = Guard(settings.api_keys)
    bodies = Bodies(settings.max_body, settings.max_receiving)
    uploads = Uploads(
        committer,
        bodies,
        guard,
        milliseconds_now,
        limits,
        longest_line=settings.max_body,
        most=settings.max_uploads,
        idle=settings.upload_idle_timeout,
        redis_timeout=settings.redis_timeout,
    )

    writer = influx.Writer(
        committer,
        milliseconds_now,
        limits,
        bodies,
        places,
        pattern=settings.line_protocol_stream,
        dedupe=settings.line_protocol_dedupe,
        require_key=settings.require_idempotency_key,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(examination.run()), asyncio.create_task(places.tidy())]
        yield
        for task in tasks:
            task.cancel()
        await live.close()
        await committer.drain()
        await reader.drain()
        await client.aclose()

    operations = [
        *readings.operations(
            committer,
            milliseconds_now,
            limits,
            uploads,
            bodies,
            places,
            require_key=settings.require_idempotency_key,
        ),
        *influx.operations(store, writer, VERSION),
        *events.operations(live, reader),
        *streams.operations(store, reader, settings.redis_timeout),
        *health.operations(store, examination),
        *metrics.operations(store, counters, examination, VERSION, settings.redis_timeout),
    ]
    return Meanwhile(
        operations,
        guard,
        counters,
        Hosts(settings.allowed_hosts) if settings.api_keys is None else None,
        title="Meanwhile",
        summary="Exact running averages of sensor streams, in constant space.",
        version=VERSION,
        lifespan=lifespan,
    )


def _fits(route: Route, scope: Scope) -> bool:
    return route.matches(scope)[0] is not Match.NONE


def _without_body(send: Send) -> Send:
    async def send_without_body(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_without_body
