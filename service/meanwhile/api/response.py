"""Responses: the replies of handlers, and the bytes of a whole response, to be written with one system call."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import NamedTuple

import msgspec

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_encode = msgspec.json.Encoder().encode

Header = tuple[bytes, bytes]


class Reply(NamedTuple):
    """A complete reply. ``headers`` are additional to its media type and length."""

    body: bytes
    media_type: bytes = JSON
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()


def json_reply(content: object) -> Reply:
    """Returns a 200 with ``content`` as JSON. A float becomes the shortest text that parses to the same double."""
    return Reply(_encode(content))


class ResponseEncoder:
    """Encodes responses. ``default_headers`` are part of each."""

    def __init__(self) -> None:
        self._default_headers: Sequence[Header] = []
        self._default_head = b""

    def encode(self, status: int, default_headers: Sequence[Header], headers: Iterable[Header], body: bytes) -> bytes:
        """Returns a whole response. ``headers`` include its length."""
        if self._default_headers is not default_headers:  # uvicorn makes a new list every second, with the date.
            self._default_headers = default_headers
            self._default_head = _lines(default_headers)
        return b"".join((_STATUS_LINES[status], self._default_head, _lines(headers), b"\r\n", body))


def _lines(headers: Iterable[Header]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
