"""What is measured, in interleaved rounds; and whether what was acknowledged was recorded."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from benchmarks import script, targets, workloads
from benchmarks.load import LoadError, Wrk
from benchmarks.targets import Target

_WARM_UP = 1  # Seconds of every measurement, before the first round: connections open, caches fill.
_MILLION = 1_000_000
_LARGEST_BATCH = 100_000

Figures = dict[str, float]


class Measurement(Protocol):
    """Something that is measured in every round."""

    name: str
    title: str

    def measure(self, seconds: int) -> Figures:
        """What one round found."""


@dataclass
class Load:
    """One target under one workload. ``readings`` is how many each request records; ``load`` is a part of the rate
    that ``paced_by`` reaches, and without that everything that the target can take."""

    name: str
    title: str
    wrk: Wrk
    target: Target
    requests: Sequence[bytes]
    readings: int = 0
    connections: int = 64
    load: float = 0.5
    paced_by: "Load | None" = None
    ledger: "Ledger | None" = None
    rates: list[float] = field(default_factory=list)

    def measure(self, seconds: int) -> Figures:
        """Rates and latencies as the clients saw them, and the processor time that they cost."""
        pause = 0.0
        if self.paced_by is not None:
            pause = 1e3 * self.connections / (self.load * median(self.paced_by.rates))
        before = self.target.cpu()
        sample = self.wrk.run(self.target.url, self.requests, seconds, connections=self.connections, pause=pause)
        after = self.target.cpu()
        if self.ledger is not None:
            self.ledger.acknowledge(sample.requests * self.readings, self.connections * self.readings)
        self.rates.append(sample.rate)
        figures = {"requests_per_second": sample.rate, "p50_ms": sample.p50, "p99_ms": sample.p99}
        if self.readings:
            readings, service = sample.requests * self.readings, after.service - before.service
            figures["readings_per_second"] = readings / sample.seconds
            figures["readings_per_service_second"] = readings / service
            figures["service_seconds_per_million"] = service / readings * _MILLION
            figures["valkey_seconds_per_million"] = (after.valkey - before.valkey) / readings * _MILLION
        return figures


@dataclass
class Ledger:
    """What a target acknowledged for some streams, to hold against what it recorded."""

    target: Target
    streams: Sequence[str]
    acknowledged: int = 0
    under_way: int = 0

    def acknowledge(self, readings: int, under_way: int) -> None:
        """At the end of every run each client may have had a request on its way, which may have been recorded."""
        self.acknowledged += readings
        self.under_way += under_way

    def check(self) -> None:
        """Raises ``LoadError`` if readings were lost or made up."""
        recorded = self.target.count(self.streams)
        if not self.acknowledged <= recorded <= self.acknowledged + self.under_way:
            raise LoadError(
                f"{self.target.name} acknowledged {self.acknowledged} readings and recorded {recorded}; "
                f"at most {self.acknowledged + self.under_way} were sent"
            )


def measurements(stack: ExitStack, wrk: Wrk, connections: int) -> list[Measurement]:
    """What a round measures, in this order. Starts whoever is asked; ``stack`` stops them."""
    ours = stack.enter_context(targets.meanwhile())
    everysec = stack.enter_context(targets.meanwhile("everysec", MEANWHILE_DURABILITY="everysec"))
    no_disk = stack.enter_context(targets.meanwhile_without_disk())
    two = stack.enter_context(targets.meanwhile("two workers", "--workers", "2"))
    conventional = stack.enter_context(targets.conventional())
    history = stack.enter_context(targets.history())
    bare = stack.enter_context(targets.bare())
    _fill(ours, "long/1000", 1_000)
    _fill(ours, "long/1000000", _MILLION)
    _fill(history, "long-1000000", _MILLION)

    ledgers: dict[tuple[str, str], Ledger] = {}

    def load(name: str, title: str, target: Target, requests: Sequence[bytes], streams: Sequence[str] = ()) -> Load:
        one = Load(name, title, wrk, target, requests, connections=connections)
        if streams:
            one.readings = 1
            one.ledger = ledgers.setdefault((target.name, streams[0]), Ledger(target, streams))
        return one

    posts, gets, streams = workloads.single_posts(), workloads.average_gets(), workloads.STREAMS
    post = load("post", "POST of one reading", ours, posts, streams)
    half = load("post_half", "POST of one reading, at half of that load", ours, posts, streams)
    half.paced_by = post
    many = load(
        "batch_many", "POST of 1,000 readings of 200 streams", ours, workloads.batches_of_many_streams(), streams
    )
    many.readings = 1_000
    one = load(
        "batch_one",
        "POST of 10,000 readings of one stream",
        ours,
        workloads.batches_of_one_stream(),
        [workloads.ONE_STREAM],
    )
    one.readings, one.connections = 10_000, 8
    reads = [
        load(
            f"read_{count}",
            f"GET of an average of {count:,} readings, one client",
            target,
            workloads.average_gets([stream]),
        )
        for count, target, stream in ((1_000, ours, "long/1000"), (_MILLION, ours, "long/1000000"))
    ]
    whole = load(
        "history_read",
        "kept history: GET of an average of 1,000,000 readings, one client",
        history,
        workloads.average_gets(["long-1000000"]),
    )
    for read in (*reads, whole):
        read.connections = 1
    return [
        post,
        load("bare_post", "bare uvicorn: POST", bare, posts),
        load("conventional_post", "conventional app: POST of one reading, no disk", conventional, posts, streams),
        half,
        load("post_everysec", "POST of one reading, fsync every second", everysec, posts, streams),
        load("post_no_disk", "POST of one reading, no disk", no_disk, posts, streams),
        load("post_two_workers", "POST of one reading, two workers", two, posts, streams),
        load("post_pair", "POST of one pair of 64+64 numbers", ours, workloads.pair_posts(), workloads.PAIRS),
        many,
        one,
        load("get", "GET of an average", ours, gets),
        load("bare_get", "bare uvicorn: GET", bare, gets),
        *reads,
        whole,
        *stack.enter_context(script.scripts()),
    ]


def run(
    plan: Sequence[Measurement], rounds: int, seconds: int, found: dict[str, dict[str, list[float]]]
) -> Iterator[str]:
    """Measures everything ``rounds`` times, into ``found``, by measurement and figure; yields what comes next.

    Raises ``LoadError`` if a request is refused or fails, or if readings were lost or made up.
    """
    for number in range(rounds + 1):
        for one in plan:
            yield one.title
            figures = one.measure(seconds if number else _WARM_UP)
            for name, value in figures.items() if number else ():
                found.setdefault(one.name, defaultdict(list))[name].append(value)
    ledgers = {id(one.ledger): one.ledger for one in plan if isinstance(one, Load) and one.ledger is not None}
    for ledger in ledgers.values():
        ledger.check()


def _fill(target: Target, stream: str, readings: int) -> None:
    for start in range(0, readings, _LARGEST_BATCH):
        target.send(stream, workloads.sensor_batch(min(_LARGEST_BATCH, readings - start)))
