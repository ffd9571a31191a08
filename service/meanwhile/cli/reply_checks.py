"""What a reply of the service looks like: checks of everything that the command line takes from a reply.

The URL may be that of another server, or of a proxy that answers in place of the service. What comes from there is
checked before it is used, and control characters are removed before it is printed.
"""

import json
import math
from collections.abc import Collection
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import httpx

from meanwhile.core.stream_names import is_name

EVENTS = frozenset({"state", "deleted", "ready"})  # Others, of a later version, are left out.
_MAX_TEXT = 2_000  # Characters of a reason.
_MIN_PAUSE, _MAX_PAUSE = 1.0, 60.0  # Seconds; a date of another clock can be in the past.
_VALUES = ("average", "minimum", "maximum", "standard_deviation")
_MALFORMED = (ValueError, RecursionError)  # What the parser of JSON raises.


class Unexpected(Exception):
    """The reply is not one of a Meanwhile service; the message says what was expected."""


def printable(text: str) -> str:
    """The text without characters that change how a terminal shows it.

    >>> printable("21.5\\x1b[2J")
    '21.5\ufffd[2J'
    """
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def problem(reply: httpx.Response) -> dict[str, Any]:
    """The members of a problem document; none if the reply is not one."""
    try:
        content = _load(reply.text)
    except _MALFORMED:
        return {}
    return content if isinstance(content, dict) else {}


def reason(reply: httpx.Response) -> str:
    """Why a request was refused: status, title and detail."""
    members = problem(reply)
    words = [members[member] for member in ("title", "detail") if isinstance(members.get(member), str)]
    return f"{reply.status_code}: " + printable(". ".join(words) or reply.reason_phrase)[:_MAX_TEXT]


def pause(reply: httpx.Response, now: datetime) -> float:
    """How many seconds Retry-After asks to wait, as a number or an HTTP date: from 1 to 60.

    >>> reply = httpx.Response(503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:05 GMT"})
    >>> pause(reply, datetime(2026, 10, 21, 7, 28, tzinfo=UTC))
    5.0
    """
    text = reply.headers.get("Retry-After", "")
    try:
        if text.isascii() and text.isdigit():
            seconds = float(text)
        else:
            at = parsedate_to_datetime(text)
            seconds = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    except (ValueError, OverflowError, TypeError, IndexError):  # The last two for some malformed dates.
        return _MIN_PAUSE
    return min(max(_MIN_PAUSE, seconds), _MAX_PAUSE)


def duplicates(reply: httpx.Response) -> int:
    """How many readings a request had already recorded. Raises ``Unexpected`` if the reply does not confirm it."""
    members = problem(reply)
    if not all(_is_count(members.get(member)) for member in ("readings", "streams", "duplicates")):
        raise Unexpected("a confirmation that readings were recorded")
    count: int = members["duplicates"]
    return count


def conflicting(reply: httpx.Response, sent: Collection[str]) -> set[str]:
    """Those of the streams ``sent`` that have another shape. Raises ``Unexpected`` if the reply names none of them."""
    conflicts = problem(reply).get("conflicts", [])
    listed = conflicts if isinstance(conflicts, list) else [conflicts]
    names = [one.get("stream") if isinstance(one, dict) else None for one in listed]
    found = {name for name in names if isinstance(name, str) and name in sent}
    if len(found) < len(names):
        raise Unexpected("the names of streams in conflict")
    return found


def average(reply: httpx.Response) -> str:
    """The average of a stream, as text. Raises ``Unexpected`` if the reply holds none."""
    try:
        value = _load(reply.text)
    except _MALFORMED:
        value = None
    if value is None or not is_value(value) or not reply.headers.get("Content-Type", "").startswith("text/plain"):
        raise Unexpected("the average of a stream")
    return printable(reply.text.strip())


def check_events(reply: httpx.Response) -> None:
    """Raises ``Unexpected`` if the reply is not an event stream."""
    if not reply.headers.get("Content-Type", "").startswith("text/event-stream"):
        raise Unexpected("an event stream")


def event_data(event: str, content: str) -> dict[str, Any]:
    """The data of one of ``EVENTS``. Raises ``Unexpected`` if they are not what the event has."""
    try:
        data = _load(content)
    except _MALFORMED:
        data = None
    if not (isinstance(data, dict) and _is_event(event, data)):
        raise Unexpected("the state of a stream")
    return data


def is_value(value: object) -> bool:
    """Whether this is a number, or an array or object of numbers, of which some may be null."""
    if isinstance(value, dict):
        return bool(value) and all(map(is_value, value.values()))
    if isinstance(value, list):
        return bool(value) and all(map(is_value, value))
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value))


def _is_event(event: str, data: dict[str, Any]) -> bool:
    if event == "ready":
        return isinstance(data.get("resumed"), bool)
    if event == "deleted":
        return _is_stream(data.get("stream"))
    return (
        _is_stream(data.get("stream"))
        and _is_count(data.get("count"))
        and all(name in data and is_value(data[name]) for name in _VALUES)
        and is_value(data.get("latest"))  # Earlier versions do not send it.
        and _is_time(data.get("last_reading_at"))
    )


def _is_stream(name: object) -> bool:
    return isinstance(name, str) and is_name(name)


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def _is_time(text: object) -> bool:
    try:
        return isinstance(text, str) and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # An integer that is too large for a float.
        return False


def _load(text: str) -> Any:
    """Parses JSON. Raises one of ``_MALFORMED``."""
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
