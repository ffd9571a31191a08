"""What speaks to InfluxDB, with another URL: Telegraf, Home Assistant, the official clients.

``POST /api/v2/write`` is InfluxDB 2's, ``POST /write`` InfluxDB 1's; ``org``, ``bucket``, ``db`` and the like say
nothing here. Success is 204. Lines that are wrong do not hold up the others, and errors are worded as InfluxDB words
them, for both versions at once, because that is what its clients act on:

    400    partial write: the good lines are recorded, the others never will be; clients drop them
    413    clients send smaller parts
    503    not recorded: clients keep the points and send them again
    504    unknown: clients send again, and what had been recorded counts twice, unless points are deduplicated

A point has no idempotency key but its time. With ``dedupe=timestamp`` that is one: the producer is
``timestamp/<unit>``, the sequence the timestamp in the unit of ``precision`` (microseconds for nanoseconds, which are
too many for 2^53). So a stream counts each timestamp once, and none that is more than 64 units before the latest.
"""

import asyncio
import base64
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qs

import msgspec
from starlette.types import Receive, Scope

from service import problems
from service.access import Headers, check_prefix_of
from service.api import document, models
from service.api.body import any_type, read
from service.api.endpoint import Endpoint, Handler, Reply, json_reply
from service.committer import Committer, KeyTooOld, Overloaded, ShapeConflict, TooManyProducers
from service.formats import line_protocol
from service.formats.line_protocol import PRECISIONS, Points, Wrong
from service.idempotency import LARGEST_SEQUENCE, Key
from service.link import OutcomeUnknown, StoreUnavailable
from service.problems import BadEncoding, BadKey, BodyTooLarge, PartialWrite, UnsupportedMediaType
from service.state import Unreadable
from service.store import Crowded, Store
from service.stream import NUMBER, Invalid, Limits, Readings, TooMany

_MICROSECOND = 1_000  # Nanoseconds.
_LONGEST_PING = 1.0  # Seconds.
_AT_ONCE = 1_000  # Points with keys in one commit: each is a group of its own.
_SHOWN = 20  # Wrong lines in the message of a partial write.
_SHAPE = "expected the shape of the stream, which is not a number"
_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    413: "request too large",
    415: "unsupported media type",
    503: "unavailable",
    504: "unavailable",
}
_UNITS = {10**3: "us", 10**6: "ms", 10**9: "s", 60 * 10**9: "m", 3600 * 10**9: "h"}
_REFUSALS = (
    *(PartialWrite, BadKey, BadEncoding, BodyTooLarge, TooMany, UnsupportedMediaType, Invalid),
    *(Overloaded, Crowded, StoreUnavailable, Unreadable, OutcomeUnknown),
)


class InfluxEndpoint(Endpoint):
    """An endpoint whose errors are InfluxDB's."""

    needs_body: ClassVar[bool] = False  # Home Assistant writes nothing, to see whether it could.

    def credentials(self, scope: Scope) -> Headers:
        """The headers, and the user and password that InfluxDB 1 takes from the query of /write."""
        if scope["path"] != "/write":
            return super().credentials(scope)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if "p" not in query:
            return super().credentials(scope)
        basic = base64.b64encode(f"{query.get('u', [''])[0]}:{query['p'][0]}".encode())
        return [*super().credentials(scope), (b"authorization", b"Basic " + basic)]

    def refuse(self, error: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """The problem in the words of InfluxDB."""
        problem, members = problems.describe(error)
        _, headers, _ = problems.encode(error)
        status = _status(problem)
        message = "unauthorized access" if status == 401 else members.get("detail", problem.title)
        body = msgspec.json.encode({"code": _CODES.get(status, "internal error"), "message": message, "error": message})
        kept = [header for header in headers if header[0] not in (b"content-type", b"content-length")]
        return status, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *kept], body

    def documented(self, problem: problems.Problem) -> document.Refusal:
        """What the document says of a problem in the words of InfluxDB."""
        status, message = _status(problem), problem.detail or problem.title
        example = {"code": _CODES.get(status, "internal error"), "message": message, "error": message}
        content = {"schema": document.reference(models.InfluxProblem), "example": example}
        return document.Refusal(status, {"application/json": content})


def _status(problem: problems.Problem) -> int:
    """InfluxDB's clients know 400 alone for what is wrong with a request."""
    return 400 if problem.status == 422 else problem.status


class _Point(NamedTuple):
    time: int  # In nanoseconds.
    line: int
    stream: str
    value: float


class Writer:
    """Records line protocol. ``clock`` gives milliseconds since 1970; ``pattern`` names streams (``line_names.py``).

    ``dedupe`` is whether points are counted once where the request does not say; with ``require_key`` they must be.
    """

    def __init__(
        self,
        committer: Committer,
        clock: Callable[[], int],
        limits: Limits,
        *,
        max_body: int,
        pattern: str,
        dedupe: bool,
        require_key: bool,
    ) -> None:
        self._committer = committer
        self._clock = clock
        self._limits = limits
        self._max_body = max_body
        self._pattern = pattern
        self._dedupe = "timestamp" if dedupe else "off"
        self._require_key = require_key

    async def write(self, scope: Scope, receive: Receive) -> None:
        """Records the good lines of a body; raises ``PartialWrite`` for the others."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        unit = PRECISIONS.get(query.get("precision", ["ns"])[-1])
        if unit is None:
            raise Invalid(f"Expected precision to be one of {', '.join(PRECISIONS)}.")
        dedupe = query.get("dedupe", [self._dedupe])[-1]
        if dedupe not in ("timestamp", "off"):
            raise Invalid("Expected dedupe to be timestamp or off.")
        if self._require_key and dedupe == "off":
            raise BadKey("Expected dedupe=timestamp: this service records nothing without a key.")
        body = await read(scope, receive, self._max_body, any_type)
        now = self._clock()
        points = line_protocol.decode(body, unit, now, self._pattern, self._limits)
        for stream in points.readings:
            check_prefix_of(stream, scope["reach"])
        wrong = await (self._record(points) if dedupe == "off" else self._record_once(points, unit, now))
        if wrong:
            raise PartialWrite(_message(wrong))

    async def _record(self, points: Points) -> list[Wrong]:
        """Records all points but the lines with streams that are not numbers; returns what is wrong with the others."""
        while points.readings:
            try:
                await self._committer.record(points.readings)
            except ShapeConflict as error:
                streams = [conflict.stream for conflict in error.conflicts]
                lines = {line for stream in streams for line in points.gathered[stream].places}
                points = line_protocol.without(points, lines, _SHAPE, self._limits)
            else:
                break
        return points.wrong

    async def _record_once(self, points: Points, unit: int, now: int) -> list[Wrong]:
        """Records each point with its time as its key, in the order of time; returns what is wrong with the others."""
        unit = max(unit, _MICROSECOND)
        wrong, keyed = [*points.wrong], []
        for point in _in_order_of_time(points):
            if point.line in points.untimed:
                wrong.append(Wrong(point.line, "expected a timestamp, by which the point is counted once"))
            elif not 0 <= point.time // unit <= LARGEST_SEQUENCE:
                wrong.append(Wrong(point.line, "expected a timestamp from 1970 to 2255, by which it is counted once"))
            else:
                keyed.append(point)
        for start in range(0, len(keyed), _AT_ONCE):
            some = keyed[start : start + _AT_ONCE]
            keys = [Key(f"timestamp/{_UNITS[unit]}", point.time // unit, now) for point in some]
            recordings = [
                self._committer.record({point.stream: _reading(point)}, key)
                for point, key in zip(some, keys, strict=True)
            ]
            for point, outcome in zip(some, await asyncio.gather(*recordings, return_exceptions=True), strict=True):
                if isinstance(outcome, BaseException):
                    wrong.append(Wrong(point.line, _why(outcome)))
        return sorted(set(wrong))


def endpoints(store: Store, writer: Writer, version: str) -> list[Endpoint]:
    """The routes of InfluxDB."""
    name = (b"x-influxdb-version", f"2.7.0-meanwhile-{version}".encode())

    async def write_influx_2(scope: Scope, receive: Receive) -> Reply:
        """Records line protocol, as InfluxDB 2 does. Each numeric field is a reading."""
        await writer.write(scope, receive)
        return Reply(b"", status=204, headers=[name])

    async def write_influx_1(scope: Scope, receive: Receive) -> Reply:
        """Records line protocol, as InfluxDB 1 does. Each numeric field is a reading."""
        await writer.write(scope, receive)
        return Reply(b"", status=204, headers=[name])

    async def ping_influx(scope: Scope, receive: Receive) -> Reply:
        """Answers while the process is up."""
        return Reply(b"", status=204, headers=[name])

    async def check_influx_health(scope: Scope, receive: Receive) -> Reply:
        """Answers when Redis answers, in the words of InfluxDB."""
        await store.ping(asyncio.get_running_loop().time() + _LONGEST_PING)
        reply = {"name": "meanwhile", "message": "ready for writes", "status": "pass", "checks": []}
        return json_reply(reply | {"version": version})

    def writes(path: str, handler: Handler, names: dict[str, str]) -> Endpoint:
        return InfluxEndpoint(
            "POST",
            path,
            handler,
            scope="write",
            reply=None,
            body={"text/plain": _LINES},
            parameters=[*_PARAMETERS, *(_parameter(name, description) for name, description in names.items())],
            refusals=_REFUSALS,
        )

    return [
        writes("/api/v2/write", write_influx_2, {"org": "Ignored.", "bucket": "Ignored."}),
        writes("/write", write_influx_1, {"db": "Ignored.", "u": "Ignored.", "p": "An API key, if not in a header."}),
        InfluxEndpoint("GET", "/ping", ping_influx, scope=None, reply=None),
        InfluxEndpoint(
            "GET",
            "/health",
            check_influx_health,
            scope=None,
            reply=models.InfluxHealth,
            refusals=(StoreUnavailable,),
        ),
    ]


def _parameter(name: str, description: str, *values: str) -> dict[str, Any]:
    schema = {"type": "string"} | ({"enum": ["", *values]} if values else {})
    example = values[0] if values else "meanwhile"
    return {"name": name, "in": "query", "description": description, "schema": schema, "example": example}


_LINES = {
    "type": "string",
    "description": "Line protocol.",
    "examples": ["weather,site=roof temperature=21.4,humidity=40i 1767225600000000000\n"],
}
_PARAMETERS = [
    _parameter("precision", "The unit of timestamps. The default is ns.", *PRECISIONS),
    _parameter(
        "dedupe", "timestamp: a stream counts each timestamp once. The default is a setting.", "timestamp", "off"
    ),
]


def _in_order_of_time(points: Points) -> list[_Point]:
    return sorted(
        _Point(time, line, stream, value)
        for stream, columns in points.gathered.items()
        for value, time, line in zip(*columns, strict=True)
        if isinstance(value, float)
    )


def _reading(point: _Point) -> Readings:
    time = point.time // 10**6
    return Readings(NUMBER, [[point.value or 0.0]], time, time)


def _why(outcome: BaseException) -> str:
    """What is wrong with a point that was not recorded. Raises what says nothing about the point."""
    if isinstance(outcome, KeyTooOld):
        return "expected a timestamp at most 64 units of precision before the latest of its stream"
    if isinstance(outcome, ShapeConflict):
        return _SHAPE
    if isinstance(outcome, TooManyProducers):
        return "expected a stream with fewer producers of idempotency keys"
    raise outcome


def _message(wrong: list[Wrong]) -> str:
    shown = "; ".join(f"line {line}: {detail}" for line, detail in wrong[:_SHOWN])
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return f"partial write: {shown}{more}"
