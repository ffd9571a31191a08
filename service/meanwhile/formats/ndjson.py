"""NDJSON: one ``{"stream": s, "value": v, "time"?: t}`` a line.

A body of lines may have no end, so it is read a *chunk* at a time: some whole lines, of which those before the first
wrong one count. As with JSON there are two readers. *msgspec* decodes all lines of a chunk together, in C. Its result
holds if the text can hide nothing: no escapes, as many colons as there are keys and colons in strings (a duplicate key
has one more), no literal that may have become 0 (``formats/json_readings.py`` explains both), and every line feed
between two objects. Otherwise *strict JSON* reads the lines one by one and finds the wrong one.

Lines may end in CR LF. Empty lines are counted and have no reading.
"""

from functools import partial
from operator import gt
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from meanwhile.core import times
from meanwhile.core.errors import Invalid
from meanwhile.core.readings import Limits, Readings, collect
from meanwhile.core.shapes import Value
from meanwhile.core.stream_names import MAX_NAME_LENGTH, is_name
from meanwhile.formats import columns, json_bodies, json_readings
from meanwhile.formats.columns import Columns, Gathered, Misplaced
from meanwhile.formats.strict_json import Malformed, Pairs, load, members_of

_FORM = 'Expected {"stream": s, "value": v}, with a "time" if you like.'
EMPTY = b" \t\r\n"  # The characters of empty lines.
_RUN_OF_ZEROS = b"0" * 100
_LONG = 64 * 1024  # Bytes of a line whose numbers are counted before it is decoded.


class Chunk(NamedTuple):
    """The readings of some lines.

    ``gathered`` has the number of each line, from 0, as its place; ``readings`` are made of that. ``lines`` is how many
    lines were read; ``wrong`` says what is wrong with the next one, if anything is.
    """

    gathered: Gathered
    readings: dict[str, Readings]
    lines: int
    wrong: Exception | None = None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    stream: str
    value: Value
    time: float | str | UnsetType = UNSET


_decode_lines = msgspec.json.Decoder(_Line).decode_lines


def decode(lines: bytes, now: int, limits: Limits) -> Chunk:
    """The readings of whole lines, up to the first wrong one. ``now`` (ms since 1970) is the time of one without it.

    ``wrong`` is ``Malformed``, or ``Invalid`` with a pointer into the line.
    """
    if _has_too_many_numbers(lines, limits):
        wrong = Invalid(f"Expected at most {limits.components} numbers in a value.", "/value")
        return Chunk({}, {}, 0, wrong)
    chunk = decode_fast(lines, now, limits)
    return _strict(lines, _count(lines), now, limits) if chunk is None else chunk


def decode_fast(lines: bytes, now: int, limits: Limits) -> Chunk | None:
    """The same by the fast reader alone, in a tenth of the time; None if the lines need strict JSON."""
    count = _count(lines)
    if not lines.strip(EMPTY):
        return Chunk({}, {}, count)
    gathered = _fast(lines, count, now)
    if gathered is not None:
        try:
            return Chunk(gathered, columns.readings(gathered, limits), count)
        except Misplaced:
            pass
    return None


def _has_too_many_numbers(lines: bytes, limits: Limits) -> bool:
    """Whether a long line has too many numbers; decoding four million would take 300 MB and seconds."""
    if len(lines) <= _LONG or lines.count(b"\n", 0, -1):
        return False
    in_names = (limits.names + 1) * MAX_NAME_LENGTH
    return lines.count(b",") > limits.components + limits.names + in_names


def _count(lines: bytes) -> int:
    return lines.count(b"\n") + (not lines.endswith(b"\n") and lines != b"")


def _fast(lines: bytes, count: int, now: int) -> Gathered | None:  # noqa: PLR0911  # One for each reason.
    """All lines; None if they need strict JSON."""
    try:
        decoded = _decode_lines(lines)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(decoded) != count or b"\\" in lines or lines.count(b"}\n{") + lines.count(b"}\r\n{") != count - 1:
        return None
    may_underflow = b"e-" in lines or b"E-" in lines or _RUN_OF_ZEROS in lines
    colons = 2 * count
    gathered: Gathered = {}
    for number, line in enumerate(decoded):
        known = gathered.get(line.stream)
        if known is None:
            if not is_name(line.stream):
                return None
            known = gathered[line.stream] = Columns([], [], [])
        value, time = line.value, now
        if line.time is not UNSET:
            given = times.parse(line.time)
            if given is None or (line.time == 0 and may_underflow):
                return None
            time = given
            colons += 1 + (line.time.count(":") if isinstance(line.time, str) else 0)
        if value.__class__ is not float and isinstance(value, dict):
            colons += len(value) + "".join(value).count(":")
        known.values.append(value)
        known.times.append(time)
        known.places.append(number)
    colons += sum(name.count(":") * len(one.values) for name, one in gathered.items() if ":" in name)
    if lines.count(b":") != colons:
        return None
    if may_underflow and any(json_readings.has_zero(value) for one in gathered.values() for value in one.values):
        return None
    return gathered


def _strict(lines: bytes, count: int, now: int, limits: Limits) -> Chunk:
    gathered: Gathered = {}
    number, wrong = 0, None
    for number, line in enumerate(lines.split(b"\n")[:count]):
        if not line.strip(b" \t\r"):
            continue
        try:
            name, value, time = _read(line, now)
        except (Malformed, Invalid) as error:
            wrong = error
            break
        known = gathered.get(name)
        if known is None:
            known = gathered[name] = Columns([], [], [])
        known.values.append(value)
        known.times.append(time)
        known.places.append(number)
    number = number if wrong else count
    misplaced = _first_misplaced(gathered, limits)
    if misplaced is not None:
        number, wrong = misplaced
        gathered = columns.select(gathered, partial(gt, number))
    return Chunk(gathered, columns.readings(gathered, limits), number, wrong)


def _read(line: bytes, now: int) -> tuple[str, Value, int]:
    """The stream, the value and the time of a line; whether the value can be recorded is not checked."""
    try:
        node = load(line)
    except Malformed as error:
        raise Malformed(error.detail.replace("line 1, ", "")) from None  # The caller names the line.
    members = members_of(node, _FORM, "")
    name = members.pop("stream", None)
    if not isinstance(name, str) or members.keys() | {"time"} != {"value", "time"}:
        raise Invalid(_FORM, "")
    if not is_name(name):
        raise Invalid(json_bodies.bad_name(name).detail, "/stream")
    body = json_bodies.body_of(Pairs(members.items()), "")
    if body.value is UNSET:
        raise AssertionError("a line without a value was accepted")
    time = now if body.time is UNSET else times.parse(body.time)
    if time is None:
        raise Invalid(json_bodies.TIME, "/time")
    return name, body.value, time


def _first_misplaced(gathered: Gathered, limits: Limits) -> tuple[int, Invalid] | None:
    """The number of the first line whose value cannot be recorded, and why; None if there is none."""
    found: tuple[int, Value] | None = None
    for name, one in gathered.items():
        rest = {name: one}
        while rest:
            try:
                columns.readings(rest, limits)
            except Misplaced as error:
                place = error.place
                if found is None or place < found[0]:
                    found = place, one.values[one.places.index(place)]
                rest = columns.select(rest, partial(gt, place))  # There may be an earlier one.
            else:
                break
    if found is None:
        return None
    place, value = found
    try:
        collect([value], 0, 0, limits)
    except Invalid as error:
        return place, Invalid(error.detail, f"/value{(error.pointer or '').removeprefix('/0')}")
    return place, Invalid("Expected the shape of the earlier readings of the stream.", "/value")
