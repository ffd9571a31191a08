"""Request bodies: whole or piece by piece, inflated, under the size cap, and of a type the endpoint knows."""

from collections.abc import Callable, Collection

from starlette.types import Receive, Scope

from service.api.inflation import inflate, too_large
from service.problems import UnsupportedMediaType

JSON = "application/json"


class ClientGone(Exception):
    """The client hung up before its request was complete: there is nobody to answer, and nothing was recorded."""


def media_type(scope: Scope, known: Collection[str]) -> str:
    """Which of the known types a body has; JSON where it says nothing. Raises ``UnsupportedMediaType``."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            found: str = value.decode("latin-1").partition(";")[0].strip().lower()
            if found not in known and _is_json(value):
                found = JSON
            if found not in known or not _is_utf_8(value):
                raise UnsupportedMediaType(
                    f"Expected Content-Type: {', '.join(known)}, or application/*+json; with UTF-8."
                )
            return found
    return JSON


def is_gzipped(scope: Scope) -> bool:
    """Whether the body is gzip data. Raises ``UnsupportedMediaType`` for any other encoding."""
    return any(list(map(_is_gzip, (value for name, value in scope["headers"] if name == b"content-encoding"))))


def _is_json_alone(content_type: bytes) -> bool:
    return content_type == b"application/json" or _is_json(content_type)


def any_type(content_type: bytes) -> bool:
    """Knows every type, for ``read``."""
    return True


async def read(scope: Scope, receive: Receive, limit: int, is_known: Callable[[bytes], bool] = _is_json_alone) -> bytes:
    """The body of a request of a known type; by default one that says it is JSON, or says nothing of its type.

    Raises ``UnsupportedMediaType``, ``BodyTooLarge`` (over ``limit`` bytes as sent or as inflated), ``BadEncoding`` or
    ``ClientGone``.
    """
    gzipped = False
    for name, value in scope["headers"]:
        if name == b"content-type":
            if not is_known(value):
                raise UnsupportedMediaType(
                    "Expected Content-Type: application/json, or application/*+json, with UTF-8. "
                    "With curl: -H 'Content-Type: application/json'."
                )
        elif name == b"content-length":
            if int(value) > limit:
                raise too_large(limit)
        elif name == b"content-encoding":
            gzipped = _is_gzip(value)
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            return await inflate(body, limit) if gzipped else body


def _is_json(content_type: bytes) -> bool:
    """Whether this is application/json or application/*+json, with no charset but UTF-8."""
    found = content_type.decode("latin-1").partition(";")[0].strip().lower()
    is_json = found in ("", JSON) or (found.startswith("application/") and found.endswith("+json"))
    return is_json and _is_utf_8(content_type)


def _is_utf_8(content_type: bytes) -> bool:
    for parameter in content_type.decode("latin-1").lower().split(";")[1:]:
        key, _, value = parameter.strip().partition("=")
        if key == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            return False
    return True


def _is_gzip(content_encoding: bytes) -> bool:
    encoding = content_encoding.decode("latin-1").strip().lower()
    if encoding in ("gzip", "x-gzip"):
        return True
    if encoding in ("", "identity"):
        return False
    raise UnsupportedMediaType("Expected Content-Encoding: gzip, or none.")
