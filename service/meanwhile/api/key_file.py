"""The file of API keys: who may read, write and delete which streams.

It holds SHA-256 digests, never keys, so it can be read by whoever may see it:

    [[key]]
    name = "gateway"
    scopes = ["write"]           # read: GET; write: POST; admin: DELETE
    prefix = "plant-1/"          # only streams whose names start with this; all without it
    sha256 = "9f86d081884c7d65..."

A key is 256 random bits, so a plain digest is enough: there is nothing to guess. It is looked up by its digest, and the
digest is then compared in constant time; neither step depends on the characters of the key. A file without keys, an
empty one for example, admits nobody.

A key also owns the producers of its idempotency keys: what one key sends as ``gateway:7`` has nothing to do with what
another sends as ``gateway:7``. The owner is the key's ``name``, so that a new key with the name of an old one goes on
where that stopped; a key without a name is its own owner.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SCOPES = ("read", "write", "admin")
_PREFIX = "mw_"  # Lets people and secret scanners see what a leaked string is.
_DIGEST = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_MAX_NAME = 64  # Characters; streams remember it with each producer.
_OWNER_DIGITS = 16
_MAX_FILE = 4 * 1024 * 1024  # Bytes.


class BadKeyFile(Exception):
    """The file of keys cannot be used; the message says why, without a secret in it."""


class Grant(NamedTuple):
    """What a request may use: the streams whose names start with ``prefix``, and the producers of ``owner``."""

    prefix: str
    owner: str


EVERYTHING = Grant("", "")  # Without API keys.


@dataclass(frozen=True)
class ApiKey:
    """A key of the file: the scopes that it has, the hexadecimal digest of its secret, and what it grants."""

    name: str
    scopes: frozenset[str]
    sha256: str
    grant: Grant


class Keys:
    """The keys of a file."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._by_digest = {key.sha256: key for key in keys}

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, secret: bytes) -> ApiKey | None:
        """The key whose secret this is."""
        digest = digest_of(secret)
        key = self._by_digest.get(digest)
        return key if key is not None and hmac.compare_digest(key.sha256, digest) else None


def read_keys(file: Path) -> Keys:
    """The keys in a file, which may be none. Raises ``BadKeyFile``."""
    try:
        found = tomllib.loads(_text_of(file))
    except OSError as error:
        raise BadKeyFile(f"The file of API keys cannot be read: {error.strerror}: {file}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadKeyFile(f"The file of API keys is not TOML: {error}") from None
    tables = found.get("key", [])
    if not found.keys() <= {"key"} or not isinstance(tables, list):
        raise BadKeyFile("The file of API keys has something else than [[key]].")
    keys = [_key(table, number) for number, table in enumerate(tables, start=1)]
    seen: set[str] = set()
    for number, key in enumerate(keys, start=1):
        if key.sha256 in seen:
            raise BadKeyFile(f"In the file of API keys, [[key]] number {number} has the sha256 of an earlier one.")
        seen.add(key.sha256)
    return Keys(keys)


def _text_of(file: Path) -> str:
    """What a regular file of bounded size holds; never waits. Raises ``BadKeyFile``, ``OSError``."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as opened:  # noqa: PTH123  # A path would wait for a writer of a FIFO.
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise BadKeyFile(f"The file of API keys is not a regular file: {file}")
        content = opened.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise BadKeyFile(f"The file of API keys has more than {_MAX_FILE} bytes: {file}")
    return content.decode()


def _key(table: Any, number: int) -> ApiKey:
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
    return ApiKey(key["name"] or f"key {number}", frozenset(key["scopes"]), sha256, grant)


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
            f"name = {json.dumps(name, ensure_ascii=False)}",
            f"scopes = {json.dumps(list(scopes))}",
            *([f"prefix = {json.dumps(prefix)}"] if prefix else []),
            f'sha256 = "{digest_of(secret.encode())}"',
        ]
    )
