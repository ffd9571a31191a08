"""This service, as its clients see it: ``meanwhile serve`` with the embedded Valkey, over HTTP."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version

import httpx

from benchmarks.accuracy.peer import Answer, Peer, for_each
from benchmarks.targets import disk_directory
from tests.support.servers import service

NAME = "Meanwhile"
_BATCH = 10_000  # Readings in a request.


@contextmanager
def meanwhile() -> Iterator[Peer]:
    """Yields a running service with the default settings. Each series is recorded in batches."""
    with (
        disk_directory() as directory,
        service(data_dir=directory) as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):

        def answer(values: Sequence[float]) -> Answer:
            for start in range(0, len(values), _BATCH):
                body = {"values": values[start : start + _BATCH]}
                client.post("/v1/streams/series/readings", json=body).raise_for_status()
            state = client.delete("/v1/streams/series").raise_for_status().json()
            assert state["count"] == len(values)
            return Answer(state["average"], state["standard_deviation"])

        how = f"POST in batches of {_BATCH:,}, then `average`, `standard_deviation`"
        yield Peer(NAME, version("meanwhile-server"), how, "constant", for_each(answer))
