"""Binary vectors: they are the readings that JSON with the same numbers is, and what is not a vector is refused."""

import json
from array import array
from itertools import chain
from math import inf, nan
from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meanwhile.core import readings as core
from meanwhile.core.errors import Invalid, TooMany
from meanwhile.core.readings import Limits, Readings
from meanwhile.formats import binary_vectors, json_readings
from tests.support.numbers import numbers

law = settings(derandomize=True, deadline=None, max_examples=100)

NOW = 1_767_225_600_000
FEW = Limits(readings=6, components=8, names=3, numbers=30)


def decode(body: bytes, limits: Limits = FEW, **parameters: str) -> Readings:
    return binary_vectors.decode(body, NOW, limits, parameters)


def doubles(*values: float) -> bytes:
    return pack(f"<{len(values)}d", *values)


def as_json(value: Any, limits: Limits = FEW) -> Readings:
    return json_readings.decode(json.dumps(value).encode(), NOW, limits)


def refusal(body: bytes, **parameters: str) -> tuple[str | None, str]:
    with pytest.raises(Invalid) as refused:
        decode(body, FEW, **parameters)
    assert TooMany is not refused.type
    return refused.value.pointer, refused.value.detail


@law
@given(st.lists(numbers(), min_size=1, max_size=8))
def test_a_body_is_one_reading(values: list[float]) -> None:
    expected = as_json({"value": values[0] if len(values) == 1 else values})
    assert repr(expected) == repr(decode(doubles(*values)))


@law
@given(st.integers(1, 6), st.integers(1, 5), st.data())
def test_a_body_is_readings_of_as_many_components_as_the_query_says(count: int, components: int, data: Any) -> None:
    rows = data.draw(st.lists(st.lists(numbers(), min_size=components, max_size=components), min_size=1, max_size=6))
    expected = as_json({"values": [row[0] if components == 1 else row for row in rows]})
    assert repr(expected) == repr(decode(doubles(*chain.from_iterable(rows)), components=str(components)))


@law
@given(st.permutations(["value", "key", "b"]), st.lists(st.integers(0, 2), min_size=3, max_size=3), st.data())
def test_a_body_is_objects_whatever_the_order_of_the_members(names: list[str], lengths: list[int], data: Any) -> None:
    sizes = [length or 1 for length in lengths]
    rows = data.draw(st.lists(st.lists(numbers(), min_size=sum(sizes), max_size=sum(sizes)), min_size=1, max_size=4))
    objects = []
    for row in rows:
        taken = iter(row)
        parts = [[next(taken) for _ in range(length)] if length else next(taken) for length in lengths]
        objects.append(dict(zip(names, parts, strict=True)))
    members = ",".join(f"{name}:{n}" if n else name for name, n in zip(names, lengths, strict=True))
    assert repr(as_json({"values": objects})) == repr(decode(doubles(*chain.from_iterable(rows)), members=members))


@law
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_every_number_of_32_bits_is_exact(values: list[float]) -> None:
    numbers = decode(array("f", values).tobytes(), dtype="float32", components="1", limits=Limits()).numbers
    assert [value or 0.0 for value in values] == numbers


def test_numbers_are_little_endian() -> None:
    assert [1.0, -2.0] == decode(bytes.fromhex("000000000000f03f 00000000000000c0")).numbers
    assert [1.0, -2.0] == decode(bytes.fromhex("0000803f 000000c0"), dtype="float32").numbers


def test_many_numbers_are_decoded_and_checked_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [float(n % 11) * (-1) ** n for n in range(30)]
    body = doubles(*values)
    expected = [value or 0.0 for value in values]
    assert expected == decode(body, components="5").numbers
    monkeypatch.setattr(binary_vectors, "_PIECE", 4)
    monkeypatch.setattr(core, "_STRIDE", 7)
    assert repr(expected) == repr(decode(body, components="5").numbers)
    for wrong in range(30):
        odd = doubles(*values[:wrong], nan, *values[wrong + 1 :])
        assert f"/{wrong // 5}/{wrong % 5}" == refusal(odd, components="5")[0]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2026-01-01T01:00:00.5+01:00", NOW + 500),
        ("1767225600.5", NOW + 500),
        ("1.7672256005e9", NOW + 500),
        ("-1", -1000),
        ("0", 0),
    ],
)
def test_all_readings_have_the_time_in_the_query(text: str, milliseconds: int) -> None:
    readings = decode(doubles(1, 2), components="1", time=text)
    assert (milliseconds, milliseconds) == (readings.first, readings.last)


@pytest.mark.parametrize("text", ["", "now", "2026-01-01", "2026-01-01T00:00:00 01:00", "nan", "1e400", "0x1", "1_0"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    assert (None, binary_vectors.TIME) == refusal(doubles(1), time=text)


@pytest.mark.parametrize("odd", [nan, inf, -inf, 1e141, -1e-141, 5e-324])
@pytest.mark.parametrize(
    ("parameters", "pointer"),
    [
        ({}, "/0/4"),
        ({"components": "1"}, "/4"),
        ({"components": "3"}, "/1/1"),
        ({"members": "a,b:2"}, "/1/b/0"),
        ({"members": "b:2,a"}, "/1/b/1"),
        ({"members": "x:2,~/:1"}, "/1/x/1"),
    ],
)
def test_a_number_outside_the_domain_is_refused_with_its_place(
    odd: float, parameters: dict[str, str], pointer: str
) -> None:
    place, detail = refusal(doubles(1, 0, 3, 4, odd, 6), **parameters)
    assert (pointer, "Expected 0 or a number with a magnitude from 1e-140 to 1e+140.") == (place, detail)


@pytest.mark.parametrize(
    ("body", "parameters", "detail"),
    [
        (b"", {}, "Expected a body of one or more float64 numbers of 8 bytes."),
        (
            b"",
            {"components": "2"},
            "Expected a body of one or more readings of 16 bytes: 2 float64 numbers of 8 bytes.",
        ),
        (bytes(4), {}, "Expected a body of one or more float64 numbers of 8 bytes."),
        (bytes(6), {"dtype": "float32"}, "Expected a body of one or more float32 numbers of 4 bytes."),
        (
            bytes(40),
            {"components": "2"},
            "Expected a body of one or more readings of 16 bytes: 2 float64 numbers of 8 bytes.",
        ),
        (
            b"",
            {"components": "3"},
            "Expected a body of one or more readings of 24 bytes: 3 float64 numbers of 8 bytes.",
        ),
        (
            bytes(12),
            {"members": "a,b", "dtype": "float32"},
            "Expected a body of one or more readings of 8 bytes: 2 float32 numbers of 4 bytes.",
        ),
        (
            bytes(3),
            {"components": "1", "dtype": "float32"},
            "Expected a body of one or more readings of 4 bytes: 1 float32 number of 4 bytes.",
        ),
    ],
)
def test_a_body_of_another_length_is_refused_with_what_was_expected(
    body: bytes, parameters: dict[str, str], detail: str
) -> None:
    assert ("", detail) == refusal(body, **parameters)


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        *(({"dtype": dtype}, "Expected dtype to be float64 or float32.") for dtype in ("", "float16", "<f8", "f4")),
        *(
            ({"components": text}, "Expected components to be an integer from 1 to 8.")
            for text in ("", "0", "9", "-1", "1.0", "01", "+1", "\u0661", "1" * 5_000)
        ),
        ({"components": "1", "members": "a"}, "Expected components or members, not both."),
        *(
            ({"members": text}, binary_vectors.MEMBERS)
            for text in ("a:0", "a:", "a:x", "a:1:2", "a:-1", "a,a", "a:1,a:2", "a:01")
        ),
        ({"members": "a,b,c,d"}, "Expected at most 3 members."),
        ({"members": "a:8,b"}, "Expected members of at most 8 numbers together."),
        ({"members": "a:999999999"}, "Expected members of at most 8 numbers together."),
        *(
            ({"members": text}, "Expected names of 1 to 255 printable characters.")
            for text in ("", ":1", "a,", "\n", "a" * 256, f"{'a' * 2_000}:2")
        ),
    ],
)
def test_a_parameter_that_is_none_is_refused(parameters: dict[str, str], detail: str) -> None:
    assert (None, detail) == refusal(doubles(1, 2), **parameters)


def test_limits_hold() -> None:
    assert 6 == decode(bytes(48), components="1").size
    assert 8 == decode(bytes(64)).shape.components
    assert 30 == len(decode(bytes(240), components="5").numbers)
    with pytest.raises(TooMany, match="at most 6 readings"):
        decode(bytes(56), components="1")
    with pytest.raises(TooMany, match="at most 30 numbers"):
        decode(bytes(256), components="8")
    place, detail = refusal(bytes(72))
    assert "/0" == place
    assert detail.startswith("Expected at most 8 numbers in a value. The body is one reading, unless")


def test_a_zero_is_positive() -> None:
    assert "[0.0, 1.0]" == repr(decode(doubles(-0.0, 1)).numbers)
    assert "[0.0]" == repr(decode(bytes.fromhex("00000080"), dtype="float32").numbers)
