"""Request bodies: whole, inflated, under the size cap, and of a type the endpoint knows."""

import zlib
from collections.abc import Iterable

from starlette.types import Receive, Scope

from service.problems import BadEncoding, BodyTooLarge, UnsupportedMediaType

_GZIP = 16 + zlib.MAX_WBITS  # zlib's way of saying: a gzip header and trailer, and nothing else.


class ClientGone(Exception):
    """The client hung up before its request was complete: there is nobody to answer, and nothing was recorded."""


async def read_json(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body of a request that says it is JSON, or says nothing of its type.

    Raises ``UnsupportedMediaType``, ``BodyTooLarge`` (over ``limit`` bytes as sent or as inflated), ``BadEncoding`` or
    ``ClientGone``.
    """
    gzipped = False
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value != b"application/json" and not _is_json(value):
                raise UnsupportedMediaType(
                    "Expected Content-Type: application/json, or application/*+json, with UTF-8. "
                    "With curl: -H 'Content-Type: application/json'."
                )
        elif name == b"content-length":
            if int(value) > limit:
                raise _too_large(limit)
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
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            return inflate([body], limit) if gzipped else body


def inflate(chunks: Iterable[bytes], limit: int) -> bytes:
    """The content of gzip data of one or more members; never holds more than ``limit`` bytes of it."""
    content = bytearray()
    member = zlib.decompressobj(_GZIP)
    started = False
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                if member.eof:
                    member = zlib.decompressobj(_GZIP)
                started = True
                content += member.decompress(rest, limit + 1 - len(content))
                if len(content) > limit:
                    raise _too_large(limit)
                rest = member.unused_data if member.eof else member.unconsumed_tail
    except zlib.error:
        raise BadEncoding("Expected gzip data, as Content-Encoding says.") from None
    if not started or not member.eof:
        raise BadEncoding("Expected gzip data, as Content-Encoding says; it ends too early.")
    return bytes(content)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"Expected at most {limit} bytes, after inflation.")


def _is_json(content_type: bytes) -> bool:
    """Whether this is application/json or application/*+json, with no charset but UTF-8."""
    media_type, *parameters = content_type.decode("latin-1").lower().split(";")
    media_type = media_type.strip()
    for parameter in parameters:
        key, _, value = parameter.strip().partition("=")
        if key == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            return False
    return media_type in ("", "application/json") or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )


def _is_gzip(content_encoding: bytes) -> bool:
    encoding = content_encoding.decode("latin-1").strip().lower()
    if encoding in ("gzip", "x-gzip"):
        return True
    if encoding in ("", "identity"):
        return False
    raise UnsupportedMediaType("Expected Content-Encoding: gzip, or none.")
