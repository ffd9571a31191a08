"""The routes that read, list and delete streams."""

import asyncio
from typing import Any

from meanwhile.api.auth import check_allowed_prefix
from meanwhile.api.openapi import models
from meanwhile.api.operation import Halves, Operation
from meanwhile.api.query_parameters import parameters, parse_limit, single_value
from meanwhile.api.refusals import BadCursor, NoSuchStream
from meanwhile.api.request import Request
from meanwhile.api.response import TEXT, Reply, json_reply
from meanwhile.core import times
from meanwhile.core.errors import Invalid
from meanwhile.core.state import State
from meanwhile.core.stream_names import MAX_NAME_LENGTH, check_name, check_prefix
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.reader import Reader
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.store import Store

MAX_NAMES = 10_000
MAX_INLINE_COMPONENTS = 32  # A few milliseconds on the event loop: each deviation takes up to 0.2 ms.
_DEFAULT_LIMIT = 1_000
_MAX_ACCEPT = 1_000  # Bytes of an Accept header that is interpreted.

_CURSOR = {"type": "string", "pattern": "^[0-9]{1,20},[A-Za-z0-9._:~/,-]*$"}
_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "prefix",
        "in": "query",
        "description": "Start of the names.",
        "schema": {"type": "string", "maxLength": MAX_NAME_LENGTH, "pattern": "^[A-Za-z0-9._:~/-]*$"},
        "example": "kitchen/",
    },
    {
        "name": "limit",
        "in": "query",
        "description": "Names on a page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_NAMES, "default": _DEFAULT_LIMIT},
        "example": 100,
    },
    {
        "name": "cursor",
        "in": "query",
        "description": "From the page before.",
        "schema": _CURSOR,
        "example": "96,kitchen/lux",
    },
]
_STREAM = "/v1/streams/{stream:path}"
_REFUSALS = (NoSuchStream, Invalid, StoreUnavailable)


def operations(store: Store, reader: Reader, redis_timeout: float) -> list[Operation]:
    """Returns the routes of streams. ``redis_timeout`` limits those that do not use ``reader``, in seconds."""

    def deadline() -> float:
        return asyncio.get_running_loop().time() + redis_timeout

    async def delete_stream(request: Request) -> Reply:
        """Deletes a stream and returns its last state, in one atomic step."""
        name = check_name(request.stream)
        state = await store.forget(name, deadline())
        if state is None:
            raise NoSuchStream
        return json_reply(await _calculate(name, state))

    async def list_streams(request: Request) -> Reply:
        """Returns the names of all streams, page by page. A stream that exists throughout is on at least one page."""
        query = parameters(request)
        prefix = check_prefix(single_value(query, "prefix") or "")
        check_allowed_prefix(prefix, request.grant.prefix)
        limit = parse_limit(single_value(query, "limit"), _DEFAULT_LIMIT, MAX_NAMES)
        cursor = single_value(query, "cursor")
        try:
            page = await store.listing.page(prefix, limit, cursor, deadline())
        except ValueError:
            raise BadCursor("Expected the cursor of the page before.") from None
        return json_reply({"streams": page.streams, "cursor": page.cursor})

    return [
        *_reading_operations(reader, _FullStates(redis_timeout)),
        Operation(
            method="GET",
            path="/v1/streams",
            handler=list_streams,
            scope="read",
            reply=models.StreamNames,
            parameters=_PARAMETERS,
            refusals=(BadCursor, Invalid, StoreUnavailable),
        ),
        Operation(
            method="DELETE",
            path=_STREAM,
            handler=delete_stream,
            scope="admin",
            reply=models.StreamState,
            refusals=(*_REFUSALS, OutcomeUnknown),
        ),
    ]


def _reading_operations(reader: Reader, full_states: "_FullStates") -> list[Operation]:
    def check(request: Request) -> None:
        check_name(request.stream)

    def begin(request: Request, body: bytes = b"", plan: None = None) -> asyncio.Future[State | None]:
        return reader.read(request.stream)

    def average(request: Request, state: State | None) -> Reply:
        shape, summary = _existing(state)
        average = shape.value(summary.averages())
        if _prefers_text(request):
            return Reply(json_reply(average).body, TEXT)
        last = times.to_text(summary.last)
        reply = {"stream": request.stream, "average": average, "count": summary.count, "last_reading_at": last}
        return json_reply(reply)

    def count(request: Request, state: State | None) -> Reply:
        return json_reply({"stream": request.stream, "count": _existing(state).summary.count})

    async def read_average(request: Request) -> Reply:
        """Returns the average of a stream. With Accept: text/plain, returns only the number, array or object."""
        check(request)
        return average(request, await begin(request))

    async def read_count(request: Request) -> Reply:
        """Returns the step count of a stream: how many readings it has received."""
        check(request)
        return count(request, await begin(request))

    async def read_stream(request: Request) -> Reply:
        """Returns the full state of a stream."""
        check(request)
        state = _existing(await begin(request))
        return json_reply(await full_states.calculate(request.stream, state))

    return [
        Operation(
            method="GET",
            path=f"{_STREAM}/average",
            handler=read_average,
            halves=Halves(check, begin, average),
            scope="read",
            reply=models.StreamAverage,
            refusals=_REFUSALS,
            media_types={"text/plain": "21.75"},
        ),
        Operation(
            method="GET",
            path=f"{_STREAM}/count",
            handler=read_count,
            halves=Halves(check, begin, count),
            scope="read",
            reply=models.StreamCount,
            refusals=_REFUSALS,
        ),
        Operation(
            method="GET",
            path=_STREAM,
            handler=read_stream,
            scope="read",
            reply=models.StreamState,
            refusals=(*_REFUSALS, Overloaded),
        ),
    ]


def _existing(state: State | None) -> State:
    if state is None:
        raise NoSuchStream
    return state


class _FullStates:
    """Calculates the full states of wide streams one at a time.

    Many at a time would make large requests wait for the background thread. ``timeout`` is how long one may wait, in
    seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._lock = asyncio.Lock()

    async def calculate(self, name: str, state: State) -> dict[str, Any]:
        """Does the same as ``full_state``. Raises ``Overloaded``."""
        if state.shape.components <= MAX_INLINE_COMPONENTS:
            return full_state(name, state)
        try:
            async with asyncio.timeout(self._timeout):
                await self._lock.acquire()
        except TimeoutError:
            raise Overloaded from None
        try:
            return await _calculate(name, state)
        finally:
            self._lock.release()


async def _calculate(name: str, state: State) -> dict[str, Any]:
    """Does the same as ``full_state``, in the background thread if the values are wide."""
    if state.shape.components <= MAX_INLINE_COMPONENTS:
        return full_state(name, state)
    return await background_thread.run(full_state, name, state)


def full_state(name: str, state: State) -> dict[str, Any]:
    """Returns the members of the full state of a stream."""
    shape, summary = state
    deviations = summary.deviations()
    return {
        "stream": name,
        "count": summary.count,
        "average": shape.value(summary.averages()),
        "latest": shape.value(summary.latest) if summary.latest else None,
        "minimum": shape.value(summary.minimums),
        "maximum": shape.value(summary.maximums),
        "standard_deviation": None if deviations is None else shape.value(deviations),
        "first_reading_at": times.to_text(summary.first),
        "last_reading_at": times.to_text(summary.last),
    }


def _prefers_text(request: Request) -> bool:
    """Returns whether Accept names text/plain and does not prefer JSON (RFC 9110: the most specific range counts)."""
    accepted = b",".join(request.headers.all(b"accept")).lower()
    if b"text/plain" not in accepted or len(accepted) > _MAX_ACCEPT:
        return False
    weights = dict(map(_weigh, accepted.decode("latin-1").split(",")))
    ranges = ("application/json", "application/*", "*/*")
    json_weight, is_named = next(((weights[name], name == ranges[0]) for name in ranges if name in weights), (0, False))
    text_weight = weights.get("text/plain", 0)
    return text_weight > json_weight or (text_weight == json_weight > 0 and not is_named)


def _weigh(item: str) -> tuple[str, float]:
    media_type, *parameters = (part.strip() for part in item.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return media_type, float(parameter[2:])
            except ValueError:
                return media_type, 0.0
    return media_type, 1.0
