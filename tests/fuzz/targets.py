"""What is fuzzed: each target takes any bytes and fails if a reader of them does what none may do.

Whatever the bytes are, a reader says what they mean or refuses them with one of its own exceptions. Where there are two
readers of the same text, or two ways in which it can arrive, both must come to the same. How long it takes is looked at
by who calls the target.
"""

import asyncio
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from meanwhile.api.allowed_hosts import Hosts
from meanwhile.api.auth import Guard, Unauthorized
from meanwhile.api.connection import ConnectionProtocol
from meanwhile.api.gzip_inflation import Inflater
from meanwhile.api.key_file import BadKeyFile, read_keys
from meanwhile.api.known_heads import KnownHeads
from meanwhile.api.refusals import BadEncoding
from meanwhile.api.request_head import Headers
from meanwhile.api.whole_request import Target, WholeRequest
from meanwhile.core import state
from meanwhile.core.errors import Invalid
from meanwhile.core.idempotency_keys import parse
from meanwhile.core.readings import Limits, Readings
from meanwhile.core.shapes import shape_from_text
from meanwhile.core.stream_names import check_name
from meanwhile.formats import (
    binary_vectors,
    json_pieces,
    json_readings,
    line_protocol,
    mqtt_payload,
    msgpack_readings,
    ndjson,
    senml,
)
from meanwhile.formats.line_protocol_names import DEFAULT
from meanwhile.formats.strict_json import Malformed
from meanwhile.mqtt.journal import Journal, JournalError
from meanwhile.mqtt.messages import Message
from tests.support.in_process import configuration

NOW = 1_767_225_600_000
LIMITS = Limits(readings=1_000, components=64, names=8)
Read = Callable[[bytes, int, Limits], Any]


def _answer(read: Callable[[], Any]) -> str:
    try:
        return repr(read())
    except (Malformed, Invalid) as error:
        return f"refused: {error}"


def _agree(read: Read, data: bytes) -> None:
    """The fast reader, the strict one and the one in pieces say the same, or all of them refuse."""
    usual = _answer(lambda: read(data, NOW, LIMITS))
    with pytest.MonkeyPatch.context() as patch:
        for module in (json_readings, senml):
            patch.setattr(module, "_needs_strict_parse", lambda *_: True)
        strict = _answer(lambda: read(data, NOW, LIMITS))
    with pytest.MonkeyPatch.context() as patch:
        for module in (json_readings, senml):
            patch.setattr(module, "SMALL", 16)
        patch.setattr(json_pieces, "PIECE", 16)
        cut = _answer(lambda: read(data, NOW, LIMITS))
    assert usual == strict
    both_refuse = usual.startswith("refused") and cut.startswith("refused")
    assert usual == cut or both_refuse or "escaped colon" in cut  # The one thing that only small bodies may have.


def json_one(data: bytes) -> None:
    """The readings of one stream."""
    _agree(json_readings.decode, data)


def json_batch(data: bytes) -> None:
    """Those of many."""
    _agree(json_readings.decode_batch, data)


def msgpack_one(data: bytes) -> None:
    """The readings of one stream in MessagePack: the same readings in pieces, and the same that JSON has, if it can."""
    usual = _answer(lambda: msgpack_readings.decode(data, NOW, LIMITS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(msgpack_readings, "_PIECE", 16)
        cut = _answer(lambda: msgpack_readings.decode(data, NOW, LIMITS))
    assert usual == cut or (usual.startswith("refused") and cut.startswith("refused"))
    try:
        text = msgspec.json.encode(msgspec.msgpack.decode(data))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError):
        return  # JSON has no integer keys, and no extension types; texts may have surrogates.
    if not usual.startswith("refused"):
        assert usual == _answer(lambda: json_readings.decode(text, NOW, LIMITS))


def binary_vector(data: bytes) -> None:
    """A query up to the first line feed, then numbers: as many as the body has, in readings of equal length."""
    query, _, body = data.partition(b"\n")
    parameters = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    known = {name: value for name, value in parameters.items() if name in binary_vectors.PARAMETERS}
    with suppress(Invalid):
        readings = binary_vectors.decode(body, NOW, LIMITS, known)
        size = 4 if known.get("dtype") == "float32" else 8
        assert len(body) == size * len(readings.numbers) == size * readings.size * readings.shape.components


def senml_json(data: bytes) -> None:
    """A pack in JSON."""
    _agree(senml.decode_json, data)


def senml_cbor(data: bytes) -> None:
    """A pack in CBOR."""
    _answer(lambda: senml.decode_cbor(data, NOW, LIMITS))


def ndjson_lines(data: bytes) -> None:
    """Lines: every one that the fast reader takes is taken by the strict one, with the same readings."""
    usual = ndjson.decode(data, NOW, LIMITS)
    if ndjson.decode_fast(data, NOW, LIMITS) is None:
        return  # The strict reader has already read them.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ndjson, "decode_fast", lambda *_: None)
        strict = ndjson.decode(data, NOW, LIMITS)
    assert (repr(usual.readings), usual.lines) == (repr(strict.readings), strict.lines)


def line_protocol_points(data: bytes) -> None:
    """Points; every reading has a name and its place in the body."""
    with suppress(Invalid):
        points = line_protocol.decode(data, 1, NOW, DEFAULT, LIMITS)
        lines = data.count(b"\n") + 1
        for name, one in points.readings.items():
            assert name == check_name(name)
            assert one.size == len(points.gathered[name].places)
            assert all(1 <= place <= lines for place in points.gathered[name].places)
        assert all(1 <= wrong.line <= lines for wrong in points.wrong)


def mqtt_message(data: bytes) -> None:
    """A message: its topic up to the first line feed, then its payload."""
    topic, _, payload = data.partition(b"\n")
    name = topic.decode(errors="replace")
    for content_type in (None, "application/senml+json", "application/senml+cbor"):
        for options in (mqtt_payload.Options(), mqtt_payload.Options("p/", split=True, sequence="n")):
            _answer(partial(mqtt_payload.decode, name, payload, NOW, options, LIMITS, content_type))


def mqtt_journal(data: bytes) -> None:
    """The file that the bridge keeps: whatever is in it, it starts, or says why not."""
    with TemporaryDirectory() as directory, suppress(JournalError):
        file = Path(directory) / "journal"
        file.write_bytes(data)
        journal = Journal(file, 8)
        journal.close()


def gzip_data(data: bytes) -> None:
    """gzip data, at once and in two parts: the same content, or a refusal."""

    def inflate(*parts: bytes) -> tuple[int, bool]:
        inflater, size, digest = Inflater(), 0, hashlib.sha256()
        try:
            for part in parts:
                for piece in inflater.pieces(part):
                    assert len(piece) <= 64 * 1024
                    size += len(piece)
                    digest.update(piece)
                    if size > 1_000_000:
                        return -1, False
            inflater.finish()
        except BadEncoding:
            return -1, False
        return int.from_bytes(digest.digest()), True

    middle = len(data) // 3
    assert inflate(data) == inflate(data[:middle], data[middle:])
    with suppress(zlib.error, EOFError):
        if data and inflate(data)[1]:
            zlib.decompressobj(31).decompress(data)


def stored_state(data: bytes) -> None:
    """What Redis may hold: a state, which can be read and written again, or unreadable."""
    with suppress(state.Unreadable):
        found = state.decode(data)
        assert found == state.decode(state.encode(found))
        found.summary.averages()
        found.summary.deviations()


def texts(data: bytes) -> None:
    """What is short: keys, names, hosts, shapes, credentials, files of keys."""
    text = data.decode("latin-1")
    key = parse(text)
    assert key is None or 0 <= key.sequence < 2**53
    with suppress(Invalid):
        assert text == check_name(text)
    Hosts(["a.example", "*.b.example"]).allow(Headers([(b"host", data)]))
    with suppress(ValueError):
        shape = shape_from_text(data.decode(errors="replace"))
        if shape.components <= 10_000:  # A text may describe more than there is memory for; no state has as many.
            assert shape.components == len(shape.flatten(shape.value([1.0] * shape.components)))
    with suppress(Unauthorized):
        Guard(None).authorize(Headers([(b"authorization", data), (b"x-api-key", data)]), "read")
    with TemporaryDirectory() as directory, suppress(BadKeyFile):
        file = Path(directory) / "keys"
        file.write_bytes(data)
        read_keys(file)


class _Transport(asyncio.Transport):
    """The other end of a connection: takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing comes while nobody feeds."""

    def resume_reading(self) -> None:
        """The same."""


_loop = asyncio.new_event_loop()
_seen: list[tuple[str, bytes, bytes]] = []


def _begin_nothing(request: Any, whole: WholeRequest) -> bool:
    return True


class _App:
    """Answers all that it understands with "ok"; with ``answers_whole``, without ASGI if it can."""

    answers_whole = True
    known_heads = KnownHeads()

    def begin(self, connection: ConnectionProtocol, whole: WholeRequest) -> bool:
        if self.answers_whole:
            whole.target, whole.is_checked = Target(_begin_nothing, "/", b"", ""), True
            _seen.append((whole.method, whole.url, whole.body))
            _loop.call_soon(connection.end_whole, whole, 200, [(b"content-length", b"2")], b"ok")
        return self.answers_whole

    async def answer(self, connection: ConnectionProtocol, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        _seen.append((scope["method"], scope["raw_path"] + query, body))
        headers = [(b"content-length", b"2")]
        if not connection.respond(scope, 200, headers, b"ok"):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"ok"})


_config = configuration(_App())


async def _converse(parts: Iterator[bytes]) -> tuple[list[tuple[str, bytes, bytes]], bytes]:
    _seen.clear()
    transport = _Transport()
    protocol = ConnectionProtocol(config=_config, server_state=ServerState(), app_state={}, _loop=_loop)
    protocol.connection_made(transport)
    for part in parts:
        if transport.is_closed:
            break
        protocol.data_received(part)
        for _ in range(6):
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.sleep(0)
    return list(_seen), bytes(transport.written)


def connection(data: bytes) -> None:
    """Bytes on a connection, at once, in parts and only through ASGI: the same requests, and only HTTP comes back.

    They come three times, so that their heads are known.
    """
    whole, written = _loop.run_until_complete(_converse(iter([data])))
    repeated = _loop.run_until_complete(_converse(iter([data] * 3)))
    size = max(1, len(data) // 7)
    split, also_written = _loop.run_until_complete(
        _converse(data[i : i + size] for i in range(0, len(data), size)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_App, "answers_whole", False)
        patch.setattr(_App, "known_heads", KnownHeads())
        through_asgi, written_through_asgi = _loop.run_until_complete(_converse(iter([data])))
        repeated_through_asgi = _loop.run_until_complete(_converse(iter([data] * 3)))
    shorter = min(len(whole), len(split))
    assert whole[:shorter] == split[:shorter]
    assert (whole, written) == (through_asgi, written_through_asgi)
    assert repeated == repeated_through_asgi
    for answers in (written, also_written):
        assert answers == b"" or answers.startswith(b"HTTP/1.1 ")
        assert b"HTTP/1.1 500" not in answers


def _stored() -> bytes:
    readings = Readings(shape_from_text('{"a":2,"t":0}'), [1.0, -2.5, 3.0] * 3, NOW, NOW)
    return state.encode(state.State(readings.shape, readings.summarize()))


def _journal() -> bytes:
    with TemporaryDirectory() as directory:
        file = Path(directory) / "journal"
        journal = Journal(file, 8)
        for mid in (1, 2, 3):
            journal.begin([Message(mid, NOW, "a/b", b"1.5")])
            journal.end()
        journal.close()
        return file.read_bytes()


_GZIP = zlib.compressobj(wbits=31)
_RECORD = [{"bn": "a/", "bt": 1.7e9, "bv": 1.5, "n": "t", "v": 1.25, "u": "Cel"}, {"n": "x", "vs": "y", "t": -3}]
_HEAD = b"POST /v1/streams/a/readings HTTP/1.1\r\nHost: m\r\n"

# Each target with bytes to start from: some that are right, with every part of the grammar in one of them.
TARGETS: Mapping[Callable[[bytes], None], list[bytes]] = {
    json_one: [
        b'{"value":21.5,"time":"2026-01-01T00:00:00Z"}',
        b'{"values":[1,-2.5e-3,0,1e-400]}',
        b'{"values":[{"a":1,"k":[1,2]},{"a":2,"k":[3,4]}]}',
    ],
    json_batch: [
        b'{"a/b:c":{"value":21.5,"time":1.5},"d":{"values":[[1,2],[3,4]]}, "hall\\/t":{"value":{"x\\u003a":1}}}',
        b'{"a":{"values":[1,2,3]},\n "b":{"values":[{"},{":1},{"},{":2}]}}',
    ],
    msgpack_one: [
        msgspec.msgpack.encode({"value": {"k": [1, 2.5], "t": -3}, "time": "2026-01-01T00:00:00Z"}),
        msgspec.msgpack.encode({"values": [{"a": 1.5}, {"a": 2}, {"a": -70_000}]}),
        msgspec.msgpack.encode({"values": [[1, 2], [3.5, 2**40]]}),
        bytes.fromhex("81a676616c75657393ca3fc00000cc80d1fe00"),
        bytes.fromhex("82a576616c756501a474696d6501"),
    ],
    binary_vector: [
        b"components=2&time=1.5\n" + bytes.fromhex("000000000000f83f0000000000000440") * 2,
        b"dtype=float32&members=b:2,a\n" + bytes.fromhex("0000c03f00002040000080c0") * 2,
        b"time=2026-01-01T00:00:00Z\n" + bytes.fromhex("000000000000f83f"),
    ],
    senml_json: [msgspec.json.encode(_RECORD), b'[{"n":"a","v":1},{"n":"b","v":1e-400,"bver":10}]'],
    senml_cbor: [
        bytes.fromhex("82a421612f22fb41d954fc40000000006174006174024702") + b"\xc4\x82\x21\x19\x6a\xb3",
        bytes.fromhex("81a3006174021a0001e24006c11a65000000"),
        bytes.fromhex("9fbf0061740ac48221196ab3ffff"),
        bytes.fromhex("81a200617402c5823a3b9ac9ff01"),
    ],
    ndjson_lines: [
        b'{"stream":"a","value":1}\n{"stream":"b/c","value":[1,2],"time":1.5}\r\n\n{"value":{"x":1},"stream":"o"}\n'
    ],
    line_protocol_points: [
        b'm,host=pi,x=y\\ z f=1.5,g=2i,s="a \\" b",t=true 1767225600000000000\n# comment\nm f=1e-400\n'
    ],
    mqtt_message: [
        b'plant/t\n{"value":1.5,"n":3}',
        b'plant/Living room/\n{"a":{"b":1},"c":[1,2],"n":4}',
        b't\n[{"n":"x","v":1}]',
        b"t\n21.5",
    ],
    mqtt_journal: [_journal()],
    gzip_data: [
        _GZIP.compress(b"readings " * 50) + _GZIP.flush(),
        bytes.fromhex("1f8b08000000000000030300000000000000000000") * 3,
    ],
    stored_state: [_stored(), msgspec.msgpack.encode([1, "", 2, NOW, NOW, [1.0], [2.0], [[3.0]], [[5.0]]])],
    texts: [
        b'"gateway-7:1042"',
        b"plant-1/boiler:2/temp",
        b"[::1]:8000",
        b'{"a":2,"t":0}',
        b"Basic dTpwYXNz",
        b'[{"name":"a","scopes":["write"],"sha256":"00"}]',
    ],
    connection: [
        _HEAD + b'Content-Length: 11\r\n\r\n{"value":1}' * 1 + b"GET /v1/streams HTTP/1.1\r\nHost: m\r\n\r\n",
        _HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nTrailer: 1\r\n\r\n"
        + b"GET / HTTP/1.0\r\n\r\n",
        _HEAD
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
        + _HEAD
        + b"\r\n",
        _HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
    ],
}
