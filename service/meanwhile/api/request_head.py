"""What the head of an HTTP request may say: what can be read in two ways is refused before anything acts on it.

Two readers that disagree about where a request ends, or about which of two values counts, are how requests are
smuggled past a proxy (RFC 9112, 11.2). So a request names one host, at most one type, and no transfer coding but
chunked.

**An upgrade is ignored** (RFC 9110, 7.8): this service speaks HTTP/1.1 alone, and a client that offers something else,
as Java's HttpClient does with every first request, gets its answer in HTTP/1.1. The parser, llhttp, takes what follows
the head of such a request for the other protocol. So it gets a head that says the same without the offer.
"""

from meanwhile.api.errors import BadTransferCoding, HeaderTooLarge, NotHttp
from meanwhile.api.headers import Pairs

MAX_HEAD = 64 * 1024  # Bytes.
_VERSIONS = frozenset({"1.0", "1.1"})
_OFFERS = frozenset({b"upgrade", b"http2-settings"})
HEAD_TOO_LARGE = HeaderTooLarge(f"Expected a header of at most {MAX_HEAD} bytes.")


def check(version: str, url: bytes, headers: Pairs, *, is_small: bool = False) -> None:
    """Raises ``NotHttp``, ``HeaderTooLarge`` or ``BadTransferCoding`` for a head that cannot be answered.

    ``is_small`` says that it is known to have at most ``MAX_HEAD`` bytes.
    """
    by_name = dict(headers)
    is_usual = is_small and version == "1.1" and len(by_name) == len(headers)
    if is_usual and b"host" in by_name and b"transfer-encoding" not in by_name:
        return  # The rest would cost every request a microsecond.
    if len(url) + sum([len(name) + len(value) for name, value in headers]) > MAX_HEAD:
        raise HEAD_TOO_LARGE
    if version not in _VERSIONS:
        raise NotHttp("Expected HTTP/1.1 or HTTP/1.0.")
    names = [name for name, _ in headers]
    if names.count(b"host") != 1 and (b"host" in names or version == "1.1"):
        raise NotHttp("Expected one Host.")
    if names.count(b"content-type") > 1:
        raise NotHttp("Expected one Content-Type.")
    if b"transfer-encoding" in names:
        for name, value in headers:
            if name == b"transfer-encoding":
                _check_coding(version, value)


def _check_coding(version: str, value: bytes) -> None:
    codings = [coding.strip().lower() for coding in value.split(b",")]
    if version == "1.0" or codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        raise NotHttp("Expected Transfer-Encoding: chunked, in HTTP/1.1.")
    if codings != [b"chunked"]:
        raise BadTransferCoding("Expected no Transfer-Encoding but chunked; Content-Encoding: gzip is understood.")


def without_upgrade(method: bytes, url: bytes, version: str, headers: Pairs) -> bytes:
    """The same head without the offer to go on in another protocol."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option for option in map(bytes.strip, value.split(b",")) if option.lower() not in _OFFERS]
            lines += [b"connection: " + option for option in options if option]
        elif name not in _OFFERS:
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
