"""SenML, the Sensor Measurement Lists of RFC 8428, as JSON or CBOR.

A pack is an array of records. A base field applies from its record on, until it is given again:

    name     bn + n                          the name of the stream
    value    bv + v                          the reading, if there is a v; added as decimals
    time     bt + t, in seconds              since 1970; below 2^28 relative to now, so 0 or nothing is now

Only numbers become readings. Strings, booleans, data (``vs``, ``vb``, ``vd``) and records with only a sum are skipped
and counted; a sum (``s``) is never averaged. A record of base fields alone sets them. Units are ignored. Unknown fields
are ignored, as the RFC asks, but one whose name ends in ``_`` has to be understood, so it is refused, and so is a pack
of a version above 10 (RFC 9100 counts features there, and this module has none beyond those of 10).

Both notations are read into plain dictionaries, one a record, and *resolved* by the same code, one after another.
msgspec decodes JSON, some records at a time; ``formats/strict_json.py`` does where a duplicate key or a literal that
became 0 could hide. In CBOR fields are numbers; ``cbor.py`` decodes it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Context, Decimal
from math import isfinite
from typing import Any, NamedTuple

import msgspec

from meanwhile.core import times
from meanwhile.core.errors import Invalid, TooMany
from meanwhile.core.readings import Limits, Readings
from meanwhile.core.stream_names import check_name, is_name
from meanwhile.formats import cbor, columns, json_pieces
from meanwhile.formats.columns import Columns, Gathered, Misplaced
from meanwhile.formats.json_pieces import SMALL
from meanwhile.formats.strict_json import Malformed, load, members_of

Record = Mapping[str, Any]

VERSION = 10
_ABSOLUTE = 2**28  # Seconds: times below are relative to now.
_RUN_OF_ZEROS = b"0" * 100
_MAX_FIELDS = 10_000  # Of a record of more than SMALL bytes.
_KEYS = re.compile(rb"[^\\]\"[ \t\r\n]*+:")

_LABELS = {
    -1: "bver",
    -2: "bn",
    -3: "bt",
    -4: "bu",
    -5: "bv",
    -6: "bs",
    0: "n",
    1: "u",
    2: "v",
    3: "vs",
    4: "vb",
    5: "s",
    6: "t",
    7: "ut",
    8: "vd",
}
_NAMES = frozenset(_LABELS.values())
_TEXTS = frozenset({"bn", "bu", "n", "u", "vs", "vd"})
_BASES = frozenset({"bn", "bt", "bu", "bv", "bs", "bver"})
_VALUES = ("v", "vs", "vb", "vd")
_USUAL = frozenset({"n", "v", "t", "u"})
_CONTEXT = Context(prec=1_500)  # Digits: the sum of any two doubles is exact.
_PACK = "Expected an array of SenML records."


class Pack(NamedTuple):
    """The readings of a pack by stream, and how many of its records were skipped."""

    readings: dict[str, Readings]
    skipped: int


_decode_json = msgspec.json.Decoder(list[dict[str, float | str | bool]]).decode


def decode_json(body: bytes, now: int, limits: Limits) -> Pack:
    """The readings of a pack in JSON. ``now`` is in milliseconds since 1970.

    Raises ``Malformed``, ``Invalid`` with a pointer into the pack, or ``TooMany``.
    """
    try:
        return _resolve(_records(body), now, limits)
    except Malformed:
        json_pieces.check(body)
        raise


def decode_cbor(body: bytes, now: int, limits: Limits) -> Pack:
    """The readings of a pack in CBOR; otherwise like ``decode_json``."""
    return _resolve(_labelled_records(body), now, limits)


def _records(body: bytes) -> Iterator[Record]:
    number = 0
    if len(body) > SMALL:
        json_pieces.check_runs(body)
    for piece in json_pieces.of_array(body) if len(body) > SMALL else [body]:
        for record in _read_json(piece, number):
            yield record
            number += 1


def _read_json(text: bytes, number: int) -> Sequence[Record]:
    """The records of an array; the first one is record ``number`` of the pack."""
    if len(text) > SMALL and len(_KEYS.findall(text)) > _MAX_FIELDS:  # It is one record.
        json_pieces.check(text)
        raise Invalid(f"Expected at most {_MAX_FIELDS} fields in a record.", f"/{number}")
    try:
        decoded: list[dict[str, float | str | bool]] = _decode_json(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _load_json(text, number)
    return _load_json(text, number) if _needs_strict_parse(text, decoded) else decoded


def _needs_strict_parse(body: bytes, records: list[dict[str, Any]]) -> bool:
    """Whether there may be a duplicate key or a literal that became 0 (see ``formats/json_readings.py``)."""
    if b"\\" in body:
        return True
    values = [value for record in records for value in record.values()]
    colons = sum(map(len, records)) + sum(value.count(":") for value in values if value.__class__ is str)
    if not all(map(_NAMES.issuperset, records)):
        colons += "".join(key for record in records for key in record).count(":")
    may_underflow = b"e-" in body or b"E-" in body or _RUN_OF_ZEROS in body
    return body.count(b":") != colons or (may_underflow and 0 in values)


def _load_json(text: bytes, number: int) -> list[Record]:
    pack = load(text)
    if type(pack) is not list:  # An object is a list of pairs.
        raise Invalid(_PACK, "")
    return [members_of(record, "Expected a SenML record.", f"/{i}") for i, record in enumerate(pack, number)]


def _labelled_records(body: bytes) -> Iterator[Record]:
    items = cbor.items(body)
    if items is None:
        raise Invalid(_PACK, "")
    for number, record in enumerate(items):
        yield _labelled(record, f"/{number}")


def _labelled(record: Any, pointer: str) -> Record:
    if not isinstance(record, dict):
        raise Invalid("Expected a SenML record.", pointer)
    fields = {}
    for label, value in record.items():
        name = _LABELS.get(label) if type(label) is int else label
        if not isinstance(name, str) or label in _NAMES:
            raise Invalid("Expected the labels of RFC 8428, numbers for the fields that it has.", pointer)
        fields[name] = value
    return fields


def _add(base: float, value: float) -> float:
    """The nearest double to the exact sum of two decimals, each the shortest one that stands for its double.

    >>> _add(0.1, 0.2), 0.1 + 0.2
    (0.3, 0.30000000000000004)
    """
    return float(_CONTEXT.add(Decimal(repr(base)), Decimal(repr(value))))


def _resolve(records: Iterable[Record], now: int, limits: Limits) -> Pack:
    gathered, skipped = _gather(records, now, limits)
    try:
        return Pack(columns.readings(gathered, limits), skipped)
    except Misplaced as wrong:
        raise wrong.error.under(f"/{wrong.place}") from None


def _gather(records: Iterable[Record], now: int, limits: Limits) -> tuple[Gathered, int]:
    """The numbers of resolved records by stream, and how many records were skipped."""
    gathered: Gathered = {}
    bases: dict[str, Any] = {"bn": "", "bt": 0.0, "bv": 0.0, "bver": VERSION}
    known: dict[str, Columns] = {}  # By n, under the base name of the moment.
    skipped = readings = 0
    number = -1
    for number, record in enumerate(records):
        if number >= 2 * limits.readings:
            raise TooMany(f"Expected at most {2 * limits.readings} records in a pack.")
        if not record.keys() <= _USUAL or "v" not in record:
            base_name = bases["bn"]
            _check(record, number, bases)
            known = known if bases["bn"] == base_name else {}
            if "v" not in record:
                skipped += not _has_bases_only(record, number)
                continue
        value, name, offset = record["v"], record.get("n", ""), record.get("t", 0.0)
        are_numbers = value.__class__ is offset.__class__ is float
        if not (are_numbers and name.__class__ is record.get("u", "").__class__ is str):
            _check(record, number, bases)
        column = known.get(name)
        if column is None:
            stream = bases["bn"] + name
            if not is_name(stream):
                raise _bad_name(stream, f"/{number}")
            column = known[name] = gathered.setdefault(stream, Columns([], [], []))
        time = bases["bt"] + offset
        at = now if time == 0 else _milliseconds(time, now)
        if at is None:
            raise Invalid("Expected a time from the year 1 to 9999, with its base time.", f"/{number}")
        readings += 1
        if readings > limits.readings:
            raise TooMany(f"Expected at most {limits.readings} readings in a request.")
        column.values.append(_add(bases["bv"], value) if bases["bv"] else value)
        column.times.append(at)
        column.places.append(number)
    if number < 0:
        raise Invalid("Expected at least one record.", "")
    return gathered, skipped


def _check(record: Record, number: int, bases: dict[str, Any]) -> None:
    """Raises ``Invalid`` if a record is wrong; otherwise sets its base fields."""
    for field, value in record.items():
        _check_field(field, value, f"/{number}")
    if "bver" in record:
        version = record["bver"]
        if version not in range(1, VERSION + 1):
            raise Invalid(f"Expected a version from 1 to {VERSION}.", f"/{number}/bver")
        if number and version != bases["bver"]:
            raise Invalid("Expected the same version in the whole pack.", f"/{number}/bver")
    if sum(field in record for field in _VALUES) > 1:
        raise Invalid("Expected one of v, vs, vb and vd.", f"/{number}")
    bases.update((field, value) for field, value in record.items() if field in _BASES)


def _check_field(field: str, value: Any, pointer: str) -> None:
    if field not in _NAMES:
        if field.endswith("_"):
            raise Invalid("Expected no field that has to be understood: its name ends in '_'.", pointer)
    elif field in _TEXTS:
        if not isinstance(value, str) and not (field == "vd" and isinstance(value, bytes)):
            raise Invalid("Expected a string.", f"{pointer}/{field}")
    elif field == "vb":
        if not isinstance(value, bool):
            raise Invalid("Expected a boolean.", f"{pointer}/{field}")
    elif type(value) is not float or not isfinite(value):
        raise Invalid("Expected a number.", f"{pointer}/{field}")


def _has_bases_only(record: Record, number: int) -> bool:
    """Whether a record that has no number only sets base fields; False if it has another value, or a sum."""
    if any(field in record for field in ("s", *_VALUES)):
        return False
    if _BASES.isdisjoint(record):
        raise Invalid("Expected a value, a sum or a base field.", f"/{number}")
    return True


def _milliseconds(seconds: float, now: int) -> int | None:
    if seconds >= _ABSOLUTE:
        return times.parse(seconds)
    if not seconds >= -times.LATEST:  # False for NaN, too.
        return None
    at = now + round(seconds * 1000)
    return at if at >= times.EARLIEST else None


def _bad_name(name: str, pointer: str) -> Invalid:
    try:
        check_name(name)
    except Invalid as error:
        return Invalid(error.detail, pointer)
    raise AssertionError(name)
