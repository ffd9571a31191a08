"""The error table: maps each exception to a status and to RFC 9457 problem details.

Other modules raise an exception for what happened; only this one knows the reply. A reply never repeats what the client
sent, so it cannot contain a secret, or text that cannot be encoded.

    400 404 405 409 411 413 415        not recorded, and sending it again does not help: fix the request
    421 422 431 501                    the same
    401 403                            not recorded: the API key is missing or does not allow this
    408                                an upload was idle for too long: the lines before that are recorded
    503 with Retry-After               not recorded: send the request again
    504                                unknown: the request was sent to Redis, which did not reply in time
    500                                a bug in the service
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.exceptions import HTTPException

from meanwhile.api.auth import Forbidden, Unauthorized
from meanwhile.api.refusals import (
    BadCursor,
    BadEncoding,
    BadKey,
    BadTransferCoding,
    BodyTooLarge,
    HeaderTooLarge,
    Idle,
    Interrupted,
    LengthRequired,
    Misdirected,
    NoSuchStream,
    NotHttp,
    PartialWrite,
    Stopping,
    TooManyConnections,
    TooManyUploads,
    UnsupportedMediaType,
)
from meanwhile.core.errors import Invalid, TooMany
from meanwhile.core.state import Unreadable
from meanwhile.formats.strict_json import Malformed
from meanwhile.live.subscription import TooManySubscribers
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.large_requests import PartlyRecorded, PartlyRefused
from meanwhile.storage.redis_checks import NotReady
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.rejections import KeyAhead, KeyTooOld, ShapeConflict, StreamFull, TooManyProducers
from meanwhile.storage.store import TooManyStreams

log = logging.getLogger(__name__)
_MAX_NAMED = 100  # Streams that a reply names.
MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:meanwhile:problem:"


class ProblemType(NamedTuple):
    """The reply to an exception. ``detail`` takes precedence over the detail of the exception."""

    status: int
    type: str
    title: str
    detail: str | None = None
    retry_after: int | None = None


TABLE: Mapping[type[Exception], ProblemType] = {
    NotHttp: ProblemType(400, "not-http", "Not a valid HTTP request"),
    HeaderTooLarge: ProblemType(431, "header-too-large", "The request header is too large"),
    Malformed: ProblemType(400, "malformed", "The body cannot be parsed"),
    PartialWrite: ProblemType(400, "partial-write", "Some lines were not recorded"),
    BadEncoding: ProblemType(400, "bad-encoding", "The body cannot be decoded"),
    BadCursor: ProblemType(400, "bad-cursor", "The cursor is not valid"),
    BadKey: ProblemType(400, "bad-idempotency-key", "The idempotency key cannot be used"),
    Unauthorized: ProblemType(
        401,
        "unauthorized",
        "An API key is required",
        "Send a valid API key as Authorization: Bearer <key> or X-API-Key: <key>.",
    ),
    Forbidden: ProblemType(403, "forbidden", "The API key does not allow this"),
    NoSuchStream: ProblemType(404, "no-such-stream", "No such stream", "Nothing has been recorded under this name."),
    Idle: ProblemType(408, "idle", "The upload was idle for too long"),
    ShapeConflict: ProblemType(
        409,
        "shape-conflict",
        "The stream has a different shape",
        "Every reading of a stream must have the same shape as its first reading.",
    ),
    KeyTooOld: ProblemType(
        409,
        "key-too-old",
        "The idempotency key is too old",
        "A stream has already counted much later sequence numbers of this producer, and cannot tell whether it "
        "counted this one.",
    ),
    KeyAhead: ProblemType(
        409,
        "key-ahead",
        "The idempotency key is in the future",
        "The sequence number looks like a time more than a day in the future. Accepting it would make later requests "
        "of this producer too old. Nothing was recorded. Correct the clock of the producer, or use sequence numbers "
        "that do not look like times.",
    ),
    TooManyProducers: ProblemType(
        503,
        "too-many-producers",
        "The stream has too many producers",
        "A stream remembers 1,016 producers of idempotency keys. It accepts a new one after an earlier one has been "
        "idle for an hour. Nothing was recorded. Send the request again.",
        60,
    ),
    StreamFull: ProblemType(
        409,
        "stream-full",
        "The stream is full",
        "A stream counts at most 9007199254740991 readings. Nothing in this request was recorded.",
    ),
    LengthRequired: ProblemType(411, "length-required", "The request needs a body"),
    BodyTooLarge: ProblemType(413, "too-large", "The body is too large"),
    TooMany: ProblemType(413, "too-many-readings", "Too many readings"),
    UnsupportedMediaType: ProblemType(415, "unsupported-media-type", "The media type is not supported"),
    Misdirected: ProblemType(421, "misdirected", "The host name is not allowed"),
    Invalid: ProblemType(422, "invalid", "The request is not valid"),
    BadTransferCoding: ProblemType(501, "transfer-coding", "The transfer coding is not supported"),
    TooManyConnections: ProblemType(
        503,
        "too-many-connections",
        "Too many connections are open",
        "Nothing in this request was recorded. Send it again.",
        1,
    ),
    Overloaded: ProblemType(
        503, "overloaded", "Too many readings are waiting", "Nothing in this request was recorded. Send it again.", 1
    ),
    Stopping: ProblemType(503, "stopping", "The service is shutting down", "Send what was not recorded again.", 1),
    TooManyUploads: ProblemType(
        503, "too-many-uploads", "Too many uploads are open", "Nothing in this request was recorded. Send it again.", 1
    ),
    TooManySubscribers: ProblemType(
        503,
        "too-many-subscribers",
        "Too many event streams are open",
        "Read the states with GET, or try again later.",
        10,
    ),
    TooManyStreams: ProblemType(
        503,
        "too-many-streams",
        "The maximum number of streams is reached",
        "The service creates no new streams. Nothing in this request was recorded. Existing streams still accept "
        "readings.",
        60,
    ),
    NotReady: ProblemType(503, "not-ready", "Redis does not meet the requirements of the service", None, 10),
    StoreUnavailable: ProblemType(
        503,
        "store-unavailable",
        "Redis is not available",
        "Nothing was recorded, read or deleted. Send the request again.",
        1,
    ),
    Unreadable: ProblemType(
        503,
        "unreadable",
        "The stored state cannot be read",
        "The key of the stream in Redis holds a value that this version of the service did not write. Nothing was "
        "changed.",
        60,
    ),
    PartlyRefused: ProblemType(
        409,
        "partly-refused",
        "The readings of some streams were refused",
    ),
    PartlyRecorded: ProblemType(
        504,
        "partly-recorded",
        "Redis failed while the request was being recorded",
        "The readings of some streams were recorded, those of others were not. If the request has an Idempotency-Key, "
        "send it again: the missing readings are recorded and none is counted twice.",
    ),
    OutcomeUnknown: ProblemType(
        504,
        "outcome-unknown",
        "It is unknown whether the request was recorded",
        "The request was sent to Redis, which did not reply in time.",
    ),
}
_FROM_THE_FRAMEWORK = {404: "not-found", 405: "method-not-allowed"}
_OTHER = "http"
_BUG = ProblemType(500, "internal-error", "Internal error", "This is a bug in the service. Its log shows the cause.")
REASONS = (*(problem.type for problem in TABLE.values()), *_FROM_THE_FRAMEWORK.values(), _OTHER, _BUG.type)


def reason(error: Exception) -> str:
    """The problem type of ``error``, one of ``REASONS``."""
    if isinstance(error, Interrupted):
        return reason(error.error)
    if isinstance(error, HTTPException):
        return _FROM_THE_FRAMEWORK.get(error.status_code, _OTHER)
    return TABLE.get(type(error), _BUG).type


def describe(error: Exception) -> tuple[ProblemType, dict[str, Any]]:
    """The problem type of ``error`` and the members of the reply's body."""
    if isinstance(error, Interrupted):
        problem, why = describe(error.error)
        if problem.status >= 500 and problem is not _BUG:
            is_unknown = problem.status == 504
            later = "Whether later lines were recorded is unknown." if is_unknown else "Later lines are not recorded."
            why["detail"] = f"{_recorded_lines(error.recorded)} {later}"
        where = {} if error.line is None else {"line": error.line}
        return problem, why | where | {"recorded": error.recorded}
    if isinstance(error, HTTPException):
        problem = ProblemType(error.status_code, reason(error), error.detail)
    else:
        problem = TABLE.get(type(error), _BUG)
    if problem is _BUG:
        log.error("a request failed because of a bug", exc_info=error)
    members: dict[str, Any] = {
        "type": TYPE_PREFIX + problem.type,
        "title": problem.title,
        "status": problem.status,
    }
    detail = getattr(error, "detail", None) if problem.detail is None else problem.detail
    if detail is not None and detail != problem.title:
        members["detail"] = detail
    if isinstance(error, Invalid) and error.pointer is not None:
        members["pointer"] = error.pointer
    if isinstance(error, PartlyRecorded):
        members |= {"recorded": _few(error.recorded), "not_recorded": _few(error.not_recorded)}
        members |= {"unknown": _few(error.unknown)}
    if isinstance(error, PartlyRefused):
        title = describe(error.reason)[0].title
        members["detail"] = f"{title}. Another client was faster. The readings of all other streams were recorded."
        members |= {"recorded": _few(error.recorded), "refused": _few(error.refused)}
    if isinstance(error, ShapeConflict):
        members["conflicts"] = [
            {"stream": conflict.stream, "expected": str(conflict.expected), "received": str(conflict.received)}
            for conflict in error.conflicts[:_MAX_NAMED]
        ]
    return problem, members


def _recorded_lines(count: int) -> str:
    if count == 0:
        return "No line is recorded."
    return "The first line is recorded." if count == 1 else f"The first {count} lines are recorded."


def _few(streams: Sequence[str]) -> dict[str, Any]:
    """The number of streams, and the names of the first ones."""
    return {"count": len(streams), "streams": streams[:_MAX_NAMED]}


def encode(error: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the reply to ``error``."""
    problem, members = describe(error)
    body = msgspec.json.encode(members)
    content = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    return problem.status, [*content, *headers_of(error, problem)], body


def headers_of(error: Exception, problem: ProblemType) -> list[tuple[bytes, bytes]]:
    """The headers that tell a client what to do about ``error``; they do not depend on the form of the body."""
    headers: list[tuple[bytes, bytes]] = []
    if problem.retry_after is not None:
        headers.append((b"retry-after", str(problem.retry_after).encode()))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b'Bearer realm="meanwhile", Basic realm="meanwhile"'))
    if isinstance(error, HTTPException) and error.headers:
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return headers
