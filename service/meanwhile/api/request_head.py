"""The rules for the head of an HTTP request: an ambiguous head is refused before anything acts on it.

If two servers disagree about where a request ends, or about which of two values counts, an attacker can smuggle
requests past a proxy (RFC 9112, 11.2). So a request must name one host, at most one media type, and no transfer coding
except chunked.

**An upgrade is ignored** (RFC 9110, 7.8): this service only speaks HTTP/1.1. A client that offers another protocol, as
Java's HttpClient does in each first request, gets an answer in HTTP/1.1. The parser, llhttp, treats the data after the
head of such a request as the other protocol. So it gets the same head without the offer instead.
"""

from meanwhile.api.errors import BadTransferCoding, HeaderTooLarge, NotHttp
from meanwhile.api.headers import Headers, Pairs

MAX_HEAD = 64 * 1024  # Bytes.
_VERSIONS = frozenset({"1.0", "1.1"})
_OFFERS = frozenset({b"upgrade", b"http2-settings"})


def too_large() -> HeaderTooLarge:
    """Returns the error for a header above the limit."""
    return HeaderTooLarge(f"Expected a header of at most {MAX_HEAD} bytes.")


def check(version: str, url: bytes, headers: Headers, *, is_small: bool = False) -> None:
    """Raises ``NotHttp``, ``HeaderTooLarge`` or ``BadTransferCoding`` if the head is not valid.

    ``is_small`` says that the head is known to have at most ``MAX_HEAD`` bytes.
    """
    is_ordinary = is_small and version == "1.1" and headers.are_unique()
    if is_ordinary and headers.get(b"host") is not None and headers.get(b"transfer-encoding") is None:
        return  # A fast path: the other checks would cost each request a microsecond.
    if len(url) + sum([len(name) + len(value) for name, value in headers.pairs]) > MAX_HEAD:
        raise too_large()
    if version not in _VERSIONS:
        raise NotHttp("Expected HTTP/1.1 or HTTP/1.0.")
    names = [name for name, _ in headers.pairs]
    if names.count(b"host") != 1 and (b"host" in names or version == "1.1"):
        raise NotHttp("Expected one Host header.")
    if names.count(b"content-type") > 1:
        raise NotHttp("Expected at most one Content-Type header.")
    if b"transfer-encoding" in names:
        for value in headers.all(b"transfer-encoding"):
            _check_coding(version, value)


def _check_coding(version: str, value: bytes) -> None:
    codings = [coding.strip().lower() for coding in value.split(b",")]
    if version == "1.0" or codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        raise NotHttp("Expected Transfer-Encoding: chunked, with HTTP/1.1.")
    if codings != [b"chunked"]:
        raise BadTransferCoding("Expected Transfer-Encoding: chunked; for compression, use Content-Encoding: gzip.")


def without_upgrade(method: bytes, url: bytes, version: str, headers: Pairs) -> bytes:
    """Returns the encoded head without the offer to upgrade to another protocol."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option for option in map(bytes.strip, value.split(b",")) if option.lower() not in _OFFERS]
            lines += [b"connection: " + option for option in options if option]
        elif name not in _OFFERS:
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
