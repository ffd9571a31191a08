"""MQTT messages: the topic names the stream, the payload is a reading.

    21.5                                     a number, or an array of numbers
    {"value": 21.5, "time": "2026-..."}      what a POST for one stream takes, ``values`` too
    {"temperature": 21.5, "humidity": 40}    any other object: an object reading; or *split*, a stream for each field
    [{"n": "urn:...:temp", "v": 21.5}]       an array of objects is a SenML pack; its records name their streams

The content type of MQTT 5 counts if it is one of SenML's; SenML in CBOR needs it.

In a split object, objects inside it are split, too. What is neither a number nor an object is skipped and counted,
since Zigbee2MQTT and Tasmota send strings and switches with the numbers.

An object can have a *sequence*, in a member whose name is configured. It is removed before the rest is read.

``topic_names.py`` says which stream a topic names; names of fields are segments of a topic.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from meanwhile.core.errors import Invalid
from meanwhile.core.idempotency_keys import MAX_SEQUENCE
from meanwhile.core.readings import Limits, Readings, collect_numbers
from meanwhile.core.stream_names import check_name
from meanwhile.formats import json_readings, senml, strict_json
from meanwhile.formats.topic_names import stream_of

_PACK = re.compile(rb"[ \t\r\n]*+\[[ \t\r\n]*+\{")  # How an array of objects starts.
_POST = {"value", "values", "time"}
_SENML: Mapping[str | None, Callable[[bytes, int, Limits], senml.Pack]] = {
    "application/senml+json": senml.decode_json,
    "application/sensml+json": senml.decode_json,
    "application/senml+cbor": senml.decode_cbor,
}


class Options(NamedTuple):
    """How messages are read."""

    prefix: str = ""  # What stream names start with.
    split: bool = False  # Whether an object is one reading for each of its numbers.
    sequence: str | None = None  # The member of objects that is a sequence.


class Decoded(NamedTuple):
    """What a message says."""

    readings: dict[str, Readings]  # By stream.
    sequence: int | None = None
    skipped: int = 0  # Fields, or records of a pack, without a number.


def decode(
    topic: str, payload: bytes, now: int, options: Options, limits: Limits, content_type: str | None = None
) -> Decoded:
    """The readings of a message. ``now`` (ms since 1970) is the time of those that have none.

    Raises ``Malformed``, or ``Invalid``, also if the topic is too long to name a stream.
    """
    if content_type in _SENML:
        return _of_pack(_SENML[content_type](payload, now, limits), options.prefix)
    if _PACK.match(payload):
        return _of_pack(senml.decode_json(payload, now, limits), options.prefix)
    node = strict_json.load(payload)
    sequence = None
    if isinstance(node, float):
        return Decoded({check_name(stream_of(options.prefix + topic)): _of_number(node, now)})
    if strict_json.is_object(node):
        members = strict_json.members_of(node, "Expected an object.", "")
        if options.sequence is not None and options.sequence in members:
            sequence = _sequence(members.pop(options.sequence))
        if not members.keys() <= _POST:
            if options.split:
                return _split(options.prefix + topic, members, sequence, now)
            node = strict_json.object_of({"value": strict_json.object_of(members)})
        else:
            node = strict_json.object_of(members)
    else:
        node = strict_json.object_of({"value": node})
    stream = stream_of(options.prefix + topic)
    return Decoded({check_name(stream): json_readings.readings_of(node, now, limits)}, sequence)


def _of_number(number: float, now: int) -> Readings:
    try:
        return collect_numbers([number], now, now)
    except Invalid as error:
        raise Invalid(error.detail, "/value") from None


def _of_pack(pack: senml.Pack, prefix: str) -> Decoded:
    readings = {check_name(prefix + name): readings for name, readings in pack.readings.items()}
    return Decoded(readings, None, pack.skipped)


def _split(topic: str, members: dict[str, Any], sequence: int | None, now: int) -> Decoded:
    """A reading for each number in the members of an object."""
    readings: dict[str, Readings] = {}
    skipped = 0
    waiting = [(f"{topic}/{name}", value) for name, value in members.items()]
    while waiting:
        path, value = waiting.pop()
        if strict_json.is_object(value):
            inner = strict_json.members_of(value, "Expected an object.", "")
            waiting += [(f"{path}/{name}", one) for name, one in inner.items()]
        elif isinstance(value, float):
            readings[check_name(stream_of(path))] = _of_number(value, now)
        else:
            skipped += 1
    if not readings:
        raise Invalid("Expected an object with a number in it.")
    return Decoded(readings, sequence, skipped)


def _sequence(value: Any) -> int:
    if not (isinstance(value, float) and value.is_integer() and 0 <= value <= MAX_SEQUENCE):
        raise Invalid(f"Expected the sequence to be an integer from 0 to {MAX_SEQUENCE}.")
    return int(value)
