"""Models of requests and replies for ``/openapi.json``. Requests do not use them: building them takes too long."""

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
    Field(description="RFC 3339 with a time zone, or Unix seconds.", examples=["2026-01-01T00:00:00Z", 1767225600.5]),
]
Timestamp = Annotated[
    str, Field(description="RFC 3339 in UTC, with milliseconds.", examples=["2026-01-01T00:00:00.500Z"])
]
Name = Annotated[str, Field(description="The name of the stream.", examples=["kitchen/temperature"])]
Count = Annotated[
    int, Field(description="The step count: the number of readings that the stream has received.", ge=1, examples=[2])
]
Average = Annotated[
    Value,
    Field(description="The correctly rounded average of all readings, in the shape of a reading.", examples=[21.75]),
]


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default")  # The member is left out, never null.


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OneReading(_Strict):
    """One reading. Without a time, the service uses the time of arrival."""

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
    """Readings of one shape, with the time of arrival."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"values": [21.4, 22.1]}]})

    values: Annotated[list[Value], Field(min_length=1)]


class Recorded(BaseModel):
    """The state of the stream after the commit that contains the readings."""

    stream: Name
    count: Count
    average: Average
    duplicate: Annotated[
        bool,
        Field(
            default=False,
            description="Present only if true: a request with this key was counted earlier, so this one was not.",
            json_schema_extra=_without_default,
        ),
    ]


class BatchRecorded(BaseModel):
    """The number of readings that were recorded, and of the streams that they belong to."""

    readings: Annotated[int, Field(examples=[3])]
    streams: Annotated[int, Field(examples=[2])]
    duplicates: Annotated[
        int,
        Field(
            default=0,
            description="Present only with a key: readings that were counted earlier, so not by this request.",
            json_schema_extra=_without_default,
        ),
    ]
    skipped: Annotated[
        int,
        Field(
            default=0,
            description="Present only for SenML: records without a number to average.",
            json_schema_extra=_without_default,
        ),
    ]


class SenMLRecord(BaseModel):
    """A SenML record (RFC 8428); a pack is an array of records."""

    model_config = ConfigDict(extra="allow")

    bn: Annotated[str, Field(default="", description="Base name.")]
    n: Annotated[str, Field(default="", description="Name. The stream is bn followed by n.", examples=["kitchen/temp"])]
    bt: Annotated[float, Field(default=0.0, description="Base time.")]
    t: Annotated[float, Field(default=0.0, description="Time in seconds since 1970, or relative to now if below 2^28.")]
    v: Annotated[float, Field(default=None, description="Value of the reading.", json_schema_extra=_without_default)]


class InfluxProblem(BaseModel):
    """An error in the form of InfluxDB 2 ("code", "message") and InfluxDB 1 ("error")."""

    code: str
    message: str
    error: str


class InfluxHealth(BaseModel):
    """Whether the service can record, in the form of InfluxDB."""

    name: Annotated[str, Field(examples=["meanwhile"])]
    message: Annotated[str, Field(examples=["ready for writes"])]
    status: Annotated[str, Field(examples=["pass", "fail"])]
    version: Annotated[str, Field(examples=["0.1.0"])]
    checks: Annotated[list[str], Field(examples=[[]])]


class StreamState(BaseModel):
    """Everything that the service knows about a stream."""

    stream: Name
    count: Count
    average: Average
    latest: Annotated[
        Value | None,
        Field(
            description="The value of the latest reading, whose time is last_reading_at. Of readings with equal times, "
            "it is the one that was committed last. Null if it is not known: an earlier version, which did not keep "
            "it, stored this state.",
            examples=[22.1],
        ),
    ]
    minimum: Annotated[Value, Field(examples=[21.4])]
    maximum: Annotated[Value, Field(examples=[22.1])]
    standard_deviation: Annotated[
        Value | None,
        Field(
            description="The sample standard deviation (n-1), correctly rounded; null for fewer than two readings.",
            examples=[0.5],
        ),
    ]
    first_reading_at: Timestamp
    last_reading_at: Timestamp


class StreamEvent(StreamState):
    """The data of a ``state`` event."""

    state_bytes: Annotated[
        int,
        Field(description="Size of the stream's state in Redis in bytes, bounded for any count.", ge=1, examples=[112]),
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
        str | None, Field(description="Cursor of the next page; null on the last page.", examples=["96,kitchen/lux"])
    ]


class Document(BaseModel):
    """An OpenAPI document."""

    model_config = ConfigDict(extra="allow")

    openapi: Annotated[str, Field(examples=["3.1.0"])]


class Status(BaseModel):
    """Whether the process runs, or whether Redis can be used."""

    status: Annotated[str, Field(examples=["live"])]


class ProblemConflict(BaseModel):
    """A stream whose shape differs from that of the readings sent for it."""

    stream: Name
    expected: str
    received: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str | None = None
    pointer: Annotated[str | None, Field(description="JSON Pointer to the place in the body.")] = None
    conflicts: list[ProblemConflict] | None = None
    line: Annotated[int | None, Field(description="Number of the first invalid line of an upload, counted from 1.")] = (
        None
    )
    recorded: Annotated[int | None, Field(description="Number of lines of an upload that are recorded.")] = None
