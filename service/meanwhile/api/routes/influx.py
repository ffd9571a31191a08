"""The write API of InfluxDB, for its clients: Telegraf, Home Assistant, the official libraries.

``POST /api/v2/write`` is the route of InfluxDB 2, ``POST /write`` that of InfluxDB 1. ``org``, ``bucket``, ``db`` and
similar parameters are ignored. Success is 204. Valid lines are recorded even if others are invalid. Errors have the
form of InfluxDB's errors, for both versions in one, because its clients act on them:

    400    partial write: the valid lines are recorded, the others never will be; clients drop them
    413    clients send smaller parts
    503    not recorded: clients keep the points and send them again
    504    unknown: clients send again, and recorded points count twice, unless they are deduplicated

With ``dedupe=timestamp``, a stream counts each timestamp once (``line_protocol_dedupe.py``), so a client can safely
send a request again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from meanwhile.api import line_protocol_dedupe, problems
from meanwhile.api.auth import check_allowed_prefix
from meanwhile.api.influx_credentials import credentials
from meanwhile.api.large_bodies import LargeBodySlots
from meanwhile.api.openapi import document, models
from meanwhile.api.operation import Handler, Operation
from meanwhile.api.query_parameters import parameters, single_value
from meanwhile.api.refusals import BadEncoding, BadKey, BodyTooLarge, LengthRequired, PartialWrite, UnsupportedMediaType
from meanwhile.api.request import Request
from meanwhile.api.request_body import Bodies
from meanwhile.api.request_head import Headers
from meanwhile.api.response import Reply, json_reply
from meanwhile.core.errors import Invalid, TooMany
from meanwhile.core.readings import Limits
from meanwhile.core.state import Unreadable
from meanwhile.formats import line_protocol
from meanwhile.formats.line_protocol import PRECISIONS, Points, Wrong
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.committer import Committer
from meanwhile.storage.large_requests import PartlyRecorded, PartlyRefused
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.rejections import ShapeConflict, StreamFull
from meanwhile.storage.store import Store, TooManyStreams

_PING_TIMEOUT = 1.0  # Seconds.
_MAX_SHOWN_LINES = 20  # Invalid lines in the message of a partial write.
_SINGLE = ("precision", "dedupe", "org", "orgID", "bucket", "db", "rp", "consistency", "u", "p")  # InfluxDB's, too.
_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    413: "request too large",
    415: "unsupported media type",
    503: "unavailable",
    504: "unavailable",
}
_REFUSALS = (
    *(PartialWrite, BadKey, BadEncoding, LengthRequired, BodyTooLarge, TooMany, UnsupportedMediaType, Invalid),
    *(Overloaded, StoreUnavailable, Unreadable, OutcomeUnknown, PartlyRecorded),
)


_REASONS: dict[type[Exception], str] = {
    ShapeConflict: line_protocol_dedupe.SHAPE,
    StreamFull: line_protocol_dedupe.FULL,
    TooManyStreams: line_protocol_dedupe.TOO_MANY,
}


class InfluxOperation(Operation):
    """An operation whose errors have the form of InfluxDB's."""

    needs_body: ClassVar[bool] = False  # Home Assistant tests the connection with an empty write.

    def refuse(self, error: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Returns the response to an exception, in the form of InfluxDB's errors."""
        problem, members = problems.describe(error)
        status = _status(problem)
        message = "unauthorized access" if status == 401 else members.get("detail", problem.title)
        body = msgspec.json.encode({"code": _CODES.get(status, "internal error"), "message": message, "error": message})
        content = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        return status, [*content, *problems.headers_of(error, problem)], body

    def documented(self, problem: problems.ProblemType) -> document.Refusal:
        """Returns the documentation of a problem, in the form of InfluxDB's errors."""
        status, message = _status(problem), problem.detail or problem.title
        example = {"code": _CODES.get(status, "internal error"), "message": message, "error": message}
        content = {"schema": document.reference(models.InfluxProblem), "example": example}
        return document.Refusal(status, {"application/json": content})


def _status(problem: problems.ProblemType) -> int:
    """Maps the status: for an invalid request, InfluxDB clients expect 400."""
    return 400 if problem.status in (411, 422) else problem.status


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Records line protocol through ``committer``.

    ``clock`` returns milliseconds since 1970. ``bodies`` reads bodies, ``slots`` limits large ones, and ``limits`` are
    those of a request. ``pattern`` makes stream names (``line_protocol_names.py``). ``dedupe`` is the default of the
    query parameter: whether a stream counts each timestamp once. With ``require_key``, every request must do so.
    """

    committer: Committer
    clock: Callable[[], int]
    limits: Limits
    bodies: Bodies
    slots: LargeBodySlots
    pattern: str
    dedupe: bool
    require_key: bool

    async def write(self, request: Request) -> None:
        """Records the valid lines of a body. Raises ``PartialWrite`` if others are invalid, or another refusal."""
        query = parameters(request)
        options = {name: single_value(query, name) for name in _SINGLE}
        unit = PRECISIONS.get(options["precision"] or "ns")
        if unit is None:
            raise Invalid(f"Expected precision to be one of {', '.join(PRECISIONS)}.")
        dedupe = options["dedupe"] or ("timestamp" if self.dedupe else "off")
        if dedupe not in ("timestamp", "off"):
            raise Invalid("Expected dedupe to be timestamp or off.")
        if self.require_key and dedupe == "off":
            raise BadKey("Expected dedupe=timestamp: this service only records readings that it can count once.")
        if request.headers.get(b"idempotency-key") is not None:
            raise BadKey(
                "Expected no Idempotency-Key header: with dedupe=timestamp, the timestamps make points count once."
            )
        body = await self.bodies.read(request)
        now = self.clock()
        prefix = request.grant.prefix
        arguments = (body, unit, now, self.pattern, self.limits)
        if dedupe == "off":
            async with self.slots.decoded(line_protocol.decode, *arguments) as points:
                for stream in points.readings:
                    check_allowed_prefix(stream, prefix)
                wrong = await self._record(points)
        else:
            async with self.slots.decoded(_decode_batches, *arguments) as (batches, refused):
                for batch in batches:
                    check_allowed_prefix(batch.stream, prefix)
                every = refused + await line_protocol_dedupe.record_once(self.committer, batches)
                wrong = (
                    await background_thread.run(_in_order, every) if len(every) > _MAX_SHOWN_LINES else _in_order(every)
                )
        if wrong:
            raise PartialWrite(_message(wrong))

    async def _record(self, points: Points) -> list[Wrong]:
        """Records all points except those of streams that refuse them. Returns the invalid lines with reasons."""
        while points.readings:
            try:
                await self.committer.record(points.readings)
            except (ShapeConflict, StreamFull, TooManyStreams) as error:
                lines = {line for stream in error.streams for line in points.gathered[stream].places}
                reason = _REASONS[type(error)]
                points = await background_thread.run(line_protocol.without, points, lines, reason, self.limits)
            except PartlyRefused as error:
                lines = {line for stream in error.refused for line in points.gathered[stream].places}
                reason = _REASONS.get(type(error.reason), line_protocol_dedupe.SHAPE)
                return [*points.wrong, *(Wrong(line, reason) for line in sorted(lines))]
            else:
                break
        return points.wrong


def _in_order(wrong: list[Wrong]) -> list[Wrong]:
    return sorted(set(wrong))


def _decode_batches(
    body: bytes, unit: int, now: int, pattern: str, limits: Limits
) -> tuple[list[line_protocol_dedupe.TimestampedBatch], list[Wrong]]:
    return line_protocol_dedupe.batches_of(line_protocol.decode(body, unit, now, pattern, limits))


def operations(store: Store, writer: Writer, version: str) -> list[Operation]:
    """Returns the InfluxDB routes. ``version`` is the version of the service."""
    name = (b"x-influxdb-version", f"2.7.0-meanwhile-{version}".encode())

    async def write_influx_2(request: Request) -> Reply:
        """Records line protocol, like InfluxDB 2. Each numeric field is a reading."""
        await writer.write(request)
        return Reply(b"", status=204, headers=[name])

    async def write_influx_1(request: Request) -> Reply:
        """Records line protocol, like InfluxDB 1. Each numeric field is a reading."""
        await writer.write(request)
        return Reply(b"", status=204, headers=[name])

    async def ping_influx(request: Request) -> Reply:
        """Returns 204 while the process runs."""
        return Reply(b"", status=204, headers=[name])

    async def check_influx_health(request: Request) -> Reply:
        """Returns 200 if Redis answers, in the format of InfluxDB."""
        await store.ping(asyncio.get_running_loop().time() + _PING_TIMEOUT)
        reply = {"name": "meanwhile", "message": "ready for writes", "status": "pass", "checks": []}
        return json_reply(reply | {"version": version})

    def writes(
        path: str,
        handler: Handler,
        names: dict[str, str],
        credentials_of: Callable[[Request], Headers] | None = None,
    ) -> Operation:
        return InfluxOperation(
            method="POST",
            path=path,
            handler=handler,
            scope="write",
            reply=None,
            body={"text/plain": _LINES},
            parameters=[*_PARAMETERS, *(_parameter(name, description) for name, description in names.items())],
            refusals=_REFUSALS,
            credentials=credentials_of,
        )

    user = {"db": "Ignored.", "u": "Ignored.", "p": "An API key, if not in a header."}
    return [
        writes("/api/v2/write", write_influx_2, {"org": "Ignored.", "bucket": "Ignored."}),
        writes("/write", write_influx_1, user, credentials),
        InfluxOperation(method="GET", path="/ping", handler=ping_influx, scope=None, reply=None),
        InfluxOperation(
            method="GET",
            path="/health",
            handler=check_influx_health,
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


def _message(wrong: list[Wrong]) -> str:
    shown = "; ".join(f"line {line}: {detail}" for line, detail in wrong[:_MAX_SHOWN_LINES])
    more = f"; and {len(wrong) - _MAX_SHOWN_LINES} more" if len(wrong) > _MAX_SHOWN_LINES else ""
    return f"partial write: {shown}{more}"
