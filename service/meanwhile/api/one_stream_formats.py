"""The formats of a body with readings of one stream, by media type, and the query parameters of the binary ones."""

from collections.abc import Callable
from functools import partial
from typing import Any

from meanwhile.api import query_parameters
from meanwhile.api.request import Request
from meanwhile.api.request_body import JSON
from meanwhile.core.readings import Limits, Readings
from meanwhile.formats import binary_vectors, msgpack_readings
from meanwhile.formats.json_pieces import SMALL

Decode = Callable[[bytes, int, Limits], Readings]

VECTORS = "application/octet-stream"
MSGPACK = ("application/vnd.msgpack", "application/msgpack")  # The registered name, and the one that most clients use.
BINARY = (VECTORS, *MSGPACK)
MEDIA_TYPES = (JSON, *BINARY)


def binary_decoder(media_type: str, request: Request) -> Decode:
    """Returns what decodes a body of one of the ``BINARY`` types.

    Raises ``Invalid`` if the request has a query parameter that the type does not have.
    """
    if media_type in MSGPACK:
        query_parameters.only(request, ())
        return msgpack_readings.decode
    return partial(binary_vectors.decode, parameters=query_parameters.only(request, binary_vectors.PARAMETERS))


def is_small(decode: Decode, length: int) -> bool:
    """Returns whether a body of ``length`` bytes is decoded in the event loop."""
    return length <= (msgpack_readings.SMALL if decode is msgpack_readings.decode else SMALL)


def _parameter(name: str, description: str, schema: dict[str, Any], example: Any) -> dict[str, Any]:
    described = f"Only with Content-Type {VECTORS}: {description}"
    return {"name": name, "in": "query", "description": described, "schema": schema, "example": example}


PARAMETERS = [
    _parameter("dtype", "the type of the numbers, little-endian; float64 if absent.", {"type": "string"}, "float32"),
    _parameter(
        "components",
        "the number of numbers in each reading. If it is 1, the readings are numbers, otherwise arrays. Without it and "
        "members, the whole body is one reading.",
        {"type": "string"},
        "128",
    ),
    _parameter(
        "members",
        "the names in each reading, which is an object, in the order of the body. A name with a colon and a length is "
        "an array, a name alone is a number.",
        {"type": "string"},
        "key:64,value:64",
    ),
    _parameter(
        "time",
        "the time of all readings, RFC 3339 with a time zone or Unix seconds; the time of arrival if absent.",
        {"type": "string"},
        "2026-01-01T00:00:00Z",
    ),
]
