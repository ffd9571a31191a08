"""Which target is asked what, in interleaved rounds; and whether what was acknowledged was recorded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks import workloads
from benchmarks.load import LoadError, Sample, Wrk
from benchmarks.targets import Target

_WARM_UP = 1  # Seconds of every measurement, before the first round: connections open, caches fill.


@dataclass
class Measurement:
    """One target under one workload, and what the rounds measured."""

    name: str
    title: str
    target: Target
    requests: Sequence[bytes]
    records: bool = False  # Whether every request records one reading.
    samples: list[Sample] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Answers a second, by round."""
        return [sample.rate for sample in self.samples]


@dataclass(frozen=True)
class Ratio:
    """A figure that is compared with another one, and the least that the issues ask of it (``bar``), if anything."""

    figure: str
    reference: str
    bar: float | None = None


RATIOS = [
    Ratio("post", "conventional_post", bar=2.5),
    Ratio("post", "bare_post"),
    Ratio("get", "bare_get"),
    Ratio("conventional_post", "bare_post"),
]


def measurements(meanwhile: Target, conventional: Target, bare: Target) -> list[Measurement]:
    """What a round measures, in this order."""
    posts, gets = workloads.single_posts(), workloads.average_gets()
    return [
        Measurement("post", "Meanwhile, POST (fsync)", meanwhile, posts, records=True),
        Measurement("conventional_post", "conventional, POST (none)", conventional, posts, records=True),
        Measurement("bare_post", "bare uvicorn, POST", bare, posts),
        Measurement("get", "Meanwhile, GET average", meanwhile, gets),
        Measurement("bare_get", "bare uvicorn, GET", bare, gets),
    ]


def run(plan: Sequence[Measurement], wrk: Wrk, rounds: int, seconds: int) -> Iterator[str]:
    """Measures everything ``rounds`` times; yields what comes next.

    Raises ``LoadError`` if a request is refused or fails, or if readings were lost or made up.
    """
    ledgers = {one.target.name: _Ledger(one.target, wrk.connections) for one in plan if one.records}
    for number in range(rounds + 1):
        for one in plan:
            yield one.title
            sample = wrk.run(one.target.url, one.requests, seconds if number else _WARM_UP)
            if number:
                one.samples.append(sample)
            if one.records:
                ledgers[one.target.name].acknowledge(sample.requests)
    for ledger in ledgers.values():
        ledger.check()


def ratios(figure: Measurement, reference: Measurement) -> list[float]:
    """By round."""
    return [ours / theirs for ours, theirs in zip(figure.rates, reference.rates, strict=True)]


@dataclass
class _Ledger:
    """What a target acknowledged, to hold against what it recorded."""

    target: Target
    connections: int
    acknowledged: int = 0
    runs: int = 0

    def acknowledge(self, readings: int) -> None:
        self.acknowledged += readings
        self.runs += 1

    def check(self) -> None:
        """At the end of every run each client may have had one reading on its way, which may have been recorded."""
        recorded = self.target.count()
        most = self.acknowledged + self.runs * self.connections
        if not self.acknowledged <= recorded <= most:
            raise LoadError(
                f"{self.target.name} acknowledged {self.acknowledged} readings and recorded {recorded}; "
                f"at most {most} were sent"
            )
