"""What goes in and comes out, for ``/openapi.json``. The hot paths neither build nor validate these."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(description="0, or a magnitude from 1e-140 to 1e140.", ge=-1e140, le=1e140)]
Numbers = Annotated[list[Number], Field(min_length=1)]
Value = Annotated[
    Number | Numbers | Annotated[dict[str, Number | Numbers], Field(min_length=1)],
    Field(
        description="A number, an array of numbers, or an object of named numbers and arrays of numbers.",
        examples=[21.5, [0.1, 0.2], {"temperature": 21.4, "humidity": 40.2}],
    ),
]
Time = Annotated[
    str | float,
    Field(description="RFC 3339 with a zone, or Unix seconds.", examples=["2026-01-01T00:00:00Z", 1767225600.5]),
]
Timestamp = Annotated[str, Field(description="RFC 3339, UTC, milliseconds.", examples=["2026-01-01T00:00:00.500Z"])]
Name = Annotated[str, Field(description="A stream name.", examples=["kitchen/temperature"])]
Count = Annotated[
    int, Field(description="The step count: how many readings the stream has received.", ge=1, examples=[2])
]
Average = Annotated[
    Value, Field(description="The correctly rounded average of all readings; it has their shape.", examples=[21.75])
]


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default")  # Left out is not null.


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OneReading(_Strict):
    """One reading; without a time it is the server's."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"value": 21.4},
                {"value": 21.4, "time": "2026-01-01T00:00:00Z"},
                {"value": {"temperature": 21.4, "humidity": 40.2}},
            ]
        }
    )

    value: Value
    time: Annotated[Time, Field(default=None, json_schema_extra=_without_default)]


class ManyReadings(_Strict):
    """Readings of one shape, at the server's time."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"values": [21.4, 22.1]}]})

    values: Annotated[list[Value], Field(min_length=1)]


class Recorded(BaseModel):
    """The state as of the commit that holds the readings."""

    stream: Name
    count: Count
    average: Average
    duplicate: Annotated[
        bool,
        Field(
            default=False,
            description="Only where it is true: the key had been counted before, and nothing was now.",
            json_schema_extra=_without_default,
        ),
    ]


class BatchRecorded(BaseModel):
    """How many readings of how many streams were recorded now."""

    readings: Annotated[int, Field(examples=[3])]
    streams: Annotated[int, Field(examples=[2])]
    duplicates: Annotated[
        int,
        Field(
            default=0,
            description="Only with a key: readings that had been counted before, and were not now.",
            json_schema_extra=_without_default,
        ),
    ]
    skipped: Annotated[
        int,
        Field(
            default=0,
            description="Only of SenML: records that have no number to average.",
            json_schema_extra=_without_default,
        ),
    ]


class SenMLRecord(BaseModel):
    """A record of RFC 8428; a pack is an array of them."""

    model_config = ConfigDict(extra="allow")

    bn: Annotated[str, Field(default="", description="Base name.")]
    n: Annotated[str, Field(default="", description="Name; the stream is bn followed by n.", examples=["kitchen/temp"])]
    bt: Annotated[float, Field(default=0.0, description="Base time.")]
    t: Annotated[float, Field(default=0.0, description="Time in seconds since 1970; below 2^28 since now.")]
    v: Annotated[float, Field(default=None, description="The reading.", json_schema_extra=_without_default)]


class InfluxProblem(BaseModel):
    """An error, as InfluxDB 2 words it, and InfluxDB 1 ("error")."""

    code: str
    message: str
    error: str


class InfluxHealth(BaseModel):
    """Whether the service can record, as InfluxDB says it."""

    name: Annotated[str, Field(examples=["meanwhile"])]
    message: Annotated[str, Field(examples=["ready for writes"])]
    status: Annotated[str, Field(examples=["pass", "fail"])]
    version: Annotated[str, Field(examples=["0.1.0"])]
    checks: Annotated[list[str], Field(examples=[[]])]


class StreamState(BaseModel):
    """Everything that is known of a stream."""

    stream: Name
    count: Count
    average: Average
    minimum: Annotated[Value, Field(examples=[21.4])]
    maximum: Annotated[Value, Field(examples=[22.1])]
    standard_deviation: Annotated[
        Value | None,
        Field(description="Of the sample (n-1), correctly rounded; null below two readings.", examples=[0.5]),
    ]
    first_reading_at: Timestamp
    last_reading_at: Timestamp


class StreamEvent(StreamState):
    """The data of an event ``state``."""

    state_bytes: Annotated[
        int, Field(description="What the stream takes in Redis, whatever its count.", ge=1, examples=[112])
    ]


class StreamAverage(BaseModel):
    """The average of a stream."""

    stream: Name
    average: Average
    count: Count
    last_reading_at: Timestamp


class StreamCount(BaseModel):
    """The step count of a stream."""

    stream: Name
    count: Count


class StreamNames(BaseModel):
    """A page of stream names, in no particular order."""

    streams: Annotated[list[Name], Field(examples=[["kitchen/temperature", "kitchen/humidity"]])]
    cursor: Annotated[
        str | None, Field(description="Leads to the next page; null at the end.", examples=["96,kitchen/lux"])
    ]


class Document(BaseModel):
    """An OpenAPI document."""

    model_config = ConfigDict(extra="allow")

    openapi: Annotated[str, Field(examples=["3.1.0"])]


class Status(BaseModel):
    """The process is up, or Redis answers."""

    status: Annotated[str, Field(examples=["live"])]


class ProblemConflict(BaseModel):
    """A stream that has another shape than the readings sent for it."""

    stream: Name
    expected: str
    received: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str | None = None
    pointer: Annotated[str | None, Field(description="JSON Pointer of the place in the body.")] = None
    conflicts: list[ProblemConflict] | None = None
    line: Annotated[int | None, Field(description="The line of an upload that is wrong, from 1.")] = None
    recorded: Annotated[int | None, Field(description="How many lines of an upload are recorded.")] = None
