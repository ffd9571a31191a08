"""Request bodies: media types, content encodings and size limits."""

from collections.abc import Collection

from meanwhile.api.gzip_inflation import inflate, too_large
from meanwhile.api.large_bodies import BodyMemory
from meanwhile.api.refusals import LengthRequired, UnsupportedMediaType
from meanwhile.api.request import Request
from meanwhile.api.request_head import Headers
from meanwhile.formats.json_pieces import SMALL

JSON = "application/json"


class ClientGone(Exception):
    """The client disconnected before its request was complete: nothing was recorded, and nobody reads a response."""


def media_type(headers: Headers, known: Collection[str]) -> str:
    """Returns the media type of a body, one of the ``known`` types; JSON, which is always known, if there is none.

    Raises ``UnsupportedMediaType`` for any other type.
    """
    value = headers.get(b"content-type")
    if value is None or value == b"application/json":
        return JSON
    found = value.decode("latin-1").partition(";")[0].strip().lower()
    if found not in known and _is_json(value):
        found = JSON
    if found not in known or not _is_utf_8(value):
        raise UnsupportedMediaType(
            f"Expected Content-Type: {', '.join(known)}, or application/*+json; with UTF-8. "
            "With curl: -H 'Content-Type: application/json'."
        )
    return found


def is_gzipped(headers: Headers) -> bool:
    """Returns whether the body is gzip data. Raises ``UnsupportedMediaType`` for any other encoding."""
    encodings = [_is_gzip(value) for value in headers.all(b"content-encoding")]
    if sum(encodings) > 1:
        raise UnsupportedMediaType("Expected Content-Encoding: gzip only once, or no Content-Encoding.")
    return any(encodings)


def require_body(headers: Headers) -> None:
    """Raises ``LengthRequired`` if the headers of a request announce no body."""
    if headers.get(b"content-length") is None and headers.get(b"transfer-encoding") is None:
        raise LengthRequired("Expected a body, announced by Content-Length or Transfer-Encoding: chunked.")


class Bodies:
    """Reads the bodies of requests in one worker.

    ``max_body`` is the limit of a body, in bytes, both as sent and inflated. ``memory`` limits that of all bodies.
    """

    def __init__(self, max_body: int, memory: BodyMemory) -> None:
        self._max_body = max_body
        self._memory = memory

    async def read(self, request: Request) -> bytes:
        """Returns the body of a request, whatever its media type.

        Raises ``LengthRequired`` if the request announces no body, ``UnsupportedMediaType`` for its encoding,
        ``BodyTooLarge``, ``BadEncoding``, ``Overloaded`` or ``ClientGone``, or what ``Request.authorize_again`` raises.
        """
        self.check_head(request.headers)
        headers = request.headers
        gzipped = headers.get(b"content-encoding") is not None and is_gzipped(headers)
        body = None if request.connection is None else request.connection.take_body(request.scope)
        if body is None:
            body = await self._receive(request)
        elif len(body) > self._max_body:
            raise too_large(self._max_body)
        if len(body) > SMALL:
            self._memory.keep(request, len(body))
        if not gzipped:
            return body
        packed = len(body)
        return await inflate(body, self._max_body, lambda size: self._memory.keep(request, packed + size))

    def check_head(self, headers: Headers) -> None:
        """Raises what ``read`` raises because of the length of a body, if the headers say it."""
        length = headers.get(b"content-length")
        if length is None:
            require_body(headers)
        elif int(length) > self._max_body:
            raise too_large(self._max_body)

    def check_size(self, body: bytes) -> None:
        """Raises ``BodyTooLarge`` if a body that is not encoded is too large."""
        if len(body) > self._max_body:
            raise too_large(self._max_body)

    async def _receive(self, request: Request) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await request.receive()
            if message["type"] != "http.request":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body:
                raise too_large(self._max_body)
            chunks.append(chunk)
            if not message.get("more_body", False):
                request.authorize_again()
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._memory.keep(request, size)


def _is_json(content_type: bytes) -> bool:
    """Returns whether the type is application/json or application/*+json, with UTF-8 or no charset."""
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
