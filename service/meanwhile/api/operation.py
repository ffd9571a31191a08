"""Operations, in the sense of OpenAPI: one method of one path, with its handler, scope and documentation.

An operation is a declaration: ``routes/`` defines the operations, ``endpoint.py`` answers their requests, and
``openapi/documented_routes.py`` documents them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel

from meanwhile.api import problems
from meanwhile.api.open_event_stream import EventStream
from meanwhile.api.openapi import document
from meanwhile.api.request import Request
from meanwhile.api.request_head import Headers
from meanwhile.api.response import Reply


class NeedsTask(Exception):
    """A request may wait more than once, so the handler must answer it instead of ``Halves``."""


class Halves(NamedTuple):
    """The two halves of a handler that waits once: they answer a ``WholeRequest``, which has no task.

    ``check`` checks what depends on the head of the request alone, and returns what ``begin`` needs to know of that.
    ``begin`` gets the request, its body and what ``check`` returned for an equal head, and returns the future of a
    result. ``finish`` gets the request and the result, and returns the reply. All may raise what the handler raises,
    and ``check`` may raise ``NeedsTask``.
    """

    check: Callable[[Request], Any]
    begin: Callable[[Request, bytes, Any], asyncio.Future[Any]]
    finish: Callable[[Request, Any], Reply]


Handler = Callable[[Request], Awaitable[Reply | EventStream]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path, answered by ``handler``.

    ``scope`` is the scope that an API key needs, None if the operation needs no key. ``reply`` is the model of a 200 in
    JSON. ``media_types`` maps the text types of a 200 to examples; without ``reply``, they are its only types. With
    neither, success is a 204 without a body. ``body`` describes the request body: a list of alternative JSON schemas,
    or a schema with examples per media type. ``parameters`` are OpenAPI parameters; the path adds its own. ``refusals``
    are the exceptions that the handler may raise.

    ``halves`` are the halves of a handler that waits once.

    ``credentials`` returns the headers that carry the API key, if these are not the headers of the request. A subclass
    may change the format of errors for other clients.
    """

    needs_body: ClassVar[bool] = True

    method: str
    path: str
    handler: Handler
    scope: str | None
    reply: type[BaseModel] | None
    refusals: Sequence[type[Exception]] = ()
    body: Sequence[dict[str, Any]] | Mapping[str, dict[str, Any]] = ()
    parameters: Sequence[dict[str, Any]] = ()
    media_types: Mapping[str, str] = field(default_factory=dict)
    halves: Halves | None = None
    credentials: Callable[[Request], Headers] | None = None

    @property
    def name(self) -> str:
        """The operationId in the document."""
        return self.handler.__name__

    def refuse(self, error: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Returns the status, headers and body of the response to an exception."""
        return problems.encode(error)

    def documented(self, problem: problems.ProblemType) -> document.Refusal:
        """Returns the documentation of a problem."""
        return document.problem(problem)
