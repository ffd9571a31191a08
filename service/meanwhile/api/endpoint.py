"""A FastAPI route without the work that a reading does not need.

FastAPI documents a route from its signature and, on every request, solves that signature: models, dependencies,
Request and Response objects, two exit stacks. That costs several times what recording a reading does
(``make bench`` compares). An ``Endpoint`` hands the raw ASGI scope to a handler, which returns a ``Reply`` or raises;
``problems`` words the refusal. A route of FastAPI's is made of it only to be described in ``/openapi.json``.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, ClassVar, NamedTuple

import msgspec
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from meanwhile.api import problems
from meanwhile.api.auth import Forbidden, Guard, Headers, Unauthorized, check_prefix_of
from meanwhile.api.connection import RESPOND
from meanwhile.api.openapi import document
from meanwhile.api.request_body import ClientGone
from meanwhile.core.stream_names import FORM, LONGEST_NAME, RESERVED
from meanwhile.telemetry.counters import Counters

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_NONE: Mapping[str, Any] = {}


class Reply(NamedTuple):
    """A status, a body and its media type, and other headers."""

    body: bytes
    media_type: bytes = JSON
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()


class EndlessReply(NamedTuple):
    """A reply without an end: ``part`` waits for the next bytes and gives None when it is over; ``end`` ends it.

    ``is_within`` says whether all that it tells is of streams whose names start with a prefix.
    """

    part: Callable[[], Awaitable[bytes | None]]
    media_type: bytes
    end: Callable[[], None]
    is_within: Callable[[str], bool]


Handler = Callable[[Scope, Receive], Awaitable[Reply | EndlessReply]]


def json_reply(content: object) -> Reply:
    """A 200 with ``content`` as JSON; floats are written as the shortest text that reads back as the same double."""
    return Reply(_encode(content))


class Endpoint(Route):
    """One method of one path.

    ``scope`` is what a key has to allow for it; None if it needs no key. ``reply`` documents a 200; ``media_types`` are
    texts that a 200 can also be, or only, where there is no ``reply``, each with an example; with neither, success is a
    204 without a body. ``body`` is the request, as JSON Schema alternatives of JSON or as one schema by media type,
    with examples; ``refusals`` are the exceptions that the handler may raise.

    A subclass may take credentials from elsewhere and word refusals as other clients expect them.
    """

    needs_body: ClassVar[bool] = True

    def __init__(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        scope: str | None,
        reply: type[BaseModel] | None,
        refusals: Sequence[type[Exception]] = (),
        body: Sequence[dict[str, Any]] | Mapping[str, dict[str, Any]] = (),
        parameters: Sequence[dict[str, Any]] = (),
        media_types: Mapping[str, str] = _NONE,
    ) -> None:
        super().__init__(path, handler, methods=[method])
        self.method = method
        self.methods = {method}  # Without the HEAD that Starlette adds: the application answers it on every route.
        self.app = self.answer
        # Starlette's pattern lets one line feed at the end pass ("$") and none inside a name ("."); both are bad names.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z", re.DOTALL)
        self.guard = Guard(None)
        self._handler = handler
        self._scope = scope
        self._reply = reply
        self._refusals = refusals
        self._body = body
        self._parameters = parameters
        self._media_types = media_types

    def described(self) -> APIRoute:
        """This route as FastAPI documents it."""
        extra: dict[str, Any] = {"security": document.security(self._scope)}
        parameters = [*([_STREAM] if "{stream" in self.path else []), *self._parameters]
        if parameters:
            extra["parameters"] = parameters
        if self._body:
            body = self._body
            if not isinstance(body, Mapping):
                body = {"application/json": body[0] if len(body) == 1 else {"oneOf": list(body)}}
            content = {
                media_type: {"schema": schema, "examples": document.examples(schema.get("oneOf", [schema]))}
                for media_type, schema in body.items()
            }
            extra["requestBody"] = {"required": self.needs_body, "content": content}
        responses = document.refusals(document.guarded(self._refusals, self._scope), self.documented)
        has_content = self._reply is not None or bool(self._media_types)
        if has_content:
            responses[200] = document.good(self._reply, self._media_types)
        is_text = has_content and self._reply is None
        return APIRoute(
            self.path,
            _documented,
            methods=[self.method],
            status_code=200 if has_content else 204,
            name=self.name,
            operation_id=self.name,
            summary=self.name.replace("_", " ").capitalize(),
            description=self._handler.__doc__ or "",
            response_model=self._reply,
            response_class=document.text(next(iter(self._media_types))) if is_text else JSONResponse,
            responses=responses,
            openapi_extra=extra,
        )

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether this route answers the request; a stream's name never ends in the segment of another route."""
        match, child_scope = super().matches(scope)
        stream = str(child_scope.get("path_params", {}).get("stream", ""))
        if stream.rpartition("/")[2] in RESERVED:
            return Match.NONE, {}
        return match, child_scope

    def count(self, counters: Counters) -> None:
        """Counts the requests of this route in ``counters``; to be said once, before the first one."""
        self._refused = counters.refused
        self._answered = counters.route(self.method, self.path_format).answered

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The whole of a request, as an ASGI application."""
        started = perf_counter()
        try:
            if self._scope is not None:
                grant = scope["grant"] = self.guard.authorize(self.credentials(scope), self._scope)
                if grant.prefix and "stream" in scope["path_params"]:
                    check_prefix_of(scope["path_params"]["stream"], grant.prefix)
            reply = await self._handler(scope, receive)
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001  # The table decides; what it does not know is a bug, logged as one.
            status, headers, body = self.refuse(error)
            self._refused(problems.reason(error))
        else:
            if isinstance(reply, EndlessReply):
                self._answered(200, perf_counter() - started)
                await self._stream(reply, scope, receive, send)
                return
            body, media_type, status, more = reply
            headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(body))]
            if more:
                headers += more
            if status == 204:
                del headers[:2]
        self._answered(status, perf_counter() - started)
        respond = scope.get("extensions", _NONE).get(RESPOND)
        if respond is None or not respond(scope, status, headers, body):
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def credentials(self, scope: Scope) -> Headers:
        """The headers that say who asks."""
        headers: Headers = scope["headers"]
        return headers

    def refuse(self, error: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, headers and body of the answer to an exception."""
        return problems.encode(error)

    def documented(self, problem: problems.ProblemType) -> document.Refusal:
        """What the document says of a problem."""
        return document.problem(problem)

    async def _stream(self, reply: EndlessReply, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends what comes until the client goes away, its key no longer allows it, or the server shuts down.

        ``await send`` returns when the transport has room again, so a client that does not read holds back its own
        stream and no other; ``connection.py`` drops it, and calls what it finds in ``scope["end"]`` at shutdown.
        """
        headers = [(b"content-type", reply.media_type), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
        scope["end"] = reply.end
        gone = asyncio.create_task(_await_end(receive, reply.end))

        def authorize() -> None:
            try:
                grant = self.guard.authorize(scope["headers"], self._scope or "read")
                is_allowed = reply.is_within(grant.prefix)
            except (Unauthorized, Forbidden):
                is_allowed = False
            if not is_allowed:
                log.info("an event stream ended with its API key")
                reply.end()

        try:
            with self.guard.watch(authorize):
                authorize()  # The keys may have been read again since the request was admitted.
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                while not scope.get("is_head") and (part := await reply.part()) is not None:
                    if part:
                        await send({"type": "http.response.body", "body": part, "more_body": True})
        finally:
            reply.end()
            gone.cancel()
        await send({"type": "http.response.body", "body": b""})


async def _await_end(receive: Receive, end: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    end()


def _documented() -> None:
    """Stands in for the handler where FastAPI looks for a signature; what it would find is declared instead."""


_STREAM = {
    "name": "stream",
    "in": "path",
    "required": True,
    "description": "The stream's name; its '/' need no encoding.",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME, "pattern": FORM},
    "example": "kitchen/temperature",
}
