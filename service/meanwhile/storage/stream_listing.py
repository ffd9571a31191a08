"""Lists streams: page by page for clients, and new streams for the poller.

There is no index, so a stream costs no memory beyond its state. A listing scans all keys of the database.
"""

from collections.abc import Awaitable, Container
from os.path import commonprefix
from typing import Any, NamedTuple

from redis.asyncio import Redis

from meanwhile.core.stream_names import is_name
from meanwhile.storage.redis_client import RedisClient

_MAX_SCAN_COUNT = 1_000  # Keys per SCAN if few match: less than a millisecond of server time.
_MAX_SCANS = 1_000  # SCANs per page; after that, a page may be short.


class Page(NamedTuple):
    """A page of stream names, and the cursor of the next page, None at the end."""

    streams: list[str]
    cursor: str | None


class StreamListing:
    """Lists the names of streams in Redis.

    ``redis_client`` runs the commands of ``client``. ``keys`` is the start of their keys, before the name.

    Every method takes ``deadline``, on the clock of the event loop, and returns or raises by then.
    """

    def __init__(self, client: Redis, redis_client: RedisClient, keys: str) -> None:
        self._client = client
        self._redis = redis_client
        self._keys = keys

    async def page(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> Page:
        """Returns at most ``limit`` names of streams that start with ``prefix``, from ``cursor`` on.

        A stream that exists throughout the listing is on at least one page; it can be on two if the server resizes its
        hash table meanwhile. The order is that of the server. A page can be short or empty if few of many streams have
        the prefix. Raises ``StoreUnavailable``, or ``ValueError`` if the cursor is malformed or of another prefix.

        A SCAN can return more names than the limit, and repeating it may return others if the table was resized. So a
        cursor consists of the SCAN position and the surplus names, which start the next page.
        """
        position, found = (0, []) if cursor is None else _parse_cursor(cursor, prefix)
        at_end = cursor is not None and position == 0
        pattern = _escape_glob(self._keys) + prefix + "*"
        step = limit - len(found)
        for _ in range(_MAX_SCANS):
            if at_end or len(found) >= limit:
                break
            scanning: Awaitable[tuple[int, list[Any]]] = self._client.scan(position, pattern, step)
            position, keys = await self._redis.read(scanning, deadline)
            at_end = position == 0
            names = [key.decode(errors="replace").removeprefix(self._keys) for key in keys]
            found = sorted([*found, *filter(is_name, names)])
            # Not more than the page has room for, because the cursor with the surplus names must fit into a URL.
            step = limit - len(found) if names else max(step, min(2 * step, _MAX_SCAN_COUNT))
        page, beyond = found[:limit], found[limit:]
        return Page(page, None if at_end and not beyond else f"{position},{','.join(beyond)}")

    async def new_streams(
        self, known: Container[str], prefixes: tuple[str, ...], limit: int, deadline: float
    ) -> set[str]:
        """Returns the streams that start with one of ``prefixes`` and are not ``known``. Stops above ``limit``.

        Raises ``StoreUnavailable``.
        """
        pattern = _escape_glob(self._keys) + commonprefix(prefixes) + "*"  # noqa: RUF071  # Of names, not of paths.
        found: set[str] = set()
        position = 0
        while True:
            scanning: Awaitable[tuple[int, list[Any]]] = self._client.scan(position, pattern, _MAX_SCAN_COUNT)
            position, keys = await self._redis.read(scanning, deadline)
            names = (key.decode(errors="replace").removeprefix(self._keys) for key in keys)
            found.update(name for name in names if name.startswith(prefixes) and name not in known and is_name(name))
            if position == 0 or len(found) > limit:
                return found


def _parse_cursor(cursor: str, prefix: str) -> tuple[int, list[str]]:
    """Returns the SCAN position and the names in a cursor. Raises ``ValueError`` if no page of ``prefix`` had it."""
    position, comma, rest = cursor.partition(",")
    names = rest.split(",") if rest else []
    if not (comma and position.isascii() and position.isdigit() and len(position) <= 20 and all(map(is_name, names))):
        raise ValueError("not a cursor")
    if int(position) >= 2**64:
        raise ValueError("not a cursor")
    if not all(name.startswith(prefix) for name in names):
        raise ValueError("not a cursor of this prefix")
    return int(position), names


def _escape_glob(text: str) -> str:
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in text)
