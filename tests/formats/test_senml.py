"""SenML: the examples of RFC 8428, what each field does, and that nothing but a pack is read as one."""

import json
import tracemalloc
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from math import isnan
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meanwhile.core.errors import Invalid, TooMany
from meanwhile.core.readings import Limits
from meanwhile.formats import cbor, senml
from meanwhile.formats.senml import Pack, decode_cbor, decode_json
from meanwhile.formats.strict_json import Malformed

law = settings(derandomize=True, deadline=None, max_examples=100)

NOW = 1_767_225_600_000
LIMITS = Limits()
DEVICE = "urn:dev:ow:10e2073a01080063"
LABELS = {"bver": -1, "bn": -2, "bt": -3, "bu": -4, "bv": -5, "bs": -6} | {
    name: label for label, name in enumerate(["n", "u", "v", "vs", "vb", "s", "t", "ut", "vd"])
}


def in_cbor(pack: list[Any]) -> bytes:
    return cbor2.dumps(
        [{LABELS.get(k, k): v for k, v in record.items()} if isinstance(record, dict) else record for record in pack]
    )


def read(pack: list[Any]) -> Pack:
    """A pack, which reads the same in all notations."""
    text = json.dumps(pack).encode()
    found = decode_json(text, NOW, LIMITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(senml, "_needs_strict_parse", lambda *_: True)
        assert repr(found) == repr(decode_json(text, NOW, LIMITS))
    assert repr(found) == repr(decode_cbor(in_cbor(pack), NOW, LIMITS))
    return found


def values(pack: Pack) -> dict[str, list[float]]:
    return {name: readings.columns[0] for name, readings in pack.readings.items()}


def refused(pack: Any) -> tuple[str | None, str]:
    """Where and why a pack is refused, in all notations."""
    with pytest.raises(Invalid) as by_json:
        decode_json(json.dumps(pack).encode(), NOW, LIMITS)
    with pytest.raises(Invalid) as by_cbor:
        decode_cbor(in_cbor(pack) if isinstance(pack, list) else cbor2.dumps(pack), NOW, LIMITS)
    assert (by_json.value.pointer, by_json.value.detail) == (by_cbor.value.pointer, by_cbor.value.detail)
    return by_json.value.pointer, by_json.value.detail


# The examples of RFC 8428, sections 5 and 6 -----------------------------------------------------------------------


def test_section_5_1_1_a_single_data_point() -> None:
    pack = read([{"n": DEVICE, "u": "Cel", "v": 23.1}])
    assert {DEVICE: [23.1]} == values(pack)
    assert (NOW, NOW) == (pack.readings[DEVICE].first, pack.readings[DEVICE].last)


def test_section_5_1_2_multiple_data_points() -> None:
    pack = read([{"bn": DEVICE + ":", "n": "voltage", "u": "V", "v": 120.1}, {"n": "current", "u": "A", "v": 1.2}])
    assert {f"{DEVICE}:voltage": [120.1], f"{DEVICE}:current": [1.2]} == values(pack)


MULTIPLE = [
    {"bn": "urn:dev:ow:10e2073a0108006:", "bt": 1.276020076001e09, "bu": "A", "bver": 5}
    | {"n": "voltage", "u": "V", "v": 120.1},
    *({"n": "current", "t": t, "v": v} for t, v in ((-5, 1.2), (-4, 1.3), (-3, 1.4), (-2, 1.5), (-1, 1.6))),
    {"n": "current", "v": 1.7},
]


def test_section_5_1_2_with_a_base_time_and_an_older_version() -> None:
    pack = read(MULTIPLE)
    current = pack.readings["urn:dev:ow:10e2073a0108006:current"]
    assert [1.2, 1.3, 1.4, 1.5, 1.6, 1.7] == current.columns[0]
    assert (1_276_020_071_001, 1_276_020_076_001) == (current.first, current.last)


def test_section_6_the_same_in_cbor_as_the_rfc_has_it() -> None:
    dump = """
        87 a7 21 78 1b 75 72 6e 3a 64 65 76 3a 6f 77 3a 31 30 65 32 30 37 33 61 30 31 30 38 30 30 36 3a 22 fb 41 d3 03
        a1 5b 00 10 62 23 61 41 20 05 00 67 76 6f 6c 74 61 67 65 01 61 56 02 fb 40 5e 06 66 66 66 66 66 a3 00 67 63 75
        72 72 65 6e 74 06 24 02 fb 3f f3 33 33 33 33 33 33 a3 00 67 63 75 72 72 65 6e 74 06 23 02 fb 3f f4 cc cc cc cc
        cc cd a3 00 67 63 75 72 72 65 6e 74 06 22 02 fb 3f f6 66 66 66 66 66 66 a3 00 67 63 75 72 72 65 6e 74 06 21 02
        f9 3e 00 a3 00 67 63 75 72 72 65 6e 74 06 20 02 fb 3f f9 99 99 99 99 99 9a a3 00 67 63 75 72 72 65 6e 74 06 00
        02 fb 3f fb 33 33 33 33 33 33"""
    assert read(MULTIPLE) == decode_cbor(bytes.fromhex(dump), NOW, LIMITS)


def test_section_5_1_3_a_base_name_alone_is_a_name() -> None:
    first = {"bn": DEVICE, "bt": 1.320067464e09, "bu": "%RH", "v": 21.2}
    later = [(10, 21.3), (20, 21.4), (30, 21.4), (40, 21.5), (50, 21.5), (60, 21.5), (70, 21.6), (80, 21.7)]
    pack = read([first, *({"t": t, "v": v} for t, v in later)])
    assert {DEVICE: [21.2, *(v for _, v in later)]} == values(pack)
    assert (1_320_067_464_000, 1_320_067_544_000) == (pack.readings[DEVICE].first, pack.readings[DEVICE].last)


def test_section_5_1_3_units_say_nothing_about_the_name() -> None:
    pack = read([{"bn": DEVICE, "bt": 1.320067464e09, "bu": "%RH", "v": 20}, {"u": "lon", "v": 24.30621}])
    assert {DEVICE: [20.0, 24.30621]} == values(pack)


def test_section_5_1_4_resolved_data() -> None:
    pack = read([{"n": DEVICE, "u": "%RH", "t": t, "v": v} for t, v in ((1.320067464e09, 20), (1.320067524e09, 20.3))])
    assert {DEVICE: [20.0, 20.3]} == values(pack)
    assert (1_320_067_464_000, 1_320_067_524_000) == (pack.readings[DEVICE].first, pack.readings[DEVICE].last)


def test_section_5_1_5_of_multiple_data_types_the_number_is_recorded_and_the_others_are_skipped() -> None:
    first = {"bn": DEVICE + ":", "n": "temp", "u": "Cel", "v": 23.1}
    others = [{"n": "label", "vs": "Machine Room"}, {"n": "open", "vb": False}, {"n": "nfc-reader", "vd": "aGkgCg=="}]
    pack = read([first, *others])
    assert ({f"{DEVICE}:temp": [23.1]}, 3) == (values(pack), pack.skipped)


def test_section_5_1_6_a_collection_of_resources() -> None:
    pack = read([{"bn": "2001:db8::2/", "bt": 1.320078429e09, "n": "temperature", "u": "Cel", "v": 25.2}])
    assert {"2001:db8::2/temperature": [25.2]} == values(pack)


def test_section_5_1_7_an_actuator() -> None:
    pack = read([{"bn": "urn:dev:ow:10e2073a01080063:", "n": "set", "vs": "on"}])
    assert ({}, 1) == (pack.readings, pack.skipped)


# Fields -----------------------------------------------------------------------------------------------------------


def test_base_fields_apply_from_their_record_on_until_they_are_given_again() -> None:
    pack = read(
        [
            {"n": "a", "v": 1},
            {"bn": "x/", "bv": 10, "bt": 1e9},
            {"n": "a", "v": 1},
            {"bn": "y/", "n": "a", "v": 2, "t": 5},
            {"bv": 0, "bt": 0, "n": "a", "v": 3},
            {"bn": "", "n": "a", "v": 4},
        ]
    )
    assert {"a": [1.0, 4.0], "x/a": [11.0], "y/a": [12.0, 3.0]} == values(pack)
    assert (1_000_000_000_000, NOW) == (pack.readings["x/a"].first, pack.readings["y/a"].last)
    assert 1_000_000_005_000 == pack.readings["y/a"].first
    assert 0 == pack.skipped


@pytest.mark.parametrize(
    ("base", "time", "expected"),
    [
        (0, 0, NOW),
        (0, -60, NOW - 60_000),
        (0, 1.5, NOW + 1_500),
        (0, 2**28 - 1, NOW + (2**28 - 1) * 1000),
        (0, 2**28, 2**28 * 1000),
        (2**28, -1, NOW + (2**28 - 1) * 1000),
        (1e9, -1, 999_999_999_000),
        (-100, 40, NOW - 60_000),
    ],
)
def test_a_time_below_2_to_the_28_is_relative_to_now(base: float, time: float, expected: int) -> None:
    for pack in ([{"bt": base, "n": "a", "v": 1, "t": time}], [{"bt": base}, {"n": "a", "v": 1, "t": time}]):
        assert (expected, expected) == (read(pack).readings["a"].first, read(pack).readings["a"].last)


def test_a_sum_is_never_averaged() -> None:
    pack = read([{"bs": 100}, {"n": "a", "v": 1, "s": 7}, {"n": "a", "s": 8}, {"bn": "b", "s": 9}])
    assert ({"a": [1.0]}, 2) == (values(pack), pack.skipped)


def test_unknown_fields_are_ignored() -> None:
    pack = decode_json(b'[{"n": "a", "v": 1, "x": {"y": [null, 1e999, "\\u0000"]}, "z:": 1}]', NOW, LIMITS)
    assert {"a": [1.0]} == values(pack)
    assert {"a": [1.0]} == values(decode_cbor(cbor2.dumps([{0: "a", 2: 1, "x": {"y": [None]}}]), NOW, LIMITS))


@pytest.mark.parametrize(
    ("pack", "pointer"),
    [
        ([], ""),
        ({}, ""),
        ("a", ""),
        ([1], "/0"),
        ([{}], "/0"),
        ([[]], "/0"),
        ([{"n": "a", "v": 1}, None], "/1"),
        ([{"n": "a"}], "/0"),
        ([{"n": "a", "u": "Cel", "t": 5}], "/0"),
        ([{"n": "a", "v": 1}, {"n": "a", "v": True}], "/1/v"),
        ([{"n": "a", "v": "1"}], "/0/v"),
        ([{"n": "a", "v": None}], "/0/v"),
        ([{"n": "a", "v": [1]}], "/0/v"),
        ([{"n": 1, "v": 1}], "/0/n"),
        ([{"n": None, "v": 1}], "/0/n"),
        ([{"n": "a", "v": 1, "u": 1}], "/0/u"),
        ([{"n": "a", "v": 1, "t": "1"}], "/0/t"),
        ([{"n": "a", "v": 1, "t": True}], "/0/t"),
        ([{"n": "a", "v": 1, "ut": "1"}], "/0/ut"),
        ([{"n": "a", "v": 1, "s": "1"}], "/0/s"),
        ([{"n": "a", "vs": 1}], "/0/vs"),
        ([{"n": "a", "vb": 1}], "/0/vb"),
        ([{"n": "a", "vd": 1}], "/0/vd"),
        ([{"bn": 1}], "/0/bn"),
        ([{"bt": "1"}], "/0/bt"),
        ([{"bv": False}], "/0/bv"),
        ([{"bs": "1"}], "/0/bs"),
        ([{"bu": 1}], "/0/bu"),
        ([{"n": "a", "v": 1, "vs": "x"}], "/0"),
        ([{"n": "a", "v": 1, "new_": 1}], "/0"),
        ([{"n": "a", "v": 1, "_": 1}], "/0"),
        ([{"bver": 11}], "/0/bver"),
        ([{"bver": 0}], "/0/bver"),
        ([{"bver": 9.5}], "/0/bver"),
        ([{"bver": "10"}], "/0/bver"),
        ([{"bver": 5, "n": "a", "v": 1}, {"bver": 6}], "/1/bver"),
        ([{"n": "a", "v": 1}, {"bver": 5}], "/1/bver"),
        ([{"v": 1}], "/0"),
        ([{"n": "/a", "v": 1}], "/0"),
        ([{"bn": "a/", "n": "count", "v": 1}], "/0"),
        ([{"n": "a b", "v": 1}], "/0"),
        ([{"n": "a" * 256, "v": 1}], "/0"),
        ([{"bn": "a" * 200}, {"n": "b" * 56, "v": 1}], "/1"),
        ([{"n": "a", "v": 1}, {"n": "a", "v": 1e141}], "/1"),
        ([{"n": "a", "v": 1}, {"n": "a", "v": -1e-141}], "/1"),
        ([{"bv": 1e140}, {"n": "a", "v": 1}, {"n": "a", "v": 1e140}], "/2"),
        ([{"n": "a", "v": 1, "t": 1e15}], "/0"),
        ([{"n": "a", "v": 1, "t": -1e15}], "/0"),
        ([{"n": "a", "v": 1, "t": 1e300}], "/0"),
        ([{"bt": 1e300}, {"n": "a", "v": 1, "t": 1e300}], "/1"),
    ],
    ids=repr,
)
def test_anything_else_is_refused_by_its_record(pack: Any, pointer: str) -> None:
    assert pointer == refused(pack)[0]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[", b'[{"n": "a", "v": 1}', b'[{"n": "a", "v": 1}] x', b"\xff", b'[{"n": "\xff", "v": 1}]'),
        *(b"[" * 100_000, b'[{"x": ' * 50_000),
    ],
    ids=lambda body: ascii(body[:20]),
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode_json(body, NOW, LIMITS)


@pytest.mark.parametrize(
    "body",
    [
        b'[{"n": "a", "v": 1, "v": 2}]',
        b'[{"n": "a", "v": 1, "n": "b"}]',
        b'[{"n": "a", "v": 1, "x": 1, "x": 1}]',
        b'[{"n": "a", "v": 1, "\\u0076": 2}]',
        b'[{"n": "a:b", "n": "a", "v": 1}]',
        b'[{"n": "a", "v": NaN}]',
        b'[{"n": "a", "v": Infinity}]',
        b'[{"n": "a", "v": 1e400}]',
        b'[{"n": "a", "v": 1e-400}]',
        b'[{"n": "a", "v": 1, "t": 1e-400}]',
        b'[{"n": "a", "v": 0.' + b"0" * 400 + b"1}]",
    ],
)
def test_json_that_is_misread_elsewhere_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        decode_json(body, NOW, LIMITS)


HEAD = "81a2006161 02"  # [{"n": "a", "v": and then the value.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("05", 5.0),
        ("25", -6.0),
        ("f9 480f", 8.1171875),
        ("fa 403c1999", 2.9390623569488525),
        ("fb 3ffb333333333333", 1.7),
        ("c4 82 21 19 69eb", 271.15),  # A decimal fraction, 27115 * 10^-2.
        ("c5 82 20 03", 1.5),  # A bigfloat, 3 * 2^-1.
        ("c2 49 010000000000000000", 2.0**64),
        ("c3 49 010000000000000000", -(2.0**64)),
        ("1b 2c1a23197bce72d7", 3177891079421588183.0),
    ],
)
def test_every_number_of_cbor_is_read_as_the_nearest_double(value: str, expected: float) -> None:
    assert {"a": [expected]} == values(decode_cbor(bytes.fromhex(HEAD + value), NOW, LIMITS))


@pytest.mark.parametrize(
    "body",
    [
        *("", "ff", "81", "81a1", HEAD, HEAD + "05 00", HEAD + "05 f6", HEAD + "05 81", "9bffffffffffffffff"),
        *("81" * 2000, HEAD + "c1 1a00010000", HEAD + "c0 61 61", HEAD + "d8 23 61 2e", HEAD + "d8 1c 81 d8 1d 00"),
        *(
            HEAD + "c4 05",
            HEAD + "d9d9f7 05",
        ),
        *("81a3 00 6161 02 05 02 06", "81a2 00 61ff 02 05"),
    ],
)
def test_what_is_not_cbor_or_has_keys_twice_or_other_tags_is_malformed(body: str) -> None:
    with pytest.raises(Malformed):
        decode_cbor(bytes.fromhex(body), NOW, LIMITS)


@pytest.mark.parametrize(
    "body",
    [
        *(HEAD + "f97e00", HEAD + "f97c00", HEAD + "f9fc00", HEAD + "f6", HEAD + "f7", HEAD + "f5", HEAD + "f0"),
        *(HEAD + "c2 49 " + "ff" * 9 + "", HEAD + "c2 58 c8 " + "ff" * 200, HEAD + "c4 82 39 01f3 01"),
        *(
            "81a2 61 6e 6161 02 05",
            "81a2 00 6161 61 76 05",
            "81a2 07 6161 02 05",
            "81a1 18 63 05",
            "81a2 00 6161 40 05",
        ),
        *("81a3 00 6161 02 05 06 f97e00", "81a3 00 6161 02 05 06 f9fc00"),
    ],
)
def test_cbor_that_says_nothing_that_can_be_recorded_is_refused(body: str) -> None:
    if body == HEAD + "c2 49 " + "ff" * 9:
        assert decode_cbor(bytes.fromhex(body), NOW, LIMITS).readings  # 2^72 - 1 is a number like others.
        return
    with pytest.raises(Invalid):
        decode_cbor(bytes.fromhex(body), NOW, LIMITS)


def test_more_readings_than_the_limit_are_too_many() -> None:
    few = Limits(readings=2)
    assert 2 == decode_json(b'[{"n":"a","v":1},{"n":"a","v":1},{"n":"a","vs":""}]', NOW, few).readings["a"].size
    for pack in ([{"n": "a", "v": 1}] * 3, [{"n": "a", "vs": ""}] * 5):
        with pytest.raises(TooMany):
            decode_json(json.dumps(pack).encode(), NOW, few)
        with pytest.raises(TooMany):
            decode_cbor(in_cbor(pack), NOW, few)


# Laws -------------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.floats(1e-9, 1e9), st.integers(-(10**6), 10**6).map(float))
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "bn": st.sampled_from(["", "a/", "urn:dev:ow:1:"]),
        "bt": st.sampled_from([0.0, 1e9, -5.0]),
        "bv": NUMBERS,
        "n": st.sampled_from(["x", "y:z", "t_"]),
        "v": NUMBERS,
        "t": st.sampled_from([0.0, -1.5, 2.0**28]),
        "u": st.just("Cel"),
        "vs": st.text(max_size=3),
        "s": NUMBERS,
        "extra": st.just(1.0),
    },
)


@law
@given(pack=st.lists(RECORDS, max_size=8))
def test_all_notations_and_readers_say_the_same(pack: list[dict[str, Any]]) -> None:
    try:
        read(pack)
    except Invalid:
        refused(pack)


@law
@given(data=st.data())
def test_garbage_is_refused_and_never_more(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from([json.dumps(MULTIPLE).encode(), in_cbor(MULTIPLE)]))
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    for decode in (decode_json, decode_cbor):
        with suppress(Malformed, Invalid):
            decode(bytes(body), NOW, LIMITS)


@law
@given(base=st.decimals(-1000, 1000, places=3), value=st.decimals(-1000, 1000, places=5))
@example(base=Decimal("0.1"), value=Decimal("0.2"))
@example(base=Decimal("20.1"), value=Decimal("-20.1"))
def test_a_base_value_is_added_exactly(base: Decimal, value: Decimal) -> None:
    pack = read([{"bn": "a", "bv": float(base), "v": float(value)}])
    assert {"a": [float(base + value)]} == values(pack)


# CBOR that is hostile -------------------------------------------------------------------------------------------------


def double_of(tag: int, exponent: int, mantissa: int) -> float:
    """What a number of this tag is read as; NaN where it is refused."""
    items = cbor.items(cbor2.dumps([{2: cbor2.CBORTag(tag, [exponent, mantissa])}]))
    assert items is not None
    return float(next(items)[2])


@pytest.mark.parametrize(
    ("exponent", "mantissa"),
    [
        (86, 9007199254740993),
        (-277, 12989862094812569),
        (0, 2**64 + 1),
        (-1074, 2**60 + 1),
        (-500, -(3**100)),
        (90, 7),
    ],
)
def test_a_bigfloat_is_the_nearest_double(exponent: int, mantissa: int) -> None:
    assert float(Fraction(mantissa) * Fraction(2) ** exponent) == double_of(5, exponent, mantissa)


@law
@given(exponent=st.integers(-330, 330), mantissa=st.integers(-(2**200), 2**200))
def test_a_decimal_fraction_is_the_nearest_double_or_refused(exponent: int, mantissa: int) -> None:
    exact = Fraction(mantissa) * Fraction(10) ** exponent
    found = double_of(4, exponent, mantissa)
    try:
        expected = float(exact)
    except OverflowError:
        assert isnan(found)
    else:
        assert isnan(found) if expected == 0 != exact else expected == found


@pytest.mark.parametrize("value", ["c5823a3b9ac9ff01", "c5821b7fffffffffffffff01", "c4821b7fffffffffffffff01"])
def test_what_becomes_no_double_is_refused_and_not_zero(value: str) -> None:
    with pytest.raises(Invalid):
        decode_cbor(bytes.fromhex(HEAD + value), NOW, LIMITS)


HUGE = b"\xc2\x5a" + (250_000).to_bytes(4) + b"\xff" * 250_000


@pytest.mark.parametrize(
    "body",
    [
        b"\x81\xa2\x00\x61a\x02" + HUGE,
        b"\x81\xa2\x00\x61a\x02\xc4\x82\x01" + HUGE,
        b"\x81\xa2\x00\x61a\x02\xc5\x82\x01" + HUGE,
        b"\x81\xa2\x00\x61a\x02\xc5\x82" + HUGE + b"\x01",
        b"\x81\xb9\x4e\x20" + b"".join(b"\xc2\x44" + n.to_bytes(4) + b"\x01" for n in range(20_000)),
        b"\x9a" + (400_000).to_bytes(4) + b"\xa0" * 400_000,
        b"\x9f" * 1_000_000,
        b"\x9b" + b"\xff" * 8,
        b"\x81\xbb" + b"\x7f" + b"\xff" * 7,
        b"\x81\xa1\x00\x7b" + b"\x7f" + b"\xff" * 7,
    ],
    ids=["bignum", "decimal", "bigfloat", "exponent", "bignum keys", "tiny maps", "deep", "items", "pairs", "text"],
)
def test_hostile_cbor_is_refused_in_little_memory(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((Malformed, Invalid, TooMany)):
            decode_cbor(body, NOW, Limits(readings=1_000))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body) + 3_000_000
    finally:
        tracemalloc.stop()


@law
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x81\xa2\x00\x61a\x02" + tail))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(Malformed, Invalid, TooMany):
        decode_cbor(body, NOW, LIMITS)
