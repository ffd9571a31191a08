"""What /openapi.json says of a route besides its models: each status with its headers and an example, and the keys.

Examples are made from those of the models' fields, and refusals from the error table, so they cannot be out of date.
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
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the service has any."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
    "basic": {"type": "http", "scheme": "basic", "description": "The same key, as the password of any user."},
}

EVENTS = "text/event-stream"

_NAMED_IN_WORDS = (
    *(models.Problem, models.StreamEvent, models.OneReading, models.ManyReadings),
    *(models.SenMLRecord, models.InfluxProblem),
)
_MODELS = "#/components/schemas/"
_RETRY_AFTER = {
    "description": "Seconds after which to send it again.",
    "schema": {"type": "integer", "minimum": 1},
    "example": 1,
}
_CHALLENGE = {
    "description": "How a key is presented.",
    "schema": {"type": "string"},
    "example": 'Bearer realm="meanwhile", Basic realm="meanwhile"',
}
_NO_STORE = {
    "description": "Nothing between may keep it.",
    "schema": {"type": "string"},
    "example": "no-store",
}


def example(model: type[BaseModel]) -> dict[str, Any]:
    """An instance of a model, from the examples of its required fields."""
    return {name: field.examples[0] for name, field in model.model_fields.items() if field.examples}


def reference(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a model among those of the document."""
    return {"$ref": f"{_MODELS}{model.__name__}"}


def examples(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a body with one of these schemas can be, from the examples of the schema or of the model it refers to."""
    found: list[Any] = []
    for schema in schemas:
        name = schema.get("$ref", "").removeprefix(_MODELS)
        found += (getattr(models, name).model_json_schema() if name else schema).get("examples", [])
    return {f"example {number}": {"value": one} for number, one in enumerate(found, start=1)}


class Refusal(NamedTuple):
    """What the document says of a problem: its status, and its content with an example."""

    status: int
    content: dict[str, Any]


def problem(problem: ProblemType) -> Refusal:
    """A problem as RFC 9457 has it."""
    members = {"type": problems.TYPE_PREFIX + problem.type, "title": problem.title, "status": problem.status}
    if problem.detail is not None:
        members["detail"] = problem.detail
    return Refusal(problem.status, {problems.MEDIA_TYPE: {"schema": reference(models.Problem), "example": members}})


def refusals(
    errors: Sequence[type[Exception]], documented: Callable[[ProblemType], Refusal]
) -> dict[int | str, dict[str, Any]]:
    """The responses that the error table has for these exceptions, by status."""
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
    """The 200 that has a model as JSON; ``texts`` are examples of what else it can be, by media type."""
    content: dict[str, Any] = {} if model is None else {"application/json": {"example": example(model)}}
    for media_type, text in texts.items():
        content[media_type] = {"schema": {"type": "string"}, "example": text}
    if EVENTS in texts:
        content[EVENTS]["schema"]["description"] = "Server-sent events; the data of a state is a StreamEvent."
        return {"content": content, "headers": {"Cache-Control": _NO_STORE}}
    return {"content": content}


def text(media_type: str) -> type[Response]:
    """Tells FastAPI the media type of a reply that is no JSON."""
    return type("Text", (Response,), {"media_type": media_type})


def security(scope: str | None) -> list[dict[str, list[str]]]:
    """Who may: anyone, or whoever has a key; without configured keys that is anyone too."""
    keys: list[dict[str, list[str]]] = [{name: []} for name in SECURITY_SCHEMES]
    return [] if scope is None else [{}, *keys]


def guarded(errors: Sequence[type[Exception]], scope: str | None) -> Sequence[type[Exception]]:
    """The refusals of a route, with those of its guard."""
    return errors if scope is None else (*errors, Unauthorized, Forbidden)


def complete(document: dict[str, Any]) -> None:
    """Adds the models that routes name in words only, and the kinds of keys."""
    components = document["components"]
    components["securitySchemes"] = SECURITY_SCHEMES
    for model in _NAMED_IN_WORDS:
        schema = model.model_json_schema(ref_template=_MODELS + "{model}")
        components["schemas"].update(schema.pop("$defs", {}))
        components["schemas"][model.__name__] = schema
