"""``python -m benchmarks.honest PORT``: honest clients in a process of their own, whose waiting nobody else disturbs.

They send single readings, with and without an idempotency key, GETs of an average and small batches, one request after
another with a short pause. For each line on standard input one line of JSON goes to standard output: what was measured
since the line before. It ends when standard input does.
"""

import asyncio
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from benchmarks import raw_http

CLIENTS = 16
_PAUSE = 0.01  # Seconds.
_RETRY = 0.1  # Seconds, after a connection was refused or broke off.


class Latencies(msgspec.Struct):
    """What the honest clients saw, in milliseconds; ``errors`` is how many replies had a status that is not 200."""

    requests: int
    p50: float
    p99: float
    max: float
    errors: dict[str, int]


class _Clients:
    def __init__(self, port: int) -> None:
        self._port = port
        self._latencies: list[float] = []
        self._errors: Counter[int] = Counter()
        self._since = [0.0] * CLIENTS  # When the request began that waits for its reply; 0 where none does.

    async def run(self, number: int) -> None:
        """One client."""
        requests = _requests(number)
        while True:
            with suppress(OSError, EOFError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    await self._converse(number, requests, reader, writer)
                finally:
                    writer.close()
            if self._since[number]:
                self._done(number, raw_http.BROKEN)
            await asyncio.sleep(_RETRY)

    async def _converse(
        self, number: int, requests: Iterator[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for request in requests:
            self._since[number] = time.perf_counter()
            writer.write(request)
            self._done(number, await raw_http.read_reply(reader))
            await asyncio.sleep(_PAUSE)

    def _done(self, number: int, status: int) -> None:
        self._latencies.append((time.perf_counter() - self._since[number]) * 1_000)
        self._since[number] = 0.0
        if status != 200:
            self._errors[status] += 1

    def take(self) -> Latencies:
        """What was measured since the last call; who still waits counts with the time until now."""
        now = time.perf_counter()
        ordered = sorted(self._latencies + [(now - since) * 1_000 for since in self._since if since]) or [0.0]
        found = Latencies(
            len(ordered),
            ordered[len(ordered) // 2],
            ordered[len(ordered) * 99 // 100],
            ordered[-1],
            {str(status): times for status, times in sorted(self._errors.items())},
        )
        self._latencies.clear()
        self._errors.clear()
        return found


def _requests(number: int) -> Iterator[bytes]:
    """What this client sends, without an end."""
    path = f"/v1/streams/honest/{number}"
    batch = b"{%b}" % b",".join(b'"honest/%d/%d": {"value": 21.5}' % (number, i) for i in range(10))
    sequence = 0
    yield raw_http.post(f"{path}/readings", b'{"value": 21.5}')  # So that there is an average to GET.
    while True:
        sequence += 1
        yield (
            raw_http.post(f"{path}/readings", b'{"value": 21.5}'),
            raw_http.post(f"{path}/readings", b'{"value": 21.5}', Idempotency_Key=f"honest-{number}:{sequence}"),
            raw_http.get(f"{path}/average"),
            raw_http.post("/v1/readings", batch),
        )[number % 4]


async def _main(port: int) -> None:
    gc.disable()
    clients = _Clients(port)
    running = [asyncio.create_task(clients.run(number)) for number in range(CLIENTS)]
    while await asyncio.to_thread(sys.stdin.readline):
        sys.stdout.buffer.write(msgspec.json.encode(clients.take()) + b"\n")
        sys.stdout.buffer.flush()
    for task in running:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
