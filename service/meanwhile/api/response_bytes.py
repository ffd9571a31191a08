"""The bytes of a whole response: status line, headers and body, to be written with one system call."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

Header = tuple[bytes, bytes]


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
