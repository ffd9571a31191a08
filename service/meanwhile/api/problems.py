"""The error table: which exception is answered with which status, as RFC 9457 problem details.

Code raises what happened; only this module knows how HTTP says it. The body never repeats what the client sent, so
nothing that cannot be encoded, and no secret, can come back in it.

    400 404 405 409 411 413 415        not recorded, and never will be: fix the request
    421 422 431 501                    likewise
    401 403                            not recorded: no key, or not one for this
    408                                an upload said nothing for too long: its lines until then are recorded
    503 with Retry-After               not recorded: send again
    504                                unknown: it was sent to Redis and no answer came in time
    500                                a bug
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.exceptions import HTTPException

from meanwhile.api.auth import Forbidden, Unauthorized
from meanwhile.api.errors import (
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
from meanwhile.live.poller import TooManySubscribers
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.large_requests import PartlyRecorded, PartlyRefused
from meanwhile.storage.redis_checks import NotReady
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.rejections import KeyAhead, KeyTooOld, ShapeConflict, StreamFull, TooManyProducers
from meanwhile.storage.store import TooManyStreams

log = logging.getLogger(__name__)
_MAX_NAMED = 100  # Streams in an answer.
MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:meanwhile:problem:"


class ProblemType(NamedTuple):
    """How an exception is answered. ``detail`` stands where the exception brings none of its own."""

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
        409, "shape-conflict", "The stream has another shape", "All readings of a stream have the shape of its first."
    ),
    KeyTooOld: ProblemType(
        409,
        "key-too-old",
        "The idempotency key is too old",
        "A stream has already counted much later sequences of this producer and cannot tell whether it counted this "
        "one.",
    ),
    KeyAhead: ProblemType(
        409,
        "key-ahead",
        "The idempotency key is in the future",
        "The sequence reads as a time more than a day in the future, which would make all later ones too old. Nothing "
        "was recorded. Correct the clock of the producer, or choose sequences that do not read as times.",
    ),
    TooManyProducers: ProblemType(
        503,
        "too-many-producers",
        "The stream has too many producers",
        "A stream remembers 1,016 producers of idempotency keys; one that is idle for an hour makes room. Nothing was "
        "recorded. Send the request again.",
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
    Misdirected: ProblemType(421, "misdirected", "The service does not answer to this host"),
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
    Stopping: ProblemType(503, "stopping", "The service is shutting down", "Send the rest again.", 1),
    TooManyUploads: ProblemType(
        503, "too-many-uploads", "Too many uploads are open", "Nothing in this request was recorded. Send it again.", 1
    ),
    TooManySubscribers: ProblemType(
        503,
        "too-many-subscribers",
        "The limit of event streams is reached",
        "Ask for the states with GET, or try again later.",
        10,
    ),
    TooManyStreams: ProblemType(
        503,
        "too-many-streams",
        "The limit of streams is reached",
        "The service creates no new streams, and nothing in this request was recorded. Existing streams still accept "
        "readings.",
        60,
    ),
    NotReady: ProblemType(503, "not-ready", "Redis cannot keep the service's promises", None, 10),
    StoreUnavailable: ProblemType(
        503, "store-unavailable", "Redis is not available", "Nothing was recorded, read or deleted. Send it again.", 1
    ),
    Unreadable: ProblemType(
        503,
        "unreadable",
        "The stored state cannot be read",
        "The stream's key in Redis holds a value that this version did not write. Nothing was changed.",
        60,
    ),
    PartlyRefused: ProblemType(
        409,
        "partly-refused",
        "Some streams rejected their readings",
        "Another client had created them with another shape in the meantime. The other streams recorded their "
        "readings.",
    ),
    PartlyRecorded: ProblemType(
        504,
        "partly-recorded",
        "Redis failed while the request was being recorded",
        "Some streams recorded their readings and others did not. With an Idempotency-Key, send the request again: it "
        "completes what is missing and doubles nothing.",
    ),
    OutcomeUnknown: ProblemType(
        504,
        "outcome-unknown",
        "It is unknown whether the request was recorded",
        "The request was sent to Redis, which did not answer in time.",
    ),
}
_FROM_THE_FRAMEWORK = {404: "not-found", 405: "method-not-allowed"}
_OTHER = "http"
_BUG = ProblemType(500, "internal-error", "Internal error", "This is a bug in the service. The cause is in its log.")
REASONS = (*(problem.type for problem in TABLE.values()), *_FROM_THE_FRAMEWORK.values(), _OTHER, _BUG.type)


def reason(error: Exception) -> str:
    """The type of the problem that ``error`` is; one of ``REASONS``."""
    if isinstance(error, Interrupted):
        return reason(error.error)
    if isinstance(error, HTTPException):
        return _FROM_THE_FRAMEWORK.get(error.status_code, _OTHER)
    return TABLE.get(type(error), _BUG).type


def describe(error: Exception) -> tuple[ProblemType, dict[str, Any]]:
    """The problem that ``error`` is, and the members of the body that says so."""
    if isinstance(error, Interrupted):
        problem, why = describe(error.error)
        if problem.status >= 500 and problem is not _BUG:
            known = "Of those after it, it is not known." if problem.status == 504 else "Those after it are not."
            why["detail"] = f"The first {error.recorded} lines are recorded. {known}"
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
        members |= {"recorded": _few(error.recorded), "refused": _few(error.refused)}
    if isinstance(error, ShapeConflict):
        members["conflicts"] = [
            {"stream": conflict.stream, "expected": str(conflict.expected), "received": str(conflict.received)}
            for conflict in error.conflicts[:_MAX_NAMED]
        ]
    return problem, members


def _few(streams: Sequence[str]) -> dict[str, Any]:
    """How many streams these are, and the names of the first."""
    return {"count": len(streams), "streams": streams[:_MAX_NAMED]}


def encode(error: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the answer to ``error``."""
    problem, members = describe(error)
    body = msgspec.json.encode(members)
    content = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    return problem.status, [*content, *headers_of(error, problem)], body


def headers_of(error: Exception, problem: ProblemType) -> list[tuple[bytes, bytes]]:
    """The headers that say what to do about ``error``, whatever words its answer has."""
    headers: list[tuple[bytes, bytes]] = []
    if problem.retry_after is not None:
        headers.append((b"retry-after", str(problem.retry_after).encode()))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b'Bearer realm="meanwhile", Basic realm="meanwhile"'))
    if isinstance(error, HTTPException) and error.headers:
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return headers
