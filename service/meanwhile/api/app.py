"""Puts the service together: the only place where settings, Redis, committer and routes meet."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from meanwhile.api import problems
from meanwhile.api.allowed_hosts import Hosts
from meanwhile.api.auth import Guard
from meanwhile.api.endpoint import Endpoint
from meanwhile.api.errors import Misdirected
from meanwhile.api.large_bodies import Places
from meanwhile.api.openapi import document
from meanwhile.api.request_body import Bodies
from meanwhile.api.routes import events, health, influx, metrics, openapi_json, page, readings, streams
from meanwhile.api.upload import Uploads
from meanwhile.core.readings import Limits
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

_BELOW_A_STREAM = "/v1/streams/{stream:path}/"


class Meanwhile(FastAPI):
    """FastAPI with a short way in for what almost every request is: something of one stream.

    The framework's middleware and the search through its routes cost more than recording a reading. The routes below a
    stream's path are found by their last segment instead, and answered by the same ``Endpoint``; everything else, and
    every refusal of a path or method, takes the ordinary way. ``make bench`` shows what this pays.
    """

    guard: Guard
    counters: Counters
    hosts: Hosts | None = None  # None answers to all.
    shortcuts: Mapping[tuple[str, str], Endpoint] = {}

    def add_endpoints(self, endpoints: Sequence[Endpoint], guard: Guard, counters: Counters) -> None:
        """Adds routes, with what guards and counts them; the first that matches a request answers it."""
        for endpoint in endpoints:
            endpoint.guard = guard
            endpoint.count(counters)
        self.guard = guard
        self.counters = counters
        self.router.routes += endpoints
        self.shortcuts = {
            (endpoint.method, endpoint.path.removeprefix(_BELOW_A_STREAM)): endpoint
            for endpoint in self.router.routes
            if isinstance(endpoint, Endpoint) and endpoint.path.startswith(_BELOW_A_STREAM)
        }

    def methods(self, scope: Scope) -> set[str]:
        """What the path of a request can be asked for; RFC 9110 wants it in the Allow header of a 405."""
        paths = [route.path for route in self.router.routes if isinstance(route, Route) and _fits(route, scope)]
        routes = [route for route in self.router.routes if isinstance(route, Route) and route.path in paths[:1]]
        methods = set().union(*(route.methods or () for route in routes))
        return methods | {"HEAD"} if "GET" in methods else methods

    def openapi(self) -> dict[str, Any]:
        """The document at /openapi.json, with the schema of the problems that every route can answer."""
        if self.openapi_schema is None:
            self.openapi_schema = get_openapi(
                title=self.title,
                version=self.version,
                summary=self.summary,
                routes=[route.described() for route in self.router.routes if isinstance(route, Endpoint)],
            )
            document.complete(self.openapi_schema)
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. HEAD is GET without the body, on every route."""
        if self.hosts is not None and scope["type"] == "http":
            try:
                self.hosts.check(scope["headers"])
            except Misdirected as error:
                await (await _refuse(Request({**scope, "app": self}), error))(scope, receive, send)
                return
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET", "is_head": True}, _without_body(send)
        if scope["type"] == "http" and not scope.get("root_path"):
            above, _, last = scope["path"].rpartition("/")
            endpoint = self.shortcuts.get((scope["method"], last))
            if endpoint is not None and above.startswith("/v1/streams/"):
                scope["path_params"] = {"stream": above[12:]}
                await endpoint.answer(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


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
    examination = Examination(client, settings.durability, strict=settings.strict)
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

    app = Meanwhile(
        title="Meanwhile",
        summary="Exact running averages of sensor streams, in constant space.",
        version=version("meanwhile-server"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.add_endpoints(
        [
            *readings.endpoints(
                committer,
                milliseconds_now,
                limits,
                uploads,
                bodies,
                places,
                require_key=settings.require_idempotency_key,
            ),
            *influx.endpoints(store, writer, app.version),
            *events.endpoints(live, reader),
            *streams.endpoints(store, reader, settings.redis_timeout),
            *health.endpoints(store, examination),
            *metrics.endpoints(store, counters, examination, app.version, settings.redis_timeout),
            *openapi_json.endpoints(app.openapi),
        ],
        guard,
        counters,
    )
    app.router.routes += page.routes()
    if settings.api_keys is None:
        app.hosts = Hosts(settings.allowed_hosts)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(Exception, _refuse)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    """What the framework itself refuses, such as an unknown path, in the same form as everything else."""
    status, headers, body = problems.encode(error)
    request.app.counters.not_routed(status)
    request.app.counters.refused(problems.reason(error))
    response = Response(body, status)
    response.raw_headers = [header for header in headers if header[0] != b"allow"]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["allow"] = ", ".join(sorted(request.app.methods(request.scope)))
    return response


def _fits(route: Route, scope: Scope) -> bool:
    return route.matches(scope)[0] is not Match.NONE


def _without_body(send: Send) -> Send:
    async def send_without_body(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_without_body
