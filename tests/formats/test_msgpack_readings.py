"""MessagePack: a body is what the same body in JSON is, and whatever JSON refuses is refused."""

import json
from itertools import chain
from math import inf, nan
from struct import pack
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meanwhile.core.errors import Invalid, TooMany
from meanwhile.core.readings import Limits, Readings
from meanwhile.formats import json_readings, msgpack_readings
from meanwhile.formats.msgpack_readings import decode
from meanwhile.formats.strict_json import Malformed
from tests.support.numbers import numbers

law = settings(derandomize=True, deadline=None, max_examples=300)
encode = msgspec.msgpack.encode

NOW = 1_767_225_600_000
FEW = Limits(readings=6, components=8, names=3, numbers=20)

PARTS = st.one_of(numbers(), st.integers(-(2**63), 2**64 - 1), st.lists(numbers(), max_size=9))
OBJECTS = st.dictionaries(st.sampled_from(["key", "value", "t", "\u00e9/~", "\n", ""]), PARTS, max_size=4)
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, "1", [[1]], {"a": {}}, [True], [1, "x"], {"a": [None]}, {"t": False, "key": 1}]
)
VALUES = st.one_of(PARTS, OBJECTS, ODD)
TIMES: st.SearchStrategy[Any] = st.sampled_from([0, 1.5, "2026-01-01T00:00:00Z", "x", None, True, [], 1e300])
BODIES = st.one_of(
    st.fixed_dictionaries({"value": VALUES}, optional={"time": TIMES}),
    st.fixed_dictionaries({"values": st.lists(VALUES, max_size=7)}),
    st.fixed_dictionaries({"values": st.lists(OBJECTS, max_size=7)}),
    st.fixed_dictionaries({"values": st.lists(st.lists(numbers(), min_size=2, max_size=2), max_size=7)}),
    st.fixed_dictionaries({"values": VALUES}, optional={"value": VALUES, "time": TIMES}),
    st.fixed_dictionaries({}, optional={"value": numbers(), "unit": VALUES}),
    VALUES,
)


def answer(read: Any, body: bytes, limits: Limits = FEW) -> tuple[str, str | None]:
    """The readings, or the kind and the place of the refusal."""
    try:
        return repr(read(body, NOW, limits)), None
    except Invalid as error:
        return type(error).__name__, error.pointer
    except Malformed:
        return "Malformed", None


def readings(read: Any, body: bytes) -> str | None:
    """The readings, or None: of several errors, readers need not find the same one first."""
    found, _ = answer(read, body)
    return found if found.startswith("Readings") else None


def array_of(count: int, items: bytes) -> bytes:
    """A body whose values are an array with this many items."""
    return b"\x81\xa6values\xdd" + count.to_bytes(4) + items


@law
@given(BODIES)
def test_a_body_means_what_it_means_in_json(body: Any) -> None:
    assert readings(json_readings.decode, json.dumps(body).encode()) == readings(decode, encode(body))


@law
@given(st.lists(OBJECTS.filter(bool), min_size=1, max_size=6), st.integers(2, 30))
def test_values_in_pieces_mean_the_same(values: list[Any], size: int) -> None:
    body = encode({"values": values})
    whole = readings(decode, body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(msgpack_readings, "_PIECE", size)
        assert whole == readings(decode, body)


@law
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float_of_32_bits_is_exact(value: float) -> None:
    body = b"\x81\xa5value\xca" + pack(">f", value)
    assert answer(json_readings.decode, json.dumps({"value": value}).encode()) == answer(decode, body)


def test_every_way_to_write_heads_and_integers_is_read() -> None:
    numbers = b"\x01\xff\xcc\x03\xcd\0\x04\xce\0\0\0\x05\xcf\0\0\0\0\0\0\0\x06\xd0\xf9\xd1\xff\xf8"
    numbers += b"\xd2\xff\xff\xff\xf7\xd3\xff\xff\xff\xff\xff\xff\xff\xf6"
    expected = [1, -1, 3, 4, 5, 6, -7, -8, -9, -10]
    for head in (b"\x9a", b"\xdc\0\x0a", b"\xdd\0\0\0\x0a"):
        for start in (b"\x81", b"\xde\0\x01", b"\xdf\0\0\0\x01"):
            for key in (b"\xa5value", b"\xd9\x05value", b"\xda\0\x05value", b"\xdb\0\0\0\x05value"):
                found = decode(start + key + head + numbers, NOW, Limits())
                assert ("10", expected) == (found.shape.text, found.numbers)
    for head in (b"\x81", b"\xde\0\x01", b"\xdf\0\0\0\x01"):
        found = decode(b"\x81\xa6values\x92" + (head + b"\xa1a\x02") * 2, NOW, Limits())
        assert ('{"a":0}', [2.0, 2.0]) == (found.shape.text, found.numbers)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"\x82\xa5value\x01\xa5value\x02", ""),
        (b"\x83\xa5value\x01\xa4time\x02\xd9\x04time\x03", ""),
        (b"\xde\0\x02\xa5value\x01\xa5value\x01", ""),
        (b"\x81\xa5value\x82\xa1a\x01\xa1a\x01", "/value"),
        (b"\x81\xa5value\x82\xa1a\x01\xd9\x01a\x01", "/value"),
        (b"\x81\xa6values\x92\x81\xa1a\x01\x82\xa1a\x01\xa1a\x01", "/values/1"),
        (b"\x81\xa6values\x92\x82\xa1a\x01\xa1a\x01\x81\xa1a\x01", "/values/0"),
        (b"\x81\xa6values\x92\xde\0\x02\xa1a\x01\xa1a\x01\xde\0\x02\xa1a\x01\xa1a\x01", "/values/0"),
    ],
)
def test_a_duplicate_key_is_refused(body: bytes, pointer: str) -> None:
    with pytest.raises(Invalid, match="Expected every key once") as refused:
        decode(body, NOW, FEW)
    assert pointer == refused.value.pointer


@pytest.mark.parametrize("odd", [nan, inf, -inf, 1e141, 1e-141])
def test_a_number_outside_the_domain_is_refused_with_its_place(odd: float) -> None:
    for body, pointer in (
        ({"value": odd}, "/value"),
        ({"value": [1.0, odd]}, "/value/1"),
        ({"value": {"b": 1.0, "a": [0.0, odd]}}, "/value/a/1"),
        ({"values": [1.0, odd]}, "/values/1"),
        ({"values": [[1.0], [odd]]}, "/values/1/0"),
        ({"values": [{"a": 1.0}, {"a": odd}]}, "/values/1/a"),
    ):
        assert ("Invalid", pointer) == answer(decode, encode(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x81\xa5value",
        b"\x81\xa5value\x01\x01",
        b"\x81\xa5value\x92\x01",
        b"\x81\xa6values\xdd\xff\xff\xff\xff\x01",
        b"\x81\xa5value\xdf\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x81\xa5value" + b"\x91" * 100_000 + b"\x01",
        b"\x81\xa5value" + b"\x81\xa1a" * 100_000 + b"\x01",
    ],
)
def test_what_is_not_messagepack_is_malformed(body: bytes) -> None:
    assert ("Malformed", None) == answer(decode, body)


@pytest.mark.parametrize(
    "item", [b"\xc0", b"\xc2", b"\xc3", b"\xa11", b"\xc4\x011", b"\xd4\x01\0", b"\xd6\xff\0\0\0\0"]
)
def test_what_is_no_number_is_refused_with_its_place(item: bytes) -> None:
    for body, pointer in (
        (b"\x81\xa5value" + item, "/value"),
        (b"\x81\xa5value\x92\x01" + item, "/value/1"),
        (b"\x81\xa5value\x82\xa1b\x01\xa1a\x92\x01" + item, "/value/a/1"),
        (b"\x81\xa5value\x81\xa1\n" + item, "/value"),
        (b"\x81\xa6values\x92\x01" + item, "/values/1"),
        (b"\x81\xa6values\x92\x91\x01\x91" + item, "/values/1/0"),
        (b"\x81\xa6values\x91" + item, "/values/0"),
        (b"\x81\xa6values" + item, "/values"),
        (b"\x81\xa5value\x81" + item + b"\x01", None),
        (b"\x81" + item + b"\x01", ""),
        (item, ""),
    ):
        kind, place = answer(decode, body)
        assert "Invalid" == kind or item == b"\xa11", body
        assert place == pointer or pointer is None, body


@pytest.mark.parametrize("time", [b"\xc0", b"\xa1x", b"\xa1\xff", b"\xd6\xff\0\0\0\0", b"\xcb\x7f\xf8\0\0\0\0\0\0"])
def test_a_time_that_is_none_is_refused(time: bytes) -> None:
    assert ("Invalid", "/time") == answer(decode, b"\x82\xa5value\x01\xa4time" + time)


def test_names_are_utf_8() -> None:
    for name in (b"\xa1\xff", b"\xa3\xed\xa0\x80"):
        assert ("Invalid", "/value") == answer(decode, b"\x81\xa5value\x81" + name + b"\x01")
        assert ("Invalid", "/values/0") == answer(decode, b"\x81\xa6values\x91\x81" + name + b"\x01")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (array_of(7, b"\x01" * 7), ("TooMany", None)),
        (array_of(6, (b"\x94" + b"\x01" * 4) * 6), ("TooMany", None)),
        (array_of(6, b"\x81\xa1a\x94\1\1\1\1" * 6), ("TooMany", None)),
        (array_of(1, b"\x99" + b"\x01" * 9), ("Invalid", "/values/0")),
        (b"\x81\xa5value\xdd\0\x0f\0\0" + b"\x01" * 0xF0000, ("Invalid", "/value")),
        (b"\x81\xa5value\x81\xa1a\xdd\0\x0f\0\0" + b"\x01" * 0xF0000, ("Invalid", "/value")),
        (array_of(2, b"\x81\xa1a\1\x81\xa1a\xdd\0\1\0\0" + b"\1" * 0x10000), ("Invalid", "/values/1")),
        (b"\x81\xa5value\x84\xa1a\1\xa1b\1\xa1c\1\xa1d\1", ("Invalid", "/value")),
        (array_of(1, b"\x84\xa1a\1\xa1b\1\xa1c\1\xa1d\1"), ("Invalid", "/values/0")),
        (array_of(500_000, b"\x80" * 500_000), ("TooMany", None)),
        (array_of(3, b"\x80" * 3), ("Invalid", "/values/0")),
        (array_of(0, b""), ("Invalid", "/values")),
        (encode({"values": [1.0] * 120_000}), ("TooMany", None)),
    ],
)
def test_limits_hold(body: bytes, expected: tuple[str, str | None]) -> None:
    assert expected == answer(decode, body)


def test_a_body_above_the_limit_is_refused_with_the_format_that_has_none() -> None:
    with pytest.raises(TooMany, match="octet-stream"):
        decode(bytes(msgpack_readings.MAX_BODY + 1), NOW, Limits())


def test_the_readings_of_a_large_body() -> None:
    values = [[float(n), n % 7 / 4] for n in range(10_000)]
    expected = Readings(
        decode(encode({"value": [0, 0]}), NOW, Limits()).shape, [*chain.from_iterable(values)], NOW, NOW
    )
    assert expected == decode(encode({"values": values}), NOW, Limits())
    objects = [{"b": row[0], "a": row[1:]} for row in values]
    found = decode(encode({"values": objects}), NOW, Limits())
    assert [x for row in values for x in reversed(row)] == found.numbers
    objects[9_000]["a"] = [1.0, 2.0]
    assert ("Invalid", "/values/9000") == answer(decode, encode({"values": objects}), Limits())
