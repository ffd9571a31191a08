"""Writers that remember what they were told, so that a fault can be held to it.

Each writer sends powers of four, one after the other, each under an idempotency key of its own. The exact sum of a
stream then says of every single reading how often it is in: its digit to the base 4. 503 and a refused connection mean
"not recorded", so the reading is sent again at once; 504 and a connection that broke mean "unknown", so it is left
alone until ``settle`` sends it again with its key. A stream has fewer readings than a key's window, so a key never
becomes too old however late that is.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx

from meanwhile.core.state import State
from meanwhile.storage.redis_client import connect
from meanwhile.storage.store import Store
from tests.faults.conftest import Row
from tests.support import calls

DIGITS = 60  # Readings in a stream.
MOST_STEPS = 100_000  # Of one writer: no load is endless.
REFUSED_PAUSE = 0.005

Reading = tuple[int, int]  # A writer's number, and which of its readings.


def tally(statuses: Mapping[int, int]) -> str:
    """How often each status was answered; 0 stands for a connection that broke or was refused."""
    return ", ".join(f"{n} x {status or 'no answer'}" for status, n in sorted(statuses.items(), reverse=True))


@dataclass
class Load:
    """Writers under way, and what they were answered."""

    url: str
    clients: list[httpx.AsyncClient]
    acknowledged: set[Reading] = field(default_factory=set)
    unknown: set[Reading] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)  # 0: the connection broke or was refused.
    slowest: float = 0.0
    last_served: float = 0.0  # When the latest request that was answered with 200 had been sent.
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def answers(self) -> str:
        """The statuses in words, for the table."""
        return tally(self.statuses)

    async def send(self, reading: Reading) -> bool | None:
        """Sends a reading once. True: recorded; False: not recorded; None: unknown."""
        writer, step = reading
        sent = time.monotonic()
        try:
            reply = await self.clients[writer].post(
                f"{self.url}/v1/streams/writer-{writer}/{step // DIGITS}/readings",
                json={"value": 4.0 ** (step % DIGITS)},
                headers={"Idempotency-Key": f"writer-{writer}:{step}"},
            )
        except httpx.ConnectError:
            self.statuses[0] += 1
            return False
        except httpx.TransportError:
            self.statuses[0] += 1
            return None
        finally:
            self.slowest = max(self.slowest, time.monotonic() - sent)
        self.statuses[reply.status_code] += 1
        assert reply.status_code in {200, 503, 504}, reply.text
        if reply.status_code == 200:
            self.last_served = max(self.last_served, sent)
        return {200: True, 503: False, 504: None}[reply.status_code]

    async def write(self, writer: int) -> None:
        for step in range(MOST_STEPS):
            while not self.stopping.is_set():
                recorded = await self.send((writer, step))
                if recorded is not False:
                    (self.unknown if recorded is None else self.acknowledged).add((writer, step))
                    break
                await asyncio.sleep(REFUSED_PAUSE)
            if self.stopping.is_set():
                return

    async def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"did not become true within {seconds} s: {self.statuses}"
            await asyncio.sleep(0.005)

    async def more(self, count: int) -> None:
        """Returns when so many more readings are acknowledged."""
        enough = len(self.acknowledged) + count
        await self.until(lambda: len(self.acknowledged) >= enough, 60)

    async def served(self, since: float) -> float:
        """Seconds from ``since`` until a request that was sent after it was answered with 200."""
        await self.until(lambda: self.last_served > since)
        return time.monotonic() - since

    async def times(self, redis_url: str) -> Counter[Reading]:
        """How often each reading is in the stored sums."""
        readings = self.acknowledged | self.unknown
        streams = sorted({(writer, step // DIGITS) for writer, step in readings})
        async with connect(redis_url) as redis:
            states = await Store(redis, "meanwhile").read(
                [f"writer-{writer}/{part}" for writer, part in streams], asyncio.get_running_loop().time() + 30
            )
        found: Counter[Reading] = Counter()
        for (writer, part), state in zip(streams, states, strict=True):
            if state is None:
                continue
            assert isinstance(state, State)
            total, denominator = state.summary.sums.ratios(1)[0]
            assert 1 == denominator
            digits = {(writer, part * DIGITS + digit): total >> 2 * digit & 3 for digit in range(DIGITS)}
            assert state.summary.count == sum(digits.values()), "counted more than three times"
            found.update({reading: times for reading, times in digits.items() if times})
        return found

    async def settle(self, redis_url: str, fault: str, recovery: float | None = None, note: str = "") -> Row:
        """The row of this load: counted, held to what was answered, before and after the unknown is sent again."""
        before = await self.times(redis_url)
        lost = self.acknowledged - before.keys()
        assert set() == before.keys() - self.acknowledged - self.unknown, "recorded though it was refused"
        for reading in sorted(self.unknown):
            end = time.monotonic() + 20
            while await self.send(reading) is not True:
                assert time.monotonic() < end, "cannot be settled"
                await asyncio.sleep(0.02)
        after = await self.times(redis_url)
        lost |= (self.acknowledged | self.unknown) - after.keys()
        doubled = {reading for times in (before, after) for reading, n in times.items() if n > 1}
        load = f"{len(self.clients)} writers"
        return Row(fault, load, len(self.acknowledged), len(lost), len(doubled), len(self.unknown), recovery, note)


@asynccontextmanager
async def clients(url: str, number: int) -> AsyncIterator[Load]:
    """A load without writers: whoever has it sends."""
    async with AsyncExitStack() as stack:
        yield Load(
            url,
            [  # One each: the pool of a single one, shared by all, would be the bottleneck.
                await stack.enter_async_context(calls.async_client(timeout=40)) for _ in range(number)
            ],
        )


@asynccontextmanager
async def writing(load: Load) -> AsyncIterator[Load]:
    """Every client writes until the end of the block, and then hears its last answer."""
    async with asyncio.TaskGroup() as tasks:
        try:
            for writer in range(len(load.clients)):
                tasks.create_task(load.write(writer))
            yield load
        finally:
            load.stopping.set()
