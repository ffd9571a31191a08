"""The headers of a request, by name. A header may occur several times."""

from collections.abc import Callable, Sequence

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
