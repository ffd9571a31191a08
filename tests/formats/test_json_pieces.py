"""Large texts are read as small ones are: what a cut could change is compared, with cuts at every few bytes.

A cut at the wrong place would lose readings without a word, so the same bodies are read whole and in the smallest
pieces, and both must say the same of what is right. Of what is wrong they may find another place first.
"""

import json as standard
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from meanwhile.core.errors import Invalid, TooMany
from meanwhile.core.readings import Limits
from meanwhile.formats import json_pieces, json_readings, senml
from meanwhile.formats.strict_json import Malformed

NOW = 1_767_225_600_000
LIMITS = Limits(readings=2_000, components=64, names=8)
Read = Callable[[bytes, int, Limits], Any]


@pytest.fixture
def smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text is large, and every piece as small as can be."""
    monkeypatch.setattr(json_readings, "SMALL", 0)
    monkeypatch.setattr(senml, "SMALL", 0)
    monkeypatch.setattr(json_pieces, "PIECE", 1)


def answer(read: Read, body: bytes) -> str:
    try:
        return repr(read(body, NOW, LIMITS))
    except (Malformed, Invalid) as error:
        return f"{type(error).__name__}: {error.detail}"


def in_pieces(read: Read, body: bytes) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_readings, "SMALL", 0)
        patch.setattr(senml, "SMALL", 0)
        patch.setattr(json_pieces, "PIECE", 1)
        return answer(read, body)


def values(rng: Random) -> list[Any]:
    numbers = rng.choices([0, -0.0, 1, 2.5, -3e-5, 10**20, 1e-140], k=rng.randint(1, 9))
    kind = rng.randrange(3)
    if kind == 0:
        return numbers
    return [[x, 1.5] if kind == 1 else {"a": x, 'b},"c":{': [1, x], "é": x, "},{": x} for x in numbers]


def body_of(rng: Random) -> dict[str, Any]:
    some = values(rng)
    if rng.random() < 0.5:
        return {"values": some}
    return {"value": some[0]} | ({"time": rng.choice([0, 1.5, "2026-01-01T00:00:00Z"])} if rng.random() < 0.5 else {})


def spelled(rng: Random, what: Any) -> bytes:
    """JSON with spaces or without, and with escapes or without, as PHP writes a slash."""
    text = standard.dumps(
        what,
        indent=rng.choice([None, 1]),
        separators=rng.choice([None, (",", ":"), (" , ", " : ")]),
        ensure_ascii=rng.random() < 0.5,
    )
    return (text.replace("hall/", "hall\\/") if rng.random() < 0.2 else text).encode()


@pytest.mark.parametrize("seed", range(300))
def test_a_text_in_pieces_says_what_it_says_as_a_whole(seed: int) -> None:
    rng = Random(seed)
    one = spelled(rng, body_of(rng))
    many = spelled(rng, {f"hall/{n}:x": body_of(rng) for n in range(rng.randint(1, 6))})
    pack = spelled(rng, [{"n": f"hall/{n}", "v": n, "u": "},{"} for n in range(rng.randint(1, 6))])
    for read, body in ((json_readings.decode, one), (json_readings.decode_batch, many), (senml.decode_json, pack)):
        whole = answer(read, body)
        assert whole == in_pieces(read, body)
        assert whole.startswith(("Readings", "{", "Pack"))


@pytest.mark.parametrize("seed", range(300))
def test_what_is_wrong_is_refused_in_pieces_too(seed: int) -> None:
    rng = Random(seed)
    many = bytearray(spelled(rng, {f"hall/{n}:x": body_of(rng) for n in range(rng.randint(1, 6))}))
    for _ in range(20):
        at = rng.randrange(len(many))
        changed = bytes(many[:at]) + rng.choice([b"", b",", b'"', b"}", b"]", b"{", b"x", b":"]) + bytes(many[at + 1 :])
        whole, cut = answer(json_readings.decode_batch, changed), in_pieces(json_readings.decode_batch, changed)
        assert whole == cut or not (whole.startswith("{") or cut.startswith("{")), changed


@pytest.mark.usefixtures("smallest")
@pytest.mark.parametrize(
    ("read", "body", "said"),
    [
        (json_readings.decode, b'{"values":[1,2,"x",4]}', "Invalid at /values/2"),
        (json_readings.decode, b'{"values":[1,2,3,1e-400]}', "Invalid at /values/3"),
        (json_readings.decode, b'{"values":[[1,2],[3,4],[5]]}', "Invalid at /values/2"),
        (json_readings.decode, b'{"values":[[1,2],[3,4],[5,null]]}', "Invalid at /values/2/1"),
        (json_readings.decode, b'{"values":[{"a":1},{"a":2,"a":3}]}', "Invalid at /values/1"),
        (json_readings.decode, b'{"values":1}', "Invalid at /values"),
        (json_readings.decode, b'{"values":[1],"values":[2]}', "Invalid at "),
        (json_readings.decode, b'{"value":1,"value":2}', "Invalid at "),
        (json_readings.decode, b'{"values":[1],"time":0}', "Invalid at "),
        (json_readings.decode, b'{"values":[1],"more":0}', "Invalid at "),
        (json_readings.decode, b'{"value":1,"time":1e-400}', "Invalid at /time"),
        (json_readings.decode, b'{"values":[1,2}', "Malformed"),
        (json_readings.decode, b'{"values":[1,2]} x', "Malformed"),
        (json_readings.decode_batch, b'{"a":{"value":1},"b":{"value":2},"a":{"value":3}}', "Invalid at "),
        (json_readings.decode_batch, b'{"a":{"value":1},"b/":{"value":2}}', "Invalid at "),
        (json_readings.decode_batch, b'{"a":{"value":1},"b":{"values":[1,"x"]}}', "Invalid at /b/values/1"),
        (json_readings.decode_batch, b'{"a":{"value":1},"b":3}', "Invalid at "),
        (json_readings.decode_batch, b"[]", "Invalid at "),
        (json_readings.decode_batch, b"{}", "Invalid at "),
        (senml.decode_json, b'[{"n":"a","v":1},{"n":"a","v":"x"}]', "Invalid at /1/v"),
        (senml.decode_json, b'[{"n":"a","v":1},{"n":"a","v":1,"v":2}]', "Invalid at /1"),
        (senml.decode_json, b'[{"n":"a","v":1},{"n":"a","v":1}', "Malformed"),
        (senml.decode_json, b'{"n":"a"}', "Invalid at "),
    ],
)
def test_the_place_of_an_error_is_that_in_the_whole(read: Read, body: bytes, said: str) -> None:
    with pytest.raises((Invalid, Malformed)) as caught:
        read(body, NOW, LIMITS)
    error = caught.value
    assert said == (f"Invalid at {error.pointer}" if isinstance(error, Invalid) else "Malformed")


LONG = b"0.%b" % (b"1" * 270)
NAME = b"},{" * 80


@pytest.mark.parametrize(
    "body",
    [
        b'{"values":[0.0,1e-5%b]}' % (b" " * 300_000),
        b'{"value":[0,1e-5%b]}' % (b" " * 300_000),
        b'{"values":[[%b,0],[%b,0]]}' % (b",".join([LONG] * 1_000), b",".join([LONG + b"e-1"] * 1_000)),
        b'{"values":[%b]}' % b",".join(b'{"%b":%d,"b":1e-5,"c":0}' % (NAME, i) for i in range(4_000)),
        b'{"values":[%b]}' % b",".join([b'{"a\\u003ab":1.5}'] * 20_000),
    ],
    ids=["spaces", "spaces in a value", "long literals", "cuts inside names", "escaped colons"],
)
def test_a_large_body_that_is_right_is_read(body: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_readings, "SMALL", len(body) + 100)
        whole = json_readings.decode(body, NOW, Limits()), json_readings.decode_batch(b'{"s":%b}' % body, NOW, Limits())
    assert whole[0] == json_readings.decode(body, NOW, Limits())
    assert whole[1] == json_readings.decode_batch(b'{"s":%b}' % body, NOW, Limits())


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"values":["%b"]}' % (b"a" * 300_000), "/values"),
        (b'{"values":[[1,2],%b]}' % b",".join([b"null"] * 60_000), "/values"),
        (b'{"value":["%b"]}' % (b"a" * 300_000), "/value"),
        (b'{"values":[%b,"x"]}' % b",".join([b"1"] * 50_000), "/values/50000"),
        (b'{"values":[%b,1e-400]}' % b",".join([b"1"] * 50_000), "/values/50000"),
    ],
)
def test_a_large_body_that_is_wrong_is_refused_where_it_is(body: bytes, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        json_readings.decode(body, NOW, Limits())
    assert pointer == caught.value.pointer
    with pytest.raises(Invalid) as caught:
        json_readings.decode_batch(b'{"s":%b}' % body, NOW, Limits())
    assert f"/s{pointer}" == caught.value.pointer


@pytest.mark.usefixtures("smallest")
def test_where_a_large_text_stops_being_json_is_said() -> None:
    with pytest.raises(Malformed) as caught:
        json_readings.decode_batch(b'{"a":{"value":1},\n"b":{"value":2},\n "c":{"value":x}}', NOW, LIMITS)
    assert "Expected JSON; line 3, column 15 is not." == caught.value.detail


@pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"value":NaN}', Invalid),
        (b'{"value":-Infinity}', Invalid),
        (b'{"values":[1,NaN,Infinity]}', Invalid),
        (b'{"values":[NaN,x]}', Malformed),
        (b'{"value":NaNs}', Malformed),
        (b'{"value":"NaN",}', Malformed),
    ],
)
def test_what_is_no_number_is_refused_alike_in_large_texts(
    body: bytes, expected: type[Exception], padding: int
) -> None:
    """A large text with NaN was malformed, and a small one was not."""
    with pytest.raises(expected):
        json_readings.decode(body + b" " * padding, NOW, LIMITS)
    with pytest.raises(expected):
        json_readings.decode_batch(b'{"s":%b}' % body + b" " * padding, NOW, LIMITS)


@pytest.mark.parametrize(
    "made",
    [
        lambda: b'{"s":{"values":[%b]}}' % b",".join([b"1"] * 3_000_000),
        lambda: b"{%b}" % b",".join(b'"s%d":{"value":1}' % n for n in range(300_000)),
        lambda: b"{%b}" % b",".join(b'"s%d":{"value":[%b]}' % (n, b",".join([b"1"] * 60)) for n in range(60_000)),
    ],
    ids=["values", "streams", "numbers"],
)
def test_what_is_too_much_is_refused_before_it_is_all_read(
    made: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = made()
    read = 0
    understand = json_readings._first_result

    def counted(decoders: Any, text: bytes) -> Any:
        nonlocal read
        read += len(text) if decoders is not json_readings._outlines else 0
        return understand(decoders, text)

    monkeypatch.setattr(json_readings, "_first_result", counted)
    with pytest.raises(TooMany):
        json_readings.decode_batch(body, NOW, Limits())
    assert read < len(body)


@pytest.mark.parametrize("run", [b"1", b"a"])
@pytest.mark.parametrize("before", [0, 1, 5, 1_000, 524_287, 524_288, 524_289, 1_048_575, 2_000_000])
def test_a_run_of_more_than_a_megabyte_is_refused_wherever_it_is(run: bytes, before: int) -> None:
    start = b"[" + b"1," * (before // 2) + b"," * (before % 2)
    json_pieces.check_runs(start + run * json_pieces.MAX_RUN + b"]")
    with pytest.raises(Invalid, match="1048576 bytes"):
        json_pieces.check_runs(start + run * (json_pieces.MAX_RUN + 1) + b"]")


@pytest.mark.parametrize("read", [json_readings.decode, json_readings.decode_batch, senml.decode_json])
def test_eight_megabytes_of_one_number_are_refused(read: Read) -> None:
    with pytest.raises(Invalid, match="1048576 bytes"):
        read(b'{"a":{"value":1%b}}' % (b"1" * 8_000_000), NOW, LIMITS)
