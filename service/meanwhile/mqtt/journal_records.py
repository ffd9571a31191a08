"""Records of the journal: their layout, how one is written, and how all of a file are read, also of a damaged one.

A record is a frame:

    length      4 bytes, big-endian    of the content
    checksum    4 bytes, big-endian    CRC-32 of the content
    content     MessagePack            the fields of ``Record``, as an array

A last record that is cut short had no effect, since a commit starts when its record is on disk. What else cannot be
read may have been committed. So ``read`` gives the readable records before and after it, and the kind of damage.
"""

import os
import re
import struct
from enum import Enum
from zlib import crc32

import msgspec

from meanwhile.formats.mqtt_payload import Options
from meanwhile.mqtt.messages import Message

VERSION = 1
_FRAME = struct.Struct(">II")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # What the decoder of records raises.
_LIKE_A_RECORD = re.compile(rb"\A.{8}[\x96-\x98]|mqtt-[0-9a-f]{16}", re.DOTALL)
_START = re.compile(rb"(?=[\x96-\x98]\x01\xb5mqtt-)")  # How every content starts: an array, the version, the producer.


class Record(msgspec.Struct, array_like=True):
    """A batch that is about to be recorded; the batch of the record before it is counted by then."""

    version: int
    producer: str  # Of the batch's idempotency key.
    sequence: int  # Likewise.
    reuses: bool  # Whether the broker reuses packet identifiers early.
    counted: list[tuple[int, bytes]] | None  # If not None, these are the counted messages, whatever was before.
    batch: list[Message]
    renews: bool = False  # Whether the next batch gets another producer.
    options: Options | None = None  # How the batch's messages are read; None in records of earlier versions.


class Damage(Enum):
    """What is wrong with a journal."""

    CUT_SHORT = "the last record was not written to its end"
    ELSEWHERE = "anything else"


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def write(descriptor: int, record: Record) -> None:
    """Appends a record to an open file; returns when it is on disk. Raises ``OSError``."""
    content = _encode(record)
    frame = memoryview(_FRAME.pack(len(content), crc32(content)) + content)
    while frame:
        frame = frame[os.write(descriptor, frame) :]
    os.fsync(descriptor)


def read(content: bytes) -> tuple[list[Record], Damage | None]:
    """The readable records of a file, and what is wrong with it, if anything is."""
    records: list[Record] = []
    damage: Damage | None = None
    position = 0
    while position < len(content):
        found = _record_at(content, position)
        if found is not None:
            records.append(found[0])
            position = found[1]
            continue
        starts = (match.start() - _FRAME.size for match in _START.finditer(content, position + _FRAME.size + 1))
        following = next((start for start in starts if _record_at(content, start)), None)
        if following is None:
            return records, damage or (Damage.CUT_SHORT if _is_cut_short(content[position:]) else Damage.ELSEWHERE)
        damage, position = Damage.ELSEWHERE, following
    return records, damage


def has_whole_frame(content: bytes) -> bool:
    """Whether the first frame is as it was written, also if its content is of another version."""
    return _content_at(content, 0) is not None


def resembles_records(content: bytes) -> bool:
    """Whether this could be a journal of which every record is damaged."""
    return _LIKE_A_RECORD.search(content) is not None


def _content_at(file: bytes, position: int) -> bytes | None:
    """The content of the frame there; None if there is no whole one."""
    if position + _FRAME.size > len(file):
        return None
    length, checksum = _FRAME.unpack_from(file, position)
    start = position + _FRAME.size
    content = file[start : start + length]
    return content if length and len(content) == length and crc32(content) == checksum else None


def _record_at(file: bytes, position: int) -> tuple[Record, int] | None:
    """The record there and where it ends; None if there is no readable one."""
    content = _content_at(file, position)
    if content is None:
        return None
    try:
        return _decode(content), position + _FRAME.size + len(content)
    except _UNREADABLE:
        return None


def _is_cut_short(rest: bytes) -> bool:
    """Whether the end of the last record is missing, or zeros are in its place; no whole record ends with a zero."""
    if len(rest) < _FRAME.size or rest.endswith(b"\0"):
        return True
    if _FRAME.unpack_from(rest)[0] <= len(rest) - _FRAME.size:
        return False
    try:
        _decode(rest[_FRAME.size :])
    except _UNREADABLE:
        return True
    return False  # It is whole, and its length is wrong.
