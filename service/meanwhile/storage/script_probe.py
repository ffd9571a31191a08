"""Finds out whether a server can run the scripts that do all writes, before a write fails.

A server may have EVAL or EVALSHA renamed, or an ACL that forbids them, or what a script runs on the keys of streams.
"""

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from meanwhile.storage.redis_client import Script, is_unknown_command

# Returns which of the commands that the scripts of the service run this user may not run on KEYS[1], or are renamed.
_PROBE = Script(b"""#!lua flags=no-writes
local missing = {}
for command, arguments in pairs({TIME = {}, GET = {KEYS[1]}, SET = {KEYS[1], ''}, DEL = {KEYS[1]}}) do
  local is_known, is_allowed = pcall(redis.acl_check_cmd, command, unpack(arguments))
  missing[#missing + 1] = not (is_known and is_allowed) and command or nil
end
return missing
""")
_TRANSIENT = ("BUSY", "LOADING", "MASTERDOWN")  # Replies of a server that cannot run any script at the moment.


async def script_obstacle(client: Redis, keys: str) -> str | None:
    """Returns why scripts cannot work on the keys that start with ``keys``, and what to do; None if they can.

    Raises what the client raises if the server cannot run any script at the moment.
    """
    return await _obstacle(client, keys, "EVAL", _PROBE.source) or await _obstacle(client, keys, "EVALSHA", _PROBE.sha)


async def _obstacle(client: Redis, keys: str, command: str, script: str | bytes) -> str | None:
    try:
        missing: list[Any] = await client.execute_command(  # type: ignore[no-untyped-call]  # untyped in redis-py
            command, script, 1, f"{keys}probe"
        )
    except NoScriptError:  # The command works; the scripts were flushed a moment ago.
        return None
    except ResponseError as error:
        if (error.status_code or str(error).partition(" ")[0]) in _TRANSIENT:
            raise
        return _reason(command, error, keys)
    names = sorted(name.decode() if isinstance(name, bytes) else str(name) for name in missing)
    if not names:
        return None
    return (
        f"Scripts may not run {' and '.join(names)} on the keys of the streams, {keys}*: allow "
        f"{' '.join(f'+{name.lower()}' for name in names)} to this user, and do not rename or disable any command"
    )


def _reason(command: str, error: ResponseError, keys: str) -> str:
    if is_unknown_command(error):
        return f"Redis does not know {command}, which the service needs for all writes: do not rename or disable it"
    if not isinstance(error, NoPermissionError):
        return f"Redis cannot run scripts, which the service needs for all writes; its reply to {command} is: {error}"
    if " access " in str(error):
        return f"Redis does not allow this user to read or write the keys of the streams, {keys}*: allow ~{keys}*"
    return (
        "Redis does not allow this user to run scripts, which all writes need: "
        f"allow +{command.lower()}{' and +evalsha' * (command == 'EVAL')}"
    )
