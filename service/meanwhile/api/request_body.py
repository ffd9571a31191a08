"""Request bodies: whole or piece by piece, inflated, under the size cap, and of a type the endpoint knows."""

from collections.abc import Callable, Collection

from meanwhile.api.errors import LengthRequired, UnsupportedMediaType
from meanwhile.api.gzip_inflation import inflate, too_large
from meanwhile.api.headers import Headers
from meanwhile.api.request import Request
from meanwhile.storage.batcher import Overloaded

_SMALL = 64 * 1024  # Bytes that every connection may hold.
JSON = "application/json"
_NOT_JSON = UnsupportedMediaType(
    "Expected Content-Type: application/json, or application/*+json, with UTF-8. "
    "With curl: -H 'Content-Type: application/json'."
)


class ClientGone(Exception):
    """The client hung up before its request was complete: there is nobody to answer, and nothing was recorded."""


def media_type(headers: Headers, known: Collection[str]) -> str:
    """Which of the known types a body has; JSON where it says nothing. Raises ``UnsupportedMediaType``."""
    value = headers.get(b"content-type")
    if value is None:
        return JSON
    found = value.decode("latin-1").partition(";")[0].strip().lower()
    if found not in known and _is_json(value):
        found = JSON
    if found not in known or not _is_utf_8(value):
        raise UnsupportedMediaType(f"Expected Content-Type: {', '.join(known)}, or application/*+json; with UTF-8.")
    return found


def is_gzipped(headers: Headers) -> bool:
    """Whether the body is gzip data. Raises ``UnsupportedMediaType`` for any other encoding."""
    encodings = [_is_gzip(value) for value in headers.all(b"content-encoding")]
    if sum(encodings) > 1:
        raise UnsupportedMediaType("Expected Content-Encoding: gzip once, or none.")
    return any(encodings)


def require_body(headers: Headers) -> None:
    """Raises ``LengthRequired`` if the headers of a request announce no body."""
    if headers.get(b"content-length") is None and headers.get(b"transfer-encoding") is None:
        raise LengthRequired("Expected a body, announced by Content-Length or Transfer-Encoding: chunked.")


def _is_json_alone(content_type: bytes) -> bool:
    return content_type == b"application/json" or _is_json(content_type)


def any_type(content_type: bytes) -> bool:
    """Knows every type, for ``read``."""
    return True


class Bodies:
    """Reads the bodies of requests in one worker.

    A body has at most ``max_body`` bytes, as sent and as inflated. Of all bodies that are being received, at most
    ``max_receiving`` bytes are held, except that one is always taken; what fits into 64 KiB does not count.
    """

    def __init__(self, max_body: int, max_receiving: int) -> None:
        self._max_body = max_body
        self._max_receiving = max_receiving
        self._held = 0

    def hold(self, held: int, size: int) -> int:
        """Takes note that a request which held ``held`` bytes holds ``size``; returns what counts of it.

        Raises ``Overloaded`` where that is too much; what it held before still counts then.
        """
        size = size if size > _SMALL else 0
        if size > held and self._held + size - held > max(self._max_receiving, size):
            raise Overloaded
        self._held += size - held
        return size

    async def read(self, request: Request, is_known: Callable[[bytes], bool] = _is_json_alone) -> bytes:
        """The body of a request of a known type; by default one that says it is JSON, or says nothing of its type.

        Raises ``LengthRequired`` if the request announces no body, ``UnsupportedMediaType``, ``BodyTooLarge``,
        ``BadEncoding``, ``Overloaded`` or ``ClientGone``.
        """
        headers = request.headers
        content_type = headers.get(b"content-type")
        if content_type is not None and not is_known(content_type):
            raise _NOT_JSON
        length = headers.get(b"content-length")
        if length is None:
            require_body(headers)
        elif int(length) > self._max_body:
            raise too_large(self._max_body)
        gzipped = headers.get(b"content-encoding") is not None and is_gzipped(headers)
        whole = None if request.connection is None else request.connection.take_body(request.scope)
        if whole is not None and len(whole) <= self._max_body:
            return await inflate(whole, self._max_body) if gzipped else whole
        chunks, size, held = [], 0, 0
        try:
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
                    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                    return await inflate(body, self._max_body) if gzipped else body
                held = self.hold(held, size)
        finally:
            self._held -= held


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
