"""Operations: one method of one path, as OpenAPI calls it; what answers it, who may ask, and what the document says.

An operation is a declaration: ``routes/`` lists them, ``endpoint.py`` answers their requests, and
``openapi/operations.py`` describes them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel

from meanwhile.api import problems
from meanwhile.api.headers import Headers
from meanwhile.api.openapi import document
from meanwhile.api.reply import EndlessReply, Reply
from meanwhile.api.request import Request

Handler = Callable[[Request], Awaitable[Reply | EndlessReply]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path.

    ``scope`` is what an API key needs for it, None if it needs no key. ``reply`` is the model of a 200; ``media_types``
    are texts that a 200 can also be, or only, where there is no ``reply``, each with an example; with neither, success
    is a 204 without a body. ``body`` is the request, as JSON Schema alternatives of JSON or as one schema by media
    type, with examples; ``refusals`` are the exceptions that the handler may raise.

    ``credentials`` finds the headers that say who asks, where they are not simply those of the request. A subclass may
    word refusals as other clients expect them.
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
    credentials: Callable[[Request], Headers] | None = None

    @property
    def name(self) -> str:
        """The operation's id in the document."""
        return self.handler.__name__

    def refuse(self, error: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, headers and body of the answer to an exception."""
        return problems.encode(error)

    def documented(self, problem: problems.ProblemType) -> document.Refusal:
        """What the document says of a problem."""
        return document.problem(problem)
