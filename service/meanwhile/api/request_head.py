"""The head of an HTTP request: its headers, and the rules that it must follow.

An ambiguous head is refused before anything acts on it: if two servers disagree about where a request ends, or about
which of two values counts, an attacker can smuggle requests past a proxy (RFC 9112, 11.2). So a request must name one
host, at most one media type, and no transfer coding except chunked.
"""

from collections.abc import Callable, Sequence

from meanwhile.api.refusals import BadTransferCoding, HeaderTooLarge, NotHttp

MAX_HEAD = 64 * 1024  # Bytes.
_VERSIONS = frozenset({"1.0", "1.1"})

Pairs = Sequence[tuple[bytes, bytes]]


class Headers:
    """Headers by name. ``pairs`` are (name, value) in the order of the request; names are in lower case.

    >>> headers = Headers([(b"accept", b"text/plain"), (b"host", b"pi.local"), (b"accept", b"*/*")])
    >>> headers.get(b"host"), headers.get(b"origin"), headers.all(b"accept")
    (b'pi.local', None, [b'text/plain', b'*/*'])
    """

    __slots__ = ("_by_name", "get", "pairs")

    get: Callable[[bytes], bytes | None]  # The last value of a header, None if there is none.

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self._by_name = dict(pairs)
        self.get = self._by_name.get

    def are_unique(self) -> bool:
        """Returns whether no header occurs twice."""
        return len(self._by_name) == len(self.pairs)

    def all(self, name: bytes) -> list[bytes]:
        """Returns all values of a header, in order."""
        if not self.are_unique():
            return [value for one, value in self.pairs if one == name]
        value = self.get(name)
        return [] if value is None else [value]

    def with_more(self, pairs: Pairs) -> "Headers":
        """Returns these headers with ``pairs`` appended."""
        return Headers([*self.pairs, *pairs])


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
