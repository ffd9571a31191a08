"""How the points of line protocol name their streams.

A *pattern* such as ``{measurement}/{tags}/{field}`` is a stream name with places: one for the measurement, one for the
field, and one for the tags, sorted by key, which becomes one segment for each tag: its value with ``{tags}``,
``key:value`` with ``{pairs}``.

Measurements, tags and fields can be any text, and are encoded (``encoded_names.py``); in ``{pairs}``, ``:`` is encoded,
too. So different points have different streams, with one exception: ``{tags}`` has no keys, so two points that differ
only in the keys of their tags share a stream. ``{pairs}`` keeps them apart.

>>> name_of("{measurement}/{tags}/{field}", "disk", [("path", "/srv"), ("host", "pi")], "used %")
'disk/pi/~2Fsrv/used~20~25'
"""

import re
from collections.abc import Sequence

from meanwhile.core.stream_names import RESERVED
from meanwhile.formats.encoded_names import encode_segment, join_segments

Tags = Sequence[tuple[str, str]]

DEFAULT = "{measurement}/{tags}/{field}"
PATTERN = r"^[A-Za-z0-9{][A-Za-z0-9._:{}~/-]*$"
_PLACES = {"{measurement}", "{tags}", "{pairs}", "{field}"}
_LITERAL = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._:-]+", re.ASCII)
_ENCODED_IN_PAIRS = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)


def check_pattern(pattern: str) -> str:
    """Returns ``pattern``; raises ``ValueError`` if it is not a pattern."""
    segments = pattern.split("/")
    if not all(segment in _PLACES or _LITERAL.fullmatch(segment) for segment in segments):
        raise ValueError("Expected segments of A-Z a-z 0-9 . _ : -, {measurement}, {tags}, {pairs} and {field}.")
    if "{field}" not in segments or segments[-1] in RESERVED:
        raise ValueError("Expected {field} among the segments, and none of the service's own at the end.")
    return pattern


def name_of(pattern: str, measurement: str, tags: Tags, field: str) -> str:
    """The stream of a point; its name may be too long."""
    segments: list[str] = []
    for segment in pattern.split("/"):
        match segment:
            case "{measurement}":
                segments.append(encode_segment(measurement))
            case "{field}":
                segments.append(encode_segment(field))
            case "{tags}":
                segments += [encode_segment(value) for _, value in sorted(tags)]
            case "{pairs}":
                segments += [
                    ":".join(encode_segment(part, _ENCODED_IN_PAIRS) for part in pair) for pair in sorted(tags)
                ]
            case literal:
                segments.append(literal)
    return join_segments(segments)
