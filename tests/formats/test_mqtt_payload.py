"""What an MQTT message says: number, array, object, a POST's body; split; sequences; topics that name no stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meanwhile.core.errors import Invalid
from meanwhile.core.idempotency_keys import MAX_SEQUENCE
from meanwhile.core.readings import Limits
from meanwhile.core.stream_names import MAX_NAME_LENGTH, is_name
from meanwhile.formats.mqtt_payload import Decoded, Options, decode
from meanwhile.formats.strict_json import Malformed
from meanwhile.formats.topic_names import stream_of

NOW = 1_000


def read(
    payload: str | bytes, topic: str = "a/b", *, prefix: str = "", split: bool = False, content_type: str | None = None
) -> Decoded:
    content = payload.encode() if isinstance(payload, str) else payload
    return decode(topic, content, NOW, Options(prefix, split, "seq"), Limits(), content_type)


def values(decoded: Decoded) -> dict[str, list[list[float]]]:
    return {stream: readings.columns for stream, readings in decoded.readings.items()}


@pytest.mark.parametrize(
    ("payload", "columns"),
    [
        ("21.5", [[21.5]]),
        ("  -3 \r\n", [[-3.0]]),
        ("1e3", [[1000.0]]),
        ("[1, 2]", [[1.0], [2.0]]),
        ('{"value": 3}', [[3.0]]),
        ('{"values": [3, 4]}', [[3.0, 4.0]]),
        ('{"temperature": 21.5, "humidity": 40}', [[40.0], [21.5]]),
        ('{"value": {"temperature": 21.5}}', [[21.5]]),
        ('{"value": 1, "other": 2}', [[2.0], [1.0]]),
        ('{"axes": [1, 2], "t": 3}', [[1.0], [2.0], [3.0]]),
    ],
)
def test_payloads_that_are_readings(payload: str, columns: list[list[float]]) -> None:
    decoded = read(payload)
    assert {"a/b": columns} == values(decoded)
    assert (None, 0) == (decoded.sequence, decoded.skipped)
    assert (NOW, NOW) == (decoded.readings["a/b"].first, decoded.readings["a/b"].last)


def test_a_reading_may_have_a_time() -> None:
    assert 12_500 == read('{"value": 1, "time": 12.5}').readings["a/b"].first


@pytest.mark.parametrize(
    "payload",
    [
        *("", " ", "on", "21,5", "21.5 C", "nan", "NaN", "Infinity", "+1", "1,2", '1,"time":5', "true", "null", '"1"'),
        *(
            "{}",
            "[]",
            "[[1]]",
            '[{"n": "a b", "v": 1}]',
            '{"a": "x"}',
            '{"a": {"b": 1}}',
            '{"a": null}',
            '{"a": 1, "a": 2}',
        ),
        *("1e400", "1e-400", '{"value": 1, "value": 2}', '{"value": 1, "time": "today"}', '{"seq": 1}', "[" * 100_000),
        b"\xff",
        b"21.5\x00",
    ],
)
def test_payloads_that_are_none_are_refused(payload: str | bytes) -> None:
    with pytest.raises((Malformed, Invalid)):
        read(payload)


@given(st.binary(max_size=40), st.text(max_size=20), st.booleans())
def test_any_payload_and_topic_is_read_or_refused(payload: bytes, topic: str, split: bool) -> None:
    try:
        decoded = read(payload, topic, split=split)
    except (Malformed, Invalid):
        return
    assert all(map(is_name, decoded.readings))


def test_senml_names_its_own_streams() -> None:
    pack = '[{"bn": "urn:dev:1:", "n": "temp", "v": 21.5}, {"n": "door", "vb": true}, {"n": "temp", "v": 22.5}]'
    for decoded in (read(pack), read(pack, content_type="application/senml+json")):
        assert {"urn:dev:1:temp": [[21.5, 22.5]]} == values(decoded)
        assert 1 == decoded.skipped
    assert {"home/urn:dev:1:temp"} == read(pack, prefix="home/").readings.keys()


def test_senml_in_cbor_is_known_by_its_content_type() -> None:
    pack = bytes.fromhex("81a2006161 02f93e00".replace(" ", ""))  # [{0: "a", 2: 1.5}]
    assert {"a": [[1.5]]} == values(read(pack, content_type="application/senml+cbor"))
    with pytest.raises(Malformed):
        read(pack)


def test_split_makes_a_stream_of_each_number() -> None:
    payload = '{"battery": 100, "state": "ON", "power": {"now": 5, "on": true}, "axes": [1], "update": null, "seq": 3}'
    decoded = read(payload, split=True)
    assert {"a/b/battery": [[100.0]], "a/b/power/now": [[5.0]]} == values(decoded)
    assert (3, 4) == (decoded.sequence, decoded.skipped)


def test_split_leaves_numbers_and_bodies_of_a_post_alone() -> None:
    assert {"a/b": [[1.0]]} == values(read("1", split=True))
    assert {"a/b": [[1.0]]} == values(read('{"value": 1}', split=True))


@pytest.mark.parametrize("payload", ['{"state": "ON"}', '{"a": {"b": {}}}'])
def test_split_refuses_an_object_without_a_number(payload: str) -> None:
    with pytest.raises(Invalid):
        read(payload, split=True)


@pytest.mark.parametrize("sequence", ["0", "7", str(MAX_SEQUENCE)])
def test_a_sequence_is_taken_out_of_an_object(sequence: str) -> None:
    assert (int(sequence), {"a/b": [[1.0]]}) == (
        read(f'{{"value": 1, "seq": {sequence}}}').sequence,
        values(read(f'{{"value": 1, "seq": {sequence}}}')),
    )
    assert {"a/b": [[2.0]]} == values(read(f'{{"t": 2, "seq": {sequence}}}'))


@pytest.mark.parametrize("sequence", ["-1", "1.5", str(2**53), '"1"', "null", "true", "[1]"])
def test_a_sequence_that_is_none_is_refused(sequence: str) -> None:
    with pytest.raises(Invalid):
        read(f'{{"value": 1, "seq": {sequence}}}')


@pytest.mark.parametrize(
    ("topic", "stream"),
    [
        ("plant/boiler~2", "plant/boiler~2"),
        ("/plant/boiler", "plant/boiler"),
        ("plant/boiler/", "plant/boiler"),
        ("a//b", "a/~2F/b"),
        ("zigbee2mqtt/Living room", "zigbee2mqtt/Living~20room"),
        ("grüße", "gr~C3~BC~C3~9Fe"),
        ("esp/count", "esp/~63ount"),
        ("a/../b", "a/~2E./b"),
        ("_x", "x~_x"),
        ("$SYS/load", "x~~24SYS/load"),
        ("", "x~~2F"),
    ],
)
def test_topics_name_streams(topic: str, stream: str) -> None:
    assert stream == stream_of(topic)
    assert is_name(stream)


@given(st.text(max_size=60))
def test_every_topic_that_is_not_too_long_names_a_stream(topic: str) -> None:
    stream = stream_of(topic)
    assert is_name(stream) or len(stream) > MAX_NAME_LENGTH
    assert stream == stream_of(stream) or not is_name(stream)


@given(st.text(alphabet="a ~/.%ü2", max_size=6), st.text(alphabet="a ~/.%ü2", max_size=6))
def test_topics_that_are_no_names_have_streams_of_their_own(one: str, other: str) -> None:
    if not (is_name(one) or is_name(other)) and one.strip("/") != other.strip("/"):
        assert stream_of(one) != stream_of(other)


def test_the_prefix_is_in_front_of_the_topic() -> None:
    assert {"home/a/b": [[1.0]]} == values(read("1", prefix="home/"))


def test_a_topic_too_long_for_a_stream_is_refused() -> None:
    with pytest.raises(Invalid):
        read("1", topic="ü" * 100)
