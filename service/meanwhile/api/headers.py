"""The headers of a request: looked up by name, however many there are and however often one is there."""

from collections.abc import Callable, Sequence

Pairs = Sequence[tuple[bytes, bytes]]


class Headers:
    """Headers by name. ``pairs`` are names, in lower case, and values, as they came.

    >>> headers = Headers([(b"accept", b"text/plain"), (b"host", b"pi.local"), (b"accept", b"*/*")])
    >>> headers.get(b"host"), headers.get(b"origin"), headers.all(b"accept")
    (b'pi.local', None, [b'text/plain', b'*/*'])
    """

    __slots__ = ("_by_name", "_pairs", "get")

    get: Callable[[bytes], bytes | None]  # The value of a header, None without it; of several, the last.

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._by_name = dict(pairs)
        self.get = self._by_name.get

    def all(self, name: bytes) -> list[bytes]:
        """The values of a header that may be there several times, in their order."""
        if len(self._by_name) != len(self._pairs):
            return [value for one, value in self._pairs if one == name]
        value = self.get(name)
        return [] if value is None else [value]

    def with_more(self, pairs: Pairs) -> "Headers":
        """These headers, and more of them."""
        return Headers([*self._pairs, *pairs])
