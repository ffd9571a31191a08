"""Checks that the Redis server keeps what the service promises, at the start and every minute.

The configuration of a Redis server can break a promise although no command fails: the server may evict streams,
acknowledge what it never fsyncs, or be a replica that refuses writes. Each such ``RedisProblem`` is logged once when it
appears and once when it is solved; ``/metrics`` has a gauge for each. There are three kinds:

- ``is_usable`` is false: the service cannot work with this server, so it is not ready.
- ``keeps_promises`` is false: the service works, but a 200 promises more than this server keeps. With ``strict``, the
  service is not ready. It still accepts writes: the result of a check may be a minute old, so refusing writes would not
  guarantee the promise either, and load balancers ask whether the service is ready.
- Neither is false: the problem is a hint.

``HELLO`` is allowed whatever the ACL says. ``CONFIG GET`` and ``INFO`` may be forbidden, as on managed servers. The
problem ``unverified`` names the settings that neither command shows.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from meanwhile.storage.redis_client import BadRedisUrl, StoreUnavailable, connect
from meanwhile.storage.replicas import replica_shortage
from meanwhile.storage.script_probe import script_obstacle

_PERIOD = 60.0  # Seconds between two checks.
_RETRY = 1.0  # Seconds before the next check of a server that did not answer.
_TIMEOUT = 2.0  # Seconds that a check may take.
_MEMORY_WARNING = 0.9  # Fraction of maxmemory from which on memory is a problem.
_MIN_MAJOR_VERSION = 7  # The first version of Redis that supports script flags.
_SETTINGS = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")

log = logging.getLogger(__name__)


class RedisProblem(NamedTuple):
    """A problem of the server. ``detail`` says what is wrong and what to do.

    ``is_usable`` is false if the service cannot work with the server, ``keeps_promises`` if a 200 promises too much.
    """

    name: str
    detail: str
    is_usable: bool = True
    keeps_promises: bool = True


PROBLEMS = (
    *("cluster", "replica", "version", "scripting", "writes"),
    *("fsync", "fsync_on_rewrite", "eviction", "unverified"),
    *("memory", "failover"),
)


class NotReady(Exception):
    """Redis answers but cannot do what the service promises; ``detail`` says why."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class RedisChecks:
    """Checks the server of ``client``.

    ``prefix`` and ``durability`` are the settings of these names. With ``strict``, the service is not ready if the
    server does not keep the promises. ``problems`` has the current problems by name.
    """

    def __init__(self, client: Redis, prefix: str, durability: str, *, strict: bool) -> None:
        self._client = client
        self._prefix = prefix
        self._durability = durability
        self._strict = strict
        self._is_down = False
        self._is_examined = False  # Whether an examination has finished since the server last did not answer.
        self.problems: Mapping[str, RedisProblem] = {}

    async def run(self) -> None:
        """Checks the server now and every minute, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            pause = _PERIOD
            try:
                await self.examine(loop.time() + _TIMEOUT)
            except StoreUnavailable as error:
                if not self._is_down:
                    log.warning("Redis does not answer yet: %s", error.__cause__ or error)
                self._is_down = True
                pause = _RETRY
            await asyncio.sleep(pause)

    async def check(self, deadline: float) -> None:
        """Returns if the service is ready. Raises ``StoreUnavailable`` or ``NotReady``.

        Always checks the version, mode and role of the server, and whether it refuses writes for lack of replicas.
        Checks everything if no examination has finished since the server last did not answer, or if a problem prevents
        readiness, so that the service is ready as soon as the problem is solved.
        """
        if not self._is_examined or any(map(self._prevents_readiness, self.problems.values())):
            await self.examine(deadline)
        else:
            found = await self._ask(self._server_problems(), deadline)
            self._log_changes({**self.problems, **found})
        for problem in filter(self._prevents_readiness, self.problems.values()):
            raise NotReady(problem.detail)

    async def examine(self, deadline: float) -> None:
        """Finds the current problems and logs changes. Raises ``StoreUnavailable``."""
        self._log_changes(await self._ask(self._find_all(), deadline))
        self._is_down = False
        self._is_examined = True

    @contextmanager
    def expecting_answers(self) -> Iterator[None]:
        """Registers a ``StoreUnavailable`` inside: the server may be another one when it answers again."""
        try:
            yield
        except StoreUnavailable:
            self._is_examined = False
            raise

    def _prevents_readiness(self, problem: RedisProblem) -> bool:
        return not problem.is_usable or (self._strict and not problem.keeps_promises)

    def _log_changes(self, found: Mapping[str, RedisProblem]) -> None:
        for name, problem in found.items():
            if name not in self.problems:
                log.warning("%s", problem.detail)
        for name in self.problems.keys() - found.keys():
            log.warning("Redis: the problem %r is solved", name)
        self.problems = found

    async def _ask(self, asking: Awaitable[Mapping[str, RedisProblem]], deadline: float) -> Mapping[str, RedisProblem]:
        with self.expecting_answers():
            try:
                async with asyncio.timeout_at(deadline):
                    return await asking
            except (RedisError, OSError, TimeoutError) as error:
                raise StoreUnavailable from error

    async def _find_all(self) -> dict[str, RedisProblem]:
        found = await self._server_problems()
        if "version" not in found:
            found |= await self._script_problems()
        info = await self._info()
        settings = await self._config()
        for problem in (
            *self._settings_problems(settings, info),
            *self._memory_problems(info),
            *self._replica_problems(info),
        ):
            found[problem.name] = problem
        return found

    async def _server_problems(self) -> dict[str, RedisProblem]:
        hello = await _hello(self._client)
        found = [problem for problem in (_cluster(hello), _version(hello)) if problem is not None]
        if hello.get("role") in {"replica", "slave"}:
            info = await self._info()
            primary = f"{info['master_host']}:{info['master_port']}" if info.get("master_host") else "its primary"
            found.append(
                RedisProblem(
                    "replica",
                    f"Redis is a replica and refuses writes: set MEANWHILE_REDIS_URL to {primary}, or promote it",
                    is_usable=False,
                )
            )
        if (detail := await replica_shortage(self._client)) is not None:
            found.append(RedisProblem("writes", detail, is_usable=False))
        return {problem.name: problem for problem in found}

    async def _script_problems(self) -> dict[str, RedisProblem]:
        detail = await script_obstacle(self._client, f"{self._prefix}:stream:")
        return {} if detail is None else {"scripting": RedisProblem("scripting", detail, is_usable=False)}

    async def _info(self) -> dict[str, Any]:
        try:
            info: dict[str, Any] = await self._client.info()
        except ResponseError:
            return {}
        return info

    async def _config(self) -> dict[str | None, str | None]:
        try:
            settings: dict[str | None, str | None] = await self._client.config_get(*_SETTINGS)
        except ResponseError:
            return {}
        return settings

    def _settings_problems(self, settings: dict[str | None, str | None], info: dict[str, Any]) -> list[RedisProblem]:
        found = []
        appendonly = settings.get("appendonly") or {0: "no", 1: "yes"}.get(info.get("aof_enabled", -1))
        fsyncs = "no" if appendonly == "no" else settings.get("appendfsync")
        policy = settings.get("maxmemory-policy") or info.get("maxmemory_policy")
        enough = {"always", "everysec"} if self._durability == "everysec" else {"always"}
        if fsyncs is not None and fsyncs not in enough:
            wanted = "everysec or always" if self._durability == "everysec" else "always"
            what = "every second" if fsyncs == "everysec" else "nothing"
            detail = (
                f"MEANWHILE_DURABILITY is {self._durability}, but Redis fsyncs {what}: "
                f"set appendonly yes and appendfsync {wanted}"
            )
            found.append(RedisProblem("fsync", detail, keeps_promises=False))
        if settings.get("no-appendfsync-on-rewrite") == "yes" and appendonly != "no":
            detail = (
                "Redis does not fsync while it rewrites its append-only file, so a power failure can lose acknowledged "
                "readings: set no-appendfsync-on-rewrite no"
            )
            found.append(RedisProblem("fsync_on_rewrite", detail, keeps_promises=False))
        if policy is not None and policy != "noeviction":
            detail = (
                f"Redis evicts keys, and therefore streams, when its memory is full ({policy}): "
                "set maxmemory-policy noeviction"
            )
            found.append(RedisProblem("eviction", detail, keeps_promises=False))
        unknown = [
            name
            for name, value in (
                ("appendfsync", fsyncs),
                ("no-appendfsync-on-rewrite", settings.get("no-appendfsync-on-rewrite")),
                ("maxmemory-policy", policy),
            )
            if value is None and not (name == "no-appendfsync-on-rewrite" and appendonly == "no")
        ]
        if unknown:
            detail = (
                f"These settings of Redis cannot be verified: {', '.join(unknown)}. Allow +config|get to this user, "
                "or make sure yourself that Redis does not lose data"
            )
            found.append(RedisProblem("unverified", detail, keeps_promises=False))
        return found

    def _memory_problems(self, info: dict[str, Any]) -> list[RedisProblem]:
        limit = info.get("maxmemory") or 0
        if info.get("used_memory", 0) < _MEMORY_WARNING * limit or not limit:
            return []
        detail = "Redis uses 90 % of its maxmemory or more and refuses writes at the limit: raise maxmemory"
        return [RedisProblem("memory", detail)]

    def _replica_problems(self, info: dict[str, Any]) -> list[RedisProblem]:
        if self._durability == "replicated" or not info.get("connected_slaves"):
            return []
        detail = (
            "Redis has replicas, and a failover loses what they have not received: set MEANWHILE_DURABILITY to "
            "replicated if one of them may become the primary"
        )
        return [RedisProblem("failover", detail)]


async def refuse_unusable(url: str) -> None:
    """Raises ``BadRedisUrl`` if the server at ``url`` can never be used. Returns if it does not answer."""
    async with connect(url) as client:
        try:
            async with asyncio.timeout(_TIMEOUT):
                hello = await _hello(client)
        except (RedisError, OSError, TimeoutError):
            return
    problem = _cluster(hello) or _version(hello)
    if problem is not None:
        raise BadRedisUrl(f"The Redis URL cannot be used: {problem.detail}.")


def _cluster(hello: Mapping[str, str]) -> RedisProblem | None:
    if hello.get("mode") != "cluster":
        return None
    detail = (
        "Redis is a node of a cluster, which is not supported: use one server (Redis 7.0 or Valkey 7.2 or later), "
        "with replicas if necessary"
    )
    return RedisProblem("cluster", detail, is_usable=False)


def _version(hello: Mapping[str, str]) -> RedisProblem | None:
    major = hello.get("version", "").partition(".")[0]
    if not major.isdecimal() or int(major) >= _MIN_MAJOR_VERSION:
        return None
    return RedisProblem("version", "Redis is too old: use Redis 7.0 or Valkey 7.2 or later", is_usable=False)


async def _hello(client: Redis) -> dict[str, str]:
    """Returns the version, mode and role of the server."""
    reply = await _execute(client, "HELLO")
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs if isinstance(value, bytes | str)}


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


async def _execute(client: Redis, *command: str | bytes | int) -> Any:
    return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # untyped in redis-py
