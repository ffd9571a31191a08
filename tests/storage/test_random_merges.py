"""Random merges in the script and in Python leave the same bytes, in Valkey and in the oldest Redis that is supported.

The numbers sit where limbs begin and end; half of the commits take back what was recorded before, so that sums shrink,
turn negative and return to 0. ``MEANWHILE_MERGES=200000`` runs more of them.
"""

import asyncio
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from math import ldexp

import msgspec
import pytest

from meanwhile.core.exact_sums import LARGEST, SMALLEST
from meanwhile.core.shapes import NUMBER, Shape, shape_from_text
from meanwhile.core.state import FIELDS, State, decode, to_record
from meanwhile.core.summary import summarize
from meanwhile.storage.redis_client import connect
from meanwhile.storage.store import Store
from tests.support.servers import Valkey, valkey

MERGES = int(os.environ.get("MEANWHILE_MERGES", "3000"))
SHAPES: Sequence[Shape] = [NUMBER, NUMBER, NUMBER, shape_from_text("2"), shape_from_text("3")]
_SUMS = FIELDS.index("sum_low")  # The fields before it may have doubles, which Lua packs in fewer bytes.


@pytest.fixture(scope="module", params=["valkey", "redis-server"])
def server(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    program = "" if request.param == "valkey" else shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed; on Debian: apt install redis-server")
    with valkey("--appendonly", "no", program=program) as started:
        yield started


def number(rng: random.Random) -> float:
    kind = rng.random()
    sign = rng.choice((-1, 1))
    if kind < 0.1:
        return 0.0
    if kind < 0.4:  # A power of two at the edge of a limb.
        value = ldexp(1.0, 32 * rng.randint(-14, 14) + rng.choice((-1, 0, 1, 31, 30, -31)))
    elif kind < 0.5:  # As many ones as fit.
        value = (2.0 ** rng.randint(20, 52) - 1) * ldexp(1.0, rng.randint(-400, 400))
    elif kind < 0.7:
        value = ldexp(rng.randint(1, 2**53 - 1), rng.randint(-450, 400))
    else:
        value = abs(round(rng.gauss(0, 20), 1)) or 0.5
    return sign * value if SMALLEST <= value <= LARGEST else sign * 1.5


def reading(rng: random.Random, components: int) -> list[float]:
    if rng.random() < 0.2:  # The same magnitude in all components, with different signs.
        value = number(rng)
        return [value * rng.choice((-1, 1)) or 0.0 for _ in range(components)]
    return [number(rng) for _ in range(components)]


class Stream:
    """A stream as Python merges it, and the readings that can be taken back."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.state: State | None = None
        self.readings: list[list[float]] = []

    def next_delta(self, rng: random.Random, time: int) -> State:
        components = self.shape.components
        if self.readings and rng.random() < 0.5:
            taken = self.readings if rng.random() < 0.5 else self.readings[-1:]
            rows = [[-x or 0.0 for x in row] for row in taken]
            self.readings = []
        else:
            rows = [reading(rng, components) for _ in range(rng.choice((1, 1, 2)))]
            self.readings += rows
        summary = summarize([x for row in rows for x in row], components, time, time + rng.randint(0, 3))
        return State(self.shape, summary)

    def merge(self, delta: State) -> State:
        merged = delta.summary if self.state is None else self.state.summary.merge(delta.summary)
        self.state = State(self.shape, merged)
        return self.state


async def test_random_merges_leave_the_same_bytes(server: Valkey) -> None:
    rng = random.Random(5)
    merges = 0
    async with connect(server.url) as client:
        store = Store(client, "random")
        streams: dict[str, Stream] = {}
        while merges < MERGES:
            if rng.random() < 0.05:
                streams.clear()
                await client.delete(*[f"random:stream:s{number}" for number in range(400)])
            names = rng.sample(range(400), 200)
            some = {f"s{n}": streams.setdefault(f"s{n}", Stream(rng.choice(SHAPES))) for n in names}
            deltas = {name: stream.next_delta(rng, merges) for name, stream in some.items()}
            committed = await store.commit([deltas], asyncio.get_running_loop().time() + 20)
            assert [[]] == committed.rejections
            for name, stored in zip(deltas, await client.mget([f"random:stream:{n}" for n in deltas]), strict=True):
                assert isinstance(stored, bytes)
                expected = some[name].merge(deltas[name])
                assert repr(expected) == repr(decode(stored))
                sums = msgspec.msgpack.encode(to_record(expected)[_SUMS:])
                assert stored[:-8].endswith(sums[1:])  # Without the header of the array.
                merges += 1
