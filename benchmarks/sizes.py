"""Bytes that a stream takes in Valkey: the stored value, and the memory of the key with all that belongs to it."""

import asyncio
from collections.abc import Mapping, Sequence

from benchmarks.workloads import sensor_batch
from meanwhile.core.readings import Limits, collect
from meanwhile.core.shapes import Value, shape_of
from meanwhile.core.state import State
from meanwhile.storage.redis_client import connect
from meanwhile.storage.store import Store
from tests.support.servers import valkey

_BATCH = 100_000
_HEAD = 64


def measure() -> dict[str, float]:
    """By name: a scalar stream after 1, 100, 10^3 and 10^6 readings, and a stream of 64+64 pairs after 1 and 10^3."""
    with valkey() as server:
        return asyncio.run(_measure(server.url))


async def _measure(url: str) -> dict[str, float]:
    found: dict[str, float] = {}
    async with connect(url) as client:
        store = Store(client, "meanwhile")

        async def record(stream: str, values: Sequence[Value]) -> None:
            readings = collect(values, 1_767_225_600_000, 1_767_225_600_000, Limits())
            assert readings.shape == shape_of(values[0])
            state = State(readings.shape, readings.summarize())
            await store.commit([{stream: state}], asyncio.get_running_loop().time() + 60)

        async def look(stream: str, name: str) -> None:
            key = f"meanwhile:stream:{stream}"
            found[f"{name}_bytes"] = await client.memory_usage(key) or 0
            found[f"{name}_value_bytes"] = await client.strlen(key)

        sent = 0
        for count in (1, 100, 1_000, 1_000_000):
            while sent < count:
                size = min(_BATCH, count - sent)
                await record("kitchen/temperature", sensor_batch(size))
                sent += size
            await look("kitchen/temperature", f"scalar_{count}")
        numbers = sensor_batch(2 * _HEAD * 1_000)
        pairs: list[Value] = [_pair(numbers[start : start + 2 * _HEAD]) for start in range(0, len(numbers), 2 * _HEAD)]
        for name, some in (("pair_1", pairs[:1]), ("pair_1000", pairs[1:])):
            await record("head/0", some)
            await look("head/0", name)
    found["scalar_growth_bytes"] = found["scalar_1000000_value_bytes"] - found["scalar_100_value_bytes"]
    return found


def _pair(numbers: list[float]) -> dict[str, float | list[float]]:
    return {"key": numbers[:_HEAD], "value": numbers[_HEAD:]}


TITLES: Mapping[str, str] = {
    "scalar_1": "scalar stream after 1 reading",
    "scalar_100": "scalar stream after 100 readings",
    "scalar_1000": "scalar stream after 1,000 readings",
    "scalar_1000000": "scalar stream after 1,000,000 readings",
    "pair_1": "stream of 64+64 pairs after 1 reading",
    "pair_1000": "stream of 64+64 pairs after 1,000 readings",
}
