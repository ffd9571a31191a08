"""Operations as FastAPI documents its routes, from which it makes /openapi.json."""

from collections.abc import Mapping
from typing import Any

from fastapi.routing import APIRoute
from starlette.responses import JSONResponse

from meanwhile.api.openapi import document
from meanwhile.api.operation import Operation
from meanwhile.core.stream_names import FORM, MAX_NAME_LENGTH

_STREAM = {
    "name": "stream",
    "in": "path",
    "required": True,
    "description": "The stream's name; its '/' need no encoding.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH, "pattern": FORM},
    "example": "kitchen/temperature",
}


def described(operation: Operation) -> APIRoute:
    """An operation as a route of FastAPI's; it is only read, never served."""
    extra: dict[str, Any] = {"security": document.security(operation.scope)}
    parameters = [*([_STREAM] if "{stream" in operation.path else []), *operation.parameters]
    if parameters:
        extra["parameters"] = parameters
    if operation.body:
        body = operation.body
        if not isinstance(body, Mapping):
            body = {"application/json": body[0] if len(body) == 1 else {"oneOf": list(body)}}
        content = {
            media_type: {"schema": schema, "examples": document.examples(schema.get("oneOf", [schema]))}
            for media_type, schema in body.items()
        }
        extra["requestBody"] = {"required": operation.needs_body, "content": content}
    responses = document.refusals(document.guarded(operation.refusals, operation.scope), operation.documented)
    has_content = operation.reply is not None or bool(operation.media_types)
    if has_content:
        responses[200] = document.good(operation.reply, operation.media_types)
    is_text = has_content and operation.reply is None
    return APIRoute(
        operation.path,
        _documented,
        methods=[operation.method],
        status_code=200 if has_content else 204,
        name=operation.name,
        operation_id=operation.name,
        summary=operation.name.replace("_", " ").capitalize(),
        description=operation.handler.__doc__ or "",
        response_model=operation.reply,
        response_class=document.text(next(iter(operation.media_types))) if is_text else JSONResponse,
        responses=responses,
        openapi_extra=extra,
    )


def _documented() -> None:
    """Stands in for the handler where FastAPI looks for a signature; what it would find is declared instead."""
