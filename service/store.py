"""The states of streams in Redis or Valkey: the only module that knows either.

One key a stream, ``<prefix>:stream:<name>``, which holds its state in the form of ``state.py``.

**A write is sent once.** The client library would send a command again when the connection breaks, and a script that
has run would then run twice. So a write goes over a connection taken from the pool, outside the library's retries,
and ends in one of three ways:

- the reply, which says what was recorded;
- ``StoreUnavailable``: provably not run. There was no connection, or the server refused before running it;
- ``OutcomeUnknown``: sent, and no answer. It may have run, or may run yet.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from importlib import resources
from os.path import commonprefix
from typing import Any, NamedTuple, TypeVar

import hiredis
import msgspec
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from service.idempotency import Key
from service.state import State, Unreadable, decode, to_record
from service.stream import Shape, is_name, shape_from_text

T = TypeVar("T")

NO_KEYS: Mapping[int, Key] = {}
_LONGEST_STEP = 1_000  # Keys that a SCAN looks at where few fit: less than a millisecond of the server's time.
_MOST_STEPS = 1_000  # Before a page is returned as it is.

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


class Crowded(Exception):
    """The store has as many streams as it may have: no new one was made, and nothing of the request was recorded."""


class Why(Enum):
    """Why a stream refuses readings, besides another shape. The numbers are those of ``commit.lua``."""

    UNREADABLE = 0
    BELOW_THE_WINDOW = 1
    TOO_MANY_PRODUCERS = 2
    CROWDED = 3
    PARTLY_COUNTED = 4


class Refusal(NamedTuple):
    """A stream refuses readings: it has ``shape``, another one than they have; or there is another reason.

    ``highest`` is the sequence up to which a range has been counted.
    """

    stream: str
    shape: Shape | None
    why: Why | None = None
    highest: int | None = None


class Committed(NamedTuple):
    """The reply to a commit: for each group the refusals, none if it was recorded, and the streams that had counted
    its key before; and the states afterwards."""

    refusals: list[list[Refusal]]
    duplicates: list[frozenset[str]]
    states: Mapping[str, State]


class Page(NamedTuple):
    """Some stream names, and the cursor that leads to the next ones; None at the end."""

    streams: list[str]
    cursor: str | None


_encode = msgspec.msgpack.Encoder().encode
_decode_verdicts = msgspec.msgpack.Decoder(list[tuple[list[list[int | str | bool]], list[int]]]).decode


class _States(Mapping[str, State]):
    """States that are decoded when somebody asks for them; a batch does not."""

    def __init__(self, stored: dict[str, bytes]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> State:
        return decode(self._stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


class _Script:
    """A script and the name that the server has for it."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()


class Store:
    """Streams in Redis, below ``prefix``. ``client`` must leave replies as bytes and have no socket timeout.

    Every method takes ``deadline``, on the clock of the event loop, and returns or raises by then.

    Past ``max_streams`` keys in the database no stream is made (0: no limit). A write returns when ``replicas``
    replicas have it. ``failed`` hears of each command that Redis did not carry out ("unavailable") or perhaps did
    ("unknown").
    """

    def __init__(
        self,
        client: "Redis",
        prefix: str,
        *,
        max_streams: int = 0,
        replicas: int = 0,
        failed: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._client = client
        self._failed = failed
        self._options = (str(max_streams), "1" if replicas else "0")
        self._replicas = replicas
        self._keys = f"{prefix}:stream:"
        source = resources.files("service").joinpath("commit.lua").read_bytes()
        self._record = _Script(source)
        # To forget takes no memory, and is what helps where there is none.
        self._forget = _Script(source.replace(b"#!lua\n", b"#!lua flags=allow-oom\n", 1))
        self._failing: set[str] = set()  # "reads" and "writes", as far as is known; only for the log.

    async def commit(
        self, groups: Sequence[Mapping[str, State]], deadline: float, keys: Mapping[int, Key] = NO_KEYS
    ) -> Committed:
        """Merges readings, summarized by stream, into the stored states, in one atomic step.

        ``keys`` has the idempotency keys of groups, by their position. A stream that has counted a key before is not
        changed by its group; the key is remembered in the same step as its readings are counted.

        The streams of one group stand or fall together: if one refuses (it has another shape, its state is
        unreadable, the key is too old), none is changed by this group. Groups take effect in their order and do not
        depend on each other otherwise: the first to name a new stream fixes its shape. A group's streams all have the
        state that is returned, which includes the groups before and after it.

        Raises ``StoreUnavailable`` or ``OutcomeUnknown``, for all groups together.
        """
        positions: dict[str, int] = {}
        encoded = [
            (
                [(positions.setdefault(name, len(positions) + 1), to_record(state)) for name, state in group.items()],
                *keys.get(number, ()),  # No range is a nil at the end, which Lua takes for nothing.
            )
            for number, group in enumerate(groups)
        ]
        names = list(positions)
        verdicts, *stored = await self._run_script(self._record, names, _encode(encoded), deadline)
        decoded = _decode_verdicts(verdicts)
        return Committed(
            [[_refusal(names[int(i) - 1], *reason) for i, *reason in refusals] for refusals, _ in decoded],
            [frozenset(names[i - 1] for i in duplicates) for _, duplicates in decoded],
            _States({name: state for name, state in zip(names, stored, strict=True) if state is not None}),
        )

    async def read(self, names: Sequence[str], deadline: float) -> list[State | Unreadable | None]:
        """The states of streams, as of one moment; None for a stream that does not exist."""
        reading: Awaitable[list[Any]] = self._client.mget([self._keys + name for name in names])
        replies = await self._ask(reading, deadline)
        return [None if stored is None else _decode_or_error(stored) for stored in replies]

    async def read_stored(self, names: Sequence[str], deadline: float) -> list[bytes | None]:
        """The states of streams as they are stored, for ``decode``; None for a stream that does not exist."""
        reading: Awaitable[list[Any]] = self._client.mget([self._keys + name for name in names])
        return await self._ask(reading, deadline)

    async def forget(self, name: str, deadline: float) -> State | None:
        """Deletes a stream and returns its last state, in one atomic step; None if there was none.

        Raises ``StoreUnavailable``, ``OutcomeUnknown``, or ``Unreadable``, and then nothing was deleted.
        """
        verdicts, stored = await self._run_script(self._forget, [name], _encode([([(1,)],)]), deadline)
        if _decode_verdicts(verdicts)[0][0]:
            raise Unreadable
        return None if stored is None else decode(stored)

    async def names(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> Page:
        """At most ``limit`` names of streams that start with ``prefix``, from where ``cursor`` left off.

        A stream that exists from the first page to the last is on one of them; it can be on two if the server
        resizes its table meanwhile. The order is the server's, and a page can be short, even empty, where few of many
        streams have the prefix. There is no index to keep, so a stream costs no more than its state. Raises
        ``ValueError`` for a cursor that is none.

        A step of SCAN cannot be cut to the limit, and taking it again may find others if the table was resized. So a
        cursor is the position of SCAN and the names that it has found beyond the page, which lead the next one.
        """
        position, found = (0, []) if cursor is None else _parse_cursor(cursor)
        at_end = cursor is not None and position == 0
        pattern = _escape_glob(self._keys) + prefix + "*"
        step = limit - len(found)
        for _ in range(_MOST_STEPS):
            if at_end or len(found) >= limit:
                break
            scanning: Awaitable[tuple[int, list[Any]]] = self._client.scan(position, pattern, step)
            position, keys = await self._ask(scanning, deadline)
            at_end = position == 0
            names = [key.decode(errors="replace").removeprefix(self._keys) for key in keys]
            found = sorted([*found, *filter(is_name, names)])
            # No more than there is room for: what is beyond the page has to fit into a URL.
            step = limit - len(found) if names else max(step, min(2 * step, _LONGEST_STEP))
        page, beyond = found[:limit], found[limit:]
        return Page(page, None if at_end and not beyond else f"{position},{','.join(beyond)}")

    async def names_beside(
        self, known: Container[str], prefixes: tuple[str, ...], most: int, deadline: float
    ) -> set[str]:
        """The streams that start with one of ``prefixes`` and are not among ``known``; more than ``most`` not all."""
        pattern = _escape_glob(self._keys) + commonprefix(prefixes) + "*"  # noqa: RUF071  # Of names, not of paths.
        found: set[str] = set()
        position = 0
        while True:
            scanning: Awaitable[tuple[int, list[Any]]] = self._client.scan(position, pattern, _LONGEST_STEP)
            position, keys = await self._ask(scanning, deadline)
            names = (key.decode(errors="replace").removeprefix(self._keys) for key in keys)
            found.update(name for name in names if name.startswith(prefixes) and name not in known and is_name(name))
            if position == 0 or len(found) > most:
                return found

    async def ping(self, deadline: float) -> None:
        """Returns if Redis answers. Raises ``StoreUnavailable``."""
        await self._ask(self._client.ping(), deadline)

    async def fsyncs(self, deadline: float) -> str | None:
        """When the server fsyncs its append-only file: "always", "everysec" or "no"; None if it does not tell.

        Raises ``StoreUnavailable``.
        """
        asking: Awaitable[Any] = self._client.config_get("appendonly", "appendfsync")
        try:
            async with asyncio.timeout_at(deadline):
                answer = await asking
        except ResponseError:
            return None
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable from error
        return answer.get("appendfsync") if answer.get("appendonly") == "yes" else "no"

    async def _ask(self, command: Awaitable[T], deadline: float) -> T:
        """The reply to a command that only reads."""
        try:
            async with asyncio.timeout_at(deadline):
                reply = await command
        except (RedisError, OSError, TimeoutError) as error:
            raise self._away("reads", error) from error
        self._back("reads")
        return reply

    async def _run_script(self, script: "_Script", names: Sequence[str], groups: bytes, deadline: float) -> Any:
        """EVALSHA; where the server does not know the script (yet, or after SCRIPT FLUSH), EVAL, which loads it."""
        keys = [self._keys + name for name in names]
        arguments: list[str | int | bytes] = [len(keys), *keys, groups, *self._options]
        try:
            return await self._send(deadline, "EVALSHA", script.sha, *arguments)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        return await self._send(deadline, "EVAL", script.source, *arguments)

    async def _send(self, deadline: float, *command: str | int | bytes) -> Any:
        """Sends a write once and returns the reply."""
        pool = self._client.connection_pool
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows commands of one word only
        connection: AbstractConnection | None = None
        is_sent = False
        if asyncio.get_running_loop().time() >= deadline:
            raise StoreUnavailable
        try:
            async with asyncio.timeout_at(deadline):
                connection = await pool.get_connection()  # type: ignore[no-untyped-call]  # theirs
                is_sent = True
                await connection.send_packed_command(packed, check_health=False)
                reply = await connection.read_response()
            if self._replicas:
                await self._await_replicas(connection, deadline)
        except NoScriptError as error:
            raise StoreUnavailable from error
        except (RedisError, OSError, TimeoutError) as error:
            if not is_sent or _is_proof_of_not_running(error):
                raise self._away("writes", error) from error
            raise self._unknown(error, answered=isinstance(error, ResponseError)) from error
        finally:
            if connection is not None:
                with suppress(RedisError, OSError):
                    await pool.release(connection)
        self._back("writes")
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

    def _away(self, what: str, error: Exception) -> StoreUnavailable:
        """Says it in the log once, not for every request. A full server takes reads all the while."""
        self._failed("unavailable")
        if what not in self._failing:
            log.warning("Redis takes no %s: %s", what, str(error) or type(error).__name__)
        self._failing.add(what)
        return StoreUnavailable()

    def _back(self, what: str) -> None:
        if what in self._failing:
            log.warning("Redis takes %s again", what)
            self._failing.remove(what)


def _decode_or_error(stored: bytes) -> State | Unreadable:
    try:
        return decode(stored)
    except Unreadable as error:
        return error


def _is_proof_of_not_running(error: Exception) -> bool:
    """Whether ``error`` is a refusal by the server that it gives before it runs anything."""
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    return code in _NOT_RUN and _RAISED not in str(error)


def _refusal(stream: str, reason: str | int | bool, highest: str | int | bool | None = None) -> Refusal:
    if not isinstance(reason, str):
        return Refusal(stream, None, Why(int(reason)), None if highest is None else int(highest))
    try:
        return Refusal(stream, shape_from_text(reason))
    except ValueError:
        return Refusal(stream, None, Why.UNREADABLE)


def _parse_cursor(cursor: str) -> tuple[int, list[str]]:
    position, comma, rest = cursor.partition(",")
    names = rest.split(",") if rest else []
    if not (comma and position.isascii() and position.isdigit() and len(position) <= 20 and all(map(is_name, names))):
        raise ValueError("not a cursor")
    if int(position) >= 2**64:
        raise ValueError("not a cursor")
    return int(position), names


def _escape_glob(text: str) -> str:
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in text)
