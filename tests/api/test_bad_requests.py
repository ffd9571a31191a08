"""Requests that must be refused: each with its exact status, nothing recorded, and the service as good as before.

A lifetime average never forgets. What a lenient reader would take for a number ("1.5", true, the last of two values)
is wrong for ever, and what an unprepared one takes for a bug (NaN, lone surrogates, 50,000 levels) is a 500 that
anyone can cause. The table is long because each line once broke some service.
"""

import gzip
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest
from redis.asyncio import Redis

ONE = "/v1/streams/known/readings"
MANY = "/v1/readings"
DEEP = 50_000


class Bad(NamedTuple):
    """A request and the status it must get."""

    status: int
    path: str
    content: bytes = b""
    method: str = "POST"
    headers: tuple[tuple[bytes, bytes], ...] = ()


Line = tuple[str, list[Bad]]  # What is wrong, and the requests that are wrong in this way.


# What stands where a number belongs. 400: it is no JSON. 422: it is, or nearly, but it is no number of the domain.
LITERALS = {
    "NaN": 422,
    "Infinity": 422,
    "-Infinity": 422,
    "nan": 400,
    "inf": 400,
    "-NaN": 400,
    "1e400": 422,
    "-1e400": 422,
    "1e141": 422,
    "-1e141": 422,
    "1.0000000000000001e140": 200,  # The double nearest to it is 1e140.
    "1.000000000000001e140": 422,
    "1e-141": 422,
    "9.99e-141": 422,
    "-1e-141": 422,
    "5e-324": 422,
    "1e-400": 422,
    "-1e-400": 422,
    "1E-99999999999999999999": 422,
    "1e99999999999999999999": 422,
    "0." + "0" * 400 + "1": 422,
    "9" * 5000: 422,
    "-" + "9" * 5000: 422,
    "9" * 400: 422,
    "1" + "0" * 141: 422,
    "01": 400,
    "-01": 400,
    "00": 400,
    ".5": 400,
    "-.5": 400,
    "1.": 400,
    "1e": 400,
    "1e+": 400,
    "+1": 400,
    "-": 400,
    "--1": 400,
    "0x10": 400,
    "1_000": 400,
    "1 000": 400,
    "1f": 400,
    "\u0661": 400,
    "'1'": 400,
    "undefined": 400,
    "True": 400,
    "": 400,
    "1,": 400,
    '"1.5"': 422,
    '"NaN"': 422,
    '""': 422,
    "true": 422,
    "false": 422,
    "null": 422,
    "[[1]]": 422,
    "[[]]": 422,
    "[]": 422,
    "{}": 422,
    "[1, null]": 422,
    "[1, true]": 422,
    '[1, "2"]': 422,
    "[NaN]": 422,
    "[1, 1e400]": 422,
    "[1, {}]": 422,
    '[{"a": 1}]': 422,
    '{"a": true}': 422,
    '{"a": null}': 422,
    '{"a": "1"}': 422,
    '{"a": {"b": 1}}': 422,
    '{"a": []}': 422,
    '{"a": [[1]]}': 422,
    '{"a": [1, NaN]}': 422,
    '{"a": 1e-400}': 422,
    '{"": 1}': 422,
    '{"a\\u0000": 1}': 422,
    '{"a\\n": 1}': 422,
    '{"\\ud800": 1}': 422,
    '{"\\udfff\\ud800": 1}': 422,
    '{"' + "a" * 256 + '": 1}': 422,
    '{"a": 1, "a": 1}': 422,
    '{"a": 1, "b": 2, "a": [1]}': 422,
    '{"a": 1, "\\u0061": 2}': 422,
    '{"a\\u003ab": 1, "x": 1, "x": 2}': 422,  # The colon that is escaped makes up for the one that is lost.
    '{"a:b": 1, "a:b": 2}': 422,
    '{"a": 1,}': 400,
    "{a: 1}": 400,
    '{"a" 1}': 400,
    "[1, ]": 400,
    "[1 2]": 400,
}

# What stands where a body for one stream belongs.
BODIES: dict[str, tuple[int, bytes]] = {
    "a number": (422, b"1"),
    "a string": (422, b'"value"'),
    "null": (422, b"null"),
    "NaN": (422, b"NaN"),
    "an array": (422, b"[]"),
    "an array of readings": (422, b'[{"value": 1}]'),
    "an empty object": (422, b"{}"),
    "a time alone": (422, b'{"time": 0}'),
    "value and values": (422, b'{"value": 1, "values": [1]}'),
    "values with a time": (422, b'{"values": [1], "time": 0}'),
    "values that are none": (422, b'{"values": []}'),
    "values that are a number": (422, b'{"values": 1}'),
    "values that are null": (422, b'{"values": null}'),
    "values that are a string": (422, b'{"values": "12"}'),
    "values that are an object": (422, b'{"values": {"0": 1}}'),
    "a misspelt member": (422, b'{"valeu": 1}'),
    "a member too many": (422, b'{"value": 1, "unit": "C"}'),
    "a member in capitals": (422, b'{"Value": 1}'),
    "a member that is a surrogate": (422, b'{"\\ud800": 1}'),
    "readings of two shapes": (422, b'{"values": [1, [1]]}'),
    "vectors of two lengths": (422, b'{"values": [[1], [1, 2]]}'),
    "objects of two names": (422, b'{"values": [{"a": 1}, {"b": 1}]}'),
    "objects of a name more": (422, b'{"values": [{"a": 1}, {"a": 1, "b": 1}]}'),
    "65 names": (422, b'{"value": {%s}}' % b", ".join(b'"n%d": 1' % i for i in range(65))),
    "1,025 components": (422, b'{"value": [%s]}' % b", ".join([b"1"] * 1025)),
    "1,025 components of two members": (422, b'{"value": {"a": [%s], "b": 1}}' % b", ".join([b"1"] * 1024)),
    "value twice": (422, b'{"value": 1, "value": 2}'),
    "value twice, the same": (422, b'{"value": 1, "value": 1}'),
    "value twice, once escaped": (422, b'{"value": 1, "valu\\u0065": 2}'),
    "values twice": (422, b'{"values": [1], "values": [2]}'),
    "time twice": (422, b'{"time": 1, "value": 1, "time": 2}'),
    "time twice with colons": (422, b'{"time": "2026-01-01T00:00:00Z", "value": 1, "time": "2026-01-01T00:00:00Z"}'),
    "a name twice in one of many": (422, b'{"values": [{"a": 1}, {"a": 1, "a": 2}]}'),
    "the bad one behind a good one": (422, b'{"values": [1, true]}'),
    "truncated in a member": (400, b'{"value": 1'),
    "truncated in a name": (400, b'{"val'),
    "truncated in an array": (400, b'{"values": [1, 2'),
    "truncated in an escape": (400, b'{"value": {"\\u00'),
    "two documents": (400, b'{"value": 1}{"value": 2}'),
    "two lines": (400, b'{"value": 1}\n{"value": 2}\n'),
    "garbage behind": (400, b'{"value": 1} x'),
    "a brace too many": (400, b'{"value": 1}}'),
    "a NUL behind": (400, b'{"value": 1}\x00'),
    "a comment": (400, b'{"value": 1 /* C */}'),
    "no quotes": (400, b"{value: 1}"),
    "single quotes": (400, b"{'value': 1}"),
    "a comma too many": (400, b'{"value": 1,}'),
    "no colon": (400, b'{"value" 1}'),
    "a byte order mark": (400, b'\xef\xbb\xbf{"value": 1}'),
    "a no-break space": (400, b'\xc2\xa0{"value": 1}'),
    "invalid UTF-8 in a name": (400, b'{"value": {"\xff": 1}}'),
    "an overlong slash": (400, b'{"value": {"\xc0\xaf": 1}}'),
    "a surrogate in UTF-8": (400, b'{"value": {"\xed\xa0\x80": 1}}'),
    "invalid UTF-8 for a value": (400, b'{"value": \xff}'),
    "a control character in a name": (400, b'{"value": {"a\tb": 1}}'),
    "an unknown escape": (400, b'{"value": {"\\x41": 1}}'),
    "deep arrays": (400, b'{"value": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "deep objects": (400, b'{"value": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}"),
    "deep arrays without an end": (400, b'{"value": ' + b"[" * DEEP),
    "deep arrays under a wrong name": (400, b'{"x": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
}

TIMES = {
    '"10000-01-01T00:00:00Z"': 422,
    '"+10000-01-01T00:00:00Z"': 422,
    '"0000-01-01T00:00:00Z"': 422,
    '"9999-12-31T23:59:59-00:01"': 422,
    '"0001-01-01T00:00:00+00:01"': 422,
    "253402300800": 422,
    "-62135596801": 422,
    "1767225600000": 422,  # Milliseconds are no seconds.
    "NaN": 422,
    "Infinity": 422,
    "1e300": 422,
    "-1e300": 422,
    "1e400": 422,
    "1e-400": 422,
    "9" * 400: 422,
    "true": 422,
    "null": 422,
    "[]": 422,
    "[0]": 422,
    "{}": 422,
    '""': 422,
    '"0"': 422,
    '"now"': 422,
    '"\\ud800"': 422,
    '"2026-01-01"': 422,
    '"2026-01-01T00:00:00"': 422,
    '"2026-01-01T00:00Z"': 422,
    '"2026-01-01T00:00:00.Z"': 422,
    '"2026-01-01T00:00:00Z "': 422,
    '"2026-01-01T00:00:00Z\\n"': 422,
    '" 2026-01-01T00:00:00Z"': 422,
    '"2026-01-01T00:00:00+01"': 422,
    '"2026-01-01T00:00:00+0100"': 422,
    '"2026-01-01T00:00:00+24:00"': 422,
    '"2026-01-01T00:00:00 UTC"': 422,
    '"2026-1-1T00:00:00Z"': 422,
    '"20260101T000000Z"': 422,
    '"2026-W01-1T00:00:00Z"': 422,
    '"2026-02-30T00:00:00Z"': 422,
    '"2025-02-29T00:00:00Z"': 422,
    '"2026-13-01T00:00:00Z"': 422,
    '"2026-00-01T00:00:00Z"': 422,
    '"2026-01-01T24:00:00Z"': 422,
    '"2026-01-01T00:60:00Z"': 422,
    '"2026-01-01T00:00:61Z"': 422,
    '"\u0662\u0660\u0662\u0666-01-01T00:00:00Z"': 422,
    "01": 400,
    "2026-01-01T00:00:00Z": 400,
}

# What stands in the path where a stream's name belongs.
NAMES = {
    "%00": "a NUL",
    "a%00b": "a NUL inside",
    "a%0D%0Ab": "CR LF",
    "a%0A": "LF at the end",
    "%FF": "no UTF-8",
    "%C3%A9": "an accent",
    "%EF%BC%A1": "a wide letter",
    "%D9%A1": "an Arabic digit",
    "a%20b": "a space",
    "a+b": "a plus",
    "a%25b": "a percent sign",
    "a%3Fb": "a question mark",
    "a%23b": "a hash sign",
    "a%5Cb": "a backslash",
    "a@b": "an at sign",
    "a,b": "a comma",
    "a;b": "a semicolon",
    "a=b": "an equals sign",
    "%7Bx%7D": "a hash tag",
    "a%7Bx%7D": "a hash tag inside",
    "*": "a star",
    "a*": "a star at the end",
    "%5Ba-z%5D": "a character class",
    "a%5Ba-z%5D": "a character class inside",
    "a" * 256: "256 characters",
    "a/" * 128 + "a": "257 characters in segments",
    "a//b": "an empty segment",
    "a%2F%2Fb": "an encoded empty segment",
    "/a": "a slash in front",
    "%2Fa": "an encoded slash in front",
    "a/": "a slash at the end",
    "%2E%2E/x": "the segment above",
    "a/%2E%2E/x": "the segment above inside",
    "a%2F..%2Fx": "the encoded segment above",
    "a/%2E/x": "the same segment",
    "a/%2E%2E": "the segment above at the end",
    ".x": "a dot in front",
    "-x": "a dash in front",
    "~x": "a tilde in front",
    "_x": "an underscore in front",
    ":x": "a colon in front",
    "x/average": "a reserved last segment",
    "x/count": "another reserved last segment",
    "x/readings": "one more reserved last segment",
    "x/events": "one last reserved last segment",
}

# What stands in the body of a batch where a stream's name belongs.
BATCH_NAMES = [
    *('""', '"a b"', '"a//b"', '"../x"', '"a/../b"', '"/a"', '"a/"', '".x"', '"*"', '"a*"', '"{x}"', '"[a-z]"'),
    *(
        '"a\\u0000"',
        '"a\\r\\nb"',
        '"a\\n"',
        '"\\ud800"',
        '"\u00e9"',
        '"' + "a" * 256 + '"',
        '"x/average"',
        '"readings"',
    ),
    *('"count"', '"x/events"', '"\u0661"', '"a%2Fb"', '"known "', '"known\\n"', '"known/"', '"known/average"'),
]

PAGES = {
    "limit=0": 422,
    "limit=-1": 422,
    "limit=1e9": 422,
    "limit=1000000000": 422,
    "limit=10001": 422,
    "limit=" + "9" * 5000: 422,
    "limit=x": 422,
    "limit=1.0": 422,
    "limit=+1": 422,
    "limit=%201": 422,
    "limit=%D9%A1": 422,
    "limit=%00": 422,
    "limit=1_0": 422,
    "limit=1&limit=1": 422,
    "limit=1&limit=2": 422,
    "prefix=a&prefix=b": 422,
    "cursor=0,a&cursor=0,a": 422,
    "prefix=*": 422,
    "prefix=a*": 422,
    "prefix=%5Ba-z%5D": 422,
    "prefix=a%3F": 422,
    "prefix=%5C": 422,
    "prefix=%00": 422,
    "prefix=%0D%0A": 422,
    "prefix=%FF": 422,
    "prefix=%C3%A9": 422,
    "prefix=%7Bx%7D": 422,
    "prefix=a%20b": 422,
    "prefix=" + "a" * 256: 422,
    "cursor=x": 400,
    "cursor=0": 400,
    "cursor=,": 400,
    "cursor=-1,a": 400,
    "cursor=x,a": 400,
    "cursor=%D9%A1,a": 400,
    "cursor=0,*": 400,
    "cursor=0,%7Bx%7D": 400,
    "cursor=0,a%00": 400,
    "cursor=0,../x": 400,
    "cursor=1%0D%0A,a": 400,
    "cursor=18446744073709551616,a": 400,
    "cursor=" + "9" * 5000 + ",a": 400,
    "cursor=0," + "a" * 256: 400,
    "cursor=%FF": 400,
    "cursor=0,known,": 400,
    "cursor=0,b&prefix=a": 400,
    "cursor=0,a/1,b&prefix=a": 400,
    "cursor=null": 400,
}

METHODS = {
    "/v1/streams/known": "DELETE, GET, HEAD",
    "/v1/streams/known/readings": "POST",
    "/v1/streams/known/average": "GET, HEAD",
    "/v1/streams/known/count": "GET, HEAD",
    "/v1/streams/known/events": "GET, HEAD",
    "/v1/events": "GET, HEAD",
    "/": "GET, HEAD",
    "/docs": "GET, HEAD",
    "/v1/streams": "GET, HEAD",
    "/v1/readings": "POST, PUT",
    "/livez": "GET, HEAD",
    "/readyz": "GET, HEAD",
    "/openapi.json": "GET, HEAD",
}

NOWHERE = [
    *(
        "/v1",
        "/v1/",
        "/v2/streams",
        "/v1/event",
        "/web/",
        "/web/%2E%2E/app.py",
        "/v1/stream/known",
        "/V1/streams",
        "//v1/streams",
    ),
    *("/v1/readings/", "/livez/", "/index.html", "/v1/streams%3Flimit=1", "/%00", "/%FF"),
]

# A line feed at the end of a path is part of it, though a regular expression's "$" overlooks it.
LINE_FEEDS = [
    (422, "GET", "/v1/streams/known%0A"),
    (422, "DELETE", "/v1/streams/known%0A"),
    (422, "GET", "/v1/streams/known/average%0A"),
    (422, "GET", "/v1/streams/known/count%0A"),
    (405, "POST", "/v1/streams/known/readings%0A"),
    (404, "POST", "/v1/readings%0A"),
    (404, "GET", "/v1/streams%0A"),
    (404, "GET", "/livez%0A"),
]

BATCHES = {
    "no stream": b"{}",
    "an array of streams": b'[{"known": {"value": 1}}]',
    "a reading": b'{"value": 1}',
    "values": b'{"values": [1]}',
    "null": b"null",
    "a stream twice": b'{"known": {"value": 1}, "known": {"value": 2}}',
    "a stream twice, the same": b'{"known": {"value": 1}, "new": {"value": 1}, "known": {"value": 1}}',
    "a stream twice, once escaped": b'{"known": {"value": 1}, "kn\\u006fwn": {"value": 2}}',
    "a stream with colons twice": b'{"a:b": {"value": 1}, "a:b": {"value": 2}}',
    "a stream of streams": b'{"known": {"known": {"value": 1}}}',
}

PACKED = gzip.compress(b'{"value": 1}')
ENCODINGS = {
    "no gzip at all": (400, b"gzip", b'{"value": 1}'),
    "gzip of nothing": (400, b"gzip", b""),
    "gzip cut short": (400, b"gzip", PACKED[:-1]),
    "gzip without its trailer": (400, b"gzip", PACKED[:-8]),
    "gzip cut in its header": (400, b"gzip", PACKED[:5]),
    "gzip with a wrong checksum": (400, b"gzip", PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:]),
    "gzip with garbage behind": (400, b"gzip", PACKED + b"x"),
    "gzip with a zero behind": (400, b"gzip", PACKED + b"\0"),
    "gzip of no JSON": (400, b"gzip", gzip.compress(b"x")),
    "gzip of a wrong number": (422, b"gzip", gzip.compress(b'{"value": true}')),
    "gzip of gzip": (400, b"gzip", gzip.compress(PACKED)),
    "gzip that is not said": (400, b"identity", PACKED),
    "br": (415, b"br", b'{"value": 1}'),
    "deflate": (415, b"deflate", b'{"value": 1}'),
    "zstd": (415, b"zstd", b'{"value": 1}'),
    "gzip, br": (415, b"gzip, br", PACKED),
    "gzip, gzip": (415, b"gzip, gzip", gzip.compress(PACKED)),
    "an encoding of garbage": (415, b"\xff;=", b'{"value": 1}'),
}

MEDIA_TYPES = [
    *(b"text/plain", b"text/csv", b"text/json", b"application/xml", b"application/pdf", b"*/*", b"x+json"),
    *(b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"application/x-lines", b"\xff"),
    *(b"application/jsonx", b"application/json-seq", b"application/cbor", b"application/json, text/plain"),
    *(b"application/json; charset=utf-16", b"application/json;charset=latin-1", b'application/json; charset="x'),
]


def short(text: str) -> str:
    return text if len(text) < 40 else f"{text[:12]}... of {len(text)} characters"


def literals() -> Iterator[Line]:
    for literal, status in LITERALS.items():
        if status == 200:
            continue
        number = literal.encode()
        yield (
            f"{short(literal)} for a number",
            [
                Bad(status, ONE, b'{"value": %s}' % number),
                Bad(status, ONE, b'{"values": [1, %s, 2]}' % number),
                Bad(status, MANY, b'{"new": {"value": 1}, "known": {"value": %s}}' % number),
            ],
        )


def bodies() -> Iterator[Line]:
    for label, (status, body) in BODIES.items():
        yield label, [Bad(status, ONE, body), Bad(status, MANY, b'{"new": {"value": 1}, "known": %s}' % body)]
    for label, body in {
        "nothing": b"",
        "a space": b" ",
        "a byte order mark and nothing else": b"\xef\xbb\xbf",
        "a NUL": b"\0",
        "deep arrays and nothing else": b"[" * DEEP + b"]" * DEEP,
    }.items():
        yield label, [Bad(400, ONE, body), Bad(400, MANY, body)]
    for codec in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        one, many = '{"value": 1}'.encode(codec), '{"known": {"value": 1}}'.encode(codec)
        yield codec, [Bad(400, ONE, one), Bad(400, MANY, many)]
    for label, batch in BATCHES.items():
        yield f"{label} for a batch", [Bad(422, MANY, batch)]


def times() -> Iterator[Line]:
    for literal, status in TIMES.items():
        time = literal.encode()
        yield (
            f"{short(literal)} for a time",
            [
                Bad(status, ONE, b'{"value": 1, "time": %s}' % time),
                Bad(status, MANY, b'{"known": {"value": 1}, "new": {"value": 1, "time": %s}}' % time),
            ],
        )


def names() -> Iterator[Line]:
    for name, label in NAMES.items():
        requests = [
            Bad(422, f"/v1/streams/{name}/readings", b'{"value": 1}'),
            Bad(422, f"/v1/streams/{name}/average", method="GET"),
            Bad(422, f"/v1/streams/{name}/count", method="GET"),
        ]
        if not label.endswith("reserved last segment"):  # With these the path is another route's.
            requests += [Bad(422, f"/v1/streams/{name}", method=method) for method in ("GET", "DELETE")]
        yield f"{label} in a name", requests
    for name in BATCH_NAMES:
        body = b'{"new": {"value": 1}, %s: {"value": 1}}' % name.encode()
        yield f"{short(name)} for a name in a batch", [Bad(422, MANY, body)]
    for status, method, path in LINE_FEEDS:
        yield f"{method} {path}", [Bad(status, path, b'{"new": {"value": 1}}', method)]


def pages() -> Iterator[Line]:
    for query, status in PAGES.items():
        yield short(query), [Bad(status, f"/v1/streams?{query}", method="GET")]


def routes() -> Iterator[Line]:
    for path, allowed in METHODS.items():
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]
        yield (
            f"a method that {path} has not",
            [Bad(405, path, b'{"value": 1}', method) for method in methods if method not in allowed],
        )
    for path in NOWHERE:
        yield f"{path} for a path", [Bad(404, path, b'{"value": 1}', method) for method in ("GET", "POST", "DELETE")]


def encodings() -> Iterator[Line]:
    for label, (status, encoding, content) in ENCODINGS.items():
        yield label, [Bad(status, path, content, headers=((b"content-encoding", encoding),)) for path in (ONE, MANY)]
    for media_type in MEDIA_TYPES:
        headers = ((b"content-type", media_type),)
        yield (
            f"{media_type.decode('latin-1')} for a media type",
            [
                Bad(415, ONE, b'{"value": 1}', headers=headers),
                Bad(415, MANY, b'{"new": {"value": 1}}', headers=headers),
            ],
        )


LINES = [*literals(), *bodies(), *times(), *names(), *pages(), *routes(), *encodings()]


def test_at_least_a_hundred_bad_requests_are_listed_and_none_twice() -> None:
    assert 100 <= sum(len(requests) for _, requests in LINES)
    assert len(LINES) == len({label for label, _ in LINES})


@pytest.mark.parametrize(
    "requests",
    [requests for _, requests in LINES],
    ids=[label.encode("ascii", "backslashreplace").decode() for label, _ in LINES],
)
async def test_a_bad_request_gets_its_status_records_nothing_and_harms_nobody(
    client: httpx.AsyncClient, redis: "Redis", prefix: str, requests: list[Bad]
) -> None:
    await client.post(ONE, json={"values": [1, 2]})
    count = 2
    for bad in requests:
        before = await redis.get(f"{prefix}:stream:known")

        reply = await client.request(bad.method, bad.path, content=bad.content, headers=bad.headers)

        assert bad.status == reply.status_code, bad
        assert "application/problem+json" == reply.headers["content-type"], bad
        assert bad.status == reply.json()["status"], bad
        assert {"type", "title", "status", "detail", "pointer"} >= reply.json().keys(), bad
        assert before == await redis.get(f"{prefix}:stream:known"), bad
        assert [f"{prefix}:stream:known".encode()] == await redis.keys(f"{prefix}*"), bad
        count += 1
        good = await client.post(ONE, json={"value": 1.5})
        assert {"stream": "known", "count": count, "average": 1.5} == good.json(), bad


@pytest.mark.parametrize("literal", [literal for literal, status in LITERALS.items() if status == 200])
async def test_the_good_neighbours_of_bad_numbers_are_recorded(client: httpx.AsyncClient, literal: str) -> None:
    reply = await client.post(ONE, content=f'{{"value": {literal}}}')
    assert {"stream": "known", "count": 1, "average": float(literal)} == reply.json()
