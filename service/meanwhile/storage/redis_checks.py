"""What a Redis is and how it is set up, against what the service promises: examined at the start and every minute.

An operator's Redis can break a promise without any command failing: it may evict streams, acknowledge what it never
fsyncs, or be a replica that does not accept writes. Each such ``RedisProblem`` is logged once while it lasts, and once
more when it is solved; ``/metrics`` has a gauge of each. There are three kinds:

- ``serves`` is false: the service cannot work at all with this server, so it is not ready.
- ``keeps`` is false: the service works, and 200 promises more than this server keeps. With ``strict`` the service is
  not ready. Writes are answered all the same: an examination is as old as a minute, so to refuse them would only seem
  to make the promise, and whoever sends traffic to the service asks whether it is ready.
- neither: a hint.

``HELLO`` is allowed whatever the ACL says; ``CONFIG GET`` and ``INFO`` may be forbidden, as managed servers do. What
neither tells is the problem ``unverified``.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from meanwhile.storage.redis_client import BadRedisUrl, StoreUnavailable, connect
from meanwhile.storage.script_check import why_scripts_cannot_run

_PERIOD = 60.0  # Seconds from one examination to the next.
_RETRY = 1.0  # Seconds after which a server that did not answer is asked again.
_TIMEOUT = 2.0  # Seconds that an examination may take.
_FULL = 0.9  # Of maxmemory.
_OLDEST = 7  # The first version of Redis that knows the flags of scripts.
_SETTINGS = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")

log = logging.getLogger(__name__)


class RedisProblem(NamedTuple):
    """Something about the server that is not as it has to be; ``detail`` says what and what to do."""

    name: str
    detail: str
    serves: bool = True
    keeps: bool = True


PROBLEMS = (
    *("cluster", "replica", "version", "scripting"),
    *("fsync", "fsync_on_rewrite", "eviction", "unverified"),
    *("memory", "failover"),
)


class NotReady(Exception):
    """Redis answers, and cannot do what the service promises; ``detail`` says why."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Examination:
    """Examines the server of ``client``.

    ``prefix`` and ``durability`` are the settings of these names; ``strict`` makes a promise that the server does not
    keep a reason not to be ready.
    """

    def __init__(self, client: Redis, prefix: str, durability: str, *, strict: bool) -> None:
        self._client = client
        self._prefix = prefix
        self._durability = durability
        self._strict = strict
        self._is_away = False
        self._is_examined = False  # Whether an examination has finished since the server last did not answer.
        self.problems: Mapping[str, RedisProblem] = {}

    async def run(self) -> None:
        """Examines the server now and every minute, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            pause = _PERIOD
            try:
                await self.examine(loop.time() + _TIMEOUT)
            except StoreUnavailable as error:
                if not self._is_away:
                    log.warning("Redis does not answer yet: %s", error.__cause__ or error)
                self._is_away = True
                pause = _RETRY
            await asyncio.sleep(pause)

    async def check(self, deadline: float) -> None:
        """Returns if the service can do what it promises. Raises ``StoreUnavailable`` or ``NotReady``.

        Asks the server what it is. Examines everything if no examination has finished since the server last did not
        answer, or if there was a problem, so that a solved one does not keep the service out for a minute.
        """
        if not self._is_examined or any(map(self._is_obstacle, self.problems.values())):
            await self.examine(deadline)
        else:
            found = await self._ask(self._of_the_server(), deadline)
            self._note({**self.problems, **found})
        for problem in filter(self._is_obstacle, self.problems.values()):
            raise NotReady(problem.detail)

    async def examine(self, deadline: float) -> None:
        """Finds the problems there are now. Raises ``StoreUnavailable``."""
        self._note(await self._ask(self._find(), deadline))
        self._is_away = False
        self._is_examined = True

    @contextmanager
    def expecting_answers(self) -> Iterator[None]:
        """Takes note of a ``StoreUnavailable`` inside: the server may be another one when it answers again."""
        try:
            yield
        except StoreUnavailable:
            self._is_examined = False
            raise

    def _is_obstacle(self, problem: RedisProblem) -> bool:
        return not problem.serves or (self._strict and not problem.keeps)

    def _note(self, found: Mapping[str, RedisProblem]) -> None:
        for name, problem in found.items():
            if name not in self.problems:
                log.warning("%s", problem.detail)
        for name in self.problems.keys() - found.keys():
            log.warning("Redis: the problem %s is solved", name)
        self.problems = found

    async def _ask(self, asking: Awaitable[Mapping[str, RedisProblem]], deadline: float) -> Mapping[str, RedisProblem]:
        with self.expecting_answers():
            try:
                async with asyncio.timeout_at(deadline):
                    return await asking
            except (RedisError, OSError, TimeoutError) as error:
                raise StoreUnavailable from error

    async def _find(self) -> dict[str, RedisProblem]:
        found = await self._of_the_server()
        if "version" not in found:
            found |= await self._of_scripts()
        info = await self._info()
        settings = await self._config()
        for problem in (*self._of_settings(settings, info), *self._of_memory(info), *self._of_replicas(info)):
            found[problem.name] = problem
        return found

    async def _of_the_server(self) -> dict[str, RedisProblem]:
        hello = await _hello(self._client)
        found = [problem for problem in (_cluster(hello), _version(hello)) if problem is not None]
        if hello.get("role") in {"replica", "slave"}:
            info = await self._info()
            primary = f"{info['master_host']}:{info['master_port']}" if info.get("master_host") else "its primary"
            found.append(
                RedisProblem(
                    "replica",
                    f"Redis is a replica and takes no writes: point MEANWHILE_REDIS_URL to {primary}, or promote it",
                    serves=False,
                )
            )
        return {problem.name: problem for problem in found}

    async def _of_scripts(self) -> dict[str, RedisProblem]:
        detail = await why_scripts_cannot_run(self._client, self._prefix)
        return {} if detail is None else {"scripting": RedisProblem("scripting", detail, serves=False)}

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

    def _of_settings(self, settings: dict[str | None, str | None], info: dict[str, Any]) -> list[RedisProblem]:
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
            found.append(RedisProblem("fsync", detail, keeps=False))
        if settings.get("no-appendfsync-on-rewrite") == "yes" and appendonly != "no":
            detail = (
                "Redis fsyncs nothing while it rewrites its append-only file, so a power cut can lose what was "
                "acknowledged: set no-appendfsync-on-rewrite no"
            )
            found.append(RedisProblem("fsync_on_rewrite", detail, keeps=False))
        if policy is not None and policy != "noeviction":
            detail = (
                f"Redis evicts keys when its memory is full ({policy}), and with them streams: "
                "set maxmemory-policy noeviction"
            )
            found.append(RedisProblem("eviction", detail, keeps=False))
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
                f"What Redis has as {', '.join(unknown)} cannot be verified: allow +config|get to this user, "
                "or see to it that nothing is lost"
            )
            found.append(RedisProblem("unverified", detail, keeps=False))
        return found

    def _of_memory(self, info: dict[str, Any]) -> list[RedisProblem]:
        limit = info.get("maxmemory") or 0
        if info.get("used_memory", 0) < _FULL * limit or not limit:
            return []
        detail = "Redis uses 90 % of its maxmemory or more; at the limit, writes are refused: raise maxmemory"
        return [RedisProblem("memory", detail)]

    def _of_replicas(self, info: dict[str, Any]) -> list[RedisProblem]:
        if self._durability == "replicated" or not info.get("connected_slaves"):
            return []
        detail = (
            "Redis has replicas, and a failover loses what they lack: set MEANWHILE_DURABILITY to replicated, "
            "if one of them may become the primary"
        )
        return [RedisProblem("failover", detail)]


async def refuse_unusable(url: str) -> None:
    """Raises ``BadRedisUrl`` if the server at ``url`` answers and can never be used. It may be away."""
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
        "if need be with replicas"
    )
    return RedisProblem("cluster", detail, serves=False)


def _version(hello: Mapping[str, str]) -> RedisProblem | None:
    major = hello.get("version", "").partition(".")[0]
    if not major.isdecimal() or int(major) >= _OLDEST:
        return None
    return RedisProblem("version", "Redis is too old: use Redis 7.0 or Valkey 7.2 or later", serves=False)


async def _hello(client: Redis) -> dict[str, str]:
    """What the server says of itself: version, mode and role."""
    reply = await _execute(client, "HELLO")
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs if isinstance(value, bytes | str)}


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


async def _execute(client: Redis, *command: str | int) -> Any:
    return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # theirs
