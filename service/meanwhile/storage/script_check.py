"""Whether Redis lets this user run the scripts, and lets the scripts do what they need on the keys of the streams.

A small script asks the server, as ``commit.lua`` could: it writes nothing. It is sent as the service sends scripts, by
EVAL and by EVALSHA.
"""

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from meanwhile.storage.redis_client import Script, is_unknown_command

# Returns which of the commands that the scripts of the service run this user may not run on KEYS[1], or are renamed.
_PROBE = b"""#!lua flags=no-writes
local missing = {}
for command, arguments in pairs({TIME = {}, GET = {KEYS[1]}, SET = {KEYS[1], ''}, DEL = {KEYS[1]}}) do
  local is_known, is_allowed = pcall(redis.acl_check_cmd, command, unpack(arguments))
  if not (is_known and is_allowed) then missing[#missing + 1] = command end
end
return missing
"""
_TRANSIENT = ("BUSY", "LOADING", "MASTERDOWN")  # What the server replies while it cannot run any script.


async def why_scripts_cannot_run(client: Redis, prefix: str) -> str | None:
    """What stands in the way of scripts on the keys below ``prefix``, and what to do; None if nothing does.

    Raises ``RedisError`` if the server does not answer, or cannot run any script at the moment.
    """
    keys = f"{prefix}:stream:"
    return await _try(client, "EVAL", _PROBE, keys) or await _try(client, "EVALSHA", Script(_PROBE).sha, keys)


async def _try(client: Redis, command: str, script: str | bytes, keys: str) -> str | None:
    try:
        running: Any = client.execute_command(command, script, 1, f"{keys}probe")  # type: ignore[no-untyped-call]  # theirs
        missing: list[bytes] = await running
    except NoScriptError:  # The command works; the scripts were flushed a moment ago.
        return None
    except ResponseError as error:
        if (error.status_code or str(error).partition(" ")[0]) in _TRANSIENT:
            raise
        return _reason(command, error, keys)
    names = sorted(name.decode() for name in missing)
    if not names:
        return None
    return (
        f"Scripts may not run {' and '.join(names)} on the keys of the streams, {keys}*: allow "
        f"{' '.join(f'+{name.lower()}' for name in names)} to this user, and do not rename or disable any command"
    )


def _reason(command: str, error: ResponseError, keys: str) -> str:
    """Why the server refuses this command, which runs scripts, and what to do."""
    if is_unknown_command(error):
        return f"Redis does not know {command}, which the service needs for all writes: do not rename or disable it"
    if not isinstance(error, NoPermissionError):
        return f"Redis cannot run scripts, which the service needs for all writes; its reply to {command} is: {error}"
    if " access " in str(error):
        return f"Redis forbids this user to read or write the keys of the streams, {keys}*: allow ~{keys}*"
    return (
        "Redis forbids this user to run scripts, which the service needs for all writes: "
        f"allow +{command.lower()}{' and +evalsha' * (command == 'EVAL')}"
    )
