"""API keys: who may read, write and delete which streams.

Without a file of keys the service is open, which it says at start-up. Then whoever can connect may do anything, except
a web page: a browser says in ``Sec-Fetch-Site`` that a request comes from another site, and such writes are refused,
so that no page somebody visits can post to a service on their machine or in their network. Browsers leave that header
out for plain HTTP beyond localhost; there ``Origin`` has to name the host that was asked.

With a file, every route but ``/livez``, ``/readyz``, ``/ping`` and ``/health`` needs a key. The file holds SHA-256
digests, never keys, so it can be read by whoever may see it:

    [[key]]
    name = "gateway"
    scopes = ["write"]           # read: GET; write: POST; admin: DELETE
    prefix = "plant-1/"          # only streams whose names start with this; all without it
    sha256 = "9f86d081884c7d65..."

A key is 256 random bits, so a plain digest is enough: there is nothing to guess. It is looked up by its digest, and the
digest is then compared in constant time; neither step depends on the characters of the key. A request that presents two
different keys is refused, so that it never depends on the order of its headers which of them counts.

A key also owns the producers of its idempotency keys: what one key sends as ``gateway:7`` has nothing to do with what
another sends as ``gateway:7``. The owner is the key's ``name``, so that a new key with the name of an old one goes on
where that stopped; a key without a name is its own owner.
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import re
import secrets
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Headers = Iterable[tuple[bytes, bytes]]

log = logging.getLogger(__name__)

SCOPES = ("read", "write", "admin")
_PREFIX = "mw_"  # Lets people and secret scanners see what a leaked string is.
_DIGEST = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_MAX_NAME = 64  # Characters; streams remember it with each producer.
_OWNER_DIGITS = 16


class BadKeyFile(Exception):
    """The file of keys cannot be used; the message says why, without a secret in it."""


class Unauthorized(Exception):
    """No key, one that is not in the file, or two of them."""


class Forbidden(Exception):
    """The key is known and does not allow this; ``detail`` says what would."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Grant(NamedTuple):
    """What a request may use: the streams whose names start with ``prefix``, and the producers of ``owner``."""

    prefix: str
    owner: str


EVERYTHING = Grant("", "")  # Without API keys.


@dataclass(frozen=True)
class Key:
    """A key of the file: the scopes that it has, the hexadecimal digest of its secret, and what it grants."""

    name: str
    scopes: frozenset[str]
    sha256: str
    grant: Grant


class Keys:
    """The keys of a file."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._by_digest = {key.sha256: key for key in keys}

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, secret: bytes) -> Key | None:
        """The key whose secret this is."""
        digest = digest_of(secret)
        key = self._by_digest.get(digest)
        return key if key is not None and hmac.compare_digest(key.sha256, digest) else None


class Guard:
    """Decides, from the headers of a request, who asks and whether they may."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._keys = None if file is None else read_keys(file)

    def reload(self) -> None:
        """Reads the file again; what cannot be used is logged, and the keys stay as they were."""
        if self._file is not None:
            try:
                self._keys = read_keys(self._file)
            except BadKeyFile as error:
                log.error("the API keys stay as they were: %s", error)  # noqa: TRY400  # The words say it all.
            else:
                log.info("%d API keys are in use", len(self._keys))

    def admit(self, headers: Headers, scope: str) -> Grant:
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


def read_keys(file: Path) -> Keys:
    """The keys in a file. Raises ``BadKeyFile``."""
    try:
        tables = tomllib.loads(file.read_text()).get("key", [])
    except OSError as error:
        raise BadKeyFile(f"The file of API keys cannot be read: {error.strerror}: {file}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadKeyFile(f"The file of API keys is not TOML: {error}") from None
    if not isinstance(tables, list) or not tables:
        raise BadKeyFile("The file of API keys has no [[key]].")
    keys = [_key(table, number) for number, table in enumerate(tables, start=1)]
    seen: set[str] = set()
    for number, key in enumerate(keys, start=1):
        if key.sha256 in seen:
            raise BadKeyFile(f"In the file of API keys, [[key]] number {number} has the sha256 of an earlier one.")
        seen.add(key.sha256)
    return Keys(keys)


def _key(table: Any, number: int) -> Key:
    known = {"name": str, "scopes": list, "prefix": str, "sha256": str}
    place = f"In the file of API keys, [[key]] number {number}"
    if not isinstance(table, dict) or not table.keys() <= known.keys():
        raise BadKeyFile(f"{place} has something else than {', '.join(known)}.")
    key = {"name": "", "prefix": ""} | table
    if not all(isinstance(key.get(member), kind) for member, kind in known.items()):
        raise BadKeyFile(f"{place} needs scopes, an array of strings, and sha256, a string.")
    if not key["scopes"] or not all(scope in SCOPES for scope in key["scopes"]):
        raise BadKeyFile(f"{place} needs scopes from {', '.join(SCOPES)}.")
    if _DIGEST.fullmatch(key["sha256"]) is None:
        raise BadKeyFile(f"{place} needs a sha256 of 64 hexadecimal digits.")
    if len(key["name"]) > _MAX_NAME:
        raise BadKeyFile(f"{place} needs a name of at most {_MAX_NAME} characters.")
    sha256 = key["sha256"].lower()
    grant = Grant(key["prefix"], key["name"] or sha256[:_OWNER_DIGITS])
    return Key(key["name"] or f"key {number}", frozenset(key["scopes"]), sha256, grant)


def _is_from_another_site(headers: Headers) -> bool:
    """Whether a browser says so. What comes from none has neither header."""
    site = origin = host = None
    for name, value in headers:
        if name == b"sec-fetch-site":
            site = value
        elif name == b"origin":
            origin = value
        elif name == b"host":
            host = value
    if site is not None:
        return site not in (b"same-origin", b"none")
    return origin is not None and origin.partition(b"://")[2] != host


def _secrets(headers: Headers) -> set[bytes]:
    """The keys that a request presents: X-API-Key; Authorization with Bearer, Token or Basic, there as the password."""
    found = set()
    for name, value in headers:
        if name == b"x-api-key":
            found.add(value)
        elif name == b"authorization":
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


def digest_of(secret: bytes) -> str:
    """What the file holds of a key."""
    return hashlib.sha256(secret).hexdigest()


def new_secret() -> str:
    """A key that nobody else has."""
    return _PREFIX + secrets.token_urlsafe(32)


def entry(name: str, scopes: Sequence[str], prefix: str, secret: str) -> str:
    """The lines of the file of keys that admit ``secret``."""
    return "\n".join(
        [
            "[[key]]",
            f"name = {json.dumps(name)}",
            f"scopes = {json.dumps(list(scopes))}",
            *([f"prefix = {json.dumps(prefix)}"] if prefix else []),
            f'sha256 = "{digest_of(secret.encode())}"',
        ]
    )
