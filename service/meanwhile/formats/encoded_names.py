"""Encodes any text as part of a stream name.

MQTT topics and the tags of line protocol can be any text; stream names cannot. So these characters are encoded as
``~XX`` for each byte of their UTF-8, as URLs do with ``%``: those that a name cannot have, ``~`` and ``/``; the first
character of a segment ``.`` or ``..``; and that of a last segment that is a route below a stream (``count``). A name
that does not start with a letter or a digit then gets ``x~`` in front. Two hexadecimal digits follow every other ``~``,
so each of these steps can be undone, and different texts have different names.
"""

import re
from collections.abc import Sequence

from meanwhile.core.stream_names import RESERVED

_ENCODED = re.compile(r"[^A-Za-z0-9._:-]", re.ASCII)


def encode_segment(text: str, encoded: re.Pattern[str] = _ENCODED) -> str:
    """Encodes a segment: the characters that ``encoded`` matches, by default all that a segment cannot have.

    Raises ``UnicodeEncodeError`` for text that has no UTF-8.

    >>> encode_segment("Living room"), encode_segment("..")
    ('Living~20room', '~2E.')
    """
    if text in (".", ".."):
        return _escape(".") + text[1:]
    return encoded.sub(lambda match: _escape(match[0]), text)


def join_segments(segments: Sequence[str]) -> str:
    """Makes a stream name of encoded segments. It may be too long.

    >>> join_segments(["esp", "count"]), join_segments(["_", "t"])
    ('esp/~63ount', 'x~_/t')
    """
    *above, last = segments
    name = "/".join([*above, _escape(last[0]) + last[1:] if last in RESERVED else last])
    return name if name[:1].isalnum() else "x~" + name


def _escape(character: str) -> str:
    return "".join(f"~{byte:02X}" for byte in character.encode())
