"""The heads of requests that have been parsed before, so that they need not be parsed again.

A client that keeps its connection open sends the same head again and again, or one of a few: one per stream and length
of the body. Equal bytes at the start of a request are equal heads, so what was found out about the first one is true of
all. That takes a quarter less time than to parse each one (``make bench``).

Only what depends on the head alone is kept: the method, the headers, the ``Target``, and what the operation made of
them. Authorization is not, because the keys may be reloaded. Heads with an idempotency key are not kept, since each is
different.
"""

from typing import Any, NamedTuple

from meanwhile.api.request_head import Headers
from meanwhile.api.whole_request import Target, WholeRequest

_END = b"\r\n\r\n"
_MAX_HEADS = 2_048
_MAX_LENGTH = 1_024  # Bytes of a head that is kept.


class _Known(NamedTuple):
    method: str
    url: bytes
    headers: Headers
    target: Target
    plan: Any
    body_length: int


class KnownHeads:
    """The heads that one worker has parsed. At most 2,048 are kept; the oldest makes room for a new one."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}

    def recognize(self, data: bytes) -> WholeRequest | None:
        """Returns the request that ``data`` is, if its head is known and it has arrived whole; otherwise None."""
        end = data.find(_END) + len(_END)
        known = self._known.get(data[:end])
        if known is None or end + known.body_length != len(data):
            return None
        whole = WholeRequest(known.method, known.url, known.headers)
        whole.target = known.target
        whole.is_checked, whole.plan = True, known.plan
        whole.body = data[end:]
        return whole

    def keep(self, data: bytes, whole: WholeRequest) -> None:
        """Keeps the head of a request that was begun, if ``data`` is exactly that request."""
        headers = whole.headers
        end = data.find(_END) + len(_END)
        length = int(headers.get(b"content-length") or 0)
        if whole.target is None or not whole.is_checked or end > _MAX_LENGTH or end + length != len(data):
            return
        if headers.get(b"idempotency-key") is not None:
            return
        if len(self._known) >= _MAX_HEADS:
            del self._known[next(iter(self._known))]
        self._known[data[:end]] = _Known(whole.method, whole.url, headers, whole.target, whole.plan, length)
