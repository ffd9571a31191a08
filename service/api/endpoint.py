"""A FastAPI route without the work that a reading does not need.

FastAPI documents a route from its signature and, on every request, solves that signature: models, dependencies,
Request and Response objects, two exit stacks. That costs several times what recording a reading does
(``make bench`` compares). An ``Endpoint`` is an ordinary ``APIRoute`` for routing and for ``/openapi.json``; to answer,
it hands the raw ASGI scope to a handler, which returns a ``Reply`` or raises, and ``problems`` words the refusal.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import msgspec
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from service import problems
from service.access import Forbidden, Guard, Unauthorized, check_prefix_of
from service.api.body import ClientGone
from service.counters import Counters
from service.protocol import RESPOND
from service.stream import FORM, LONGEST_NAME, RESERVED

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"

_encode = msgspec.json.Encoder().encode
_NONE: Mapping[str, Any] = {}


class Reply(NamedTuple):
    """A status, a body and its media type."""

    body: bytes
    media_type: bytes = JSON
    status: int = 200


Handler = Callable[[Scope, Receive], Awaitable[Reply]]


def json_reply(content: object) -> Reply:
    """A 200 with ``content`` as JSON; floats are written as the shortest text that reads back as the same double."""
    return Reply(_encode(content))


class Endpoint(APIRoute):
    """One method of one path.

    ``scope`` is what a key has to allow for it; None if it needs no key. ``reply`` documents a 200 and ``body`` the
    request, as JSON Schema alternatives; ``refusals`` are the exceptions that the handler may raise.
    ``media_types`` are texts that a 200 can also be, or only, where there is no ``reply``.
    """

    def __init__(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        scope: str | None,
        reply: type[BaseModel] | None,
        refusals: Sequence[type[Exception]] = (),
        body: Sequence[dict[str, Any]] = (),
        parameters: Sequence[dict[str, Any]] = (),
        media_types: Sequence[str] = (),
    ) -> None:
        self._handler = handler
        self._scope = scope
        self.guard = Guard(None)
        if scope is not None:
            refusals = (*refusals, Unauthorized, Forbidden)
        extra: dict[str, Any] = {}
        if "{stream" in path:
            parameters = [_STREAM, *parameters]
        if parameters:
            extra["parameters"] = list(parameters)
        if body:
            schema = body[0] if len(body) == 1 else {"oneOf": list(body)}
            extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        responses: dict[int | str, dict[str, Any]] = {}
        for refusal in refusals:
            problem = problems.TABLE[refusal]
            titles = [responses[problem.status]["description"]] if problem.status in responses else []
            responses[problem.status] = {
                "description": "; ".join([*titles, problem.title]),
                "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
        if media_types:
            responses[200] = {"content": {media_type: {"schema": {"type": "string"}} for media_type in media_types}}
        super().__init__(
            path,
            _documented,
            methods=[method],
            name=handler.__name__,
            operation_id=handler.__name__,
            summary=handler.__name__.replace("_", " ").capitalize(),
            description=handler.__doc__ or "",
            response_model=reply,
            response_class=JSONResponse if reply is not None else PlainTextResponse,
            responses=responses,
            openapi_extra=extra,
        )
        self.app = self.answer
        # Starlette's pattern lets one line feed at the end pass ("$") and none inside a name ("."); both are bad names.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z", re.DOTALL)

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
        self._answered = counters.route("/".join(self.methods or ()), self.path_format).answered

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The whole of a request, as an ASGI application."""
        started = perf_counter()
        try:
            if self._scope is not None:
                prefix = scope["reach"] = self.guard.admit(scope["headers"], self._scope)
                if prefix and "stream" in scope["path_params"]:
                    check_prefix_of(scope["path_params"]["stream"], prefix)
            body, media_type, status = await self._handler(scope, receive)
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001  # The table decides; what it does not know is a bug, logged as one.
            status, headers, body = problems.encode(error)
            self._refused(problems.reason(error))
        else:
            headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(body))]
        self._answered(status, perf_counter() - started)
        respond = scope.get("extensions", _NONE).get(RESPOND)
        if respond is None or not respond(scope, status, headers, body):
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})


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
