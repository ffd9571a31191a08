"""Authorization with API keys: who may read, write and delete which streams.

Without a key file, the service is open and logs this at start-up. Then every client that can connect may do anything,
except that web pages of other sites may not write (``cross_site.py``).

With a key file (``key_file.py``), all routes except ``/livez``, ``/readyz``, ``/ping`` and ``/health`` need a key. A
request with two different keys is refused, so that the order of its headers does not matter.

SIGHUP reloads the file. Long requests, such as uploads and event streams, are then authorized again.
"""

import asyncio
import base64
import binascii
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from meanwhile.api.cross_site import is_from_another_site
from meanwhile.api.key_file import UNRESTRICTED, BadKeyFile, Grant, Keys, read_keys
from meanwhile.api.request_head import Headers

log = logging.getLogger(__name__)

_KEPT = "the API keys stay as they were: %s. To revoke all keys, empty the file"


class Unauthorized(Exception):
    """The request has no key, an unknown key, or two different keys."""


class Forbidden(Exception):
    """The key is known but does not allow this request; ``detail`` says what would."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Guard:
    """Authorizes requests by their headers.

    ``file`` is the key file; without it the service is open. ``copy`` is where the workers of a service keep a copy of
    the last key file that could be used, for workers that start later. Without it, raises ``BadKeyFile`` if ``file``
    cannot be used.
    """

    def __init__(self, file: Path | None, copy: Path | None = None) -> None:
        self._file = file
        self._copy = copy
        self._keys = None if file is None else self._read_first(file)
        self._reading = asyncio.Lock()
        self._watchers: set[Callable[[], None]] = set()

    def _read_first(self, file: Path) -> Keys:
        try:
            return read_keys(file, self._copy)
        except BadKeyFile as error:
            if self._copy is None:
                raise
            log.error(_KEPT, error)  # noqa: TRY400  # As above.
        try:
            return read_keys(self._copy)
        except BadKeyFile:
            log.error("a new worker refuses every request that needs a key, because it has no keys")  # noqa: TRY400
            return Keys(())

    async def reload(self) -> None:
        """Reloads the key file, in a thread. If it cannot be used, logs why and keeps the current keys."""
        if self._file is None:
            return
        async with self._reading:  # One at a time, so that the last file read wins.
            try:
                self._keys = await _in_a_thread(partial(read_keys, copy=self._copy), self._file)
            except BadKeyFile as error:
                log.error(_KEPT, error)  # noqa: TRY400  # The message is complete without a traceback.
                return
        _log(self._keys)
        for authorize in [*self._watchers]:
            authorize()

    @contextmanager
    def watch(self, authorize: Callable[[], None]) -> Iterator[None]:
        """A context in which ``authorize`` is called after each reload of the keys, for a long request."""
        self._watchers.add(authorize)
        try:
            yield
        finally:
            self._watchers.discard(authorize)

    def authorize(self, headers: Headers, scope: str) -> Grant:
        """Returns what the request may use. Raises ``Unauthorized`` or ``Forbidden``."""
        if self._keys is None:
            if scope != "read" and is_from_another_site(headers):
                raise Forbidden("Expected a request that does not come from another web site, or an API key.")
            return UNRESTRICTED
        presented = _secrets(headers)
        key = self._keys.find(presented.pop()) if len(presented) == 1 else None
        if key is None:
            raise Unauthorized
        if scope not in key.scopes:
            raise Forbidden(f"Expected a key with the scope {scope}.")
        return key.grant


def check_allowed_prefix(name: str, prefix: str) -> None:
    """Raises ``Forbidden`` if ``name`` does not start with the allowed prefix."""
    if not name.startswith(prefix):
        raise Forbidden("Expected a stream name that starts with the allowed prefix of the API key.")


def _log(keys: Keys) -> None:
    if len(keys):
        log.info("API keys in use: %d", len(keys))
    else:
        log.warning("the API key file contains no keys: every request that needs a key is refused")


async def _in_a_thread(read: Callable[[Path], Keys], file: Path) -> Keys:
    """Calls ``read(file)`` in a daemon thread, so that a disk that does not answer cannot delay shutdown."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Keys] = loop.create_future()

    def settle(keys: Keys | None, error: Exception | None) -> None:
        if not result.done():
            result.set_result(keys) if keys is not None else result.set_exception(error or BadKeyFile())

    def work() -> None:
        keys = failure = None
        try:
            keys = read(file)
        except Exception as error:  # noqa: BLE001  # The caller raises it.
            failure = error
        with suppress(RuntimeError):  # The loop may be closed.
            loop.call_soon_threadsafe(settle, keys, failure)

    threading.Thread(target=work, daemon=True).start()
    return await result


def _secrets(headers: Headers) -> set[bytes]:
    """Returns the keys of a request: from X-API-Key, and Authorization with Bearer, Token or Basic (the password)."""
    found = set(filter(None, headers.all(b"x-api-key")))
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
