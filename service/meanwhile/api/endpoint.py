"""Answers the requests of one operation, without the dependency solving of FastAPI.

FastAPI documents a route from its signature and solves that signature on every request: models, dependencies, Request
and Response objects, two exit stacks. That takes several times as long as recording a reading (``make bench``
compares). An ``Endpoint`` authorizes a request and passes it to the operation's handler, which returns a reply or
raises; ``problems.py`` maps exceptions to responses.
"""

import asyncio
import logging
import re
from functools import partial
from time import perf_counter
from typing import Any

from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from meanwhile.api import problems
from meanwhile.api.auth import Guard, check_allowed_prefix
from meanwhile.api.open_event_stream import EventStream
from meanwhile.api.operation import Halves, NeedsTask, Operation
from meanwhile.api.refusals import Stopping
from meanwhile.api.request import Request
from meanwhile.api.request_body import ClientGone
from meanwhile.api.response import Reply
from meanwhile.api.whole_request import WholeRequest
from meanwhile.core.stream_names import RESERVED
from meanwhile.storage.redis_client import OutcomeUnknown
from meanwhile.telemetry.counters import Counters

log = logging.getLogger(__name__)

Response = tuple[int, list[tuple[bytes, bytes]], bytes]  # Status, headers and body.


class Endpoint(Route):
    """Answers requests of ``operation``. ``guard`` authorizes them; ``counters`` count requests and refusals."""

    def __init__(self, operation: Operation, guard: Guard, counters: Counters) -> None:
        super().__init__(operation.path, operation.handler, methods=[operation.method])
        self.operation = operation
        self.methods = {operation.method}  # Starlette adds HEAD, which the application answers.
        self.app = self._answer_routed
        # Starlette's pattern ignores a line feed at the end ("$") and stops at one inside ("."): both are bad names.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z", re.DOTALL)
        self._guard = guard
        self._handler = operation.handler
        # Begins to answer a request that has arrived whole. Returns False if it needs a task; is None if all do.
        self.begin = None if operation.halves is None else partial(self._begin, operation.halves)
        self._credentials = operation.credentials
        self._scope = operation.scope
        self._has_stream = "{stream" in operation.path
        self._refused = counters.refused
        self._answered = counters.route(operation.method, self.path_format).answered

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Matches the request. A stream name never ends in the segment of another route."""
        match, child_scope = super().matches(scope)
        stream = str(child_scope.get("path_params", {}).get("stream", ""))
        if stream.rpartition("/")[2] in RESERVED:
            return Match.NONE, {}
        return match, child_scope

    async def _answer_routed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request that the framework has routed, because another application mounts this one."""
        request = Request.of_scope(scope, receive)
        request.stream = scope["path_params"].get("stream", "")
        await self.answer(request, send)

    async def answer(self, request: Request, send: Send) -> None:
        """Answers a request."""
        started = perf_counter()
        try:
            self._authorize(request)
            request.authorize = self._authorize
            reply = await self._handler(request)
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001  # problems.py maps it; it logs unknown errors as bugs.
            status, headers, body = self._refuse(error)
        else:
            if isinstance(reply, EventStream):
                self._answered(200, perf_counter() - started)
                await reply.send(request, send, self._guard, self._scope or "read")
                return
            status, headers, body = _encode(reply)
        finally:
            if request.release is not None:
                request.release()
        self._answered(status, perf_counter() - started)
        if request.is_head:
            body = b""
        elif request.connection is not None and request.connection.respond(request.scope, status, headers, body):
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _begin(self, halves: Halves, request: Request, whole: WholeRequest) -> bool:
        started = perf_counter()
        try:
            self._authorize(request)
            if not whole.is_checked:
                whole.plan = halves.check(request)
                whole.is_checked = True
            result = halves.begin(request, whole.body, whole.plan)
        except NeedsTask:
            return False
        except Exception as error:  # noqa: BLE001  # As above.
            self._end(request, whole, started, self._refuse(error))
        else:
            if request.connection is not None:
                request.connection.await_result(whole, result)
            result.add_done_callback(partial(self._finish, halves, request, whole, started))
        return True

    def _finish(
        self, halves: Halves, request: Request, whole: WholeRequest, started: float, result: "asyncio.Future[Any]"
    ) -> None:
        if result.cancelled():  # The shutdown timeout has passed, so the requests behind this one are not answered.
            whole.keep_alive = False
            failure: BaseException | None = OutcomeUnknown() if request.method == "POST" else Stopping()
        else:
            failure = result.exception()
        if isinstance(failure, Exception):  # To raise it here would make a cycle of the result and the traceback.
            response = self._refuse(failure)
        else:
            try:
                response = _encode(halves.finish(request, result.result()))
            except Exception as error:  # noqa: BLE001  # As above.
                response = self._refuse(error)
        self._end(request, whole, started, response)

    def _end(self, request: Request, whole: WholeRequest, started: float, response: Response) -> None:
        self._answered(response[0], perf_counter() - started)
        if request.connection is not None:
            request.connection.end_whole(whole, *response)

    def _authorize(self, request: Request) -> None:
        if self._scope is not None:
            credentials = request.headers if self._credentials is None else self._credentials(request)
            request.grant = self._guard.authorize(credentials, self._scope)
            if self._has_stream and request.grant.prefix:
                check_allowed_prefix(request.stream, request.grant.prefix)

    def _refuse(self, error: Exception) -> Response:
        self._refused(problems.reason(error))
        return self.operation.refuse(error)


def _encode(reply: Reply) -> Response:
    body, media_type, status, more = reply
    if status == 204:
        return status, [*more], body
    return status, [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *more], body
