"""Replicas: a write waits until enough of them have received it, and a check finds out whether the server has enough.

With ``MEANWHILE_DURABILITY=replicated``, a write is followed by WAIT. It has run by then, so if too few replicas
receive it in time, its outcome is unknown, which is a 504. A server with ``min-replicas-to-write`` refuses writes by
itself while it has too few replicas.
"""

import asyncio

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

_WRITE_PROBE = b"#!lua\nreturn 1"  # Without the flag no-writes; the server refuses it where it refuses writes.


class TooFewReplicas(Exception):
    """A write has run, and it is unknown whether enough replicas have received it. The message says why."""


async def await_replicas(connection: AbstractConnection, replicas: int, deadline: float) -> None:
    """Returns when this many replicas have received what ``connection`` wrote. Raises ``TooFewReplicas``.

    ``deadline`` is on the clock of the event loop.
    """
    left = max(1, int((deadline - asyncio.get_running_loop().time()) * 1000))
    try:
        async with asyncio.timeout_at(deadline):
            await connection.send_command("WAIT", replicas, left, check_health=False)
            have = await connection.read_response()
    except (RedisError, OSError, TimeoutError) as error:
        raise TooFewReplicas(str(error) or type(error).__name__) from error
    if have < replicas:
        raise TooFewReplicas(f"{have} of {replicas} replicas have received it")


async def replica_shortage(client: Redis) -> str | None:
    """Returns that the server refuses writes at the moment because it has too few replicas; None if it does not."""
    try:
        await client.execute_command("EVAL", _WRITE_PROBE, 0)  # type: ignore[no-untyped-call]  # untyped in redis-py
    except ResponseError as error:  # ``script_obstacle`` and the version explain others.
        if (error.status_code or str(error).partition(" ")[0]) == "NOREPLICAS":
            return (
                "Redis refuses writes (NOREPLICAS): the embedded Valkey has to save its data again first, and the log "
                "says why; another Redis has fewer replicas than its min-replicas-to-write"
            )
    return None
