"""The replies of handlers."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"

_encode = msgspec.json.Encoder().encode


class Reply(NamedTuple):
    """A complete reply. ``headers`` are additional to its media type and length."""

    body: bytes
    media_type: bytes = JSON
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()


class EndlessReply(NamedTuple):
    """A reply without an end, such as an event stream.

    ``part`` waits for the next bytes and returns None when the reply has ended. ``end`` ends the reply. ``is_within``
    returns whether the names of all its streams start with a prefix.
    """

    part: Callable[[], Awaitable[bytes | None]]
    media_type: bytes
    end: Callable[[], None]
    is_within: Callable[[str], bool]


def json_reply(content: object) -> Reply:
    """Returns a 200 with ``content`` as JSON. A float becomes the shortest text that parses to the same double."""
    return Reply(_encode(content))
