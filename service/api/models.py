"""What goes in and comes out, for ``/openapi.json``. The hot paths neither build nor validate these."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

_DOMAIN = [{"const": 0}, {"minimum": 1e-140, "maximum": 1e140}, {"minimum": -1e140, "maximum": -1e-140}]
Number = Annotated[
    float, Field(description="0, or a magnitude from 1e-140 to 1e140.", json_schema_extra={"anyOf": list(_DOMAIN)})
]
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
Count = Annotated[int, Field(description="The step count: how many readings the stream has received.", ge=1)]
Average = Annotated[Value, Field(description="The correctly rounded average of all readings; it has their shape.")]


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default")  # Left out is not null.


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OneReading(_Strict):
    """One reading; without a time it is the server's."""

    value: Value
    time: Annotated[Time, Field(default=None, json_schema_extra=_without_default)]


class ManyReadings(_Strict):
    """Readings of one shape, at the server's time."""

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

    readings: int
    streams: int
    duplicates: Annotated[
        int,
        Field(
            default=0,
            description="Only with a key: readings that had been counted before, and were not now.",
            json_schema_extra=_without_default,
        ),
    ]


class StreamState(BaseModel):
    """Everything that is known of a stream."""

    stream: Name
    count: Count
    average: Average
    minimum: Value
    maximum: Value
    standard_deviation: Annotated[
        Value | None, Field(description="Of the sample (n-1), correctly rounded; null below two readings.")
    ]
    first_reading_at: Timestamp
    last_reading_at: Timestamp


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

    streams: list[Name]
    cursor: Annotated[str | None, Field(description="Leads to the next page; null at the end.")]


class Document(BaseModel):
    """An OpenAPI document."""

    model_config = ConfigDict(extra="allow")

    openapi: str


class Status(BaseModel):
    """The process is up, or Redis answers."""

    status: str


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
