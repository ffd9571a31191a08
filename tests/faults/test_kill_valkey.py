"""Nothing lost: ``kill -9`` of Valkey under 32 writers, ten times.

The one promise that no test of a healthy system can show: what was answered with 200 is in the count, whatever
happened to the server meanwhile; what was answered with 503 is not; and of a 504 either is true, but never twice.
Once over HTTP, with a real service as a process of its own, and once with the writers in the committer's own process,
where a commit of some thirty readings is in flight at any moment, so every kill hits one.

Every reading is a power of four, so the exact sum of a stream says of each single reading whether it is in: one digit
to the base 4, that is 0 if it is not counted, 1 if it is counted once. Each writer sends its readings one after the
other and sends one again when it is told that it was not recorded, so a 503 that lies would leave a 2. Half of the
writers send every reading to two streams in one request, which must stay equal.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from meanwhile.core.readings import Limits, collect
from meanwhile.core.state import State
from meanwhile.storage.committer import Committer
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable, connect
from meanwhile.storage.store import Store
from tests.support import calls
from tests.support.servers import Valkey, eventually, service, valkey

WRITERS = 32
KILLS = 10
DIGITS = 200  # Readings in a stream: 4**199 is still inside the domain.

# Sends one value to all of these streams in one request, for the writer of this number. True: recorded; False: not
# recorded; None: unknown.
Send = Callable[[int, Sequence[str], float], Awaitable[bool | None]]


@dataclass
class Writer:
    """Sends readings until it is told to stop, and keeps what it was answered: (stream, digit) of each reading."""

    number: int
    acknowledged: set[tuple[str, int]] = field(default_factory=set)
    unknown: set[tuple[str, int]] = field(default_factory=set)
    refusals: int = 0

    @property
    def has_twin(self) -> bool:
        return self.number % 2 == 0

    async def run(self, send: Send, stopping: asyncio.Event) -> None:
        for step in itertools.count():
            stream, digit = f"writer-{self.number}/{step // DIGITS}", step % DIGITS
            streams = [stream, f"twin/{stream}"] if self.has_twin else [stream]
            while not stopping.is_set():
                recorded = await send(self.number, streams, 4.0**digit)
                if recorded is not False:
                    (self.unknown if recorded is None else self.acknowledged).add((stream, digit))
                    break
                self.refusals += 1
                await asyncio.sleep(0.002)  # A client that obeyed Retry-After would see less of the fault.
            else:
                return


async def kill_again_and_again(server: Valkey, send: Send, between: int) -> list[Writer]:
    """Kills the server ten times, each after ``between`` more acknowledged readings, and returns the writers."""
    writers = [Writer(number) for number in range(WRITERS)]
    stopping = asyncio.Event()
    writing = [asyncio.create_task(writer.run(send, stopping)) for writer in writers]

    def acknowledged() -> int:
        return sum(len(writer.acknowledged) for writer in writers)

    async def until_more_are_acknowledged() -> None:
        enough = acknowledged() + between
        await asyncio.to_thread(
            eventually, lambda: acknowledged() >= enough or any(task.done() for task in writing), 60.0
        )

    for _ in range(KILLS):
        await until_more_are_acknowledged()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    await until_more_are_acknowledged()
    stopping.set()
    await asyncio.gather(*writing)
    return writers


async def counted(server: Valkey, streams: Sequence[str]) -> dict[str, list[int]]:
    """For each stream, how often each of its readings is in the stored sum; checked against the stored count."""
    async with connect(server.url) as redis:
        states = await Store(redis, "meanwhile").read(streams, asyncio.get_running_loop().time() + 30)
    found = {}
    for stream, state in zip(streams, states, strict=True):
        if state is None:
            found[stream] = [0] * DIGITS
            continue
        assert isinstance(state, State)
        total, denominator = state.summary.sums.ratios(1)[0]
        assert 1 == denominator
        found[stream] = [total >> 2 * digit & 3 for digit in range(DIGITS)]
        assert state.summary.count == sum(found[stream])
    return found


async def assert_nothing_was_lost_or_doubled(server: Valkey, writers: Sequence[Writer]) -> None:
    acknowledged = {reading for writer in writers for reading in writer.acknowledged}
    unknown = {reading for writer in writers for reading in writer.unknown}
    refusals = sum(writer.refusals for writer in writers)
    streams = sorted({stream for stream, _ in acknowledged | unknown})

    times = await counted(server, streams)

    there = {(stream, digit) for stream, digits in times.items() for digit, n in enumerate(digits) if n}
    print(
        f"{KILLS} kills: {len(acknowledged)} acknowledged, {len(there)} counted, {len(unknown)} unknown "
        f"({len(unknown & there)} of them counted), {refusals} refused and sent again"
    )
    assert set() == acknowledged - there, "acknowledged but lost"
    assert set() == there - acknowledged - unknown, "recorded though it was refused"
    assert set() == {stream for stream, digits in times.items() if max(digits) > 1}, "counted twice"
    assert len(acknowledged) <= len(there) <= len(acknowledged) + len(unknown)
    twins = {stream for writer in writers if writer.has_twin for stream, _ in writer.acknowledged | writer.unknown}
    twin_times = await counted(server, [f"twin/{stream}" for stream in sorted(twins)])
    assert {stream: times[stream] for stream in twins} == {
        twin.removeprefix("twin/"): digits for twin, digits in twin_times.items()
    }
    assert refusals + len(unknown) > 0, "nobody noticed that the server was killed"


async def test_kill_9_of_valkey_under_32_clients_loses_nothing_that_was_answered_with_200() -> None:
    with valkey() as server, service(MEANWHILE_REDIS_URL=server.url) as running:
        async with AsyncExitStack() as stack:
            clients = [  # One a writer: the pool of a single one, shared by all, would be the bottleneck.
                await stack.enter_async_context(calls.async_client(base_url=running.url, timeout=30))
                for _ in range(WRITERS)
            ]

            async def post(writer: int, streams: Sequence[str], value: float) -> bool | None:
                if len(streams) == 1:
                    reply = await clients[writer].post(f"/v1/streams/{streams[0]}/readings", json={"value": value})
                else:
                    body = {stream: {"value": value} for stream in streams}
                    reply = await clients[writer].post("/v1/readings", json=body)
                assert reply.status_code in {200, 503, 504}, reply.text
                return {200: True, 503: False, 504: None}[reply.status_code]

            writers = await kill_again_and_again(server, post, between=100)

        await assert_nothing_was_lost_or_doubled(server, writers)


async def test_kill_9_of_valkey_with_a_commit_in_flight_loses_nothing_that_was_acknowledged() -> None:
    with valkey() as server:
        async with connect(server.url) as redis:
            committer = Committer(Store(redis, "meanwhile"), max_waiting=100_000, redis_timeout=10)

            async def record(_: int, streams: Sequence[str], value: float) -> bool | None:
                try:
                    await committer.record({stream: collect([value], 0, 0, Limits()) for stream in streams})
                except StoreUnavailable:
                    return False
                except OutcomeUnknown:
                    return None
                return True

            writers = await kill_again_and_again(server, record, between=600)

        await assert_nothing_was_lost_or_doubled(server, writers)
