"""The parts of /openapi.json that are not models: statuses with headers and examples, and the kinds of API keys.

Examples are generated from the fields of the models, and refusals from the error table, so they stay up to date.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel
from starlette.responses import Response

from meanwhile.api import problems
from meanwhile.api.auth import Forbidden, Unauthorized
from meanwhile.api.openapi import models
from meanwhile.api.problems import ProblemType

SECURITY_SCHEMES: dict[str, dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, if the service requires one."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in another header."},
    "basic": {"type": "http", "scheme": "basic", "description": "The same key as the password, with any user name."},
}

EVENTS = "text/event-stream"

_UNDISCOVERED = (
    *(models.Problem, models.StreamEvent, models.OneReading, models.ManyReadings),
    *(models.SenMLRecord, models.InfluxProblem),
)
_MODELS = "#/components/schemas/"
_RETRY_AFTER = {
    "description": "Seconds to wait before sending the request again.",
    "schema": {"type": "integer", "minimum": 1},
    "example": 1,
}
_CHALLENGE = {
    "description": "The schemes in which a key can be sent.",
    "schema": {"type": "string"},
    "example": 'Bearer realm="meanwhile", Basic realm="meanwhile"',
}
_NO_STORE = {
    "description": "Proxies must not cache the reply.",
    "schema": {"type": "string"},
    "example": "no-store",
}


def example(model: type[BaseModel]) -> dict[str, Any]:
    """An instance of a model, made from the examples of its fields."""
    return {name: field.examples[0] for name, field in model.model_fields.items() if field.examples}


def reference(model: type[BaseModel]) -> dict[str, Any]:
    """A reference to the schema of a model in the document."""
    return {"$ref": f"{_MODELS}{model.__name__}"}


def examples(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Examples of a body with one of these schemas, taken from the schema or from the model that it refers to."""
    found: list[Any] = []
    for schema in schemas:
        name = schema.get("$ref", "").removeprefix(_MODELS)
        found += (getattr(models, name).model_json_schema() if name else schema).get("examples", [])
    return {f"example {number}": {"value": one} for number, one in enumerate(found, start=1)}


class Refusal(NamedTuple):
    """The documentation of a problem: its status, and its content with an example."""

    status: int
    content: dict[str, Any]


def problem(problem: ProblemType) -> Refusal:
    """The documentation of a problem in the form of RFC 9457."""
    members = {"type": problems.TYPE_PREFIX + problem.type, "title": problem.title, "status": problem.status}
    if problem.detail is not None:
        members["detail"] = problem.detail
    return Refusal(problem.status, {problems.MEDIA_TYPE: {"schema": reference(models.Problem), "example": members}})


def refusals(
    errors: Sequence[type[Exception]], documented: Callable[[ProblemType], Refusal]
) -> dict[int | str, dict[str, Any]]:
    """The responses to these exceptions, from the error table, by status."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        found = problems.TABLE[error]
        status, content = documented(found)
        response = responses.setdefault(status, {"description": found.title, "content": content})
        if found.title not in response["description"].split("; "):
            response["description"] += f"; {found.title}"
        if found.retry_after is not None:
            response["headers"] = {"Retry-After": _RETRY_AFTER}
        if error is Unauthorized:
            response["headers"] = {"WWW-Authenticate": _CHALLENGE}
    return responses


def good(model: type[BaseModel] | None, texts: Mapping[str, str]) -> dict[str, Any]:
    """A 200 response with a model as JSON; ``texts`` are examples of its other forms, by media type."""
    content: dict[str, Any] = {} if model is None else {"application/json": {"example": example(model)}}
    for media_type, text in texts.items():
        content[media_type] = {"schema": {"type": "string"}, "example": text}
    if EVENTS in texts:
        content[EVENTS]["schema"]["description"] = "Server-sent events. The data of a state event is a StreamEvent."
        return {"content": content, "headers": {"Cache-Control": _NO_STORE}}
    return {"content": content}


def text(media_type: str) -> type[Response]:
    """A response class that tells FastAPI the media type of a reply that is not JSON."""
    return type("Text", (Response,), {"media_type": media_type})


def security(scope: str | None) -> list[dict[str, list[str]]]:
    """The security requirement of a route. A key is optional, because the service may have no keys configured."""
    keys: list[dict[str, list[str]]] = [{name: []} for name in SECURITY_SCHEMES]
    return [] if scope is None else [{}, *keys]


def guarded(errors: Sequence[type[Exception]], scope: str | None) -> Sequence[type[Exception]]:
    """The refusals of a route and of its guard."""
    return errors if scope is None else (*errors, Unauthorized, Forbidden)


def complete(document: dict[str, Any]) -> None:
    """Adds the models that FastAPI does not find by itself, and the kinds of API keys."""
    components = document["components"]
    components["securitySchemes"] = SECURITY_SCHEMES
    for model in _UNDISCOVERED:
        schema = model.model_json_schema(ref_template=_MODELS + "{model}")
        components["schemas"].update(schema.pop("$defs", {}))
        components["schemas"][model.__name__] = schema
