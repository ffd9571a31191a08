"""What a handler answers with."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"

_encode = msgspec.json.Encoder().encode


class Reply(NamedTuple):
    """A status, a body and its media type, and other headers."""

    body: bytes
    media_type: bytes = JSON
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()


class EndlessReply(NamedTuple):
    """A reply without an end: ``part`` waits for the next bytes and gives None when it is over; ``end`` ends it.

    ``is_within`` says whether it concerns only streams whose names start with a prefix.
    """

    part: Callable[[], Awaitable[bytes | None]]
    media_type: bytes
    end: Callable[[], None]
    is_within: Callable[[str], bool]


def json_reply(content: object) -> Reply:
    """A 200 with ``content`` as JSON; floats are written as the shortest text that reads back as the same double."""
    return Reply(_encode(content))
