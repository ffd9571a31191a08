"""Listing streams: by page for clients, and what is new for who watches.

There is no index to keep, so a stream costs no more than its state; SCAN goes through all keys of the database.
"""

from collections.abc import Awaitable, Container
from os.path import commonprefix
from typing import Any, NamedTuple

from redis.asyncio import Redis

from meanwhile.core.stream_names import is_name
from meanwhile.storage.redis_client import RedisClient

_LONGEST_STEP = 1_000  # Keys that a SCAN looks at where few fit: less than a millisecond of the server's time.
_MOST_STEPS = 1_000  # Before a page is returned as it is.


class Page(NamedTuple):
    """Some stream names, and the cursor that leads to the next ones; None at the end."""

    streams: list[str]
    cursor: str | None


class StreamListing:
    """The names of streams in Redis. ``keys`` is what their keys start with, before the name.

    Every method takes ``deadline``, on the clock of the event loop, and returns or raises by then.
    """

    def __init__(self, client: Redis, link: RedisClient, keys: str) -> None:
        self._client = client
        self._redis = link
        self._keys = keys

    async def page(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> Page:
        """At most ``limit`` names of streams that start with ``prefix``, from where ``cursor`` left off.

        A stream that exists from the first page to the last is on one of them; it can be on two if the server
        resizes its table meanwhile. The order is the server's, and a page can be short, even empty, where few of many
        streams have the prefix. Raises
        ``ValueError`` for a cursor that is none.

        A step of SCAN cannot be cut to the limit, and taking it again may find others if the table was resized. So a
        cursor is the position of SCAN and the names that it has found beyond the page, which lead the next one.
        """
        position, found = (0, []) if cursor is None else _parse_cursor(cursor)
        at_end = cursor is not None and position == 0
        pattern = _escape_glob(self._keys) + prefix + "*"
        step = limit - len(found)
        for _ in range(_MOST_STEPS):
            if at_end or len(found) >= limit:
                break
            scanning: Awaitable[tuple[int, list[Any]]] = self._client.scan(position, pattern, step)
            position, keys = await self._redis.read(scanning, deadline)
            at_end = position == 0
            names = [key.decode(errors="replace").removeprefix(self._keys) for key in keys]
            found = sorted([*found, *filter(is_name, names)])
            # No more than there is room for: what is beyond the page has to fit into a URL.
            step = limit - len(found) if names else max(step, min(2 * step, _LONGEST_STEP))
        page, beyond = found[:limit], found[limit:]
        return Page(page, None if at_end and not beyond else f"{position},{','.join(beyond)}")

    async def beside(self, known: Container[str], prefixes: tuple[str, ...], most: int, deadline: float) -> set[str]:
        """The streams that start with one of ``prefixes`` and are not among ``known``; more than ``most`` not all."""
        pattern = _escape_glob(self._keys) + commonprefix(prefixes) + "*"  # noqa: RUF071  # Of names, not of paths.
        found: set[str] = set()
        position = 0
        while True:
            scanning: Awaitable[tuple[int, list[Any]]] = self._client.scan(position, pattern, _LONGEST_STEP)
            position, keys = await self._redis.read(scanning, deadline)
            names = (key.decode(errors="replace").removeprefix(self._keys) for key in keys)
            found.update(name for name in names if name.startswith(prefixes) and name not in known and is_name(name))
            if position == 0 or len(found) > most:
                return found


def _parse_cursor(cursor: str) -> tuple[int, list[str]]:
    position, comma, rest = cursor.partition(",")
    names = rest.split(",") if rest else []
    if not (comma and position.isascii() and position.isdigit() and len(position) <= 20 and all(map(is_name, names))):
        raise ValueError("not a cursor")
    if int(position) >= 2**64:
        raise ValueError("not a cursor")
    return int(position), names


def _escape_glob(text: str) -> str:
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in text)
