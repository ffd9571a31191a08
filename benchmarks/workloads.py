"""What is asked: requests as bytes, sent one after the other by every client, and again from the start at the end.

Consecutive requests name different streams. That is hard on a group commit (64 waiting clients are 64 streams, and no
two readings can be summed first) and makes no difference to the others.
"""

from collections.abc import Iterator
from itertools import islice

import msgspec

STREAMS = [f"sensor-{i}" for i in range(200)]
_VALUES = 5  # Different readings of each stream; a sensor does not send the same number for ever.


def single_posts() -> list[bytes]:
    """One reading a request, with one decimal, as sensors send them."""
    readings = islice(_sensor_values(), _VALUES * len(STREAMS))
    return [
        _request("POST", f"/v1/streams/{STREAMS[i % len(STREAMS)]}/readings", msgspec.json.encode({"value": value}))
        for i, value in enumerate(readings)
    ]


def average_gets() -> list[bytes]:
    """The average of each stream."""
    return [_request("GET", f"/v1/streams/{stream}/average") for stream in STREAMS]


def _sensor_values() -> Iterator[float]:
    tenths = 0
    while True:
        yield 15 + tenths / 10
        tenths = (tenths + 37) % 101


def _request(method: str, path: str, body: bytes = b"") -> bytes:
    headers = ["Host: localhost", "Accept: */*"]
    if body:
        headers += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *headers, "", ""]).encode() + body
