"""Recording readings: one stream or many."""

from collections.abc import Callable

from starlette.types import Receive, Scope

from service.api import models
from service.api.body import read_json
from service.api.endpoint import Endpoint, Reply, json_reply
from service.committer import Committer, Overloaded, ShapeConflict
from service.formats import json
from service.problems import BadEncoding, BodyTooLarge, UnsupportedMediaType
from service.store import OutcomeUnknown, StoreUnavailable
from service.stream import Invalid, Limits, TooMany, check_name

_REFUSALS = (
    json.Malformed,
    BadEncoding,
    ShapeConflict,
    BodyTooLarge,
    TooMany,
    UnsupportedMediaType,
    Invalid,
    Overloaded,
    StoreUnavailable,
    OutcomeUnknown,
)


def endpoints(committer: Committer, clock: Callable[[], int], limits: Limits, max_body: int) -> list[Endpoint]:
    """The routes that record. ``clock`` gives milliseconds since 1970, ``max_body`` is in bytes."""

    async def record_readings(scope: Scope, receive: Receive) -> Reply:
        """Records readings of one stream, all or none, and answers with the state as of the commit that holds them."""
        name = check_name(scope["path_params"]["stream"])
        body = await read_json(scope, receive, max_body)
        states = await committer.record({name: json.decode(body, clock(), limits)})
        shape, summary = states[name]
        return json_reply({"stream": name, "count": summary.count, "average": shape.value(summary.averages())})

    async def record_batch(scope: Scope, receive: Receive) -> Reply:
        """Records readings of many streams, all or none."""
        body = await read_json(scope, receive, max_body)
        batch = json.decode_batch(body, clock(), limits)
        count = sum(readings.size for readings in batch.values())
        await committer.record(batch)
        return json_reply({"readings": count, "streams": len(batch)})

    one = [model.model_json_schema() for model in (models.OneReading, models.ManyReadings)]
    many = {"type": "object", "additionalProperties": {"oneOf": one}, "minProperties": 1}
    return [
        Endpoint(
            "POST",
            "/v1/streams/{stream:path}/readings",
            record_readings,
            reply=models.Recorded,
            body=one,
            refusals=_REFUSALS,
        ),
        Endpoint("POST", "/v1/readings", record_batch, reply=models.BatchRecorded, body=[many], refusals=_REFUSALS),
    ]
