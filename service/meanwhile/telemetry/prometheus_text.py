"""Metrics for Prometheus: the counters of the service, and the averages of its streams.

``counters.py`` counts; this module names and encodes the numbers. Prometheus scrapes every few seconds, so the cost
matters less here. The metrics are built for one reply and discarded: there is no global registry, and nothing is
registered at import.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from meanwhile.core.shapes import Shape
from meanwhile.core.summary import Summary
from meanwhile.telemetry.counters import Counters, Histogram

StreamSample = tuple[str, Shape, Summary]
_ROUTE = ("method", "route", "status")


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def encode(families: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """The families as text, with its media type: OpenMetrics if ``accept`` asks for it, otherwise Prometheus text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(list(families)))
    encoder, media_type = choose_encoder(accept)
    return encoder(registry), media_type


def of_service(counters: Counters, problems: Mapping[str, bool], version: str) -> Iterator[Metric]:
    """The counters of the service, summed over its workers, and the problems of its Redis."""
    totals = counters.totals()
    build = GaugeMetricFamily(
        "meanwhile_build_info", "Version of the running service; the value is always 1.", labels=["version"]
    )
    build.add_metric([version], 1)
    yield build
    yield from _requests(counters, totals)
    refusals = CounterMetricFamily(
        "meanwhile_refusals", "Requests that were answered with a problem, by problem type.", labels=["reason"]
    )
    for reason, cell in counters.refusals.items():
        refusals.add_metric([reason], totals[cell])
    yield refusals
    redis = CounterMetricFamily(
        "meanwhile_redis_errors",
        "Commands that Redis did not run (unavailable) or may have run (unknown).",
        labels=["outcome"],
    )
    for outcome, cell in counters.redis_errors.items():
        redis.add_metric([outcome], totals[cell])
    yield redis
    found = GaugeMetricFamily(
        "meanwhile_redis_problem",
        "1 while Redis has this problem, otherwise 0; the log says what to do.",
        labels=["problem"],
    )
    for problem, is_there in problems.items():
        found.add_metric([problem], is_there)
    yield found
    yield CounterMetricFamily("meanwhile_readings_recorded", "Readings that were recorded.", totals[counters.recorded])
    yield CounterMetricFamily(
        "meanwhile_readings_duplicate",
        "Readings that were not recorded because their idempotency key had been counted before.",
        totals[counters.duplicates],
    )
    yield GaugeMetricFamily(
        "meanwhile_readings_waiting", "Readings that wait for the next commit.", totals[counters.waiting]
    )
    size = HistogramMetricFamily("meanwhile_commit_readings", "Readings in a commit.")
    size.add_metric([], *_buckets(counters.commit_readings, totals))
    yield size
    duration = HistogramMetricFamily("meanwhile_commit_duration_seconds", "Time from sending a commit to its reply.")
    duration.add_metric([], *_buckets(counters.commit_seconds, totals))
    yield duration


def _requests(counters: Counters, totals: "array[float]") -> Iterator[Metric]:
    requests = CounterMetricFamily("meanwhile_requests", "Requests that were answered.", labels=_ROUTE)
    latency = HistogramMetricFamily(
        "meanwhile_request_duration_seconds", "Time from the head of a request to its response.", labels=_ROUTE
    )
    for route in counters.routes:
        for status, row in route.rows():
            buckets, total = _buckets(row, totals)
            count = buckets[-1][1]
            if count:
                labels = [route.method, route.path, status]
                requests.add_metric(labels, count)
                latency.add_metric(labels, buckets, total)
    for code, cell in counters.unrouted.items():
        if totals[cell]:
            requests.add_metric(["other", "other", str(code)], totals[cell])
    yield requests
    yield latency


def _buckets(histogram: Histogram, totals: "array[float]") -> tuple[Sequence[tuple[str, float]], float]:
    """The cumulative counts of the buckets, and the sum."""
    total, counts = histogram.read(totals)
    buckets, below = [], 0.0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), counts, strict=True):
        below += count
        buckets.append((bound, below))
    return buckets, total


def of_streams(streams: Iterable[StreamSample], *, is_cut: bool) -> Iterator[Metric]:
    """Averages, latest values, counts and times of streams; ``is_cut`` says that there are more streams than these.

    A vector or an object has one average and one latest number for each component. The label ``component`` is the place
    of the number in the value, such as "0", "temperature" or "key/3".
    """
    average = GaugeMetricFamily("meanwhile_average", "Average of all readings of the stream.")
    latest = GaugeMetricFamily("meanwhile_latest", "Value of the latest reading of the stream, if it is known.")
    readings = CounterMetricFamily("meanwhile_readings", "Readings that the stream has received.", labels=["stream"])
    last = GaugeMetricFamily(
        "meanwhile_last_reading_timestamp_seconds", "Time of the latest reading of the stream.", labels=["stream"]
    )
    for name, shape, summary in streams:
        places = [shape.pointer(component).removeprefix("/") for component in range(shape.components)]
        labels = [{"stream": name} | ({"component": place} if place else {}) for place in places]
        for family, values in ((average, summary.averages()), (latest, summary.latest)):
            for one, value in zip(labels, values, strict=False):  # The latest reading may be unknown.
                family.add_sample(family.name, one, value)
        readings.add_metric([name], summary.count)
        last.add_metric([name], summary.last / 1000)
    yield average
    yield latest
    yield readings
    yield last
    yield GaugeMetricFamily(
        "meanwhile_streams_truncated",
        "1 if the limit left streams out, otherwise 0; use prefix or a higher limit.",
        is_cut,
    )
