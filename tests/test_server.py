"""The process: start, stop, kill, and what survives."""

import os
import signal
import time

import httpx

from tests.servers import eventually, service


def test_one_reading_comes_back() -> None:
    with service() as running:
        reply = httpx.post(f"{running.url}/v1/streams/kitchen/temperature/readings", json={"value": 21.4})
        assert reply.json() == {"stream": "kitchen/temperature", "count": 1, "average": 21.4}
        t = time.time()
        assert running.stop() == 0, running.log
        print(time.time() - t)
        print(running.log)
