"""Stored states that the service has not written itself."""

import hashlib
from typing import Any

import msgspec

from meanwhile.core.state import FIELDS


def with_checksum(array: bytes) -> bytes:
    """The array of a state as it is stored."""
    return array + hashlib.sha1(array).hexdigest()[:8].encode()


def with_fields(stored: bytes, **fields: Any) -> bytes:
    """A stored state with other fields."""
    return with_checksum(msgspec.msgpack.encode([*(fields_of(stored) | fields).values()]))


def fields_of(stored: bytes) -> dict[str, Any]:
    """The fields of a stored state."""
    return dict(zip(FIELDS, msgspec.msgpack.decode(stored[:-8]), strict=False))
