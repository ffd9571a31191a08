"""The Redis client: sends each command within its deadline, and each write once.

When a connection breaks, the client library would resend the command, and a script that has run would run twice. So a
write uses a connection from the pool directly, without the library's retries, and has one of three outcomes:

- the reply, which says what was recorded;
- ``StoreUnavailable``: the write provably did not run. There was no connection, or the server refused to run it;
- ``OutcomeUnknown``: the write was sent and not answered. It may have run, or may still run.
"""

import asyncio
import hashlib
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from meanwhile.storage.replicas import TooFewReplicas, await_replicas

T = TypeVar("T")

# The supported options of a URL. Others would change replies, resend commands, or override the deadline of a request.
_OPTIONS = frozenset(
    {"db", "username", "password", "client_name", "max_connections", "health_check_interval"}
    | {"socket_keepalive", "socket_read_size"}
)
_TLS_OPTIONS = "ssl_"
_TLS_VERSIONS = frozenset(int(version) for version in ssl.TLSVersion if version > 0)  # 771 is TLS 1.2.
_CLIENT_NAME = re.compile(r"[!-~]*")  # What CLIENT SETNAME accepts.

# Errors that the server returns before it runs a command or a script. UNWRITTEN is from the script, before it writes.
_NOT_RUN = frozenset(
    {"NOSCRIPT", "LOADING", "BUSY", "READONLY", "OOM", "MISCONF", "MASTERDOWN", "NOREPLICAS", "UNWRITTEN"}
    | {"NOAUTH", "WRONGPASS", "NOPERM", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "CROSSSLOT"}
)
_RAISED = " on @user_script:"  # The server adds this to an error that a script raised, possibly after a write.

log = logging.getLogger(__name__)


class StoreUnavailable(Exception):
    """Redis does not answer or refuses the command: nothing was recorded, read or deleted."""


class OutcomeUnknown(Exception):
    """A write was sent to Redis and not answered in time: it may or may not have been recorded.

    ``answered`` is true if Redis did answer, with an error that proves nothing: a retry would get the same error.
    """

    def __init__(self, *, answered: bool = False) -> None:
        super().__init__()
        self.answered = answered


class BadRedisUrl(ValueError):
    """The Redis URL is not valid or not supported; the message says why."""


def connect(url: str) -> Redis:
    """Creates a client that never resends a command and sets no timeouts. It connects on first use.

    Raises ``BadRedisUrl``.
    """
    try:
        options = parse_qs(urlsplit(url).query, keep_blank_values=True)
    except ValueError:  # Its message may repeat a part of the password.
        raise BadRedisUrl("The Redis URL cannot be used: its host is not valid.") from None
    for option in options:
        if option not in _OPTIONS and not option.startswith(_TLS_OPTIONS):
            named = f"the option {option}" if option.isidentifier() else "an option"  # It may be part of a password.
            raise BadRedisUrl(
                f"The Redis URL cannot be used: {named} is not supported. Supported options: "
                f"{', '.join(sorted(_OPTIONS))}, and the TLS options {_TLS_OPTIONS}*."
            )
    try:
        client = Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=None,
            driver_info=_driver(),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # Checks the options in the URL.
    except (TypeError, ValueError, RedisError) as error:
        reason = str(error)
        raise BadRedisUrl(
            f"The Redis URL cannot be used: {(reason.partition('() ')[2] or reason).rstrip('.')}."
        ) from None
    if useless := _useless_option(client.connection_pool):
        raise BadRedisUrl(f"The Redis URL cannot be used: {useless}.")
    return client


def _useless_option(pool: ConnectionPool) -> str | None:
    """Returns why no connection of the pool can work, which the library notices only when it connects, if at all."""
    options: Mapping[str, Any] = pool.connection_kwargs
    if not _CLIENT_NAME.fullmatch(options.get("client_name") or ""):
        return "client_name may only contain printable ASCII characters and no spaces"
    if options.get("socket_read_size", 1) < 1:
        return "socket_read_size must be at least 1"
    if (options.get("db") or 0) < 0:
        return "the number of the database must not be negative"
    if issubclass(pool.connection_class, UnixDomainSocketConnection) and not options.get("path"):
        return "the path of the unix socket is missing"
    if options.get("ssl_min_version") not in {None, *_TLS_VERSIONS}:
        return f"ssl_min_version must be one of {', '.join(map(str, sorted(_TLS_VERSIONS)))}"
    return None


@cache
def _driver() -> DriverInfo:
    """The name of this client in CLIENT LIST. Cached, because the library would read versions from disk each time."""
    return DriverInfo().add_upstream_driver("meanwhile", version("meanwhile-server"))


class Script:
    """A Lua script. ``source`` is its text; ``sha`` is the digest by which the server knows it."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()


class RedisClient:
    """Sends commands over the connections of ``client``, which ``connect`` created.

    A write returns when ``replicas`` replicas have received it. ``on_failure`` is called for each failed command, with
    "unavailable" if Redis did not run it and "unknown" if Redis may have run it.

    Every method takes ``deadline``, on the clock of the event loop, and returns or raises by then.
    """

    def __init__(self, client: Redis, replicas: int, on_failure: Callable[[str], None]) -> None:
        self._pool = client.connection_pool
        self._replicas = replicas
        self._on_failure = on_failure
        self._failing: set[str] = set()  # "reads", "writes" or both; only for the log.

    async def read(self, command: Awaitable[T], deadline: float) -> T:
        """Returns the reply to a command that only reads. Raises ``StoreUnavailable``."""
        try:
            async with asyncio.timeout_at(deadline):
                reply = await command
        except (RedisError, OSError, TimeoutError) as error:
            raise self._mark_down("reads", error) from error
        self._mark_up("reads")
        return reply

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | bytes], deadline: float) -> Any:
        """Runs a script that writes and returns its reply. Raises ``StoreUnavailable`` or ``OutcomeUnknown``.

        Uses EVALSHA. If the server does not have the script (yet, or after SCRIPT FLUSH), uses EVAL, which loads it.
        """
        try:
            return await self._send(deadline, "EVALSHA", script.sha, len(keys), *keys, *arguments)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        return await self._send(deadline, "EVAL", script.source, len(keys), *keys, *arguments)

    async def _send(self, deadline: float, *command: str | int | bytes) -> Any:
        """Sends a write once and returns the reply."""
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub only accepts single-word commands
        connection: AbstractConnection | None = None
        is_sent = False
        if asyncio.get_running_loop().time() >= deadline:
            raise StoreUnavailable
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # untyped in redis-py
                is_sent = True
                await connection.send_packed_command(packed, check_health=False)
                reply = await connection.read_response()
            if self._replicas:
                await await_replicas(connection, self._replicas, deadline)
        except NoScriptError as error:
            raise StoreUnavailable from error
        except TooFewReplicas as error:
            raise self._unknown(error) from error
        except (RedisError, OSError, TimeoutError) as error:
            if not is_sent or _is_proof_of_not_running(error):
                raise self._mark_down("writes", error) from error
            raise self._unknown(error, answered=isinstance(error, ResponseError)) from error
        finally:
            if connection is not None:
                with suppress(RedisError, OSError):
                    await self._pool.release(connection)
        self._mark_up("writes")
        return reply

    def _unknown(self, error: Exception, *, answered: bool = False) -> OutcomeUnknown:
        self._on_failure("unknown")
        log.warning("a write to Redis has an unknown outcome: %s", str(error) or type(error).__name__)
        return OutcomeUnknown(answered=answered)

    def _mark_down(self, what: str, error: Exception) -> StoreUnavailable:
        """Logs the first failure only. Reads and writes are separate, because a full server still accepts reads."""
        self._on_failure("unavailable")
        if what not in self._failing:
            log.warning("Redis does not accept %s: %s", what, str(error) or type(error).__name__)
        self._failing.add(what)
        return StoreUnavailable()

    def _mark_up(self, what: str) -> None:
        if what in self._failing:
            log.warning("Redis accepts %s again", what)
            self._failing.remove(what)


def _is_proof_of_not_running(error: Exception) -> bool:
    """Returns whether ``error`` is one that the server returns before it runs anything."""
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    return (code in _NOT_RUN and _RAISED not in str(error)) or is_unknown_command(error)


def is_unknown_command(error: Exception) -> bool:
    """Whether the server does not know the command itself, as if it is renamed; not one that a script runs."""
    text = str(error).removeprefix("ERR ")
    return isinstance(error, ResponseError) and text.startswith("unknown command") and _RAISED not in text
