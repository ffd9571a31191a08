"""Recording readings: one stream or many."""

from collections.abc import Callable

from starlette.types import Receive, Scope

from service import idempotency
from service.access import check_prefix_of
from service.api import models
from service.api.body import read_json
from service.api.endpoint import Endpoint, Reply, json_reply
from service.committer import Committer, KeyTooOld, Overloaded, ShapeConflict, TooManyProducers
from service.formats import json
from service.idempotency import Key
from service.problems import BadEncoding, BadKey, BodyTooLarge, UnsupportedMediaType
from service.store import Crowded, OutcomeUnknown, StoreUnavailable
from service.stream import FORM, LONGEST_NAME, Invalid, Limits, TooMany, check_name

_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "<producer>:<sequence>. Each stream counts a key once; the sequence grows with every new request.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._~:/@+-]{1,64}:(0|[1-9][0-9]{0,14}|[1-8][0-9]{15})$"},
    "example": "gateway-7:1042",
}
_REFUSALS = (
    json.Malformed,
    BadEncoding,
    BadKey,
    KeyTooOld,
    TooManyProducers,
    ShapeConflict,
    BodyTooLarge,
    TooMany,
    UnsupportedMediaType,
    Invalid,
    Overloaded,
    Crowded,
    StoreUnavailable,
    OutcomeUnknown,
)


def endpoints(
    committer: Committer, clock: Callable[[], int], limits: Limits, *, max_body: int, require_key: bool
) -> list[Endpoint]:
    """The routes that record. ``clock`` gives milliseconds since 1970, ``max_body`` is in bytes.

    With ``require_key`` every request needs an idempotency key.
    """

    def key_of(scope: Scope, now: int) -> Key | None:
        values = [value for name, value in scope["headers"] if name == b"idempotency-key"]
        if not values and not require_key:
            return None
        key = idempotency.parse(values[0].decode("latin-1"), now) if len(values) == 1 else None
        if key is None:
            raise BadKey(idempotency.FORM)
        return key

    async def record_readings(scope: Scope, receive: Receive) -> Reply:
        """Records readings of one stream, all or none, and answers with the state as of the commit that holds them."""
        name = check_name(scope["path_params"]["stream"])
        body = await read_json(scope, receive, max_body)
        now = clock()
        key = key_of(scope, now)
        states, duplicates = await committer.record({name: json.decode(body, now, limits)}, key)
        shape, summary = states[name]
        reply = {"stream": name, "count": summary.count, "average": shape.value(summary.averages())}
        return json_reply(reply | {"duplicate": True} if duplicates else reply)

    async def record_batch(scope: Scope, receive: Receive) -> Reply:
        """Records readings of many streams, all or none."""
        body = await read_json(scope, receive, max_body)
        now = clock()
        key = key_of(scope, now)
        batch = json.decode_batch(body, now, limits)
        if scope["reach"]:
            for name in batch:
                check_prefix_of(name, scope["reach"])
        sizes = {name: readings.size for name, readings in batch.items()}
        _, duplicates = await committer.record(batch, key)
        repeated = sum(sizes[name] for name in duplicates)
        reply = {"readings": sum(sizes.values()) - repeated, "streams": len(batch) - len(duplicates)}
        return json_reply(reply if key is None else reply | {"duplicates": repeated})

    one = [model.model_json_schema() for model in (models.OneReading, models.ManyReadings)]
    names = {"minLength": 1, "maxLength": LONGEST_NAME, "pattern": FORM}
    many = {"type": "object", "additionalProperties": {"oneOf": one}, "propertyNames": names, "minProperties": 1}
    return [
        Endpoint(
            "POST",
            "/v1/streams/{stream:path}/readings",
            record_readings,
            scope="write",
            parameters=[_KEY],
            reply=models.Recorded,
            body=one,
            refusals=_REFUSALS,
        ),
        Endpoint(
            "POST",
            "/v1/readings",
            record_batch,
            scope="write",
            parameters=[_KEY],
            reply=models.BatchRecorded,
            body=[many],
            refusals=_REFUSALS,
        ),
    ]
