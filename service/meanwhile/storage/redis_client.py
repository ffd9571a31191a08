"""The way to Redis: each command within its deadline, and each write once.

The client library would send a command again when the connection breaks, and a script that has run would then run
twice. So a write goes over a connection taken from the pool, outside the library's retries, and ends in one of three
ways:

- the reply, which says what was recorded;
- ``StoreUnavailable``: provably not run. There was no connection, or the server refused before running it;
- ``OutcomeUnknown``: sent, and no answer. It may have run, or may run yet.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

T = TypeVar("T")

# What a URL may say. Anything else changes replies, sends a command again, or sets another time limit than a request's.
_OPTIONS = frozenset(
    {"db", "username", "password", "client_name", "max_connections", "health_check_interval"}
    | {"socket_keepalive", "socket_read_size"}
)
_TLS_OPTIONS = "ssl_"

# Refusals that the server gives before it runs a command or a script; UNWRITTEN is the script's own, before it writes.
_NOT_RUN = frozenset(
    {"NOSCRIPT", "LOADING", "BUSY", "READONLY", "OOM", "MISCONF", "MASTERDOWN", "NOREPLICAS", "UNWRITTEN"}
    | {"NOAUTH", "WRONGPASS", "NOPERM", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "CROSSSLOT"}
)
_RAISED = " on @user_script:"  # The server puts this behind what a script raised, which may have written before.

log = logging.getLogger(__name__)


class StoreUnavailable(Exception):
    """Redis is away or refuses: nothing was recorded, read or deleted."""


class OutcomeUnknown(Exception):
    """A write was sent to Redis and no answer came in time: it may or may not have been recorded.

    ``answered`` where Redis did answer, with an error that proves nothing: sent again, it would get the same.
    """

    def __init__(self, *, answered: bool = False) -> None:
        super().__init__()
        self.answered = answered


class BadRedisUrl(ValueError):
    """The URL of Redis says something that its client does not understand; the message says what."""


def connect(url: str) -> Redis:
    """A client that sends every command once and leaves time limits to its caller. Connects when it is first used.

    Raises ``BadRedisUrl``.
    """
    for option in parse_qs(urlsplit(url).query, keep_blank_values=True):
        if option not in _OPTIONS and not option.startswith(_TLS_OPTIONS):
            named = f"the option {option}" if option.isidentifier() else "an option"  # Or the rest of a password.
            raise BadRedisUrl(
                f"The Redis URL cannot be used: {named} is not supported. Expected none but "
                f"{', '.join(sorted(_OPTIONS))} and those of TLS, {_TLS_OPTIONS}*."
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
        client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # Looks at the options in the URL.
    except (TypeError, ValueError, RedisError) as error:
        reason = str(error)
        raise BadRedisUrl(
            f"The Redis URL cannot be used: {(reason.partition('() ')[2] or reason).rstrip('.')}."
        ) from None
    return client


@cache
def _driver() -> DriverInfo:
    """What CLIENT LIST calls us. Made once; the library would look for its version on disk for every connection."""
    return DriverInfo().add_upstream_driver("meanwhile", version("meanwhile-server"))


class Script:
    """A script and the name that the server has for it."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()


class RedisClient:
    """Sends commands over the connections of a client that ``connect`` made.

    Every method takes ``deadline``, on the clock of the event loop, and returns or raises by then. A write returns when
    ``replicas`` replicas have it. ``failed`` hears of each command that Redis did not carry out ("unavailable") or
    perhaps did ("unknown").
    """

    def __init__(self, client: Redis, replicas: int, failed: Callable[[str], None]) -> None:
        self._pool = client.connection_pool
        self._replicas = replicas
        self._failed = failed
        self._failing: set[str] = set()  # "reads" and "writes", as far as is known; only for the log.

    async def read(self, command: Awaitable[T], deadline: float) -> T:
        """The reply to a command that only reads. Raises ``StoreUnavailable``."""
        try:
            async with asyncio.timeout_at(deadline):
                reply = await command
        except (RedisError, OSError, TimeoutError) as error:
            raise self._mark_down("reads", error) from error
        self._mark_up("reads")
        return reply

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | bytes], deadline: float) -> Any:
        """The reply of a script that writes. Raises ``StoreUnavailable`` or ``OutcomeUnknown``.

        By EVALSHA; where the server does not know the script (yet, or after SCRIPT FLUSH), by EVAL, which loads it.
        """
        try:
            return await self._send(deadline, "EVALSHA", script.sha, len(keys), *keys, *arguments)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        return await self._send(deadline, "EVAL", script.source, len(keys), *keys, *arguments)

    async def _send(self, deadline: float, *command: str | int | bytes) -> Any:
        """Sends a write once and returns the reply."""
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows commands of one word only
        connection: AbstractConnection | None = None
        is_sent = False
        if asyncio.get_running_loop().time() >= deadline:
            raise StoreUnavailable
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # theirs
                is_sent = True
                await connection.send_packed_command(packed, check_health=False)
                reply = await connection.read_response()
            if self._replicas:
                await self._await_replicas(connection, deadline)
        except NoScriptError as error:
            raise StoreUnavailable from error
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

    async def _await_replicas(self, connection: AbstractConnection, deadline: float) -> None:
        """Returns when enough replicas have what this connection wrote.

        Raises ``OutcomeUnknown``, whatever happens: the write has run, so no refusal of WAIT says that it has not.
        """
        left = max(1, int((deadline - asyncio.get_running_loop().time()) * 1000))
        try:
            async with asyncio.timeout_at(deadline):
                await connection.send_command("WAIT", self._replicas, left, check_health=False)
                have = await connection.read_response()
        except (RedisError, OSError, TimeoutError) as error:
            raise self._unknown(error) from error
        if have < self._replicas:
            raise self._unknown(f"{have} of {self._replicas} replicas have it")

    def _unknown(self, why: Exception | str, *, answered: bool = False) -> OutcomeUnknown:
        self._failed("unknown")
        log.warning("a write to Redis has an unknown outcome: %s", str(why) or type(why).__name__)
        return OutcomeUnknown(answered=answered)

    def _mark_down(self, what: str, error: Exception) -> StoreUnavailable:
        """Says it in the log once, not for every request. A full server takes reads all the while."""
        self._failed("unavailable")
        if what not in self._failing:
            log.warning("Redis does not accept %s: %s", what, str(error) or type(error).__name__)
        self._failing.add(what)
        return StoreUnavailable()

    def _mark_up(self, what: str) -> None:
        if what in self._failing:
            log.warning("Redis accepts %s again", what)
            self._failing.remove(what)


def _is_proof_of_not_running(error: Exception) -> bool:
    """Whether ``error`` is a refusal by the server that it gives before it runs anything."""
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    return (code in _NOT_RUN and _RAISED not in str(error)) or is_unknown_command(error)


def is_unknown_command(error: Exception) -> bool:
    """Whether the server does not know the command itself, as if it is renamed; not one that a script runs."""
    text = str(error).removeprefix("ERR ")
    return isinstance(error, ResponseError) and text.startswith("unknown command") and _RAISED not in text
