"""What is compared with what, and what the comparison should show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Found = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Bar:
    """A figure, alone or as a ratio to another one of the same rounds; and what it should at least, or at most, be.

    ``bar`` has to be met and ``aim`` is hoped for; without either the figure is only reported.
    """

    title: str
    figure: str
    reference: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None

    def values(self, found: Found) -> list[float]:
        """By round."""
        ours = _series(found, self.figure)
        if self.reference is None:
            return list(ours)
        return [mine / theirs for mine, theirs in zip(ours, _series(found, self.reference), strict=True)]

    def is_met(self, value: float) -> bool | None:
        """Whether ``value`` is on the right side; None where nothing was asked."""
        if self.at_least is not None:
            return value >= self.at_least
        return None if self.at_most is None else value <= self.at_most


def _series(found: Found, figure: str) -> Sequence[float]:
    measurement, _, name = figure.partition(".")
    return found[measurement][name]


BARS = [
    Bar(
        "POST of one reading (fsync) / conventional app (no disk)",
        "post.requests_per_second",
        "conventional_post.requests_per_second",
        at_least=7,
        aim=9,
    ),
    Bar(
        "POST of one reading / bare uvicorn",
        "post.requests_per_second",
        "bare_post.requests_per_second",
        at_least=0.6,
        aim=0.75,
    ),
    Bar(
        "GET of an average / bare uvicorn",
        "get.requests_per_second",
        "bare_get.requests_per_second",
        at_least=0.7,
        aim=0.85,
    ),
    Bar(
        "1,000 readings of 200 streams: readings for a second of the worker's CPU",
        "batch_many.readings_per_service_second",
        at_least=1_000_000,
        aim=2_000_000,
    ),
    Bar(
        "10,000 readings of one stream: readings for a second of the worker's CPU",
        "batch_one.readings_per_service_second",
        at_least=4_000_000,
        aim=8_000_000,
    ),
    Bar(
        "read latency at 1,000,000 readings / at 1,000", "read_1000000.p50_ms", "read_1000.p50_ms", at_most=1.1, aim=1.0
    ),
    Bar("kept history: read latency at 1,000,000 readings / ours", "history_read.p50_ms", "read_1000000.p50_ms"),
    Bar(
        "bytes of a scalar stream at 1,000,000 readings, key and all",
        "sizes.scalar_1000000_bytes",
        at_most=144,
        aim=112,
    ),
    Bar("bytes that its stored value grew since reading 100", "sizes.scalar_growth_bytes", at_most=32),
    Bar("p99 of POST at half load, ms", "post_half.p99_ms", at_most=10, aim=5),
    Bar(
        "POST with fsync always / every second",
        "post.requests_per_second",
        "post_everysec.requests_per_second",
        at_least=0.75,
        aim=0.9,
    ),
    Bar("POST with fsync always / no disk", "post.requests_per_second", "post_no_disk.requests_per_second"),
    Bar("POST with two workers / one", "post_two_workers.requests_per_second", "post.requests_per_second"),
    Bar(
        "POST of a pair of 64+64 numbers / of one number",
        "post_pair.requests_per_second",
        "post.requests_per_second",
        at_least=0.3,
        aim=0.5,
    ),
    Bar(
        "POST of one reading / Valkey and the script alone",
        "post.requests_per_second",
        "script_one.requests_per_second",
    ),
    *(
        Bar(f"{title} for a second of the worker's CPU", f"formats.{name}_recording", at_least=bar)
        for name, title, bar in (
            ("line_protocol", "line protocol: lines", 300_000),
            ("senml_json", "SenML JSON: records", 200_000),
            ("senml_cbor", "SenML CBOR: records", None),
            ("ndjson", "NDJSON: lines", 300_000),
        )
    ),
]
