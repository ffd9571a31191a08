"""Times of readings: RFC 3339 or Unix seconds in requests, whole milliseconds since 1970 (UTC) inside the service.

The service only compares times, so milliseconds are precise enough, and an integer below 2^53 is exact everywhere: in
Python, in MessagePack, and as a double in Lua.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

EARLIEST = -62_135_596_800_000  # 0001-01-01T00:00:00Z
LATEST = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC_3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}):(\d{2})(?:\.(\d+))?(?:([Zz])|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII
)


def parse(time: float | str) -> int | None:
    """Converts an RFC 3339 string or Unix seconds to milliseconds since 1970. Truncates a string, rounds a number.

    Returns None if ``time`` is malformed or outside the years 1 to 9999. A leap second counts as the second after it.

    >>> parse("2026-01-01T01:00:00.5+01:00"), parse(1767225600.5), parse("2026-01-01T00:00:00")
    (1767225600500, 1767225600500, None)
    """
    milliseconds = _from_text(time) if isinstance(time, str) else _from_seconds(time)
    if milliseconds is None or not EARLIEST <= milliseconds <= LATEST:
        return None
    return milliseconds


def _from_seconds(seconds: float) -> int | None:
    return round(seconds * 1000) if abs(seconds) <= LATEST else None


def _from_text(text: str) -> int | None:
    match = _RFC_3339.fullmatch(text)
    if match is None:
        return None
    date, minute, second, fraction, zulu, sign, hours, minutes = match.groups()
    start = _start_of(date, minute)
    if start is None or int(second) > 60:
        return None
    milliseconds = start + int(second) * 1000 + int(f"{fraction or 0:<03}"[:3])
    if zulu is None:
        offset = (int(hours) * 60 + int(minutes)) * 60_000
        milliseconds += offset if sign == "-" else -offset
    return milliseconds


@lru_cache(maxsize=1024)  # Times that arrive together are usually close together.
def _start_of(date: str, minute: str) -> int | None:
    """Returns the start of a minute in milliseconds since 1970; None if it does not exist, such as 30 February."""
    try:
        start = datetime.fromisoformat(f"{date}T{minute}:00+00:00") - _EPOCH
    except ValueError:
        return None
    return start // timedelta(milliseconds=1)


def to_text(milliseconds: int) -> str:
    """Formats a time as RFC 3339, in UTC, with milliseconds.

    >>> to_text(1767225600500)
    '2026-01-01T00:00:00.500Z'
    """
    time = _EPOCH + timedelta(milliseconds=milliseconds)
    return time.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
