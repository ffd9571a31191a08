"""What is asked: requests as bytes, sent one after the other by every client, and again from the start at the end.

Consecutive requests name different streams. That is hard on a group commit (64 waiting clients are 64 streams, and no
two readings can be summed first) and makes no difference to the others. Readings have one decimal, as sensors send
them, which is the hard case too: hardly any is a short sum of powers of two.
"""

from collections.abc import Iterator
from itertools import islice

import msgspec

STREAMS = [f"sensor-{i}" for i in range(200)]
ONE_STREAM = "batched"
PAIRS = [f"pair-{i}" for i in range(200)]
_VALUES = 5  # Different readings of each stream; a sensor does not send the same number for ever.
_BODIES = 7  # Different batches.
_HEAD = 64  # Numbers in a key and in a value, as in an attention head.


def single_posts() -> list[bytes]:
    """One reading a request."""
    readings = islice(_sensor_values(), _VALUES * len(STREAMS))
    return [_post(f"/v1/streams/{STREAMS[i % len(STREAMS)]}/readings", {"value": x}) for i, x in enumerate(readings)]


def pair_posts() -> list[bytes]:
    """One pair of a key and a value of 64 numbers each in a request."""
    values = _sensor_values()
    return [
        _post(
            f"/v1/streams/{stream}/readings",
            {"value": {name: list(islice(values, _HEAD)) for name in ("key", "value")}},
        )
        for stream in PAIRS
    ]


def batches_of_many_streams() -> list[bytes]:
    """1,000 readings of 200 streams in a request."""
    values = _sensor_values()
    return [
        _post("/v1/readings", {stream: {"values": list(islice(values, _VALUES))} for stream in STREAMS})
        for _ in range(_BODIES)
    ]


def batches_of_one_stream() -> list[bytes]:
    """10,000 readings of one stream in a request."""
    values = _sensor_values()
    path = f"/v1/streams/{ONE_STREAM}/readings"
    return [_post(path, {"values": list(islice(values, 10_000))}) for _ in range(_BODIES)]


def average_gets(streams: list[str] = STREAMS) -> list[bytes]:
    """The average of each stream."""
    return [_request("GET", f"/v1/streams/{stream}/average") for stream in streams]


def sensor_batch(count: int) -> list[float]:
    """Readings of one sensor."""
    return list(islice(_sensor_values(), count))


def _sensor_values() -> Iterator[float]:
    tenths = 0
    while True:
        yield 15 + tenths / 10
        tenths = (tenths + 37) % 101


def _post(path: str, content: object) -> bytes:
    return _request("POST", path, msgspec.json.encode(content))


def _request(method: str, path: str, body: bytes = b"") -> bytes:
    headers = ["Host: localhost", "Accept: */*"]
    if body:
        headers += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *headers, "", ""]).encode() + body
