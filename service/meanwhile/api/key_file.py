"""The API key file: which API key may read, write and delete which streams.

It contains SHA-256 digests, not keys, so reading the file does not give access:

    [[key]]
    name = "gateway"
    scopes = ["write"]           # read: GET; write: POST; admin: DELETE
    prefix = "plant-1/"          # only streams whose names start with this; all without it
    sha256 = "9f86d081884c7d65..."

A key has 256 random bits, so a plain digest is enough: nobody can guess the key. The lookup uses the digest of the key,
and a constant-time comparison of digests follows, so the time of neither step depends on how many characters of a
guessed key are right. With a key file without keys, for example an empty file, every request that needs a key is
refused.

SIGHUP makes each worker reload the file. If the file cannot be used then, the worker logs why, and the keys in use stay
valid.

A key also owns the producers of its idempotency keys: ``gateway:7`` from one key and ``gateway:7`` from another key are
different. The owner is the key's ``name``, so that a new key with the same name continues the sequences of the old one.
A key without a name has a separate owner.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import threading
import tomllib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

COPY = "api-keys.toml"  # The name of the copy that the workers of a service share.
SCOPES = ("read", "write", "admin")
_KEPT = "the API keys stay as they were: %s. To revoke all keys, empty the file"
_PREFIX = "mw_"  # Lets people and secret scanners recognize a leaked key.
_DIGEST = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_MAX_NAME = 64  # Characters; a stream stores it with each producer.
_OWNER_DIGITS = 16
_MAX_FILE = 4 * 1024 * 1024  # Bytes.


class BadKeyFile(Exception):
    """The API key file cannot be used; the message says why and contains no secret."""


class Grant(NamedTuple):
    """What a request may access: streams whose names start with ``prefix``, and the producers of ``owner``."""

    prefix: str
    owner: str


UNRESTRICTED = Grant("", "")  # Without API keys.


@dataclass(frozen=True)
class ApiKey:
    """A key of the file: its name, its scopes, the hexadecimal SHA-256 of its secret, and what it grants."""

    name: str
    scopes: frozenset[str]
    sha256: str
    grant: Grant


class Keys:
    """The API keys of a key file. ``keys`` have different digests."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._by_digest = {key.sha256: key for key in keys}

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, secret: bytes) -> ApiKey | None:
        """Returns the key with this secret, or None."""
        digest = digest_of(secret)
        key = self._by_digest.get(digest)
        return key if key is not None and hmac.compare_digest(key.sha256, digest) else None


class KeyFile:
    """A key file, and in ``keys`` its keys in use: those it contained when it could last be used.

    ``copy`` is where the workers of a service keep a copy of the last key file that could be used, for workers that
    start later. Without it, raises ``BadKeyFile`` if ``file`` cannot be used.
    """

    def __init__(self, file: Path, copy: Path | None = None) -> None:
        self._file = file
        self._copy = copy
        self._reading = asyncio.Lock()
        self.keys = self._read_first()

    def _read_first(self) -> Keys:
        try:
            return read_keys(self._file, self._copy)
        except BadKeyFile as error:
            if self._copy is None:
                raise
            log.error(_KEPT, error)  # noqa: TRY400  # The message is complete without a traceback.
        try:
            return read_keys(self._copy)
        except BadKeyFile:
            log.error("a new worker refuses every request that needs a key, because it has no keys")  # noqa: TRY400
            return Keys(())

    async def reload(self) -> bool:
        """Reads the file again, in a thread. If it cannot be used, logs why, keeps the keys, and returns False."""
        async with self._reading:  # One at a time, so that the last file read wins.
            try:
                self.keys = await _in_a_thread(partial(read_keys, self._file, self._copy))
            except BadKeyFile as error:
                log.error(_KEPT, error)  # noqa: TRY400  # As above.
                return False
        if len(self.keys):
            log.info("API keys in use: %d", len(self.keys))
        else:
            log.warning("the API key file contains no keys: every request that needs a key is refused")
        return True


async def _in_a_thread(read: Callable[[], Keys]) -> Keys:
    """Calls ``read()`` in a daemon thread, so that a disk that does not answer cannot delay shutdown."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Keys] = loop.create_future()

    def settle(keys: Keys | None, error: Exception | None) -> None:
        if not result.done():
            result.set_result(keys) if keys is not None else result.set_exception(error or BadKeyFile())

    def work() -> None:
        keys = failure = None
        try:
            keys = read()
        except Exception as error:  # noqa: BLE001  # The caller raises it.
            failure = error
        with suppress(RuntimeError):  # The loop may be closed.
            loop.call_soon_threadsafe(settle, keys, failure)

    threading.Thread(target=work, daemon=True).start()
    return await result


def read_keys(file: Path, copy: Path | None = None) -> Keys:
    """Reads a key file, which may contain no keys, and copies it to ``copy``. Raises ``BadKeyFile``."""
    try:
        text = _text_of(file)
        found = tomllib.loads(text)
    except OSError as error:
        raise BadKeyFile(f"The API key file cannot be read: {error.strerror}: {file}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadKeyFile(f"The API key file is not valid TOML: {error}") from None
    tables = found.get("key", [])
    if not found.keys() <= {"key"} or not isinstance(tables, list):
        raise BadKeyFile("The API key file contains something other than [[key]] tables.")
    keys = [_key(table, number) for number, table in enumerate(tables, start=1)]
    seen: set[str] = set()
    for number, key in enumerate(keys, start=1):
        if key.sha256 in seen:
            raise BadKeyFile(f"In the API key file, [[key]] number {number} has the same sha256 as an earlier one.")
        seen.add(key.sha256)
    if copy is not None:
        _write(copy, text)
    return Keys(keys)


def _write(copy: Path, text: str) -> None:
    """Writes a file in one step. Without room, there is no copy."""
    new = copy.with_name(f"{os.getpid()}.new")
    with suppress(OSError):
        new.write_text(text)
        new.rename(copy)


def _text_of(file: Path) -> str:
    """Reads a regular file of limited size without blocking. Raises ``BadKeyFile`` or ``OSError``."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as opened:  # noqa: PTH123  # Opening a FIFO by path would block.
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise BadKeyFile(f"The API key file is not a regular file: {file}")
        content = opened.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise BadKeyFile(f"The API key file is larger than {_MAX_FILE} bytes: {file}")
    return content.decode()


def _key(table: Any, number: int) -> ApiKey:
    known = {"name": str, "scopes": list, "prefix": str, "sha256": str}
    location = f"In the API key file, [[key]] number {number}"
    if not isinstance(table, dict) or not table.keys() <= known.keys():
        raise BadKeyFile(f"{location} has a member other than {', '.join(known)}.")
    key = {"name": "", "prefix": ""} | table
    if not all(isinstance(key.get(member), kind) for member, kind in known.items()):
        raise BadKeyFile(f"{location} needs scopes, an array of strings, and sha256, a string.")
    if not key["scopes"] or not all(scope in SCOPES for scope in key["scopes"]):
        raise BadKeyFile(f"{location} needs scopes from {', '.join(SCOPES)}.")
    if _DIGEST.fullmatch(key["sha256"]) is None:
        raise BadKeyFile(f"{location} needs a sha256 of 64 hexadecimal digits.")
    if len(key["name"]) > _MAX_NAME:
        raise BadKeyFile(f"{location} needs a name of at most {_MAX_NAME} characters.")
    sha256 = key["sha256"].lower()
    grant = Grant(key["prefix"], key["name"] or sha256[:_OWNER_DIGITS])
    return ApiKey(key["name"] or f"key {number}", frozenset(key["scopes"]), sha256, grant)


def digest_of(secret: bytes) -> str:
    """Returns the digest of a key, as in the key file."""
    return hashlib.sha256(secret).hexdigest()


def new_secret() -> str:
    """Returns a new random key."""
    return _PREFIX + secrets.token_urlsafe(32)


def key_entry(name: str, scopes: Sequence[str], prefix: str, secret: str) -> str:
    """Returns the entry of ``secret`` for the key file."""
    return "\n".join(
        [
            "[[key]]",
            f"name = {json.dumps(name, ensure_ascii=False)}",
            f"scopes = {json.dumps(list(scopes))}",
            *([f"prefix = {json.dumps(prefix)}"] if prefix else []),
            f'sha256 = "{digest_of(secret.encode())}"',
        ]
    )
