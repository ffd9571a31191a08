"""Builds the application from its parts. Only this module wires settings, Redis, committer and routes."""

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
from meanwhile.api.key_file import COPY, KeyFile
from meanwhile.api.known_heads import KnownHeads
from meanwhile.api.large_bodies import BodyMemory, LargeBodySlots
from meanwhile.api.openapi import document
from meanwhile.api.openapi.documented_routes import described
from meanwhile.api.operation import Operation
from meanwhile.api.request import Request
from meanwhile.api.request_body import Bodies
from meanwhile.api.routes import events, health, influx, metrics, openapi_json, page, readings, streams
from meanwhile.api.upload import Uploads
from meanwhile.api.whole_request import Target, WholeRequest
from meanwhile.core.readings import Limits
from meanwhile.core.stream_names import RESERVED
from meanwhile.live.poller import Poller
from meanwhile.settings import Settings
from meanwhile.storage.committer import Committer
from meanwhile.storage.reader import Reader
from meanwhile.storage.redis_checks import RedisChecks
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
    """FastAPI with a fast path to the operations.

    FastAPI's middleware and route search cost more time than recording a reading. So a table maps a request to its
    operation, whose ``Endpoint`` answers it. FastAPI has the same routes: it documents them, and refuses unknown paths
    and methods. ``make bench`` measures the gain.

    ``operations`` are the routes of the API except /openapi.json. ``guard`` authorizes requests and ``counters`` count
    them. ``hosts`` decides which hosts the service answers to; None means all. ``options`` are those of FastAPI.
    """

    def __init__(
        self, operations: Sequence[Operation], guard: Guard, counters: Counters, hosts: Hosts | None, **options: Any
    ) -> None:
        super().__init__(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, **options)
        self.known_heads = KnownHeads()
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
        """Returns the document at /openapi.json, including the problems that each route can return."""
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
        """Answers a request from any ASGI server."""
        await self.answer(None, scope, receive, send)

    def answer(
        self, connection: ConnectionProtocol | None, scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[None]:
        """Answers a request that came over a connection. HEAD is GET without the body, on every route."""
        if scope["type"] != "http":
            return super().__call__(scope, receive, send)
        request = Request.of_scope(scope, receive, connection)
        if self._hosts is not None and not self._hosts.allow(request.headers):
            return self._misdirect(scope, receive, send)
        endpoint = None
        if not scope.get("root_path"):
            endpoint, request.stream = self._find(request.method, request.path)
        if endpoint is not None:
            return endpoint.answer(request, send)
        if request.is_head:
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        return super().__call__(scope, receive, send)

    def begin(self, connection: ConnectionProtocol, whole: WholeRequest) -> bool:
        """Begins to answer a request that has arrived whole. Returns False if it must be answered through ASGI."""
        target = whole.target
        if target is None:
            target = whole.target = self._target(whole)
            if target is None:
                return False
        return target.begin(Request.of_whole(whole, target, connection), whole)

    def _target(self, whole: WholeRequest) -> Target | None:
        """Returns what a request names; None if it must be answered through ASGI."""
        if self._hosts is not None and not self._hosts.allow(whole.headers):
            return None
        url, _, query = whole.url.partition(b"?")
        path = url.decode("ascii")
        endpoint, stream = self._find(whole.method, path)
        if endpoint is None or endpoint.begin is None:
            return None
        return Target(endpoint.begin, path, query, stream)

    def _find(self, method: str, path: str) -> tuple[Endpoint | None, str]:
        """Returns the endpoint for a path, and the stream name in the path."""
        if not path.startswith(_STREAMS):
            return self._by_path.get((method, path)), ""
        above, _, last = path.rpartition("/")
        endpoint = self._by_last_segment.get((method, last))
        if endpoint is not None and len(above) >= len(_STREAMS):
            return endpoint, above[len(_STREAMS) :]
        if last in RESERVED:  # The method is wrong, or the stream name is missing.
            return None, ""
        return self._by_path.get((method, _A_STREAM)), path[len(_STREAMS) :]

    async def _misdirect(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._refuse(StarletteRequest(scope), MISDIRECTED)
        await response(scope, receive, send)

    async def _refuse(self, request: StarletteRequest, error: Exception) -> Response:
        """Returns the problem document for an error of the framework, such as an unknown path."""
        status, headers, body = problems.encode(error)
        self._counters.not_routed(status)
        self._counters.refused(problems.reason(error))
        response = Response(body, status)
        response.raw_headers = [header for header in headers if header[0] != b"allow"]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["allow"] = ", ".join(sorted(self._methods(request.scope)))
        return response

    def _methods(self, scope: Scope) -> set[str]:
        """Returns the methods that the path of a request supports, for the Allow header of a 405 (RFC 9110)."""
        paths = [route.path for route in self.router.routes if isinstance(route, Route) and _fits(route, scope)]
        routes = [route for route in self.router.routes if isinstance(route, Route) and route.path in paths[:1]]
        methods = set().union(*(route.methods or () for route in routes))
        return methods | {"HEAD"} if "GET" in methods else methods


def create_app(settings: Settings | None = None, shared: Path | None = None) -> Meanwhile:
    """Creates the ASGI application. ``settings`` default to the environment.

    ``shared`` is the directory in which the workers of one service share their counters.
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
        on_failure=counters.redis_failed,
    )
    redis_checks = RedisChecks(client, settings.prefix, settings.durability, strict=settings.strict)
    committer = Committer(
        store, max_waiting=settings.max_waiting, redis_timeout=settings.redis_timeout, counters=counters
    )
    reader = Reader(store, redis_timeout=settings.redis_timeout)
    poller = Poller(store, redis_timeout=settings.redis_timeout, max_subscribers=settings.max_subscribers)
    limits = Limits(settings.max_readings, settings.max_components, settings.max_names, settings.max_numbers)
    slots = LargeBodySlots(settings.redis_timeout)
    copy = None if shared is None else shared / COPY
    guard = Guard(None if settings.api_keys is None else KeyFile(settings.api_keys, copy))
    memory = BodyMemory(settings.max_receiving)
    bodies = Bodies(settings.max_body, memory)
    uploads = Uploads(
        committer=committer,
        memory=memory,
        guard=guard,
        clock=milliseconds_now,
        limits=limits,
        max_line=settings.max_body,
        max_uploads=settings.max_uploads,
        idle_timeout=settings.upload_idle_timeout,
        redis_timeout=settings.redis_timeout,
    )
    writer = influx.Writer(
        committer=committer,
        clock=milliseconds_now,
        limits=limits,
        bodies=bodies,
        slots=slots,
        pattern=settings.line_protocol_stream,
        dedupe=settings.line_protocol_dedupe,
        require_key=settings.require_idempotency_key,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(redis_checks.run()), asyncio.create_task(slots.collect_garbage())]
        yield
        for task in tasks:
            task.cancel()
        await poller.close()
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
            slots,
            require_key=settings.require_idempotency_key,
        ),
        *influx.operations(store, writer, VERSION),
        *events.operations(poller, reader),
        *streams.operations(store, reader, settings.redis_timeout),
        *health.operations(store, redis_checks),
        *metrics.operations(store, counters, redis_checks, VERSION, settings.redis_timeout),
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
