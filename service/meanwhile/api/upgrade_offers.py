"""Ignores offers to upgrade to another protocol, such as h2c or WebSocket: this service only speaks HTTP/1.1.

RFC 9110, 7.8, allows that. A client that offers another protocol, as Java's HttpClient does in each first request, gets
an answer in HTTP/1.1. The parser, llhttp, treats the data after the head of such a request as the other protocol. So it
gets the same head without the offer instead.
"""

from meanwhile.api.request_head import Pairs

_OFFERS = frozenset({b"upgrade", b"http2-settings"})


def without_offer(method: bytes, url: bytes, version: str, headers: Pairs) -> bytes:
    """Returns the encoded head without the offer to upgrade to another protocol."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option for option in map(bytes.strip, value.split(b",")) if option.lower() not in _OFFERS]
            lines += [b"connection: " + option for option in options if option]
        elif name not in _OFFERS:
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
