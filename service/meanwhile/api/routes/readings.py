"""The routes that record readings of one stream or of many."""

import asyncio
from collections.abc import Callable
from typing import Any

from meanwhile.api import one_stream_formats
from meanwhile.api.auth import check_allowed_prefix
from meanwhile.api.large_bodies import LargeBodySlots
from meanwhile.api.one_stream_formats import Decode
from meanwhile.api.openapi import document, models
from meanwhile.api.operation import Halves, NeedsTask, Operation
from meanwhile.api.refusals import (
    BadEncoding,
    BadKey,
    BodyTooLarge,
    Idle,
    LengthRequired,
    Stopping,
    TooManyUploads,
    UnsupportedMediaType,
)
from meanwhile.api.request import Request
from meanwhile.api.request_body import JSON, Bodies, media_type
from meanwhile.api.response import Reply, json_reply
from meanwhile.api.upload import Uploads
from meanwhile.core import idempotency_keys
from meanwhile.core.errors import Invalid, TooMany
from meanwhile.core.idempotency_keys import Key
from meanwhile.core.readings import Limits, Readings
from meanwhile.core.stream_names import FORM, MAX_NAME_LENGTH, check_name
from meanwhile.formats import json_readings, senml
from meanwhile.formats.json_pieces import SMALL
from meanwhile.formats.strict_json import Malformed
from meanwhile.storage.batcher import Overloaded
from meanwhile.storage.commit_batch import CommitOutcome
from meanwhile.storage.committer import Committer
from meanwhile.storage.large_requests import PartlyRecorded, PartlyRefused
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable
from meanwhile.storage.rejections import KeyAhead, KeyTooOld, ShapeConflict, StreamFull, TooManyProducers
from meanwhile.storage.store import TooManyStreams

_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "<producer>:<sequence>. Each stream counts a key once; the sequence grows with every new request.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._~:/@+-]{1,64}:(0|[1-9][0-9]{0,14}|[1-8][0-9]{15})$"},
    "example": "gateway-7:1042",
}
_REFUSALS = (
    Malformed,
    BadEncoding,
    BadKey,
    KeyTooOld,
    KeyAhead,
    TooManyProducers,
    StreamFull,
    ShapeConflict,
    LengthRequired,
    BodyTooLarge,
    TooMany,
    UnsupportedMediaType,
    Invalid,
    Overloaded,
    TooManyStreams,
    StoreUnavailable,
    OutcomeUnknown,
    PartlyRecorded,
    PartlyRefused,
)


_NOTHING = CommitOutcome({}, frozenset())


def _decode_batch(body: bytes, now: int, limits: Limits) -> tuple[dict[str, Readings], None]:
    return json_readings.decode_batch(body, now, limits), None


# By media type of /v1/readings. A decoder returns the readings, and the number of skipped records of a SenML pack.
_DECODERS: dict[str, Callable[[bytes, int, Limits], tuple[dict[str, Readings], int | None]]] = {
    "application/json": _decode_batch,
    "application/senml+json": senml.decode_json,
    "application/sensml+json": senml.decode_json,
    "application/senml+cbor": senml.decode_cbor,
}
_NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
_MEDIA_TYPES = (*_DECODERS, *_NDJSON)


_ONE: list[dict[str, Any]] = [document.reference(model) for model in (models.OneReading, models.ManyReadings)]
_MANY: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"oneOf": _ONE},
    "propertyNames": {"minLength": 1, "maxLength": MAX_NAME_LENGTH, "pattern": FORM},
    "minProperties": 1,
    "examples": [{"hall/temperature": {"value": 19.5}, "hall/lux": {"values": [120, 130]}}],
}
_PACK: dict[str, Any] = {
    "type": "array",
    "items": document.reference(models.SenMLRecord),
    "examples": [[{"bn": "hall/", "n": "temperature", "v": 19.5}, {"n": "lux", "v": 120}]],
}
_BYTES: dict[str, Any] = {"type": "string", "format": "binary"}
_LINES: dict[str, Any] = {
    "type": "string",
    "description": 'Lines of {"stream": s, "value": v, "time"?: t}; as many as you like, committed as they come.',
    "examples": ['{"stream": "hall/temperature", "value": 19.5}\n'],
}


def operations(
    committer: Committer,
    clock: Callable[[], int],
    limits: Limits,
    uploads: Uploads,
    bodies: Bodies,
    slots: LargeBodySlots,
    *,
    require_key: bool,
) -> list[Operation]:
    """Returns the routes that record. ``clock`` returns milliseconds since 1970.

    With ``require_key``, every request needs an idempotency key.
    """

    async def record_batch(request: Request) -> Reply:
        """Records readings of many streams, all or none. Of NDJSON, records the lines before the first invalid one."""
        kind = media_type(request.headers, _MEDIA_TYPES)
        if kind in _NDJSON:
            return json_reply(await uploads.record(request, _key_of(request, require_key)))
        body = await bodies.read(request)
        now = clock()
        key = _key_of(request, require_key)
        async with slots.decoded(_DECODERS[kind], body, now, limits) as (batch, skipped):
            return json_reply(await record(request.grant.prefix, batch, skipped, key))

    async def upload_readings(request: Request) -> Reply:
        """Records NDJSON, like POST. curl -T sends this request, without Content-Type, which means NDJSON here."""
        if request.headers.get(b"content-type") and media_type(request.headers, _MEDIA_TYPES) not in _NDJSON:
            raise UnsupportedMediaType(f"Expected Content-Type: {', '.join(_NDJSON)}. POST accepts other types, too.")
        return json_reply(await uploads.record(request, _key_of(request, require_key)))

    async def record(prefix: str, batch: dict[str, Readings], skipped: int | None, key: Key | None) -> dict[str, int]:
        for name in batch if prefix else ():
            check_allowed_prefix(name, prefix)
        streams, size = len(batch), sum([one.size for one in batch.values()])  # Before the committer takes ownership.
        _, duplicates, repeated = await committer.record(batch, key) if batch else _NOTHING
        reply = {"readings": size - repeated, "streams": streams - len(duplicates)}
        if key is not None:
            reply["duplicates"] = repeated
        if skipped is not None:
            reply["skipped"] = skipped
        return reply

    return [
        _record_readings(committer, clock, limits, bodies, slots, require_key=require_key),
        Operation(
            method="POST",
            path="/v1/readings",
            handler=record_batch,
            scope="write",
            parameters=[_KEY],
            reply=models.BatchRecorded,
            body={**dict.fromkeys(_DECODERS, _PACK), "application/json": _MANY, "application/senml+cbor": _BYTES}
            | dict.fromkeys(_NDJSON, _LINES),
            refusals=(*_REFUSALS, Idle, Stopping, TooManyUploads),
        ),
        Operation(
            method="PUT",
            path="/v1/readings",
            handler=upload_readings,
            scope="write",
            parameters=[_KEY],
            reply=models.BatchRecorded,
            body=dict.fromkeys(_NDJSON, _LINES),
            refusals=(*_REFUSALS, Idle, Stopping, TooManyUploads),
        ),
    ]


def _record_readings(
    committer: Committer,
    clock: Callable[[], int],
    limits: Limits,
    bodies: Bodies,
    slots: LargeBodySlots,
    *,
    require_key: bool,
) -> Operation:
    async def record_readings(request: Request) -> Reply:
        """Records readings of one stream, all or none. Returns the average and the count after the commit."""
        decode = check(request)
        body = await bodies.read(request)
        name = request.stream
        if one_stream_formats.is_small(decode, len(body)):
            return finish(request, await record(name, request, body, decode))
        now = clock()
        key = _key_of(request, require_key)
        async with slots.decoded_in_thread(decode, body, now, limits) as readings:
            return finish(request, await committer.record({name: readings}, key))

    def check(request: Request) -> Decode:
        check_name(request.stream)
        kind = media_type(request.headers, one_stream_formats.MEDIA_TYPES)
        bodies.check_head(request.headers)
        return json_readings.decode if kind == JSON else one_stream_formats.binary_decoder(kind, request)

    def check_whole(request: Request) -> Decode:
        decode = check(request)
        length = request.headers.get(b"content-length")
        if not one_stream_formats.is_small(decode, SMALL if length is None else int(length)):
            raise NeedsTask
        return decode

    def begin(request: Request, body: bytes, decode: Decode) -> asyncio.Future[CommitOutcome]:
        bodies.check_size(body)
        return record(request.stream, request, body, decode)

    def record(name: str, request: Request, body: bytes, decode: Decode) -> asyncio.Future[CommitOutcome]:
        now = clock()
        key = _key_of(request, require_key)
        return committer.record({name: decode(body, now, limits)}, key)

    def finish(request: Request, outcome: CommitOutcome) -> Reply:
        shape, summary = outcome.states[request.stream]
        reply = {"stream": request.stream, "count": summary.count, "average": shape.value(summary.averages())}
        return json_reply(reply | {"duplicate": True} if outcome.duplicates else reply)

    return Operation(
        method="POST",
        path="/v1/streams/{stream:path}/readings",
        handler=record_readings,
        halves=Halves(check_whole, begin, finish),
        scope="write",
        parameters=[_KEY, *one_stream_formats.PARAMETERS],
        reply=models.Recorded,
        body={JSON: {"oneOf": _ONE}} | dict.fromkeys(one_stream_formats.BINARY, _BYTES),
        refusals=_REFUSALS,
    )


def _key_of(request: Request, is_required: bool) -> Key | None:
    if request.headers.get(b"idempotency-key") is None and not is_required:
        return None
    values = request.headers.all(b"idempotency-key")
    key = idempotency_keys.parse(values[0].decode("latin-1"), request.grant.owner) if len(values) == 1 else None
    if key is None:
        raise BadKey(idempotency_keys.FORM)
    return key
