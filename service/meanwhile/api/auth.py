"""API keys: who may read, write and delete which streams.

Without a file of keys the service is open, which it says at start-up. Then whoever can connect may do anything, except
a web page: a browser says in ``Sec-Fetch-Site`` that a request comes from another site, and such writes are refused,
so that no page somebody visits can post to a service on their machine or in their network. Browsers leave that header
out for plain HTTP beyond localhost; there ``Origin`` has to name the host that was asked.

With a file (``key_file.py``), every route but ``/livez``, ``/readyz``, ``/ping`` and ``/health`` needs a key. A request
that presents two different keys is refused, so that it never depends on the order of its headers which of them counts.

The file is read again on SIGHUP. A request that lasts, such as an upload or an event stream, is asked again then.
"""

import asyncio
import base64
import binascii
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from meanwhile.api.headers import Headers
from meanwhile.api.key_file import EVERYTHING, BadKeyFile, Grant, Keys, read_keys

log = logging.getLogger(__name__)


class Unauthorized(Exception):
    """No key, one that is not in the file, or two of them."""


class Forbidden(Exception):
    """The key is known and does not allow this; ``detail`` says what would."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Guard:
    """Decides, from the headers of a request, who asks and whether they may."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._keys = None if file is None else read_keys(file)
        self._reading = asyncio.Lock()
        self._watchers: set[Callable[[], None]] = set()

    async def reload(self) -> None:
        """Reads the file again, in a thread; what cannot be used is logged, and the keys stay as they were."""
        if self._file is None:
            return
        async with self._reading:  # One after the other: what is read last was in the file last.
            try:
                self._keys = await _in_a_thread(read_keys, self._file)
            except BadKeyFile as error:
                log.error(  # noqa: TRY400  # The words say it all.
                    "the API keys stay as they were: %s. To withdraw all keys, leave the file empty", error
                )
                return
        _log(self._keys)
        for authorize in [*self._watchers]:
            authorize()

    @contextmanager
    def watch(self, authorize: Callable[[], None]) -> Iterator[None]:
        """Has ``authorize`` called each time the keys have been read again, for a request that lasts."""
        self._watchers.add(authorize)
        try:
            yield
        finally:
            self._watchers.discard(authorize)

    def authorize(self, headers: Headers, scope: str) -> Grant:
        """What the request may use. Raises ``Unauthorized`` or ``Forbidden``."""
        if self._keys is None:
            if scope != "read" and _is_from_another_site(headers):
                raise Forbidden("Expected a request that no other web site makes; or configure API keys.")
            return EVERYTHING
        presented = _secrets(headers)
        key = self._keys.find(presented.pop()) if len(presented) == 1 else None
        if key is None:
            raise Unauthorized
        if scope not in key.scopes:
            raise Forbidden(f"Expected a key with the scope {scope}.")
        return key.grant


def check_prefix_of(name: str, prefix: str) -> None:
    """Raises ``Forbidden`` if a key for ``prefix`` does not reach ``name``."""
    if not name.startswith(prefix):
        raise Forbidden("Expected a stream that the key reaches.")


def _log(keys: Keys) -> None:
    if len(keys):
        log.info("API keys in use: %d", len(keys))
    else:
        log.warning("the file of API keys has none: every request that needs a key is refused")


async def _in_a_thread(read: Callable[[Path], Keys], file: Path) -> Keys:
    """``read(file)``; in a thread that does not hold up the end of the process where a disk does not answer."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Keys] = loop.create_future()

    def settle(keys: Keys | None, error: Exception | None) -> None:
        if not result.done():
            result.set_result(keys) if keys is not None else result.set_exception(error or BadKeyFile())

    def work() -> None:
        keys = failure = None
        try:
            keys = read(file)
        except Exception as error:  # noqa: BLE001  # It is raised where it is waited for.
            failure = error
        with suppress(RuntimeError):  # The loop may have ended.
            loop.call_soon_threadsafe(settle, keys, failure)

    threading.Thread(target=work, daemon=True).start()
    return await result


def _is_from_another_site(headers: Headers) -> bool:
    """Whether a browser says so. A client that is no browser sends neither header."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


def _secrets(headers: Headers) -> set[bytes]:
    """The keys that a request presents: X-API-Key; Authorization with Bearer, Token or Basic, there as the password."""
    found = set(headers.all(b"x-api-key"))
    for value in headers.all(b"authorization"):
        kind, _, credentials = value.partition(b" ")
        if kind.lower() in (b"bearer", b"token"):
            found.add(credentials.strip())
        elif kind.lower() == b"basic":
            found.add(_password(credentials))
    return found


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
