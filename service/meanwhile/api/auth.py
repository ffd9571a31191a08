"""Authorization with API keys: who may read, write and delete which streams.

Without a key file, the service is open and logs this at start-up. Then every client that can connect may do anything,
except that web pages of other sites may not write (``cross_site.py``).

With a key file (``key_file.py``), all routes except ``/livez``, ``/readyz``, ``/ping`` and ``/health`` need a key. A
request with two different keys is refused, so that the order of its headers does not matter.

SIGHUP reloads the file. Long requests, such as uploads and event streams, are then authorized again with its keys.
"""

import base64
import binascii
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from meanwhile.api.cross_site import is_from_another_site
from meanwhile.api.key_file import UNRESTRICTED, Grant, KeyFile
from meanwhile.api.request_head import Headers


class Unauthorized(Exception):
    """The request has no key, an unknown key, or two different keys."""


class Forbidden(Exception):
    """The key is known but does not allow this request; ``detail`` says what would."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Guard:
    """Authorizes requests by their headers. ``file`` is the key file; without it, the service is open."""

    def __init__(self, file: KeyFile | None) -> None:
        self._file = file
        self._watchers: set[Callable[[], None]] = set()

    async def reload(self) -> None:
        """Reloads the key file. If that can be used, authorizes the long requests again."""
        if self._file is not None and await self._file.reload():
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
        if self._file is None:
            if scope != "read" and is_from_another_site(headers):
                raise Forbidden("Expected a request that does not come from another web site, or an API key.")
            return UNRESTRICTED
        presented = _secrets(headers)
        key = self._file.keys.find(presented.pop()) if len(presented) == 1 else None
        if key is None:
            raise Unauthorized
        if scope not in key.scopes:
            raise Forbidden(f"Expected a key with the scope {scope}.")
        return key.grant


def check_allowed_prefix(name: str, prefix: str) -> None:
    """Raises ``Forbidden`` if ``name`` does not start with the allowed prefix."""
    if not name.startswith(prefix):
        raise Forbidden("Expected a stream name that starts with the allowed prefix of the API key.")


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
