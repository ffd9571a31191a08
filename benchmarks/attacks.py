"""Hostile and huge requests: what somebody would send to stop the service, or without knowing better.

``ATTACKS`` has them all. A new one is one more entry there.
"""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from benchmarks.raw_http import get, head, post

_NDJSON = "application/x-ndjson"
_CBOR = "application/senml+cbor"
_EMPTY_LINES = 200 * 1024 * 1024  # Bytes.
_HASH = 2**61 - 1  # Python's hash of an integer is the integer modulo this.


@dataclass(frozen=True)
class Attack:
    """``build(k)`` is what the attacker ``k`` (0 alone, 1 to 8 at once) sends, an entry for each connection.

    It awaits ``replies`` on each, or, where that is 0, reads what comes. It hangs up after ``seconds`` where that is
    not 0. ``drip`` is sent again and again after the rest. ``prepare()`` are requests sent before, one after another.
    """

    name: str
    build: Callable[[int], list[bytes]]
    replies: int = 1
    seconds: float = 0.0
    drip: bytes = b""
    prepare: Callable[[], list[bytes]] = list


def _batch(streams: dict[str, object], **headers: str) -> list[bytes]:
    return [post("/v1/readings", json.dumps(streams, separators=(",", ":")).encode(), **headers)]


def _lines(body: bytes, query: str = "", **headers: str) -> list[bytes]:
    return [post(f"/api/v2/write{query}", body, "text/plain", **headers)]


def _batch_bytes(body: bytes, **headers: str) -> list[bytes]:
    return [post("/v1/readings", body, **headers)]


@cache
def _wide(seed: int) -> bytes:
    """A row of 1,024 numbers from 1e-140 to 9e139, as short as they can be written."""
    rng = random.Random(seed)
    literals = [b"%de%d" % (digit, power) for digit in range(1, 10) for power in range(-140, 140)]
    return b"[%b]" % b",".join(rng.choices(literals, k=1024))


def _wide_batch(name: str, streams: int, rows: int) -> bytes:
    values = b",".join(_wide(row) for row in range(rows))
    return b"{%b}" % b",".join(b'"%b/%d":{"values":[%b]}' % (name.encode(), i, values) for i in range(streams))


def _ones(name: str, streams: int, **headers: str) -> list[bytes]:
    return _batch({f"{name}/{i}": {"value": [1] * 1024} for i in range(streams)}, **headers)


def _bignum(size: int) -> bytes:
    return b"\xc2\x5a" + size.to_bytes(4, "big") + b"\xff" * size


def _cbor_number(number: bytes, **headers: str) -> list[bytes]:
    """One record of SenML CBOR: n is "a", v is the number."""
    return [post("/v1/readings", b"\x81\xa2\x00\x61a\x02" + number, _CBOR, **headers)]


def _gzipped_number() -> list[bytes]:
    body = gzip.compress(b"\x81\xa2\x00\x61a\x02\xc4\x82\x19\x01\x00" + _bignum(512 * 1024))
    return [post("/v1/readings", body, _CBOR, Content_Encoding="gzip")]


def _cbor_keys(keys: int) -> list[bytes]:
    """A map whose keys are bignums that all have the same hash."""
    body = b"".join(b"\xc2\x4b" + (_HASH * i).to_bytes(11, "big") + b"\x00" for i in range(8, keys + 8))
    return [post("/v1/readings", b"\x81\xba" + keys.to_bytes(4, "big") + body, _CBOR)]


@cache
def _zipped(before: bytes, filler: bytes, size: int) -> bytes:
    return gzip.compress(before + filler * size, 9)


def _upload(body: bytes, **headers: str) -> list[bytes]:
    return [post("/v1/readings", body, _NDJSON, **headers)]


def _wide_lines(k: int) -> bytes:
    return b"\n".join(b'{"stream":"n%d/%d","value":%b}' % (k, i % 500, _wide(i % 50)) for i in range(2_000))


def _long_lines() -> bytes:
    return b"\n".join(b'{"stream":"n","value":1' + b" " * (1 << 20) + b"}" for _ in range(50))


def _refused_shapes(k: int) -> bytes:
    return b"".join(
        post(
            f"/v1/streams/s{k}/{i}/readings",
            json.dumps({"value": {f"{k}.{i}.{j}{'x' * 500}": "1" for j in range(64)}}).encode(),
        )
        for i in range(100)
    )


def _named_values(k: int) -> list[bytes]:
    """1,000 streams of objects with long names, for ``_conflicts``."""
    value = {f"{'x' * 50}{i}": 1 for i in range(64)}
    return _batch({f"c{k}/{i}": {"value": value} for i in range(1_000)})


def _conflicts(_: int) -> list[bytes]:
    return _batch({f"c{k}/{i}": {"value": 1} for k in range(3) for i in range(1_000)})


def _lacking_a_byte(_: int) -> list[bytes]:
    size = 8 * 1024 * 1024
    return [head("POST", "/v1/readings", "application/json", size) + b" " * (size - 1)] * 60


def _one_byte_chunks() -> list[bytes]:
    start = b"POST /v1/readings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [start + b"1\r\n \r\n" * 1_000_000 + b"0\r\n\r\n"]


def _absent(k: int) -> list[bytes]:
    names = "&".join(f"stream=absent{k}/{i}" for i in range(1_000))
    return [get(f"/v1/events?{names}")] * 20


def _new_streams(name: str, streams: int) -> list[bytes]:
    return _batch({f"{name}/{i}": {"value": 1.5} for i in range(streams)})


def _producers(k: int) -> list[bytes]:
    key = ((f"p{k}-{i}:1", b'{"value": 1}') for i in range(1_000))
    return [b"".join(post("/v1/streams/p/readings", body, Idempotency_Key=name) for name, body in key)]


def _upgrades(_: int) -> list[bytes]:
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2_Settings": "AAMAAABkAAQAAP__"}
    return [post("/v1/streams/u/readings", b'{"value": 1}', **offer) * 500]


def _series(k: int) -> bytes:
    return b"\n".join(b"l%d,t=%d f=%d" % (k, i, i) for i in range(100_000))


def _points(k: int) -> bytes:
    return b"\n".join(b"m,t=%d f=%d %d" % (i % 50, i, 1_700_000_000_000 + k * 1_000_000 + i) for i in range(100_000))


def _numbered(pattern: bytes, times: int, separator: bytes = b",") -> bytes:
    return separator.join(pattern % i for i in range(times))


ATTACKS = [
    Attack("SenML CBOR: tag 4, 256 KiB bignum", lambda _: _cbor_number(b"\xc4\x82\x19\x01\x00" + _bignum(256 * 1024))),
    Attack("SenML CBOR: tag 5, 256 KiB bignum", lambda _: _cbor_number(b"\xc5\x82\x19\x01\x00" + _bignum(256 * 1024))),
    Attack("SenML CBOR: tag 4, 512 KiB bignum, gzipped", lambda _: _gzipped_number()),
    Attack("SenML CBOR: 100,000 bignum keys of one hash", lambda _: _cbor_keys(100_000)),
    Attack(
        "SenML CBOR: 4 M tiny maps",
        lambda _: [post("/v1/readings", b"\x9a" + (4_000_000).to_bytes(4, "big") + b"\xa0" * 4_000_000, _CBOR)],
    ),
    Attack(
        "SenML JSON: 100,000 records",
        lambda k: [
            post("/v1/readings", b"[%b]" % _numbered(b'{"n":"j%d/%%d","v":1.5}' % k, 100_000), "application/senml+json")
        ],
    ),
    Attack(
        "NDJSON: 200 MiB of empty lines, gzipped",
        lambda _: _upload(_zipped(b"", b"\n", _EMPTY_LINES), Content_Encoding="gzip"),
    ),
    Attack("NDJSON: 2,000 lines x 1,024 wide, 500 streams", lambda k: _upload(_wide_lines(k))),
    Attack("NDJSON: 50 lines of 1 MiB", lambda _: _upload(_long_lines())),
    Attack("gzip: 105,000 empty members", lambda _: _lines(gzip.compress(b"") * 105_000, Content_Encoding="gzip")),
    Attack(
        "gzip: JSON of 256 MiB of spaces",
        lambda _: _batch_bytes(_zipped(b'{"a":{"value":', b" ", 256 * 1024 * 1024), Content_Encoding="gzip"),
    ),
    Attack("batch: 1,700 x 1,024", lambda k: _ones(f"v{k}", 1_700)),
    Attack("batch: 1,700 x 1,024 with a key", lambda k: _ones(f"v{k}", 1_700, Idempotency_Key=f"v{k}:1")),
    Attack("batch: 1,400 x 1,024", lambda k: _ones(f"w{k}", 1_400)),
    Attack("batch: 1,400 x 1,024 with a key", lambda k: _ones(f"w{k}", 1_400, Idempotency_Key=f"w{k}:1")),
    Attack("batch: 75 streams x 15 rows x 1,024 wide", lambda k: _batch_bytes(_wide_batch(f"x{k}", 75, 15))),
    Attack("batch: 100,000 new streams", lambda k: _new_streams(f"a{k}", 100_000)),
    Attack("batch: 100,000 readings of one stream", lambda _: _batch({"one": {"values": [20.5] * 100_000}})),
    Attack("batch: 3,000 conflicts", _conflicts, prepare=lambda: [post for k in range(3) for post in _named_values(k)]),
    Attack(
        "batch: 50,000 refused names", lambda k: _batch({f"{'x' * 100} {k} {i}": {"value": 1} for i in range(50_000)})
    ),
    Attack("100 refused shapes of 64 long names", lambda k: [_refused_shapes(k)], replies=100),
    Attack("lines: 4 M bad ones", lambda _: _lines(b"x\n" * 4_000_000)),
    Attack("lines: 8 MiB of escapes", lambda _: _lines(b'm f="' + b'\\"' * 4_000_000 + b'"')),
    Attack("lines: 600,000 fields", lambda _: _lines(b"m " + _numbered(b"f%d=1", 600_000))),
    Attack("lines: 600,000 tags", lambda _: _lines(b"m," + _numbered(b"t%d=1", 600_000) + b" f=1")),
    Attack("lines: 8 MiB of commas", lambda _: _lines(b"m" + b"," * 8_000_000)),
    Attack("lines: 100,000 series", lambda k: _lines(_series(k))),
    Attack("lines: 100,000 points, deduped", lambda k: _lines(_points(k), "?dedupe=timestamp&precision=ms")),
    Attack("JSON: 8 M nested arrays", lambda _: _batch_bytes(b"[" * 8_000_000)),
    Attack("JSON: 600,000 keys", lambda _: _batch_bytes(b"{%b}" % _numbered(b'"k%d":1', 600_000))),
    Attack("JSON: 8 MiB of digits", lambda _: _batch_bytes(b'{"a":{"value":' + b"1" * 8_000_000 + b"}}")),
    Attack("JSON: 400,000 duplicate keys", lambda _: _batch_bytes(b"{%b}" % b",".join([b'"k":{"value":1}'] * 400_000))),
    Attack("60 bodies of 8 MiB without the last byte", _lacking_a_byte, seconds=10),
    Attack("1,000,000 chunks of one byte", lambda _: _one_byte_chunks()),
    Attack("slow heads on 200 connections", lambda _: [get("/")[:-2]] * 200, drip=b"X: y\r\n", seconds=10),
    Attack("50 heads of 64 KiB", lambda _: [get("/livez")[:-2] + b"X: " + b"y" * 65_536 + b"\r\n\r\n"] * 50),
    Attack("1,000 pipelined requests", lambda _: [post("/v1/streams/q/readings", b'{"value": 1}') * 1_000], 1_000),
    Attack("1,000 producers of one stream", _producers, replies=1_000),
    Attack("500 offers to upgrade", _upgrades, replies=500),
    Attack("20 subscriptions to 1,000 absent names", _absent, replies=0, seconds=5),
    Attack(
        "50 GETs of a wide state",
        lambda _: [get("/v1/streams/wide/0") * 50],
        replies=50,
        prepare=lambda: _batch_bytes(_wide_batch("wide", 1, 15)),
    ),
    Attack(
        "metrics of 10,000 streams",
        lambda _: [get("/metrics/streams?limit=10000")],
        prepare=lambda: _new_streams("a", 10_000),
    ),
    Attack(
        "20 lists with a prefix, of 50,000 streams",
        lambda _: [get("/v1/streams?prefix=a/4&limit=1000") * 10 + get("/v1/streams?prefix=none/") * 10],
        replies=20,
        prepare=lambda: _new_streams("a", 50_000),
    ),
]
