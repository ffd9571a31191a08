"""Idempotency keys: a reading is counted once, however often it is sent.

A key is ``<producer>:<sequence>``, as in ``gateway-7:1042``: who sends, and a number that grows with every new request
of that producer (a counter, or a clock in microseconds). Each stream remembers, inside its state and so atomically with
the sums, for each producer the highest sequence it has counted and a window of 64 bits for the 64 below it, as IPsec
does against replayed packets (RFC 4303, section 3.4.3). That is constant in size and needs no expiry:

    sequence             is it counted?
    above the highest    no: count it, and move the window up to it
    in the window        its bit says
    below the window     nobody knows any more: refused, not counted

So a producer may have about 64 requests under way at once, in any order. A stream remembers 16 producers; when another
one comes, it takes the place of one that has been idle for a day, or is refused.

An upload that is committed in parts, in order, has a *range* of sequences in each, the same for all streams of a part.
A range says of a stream that everything of the producer up to its last sequence has now come:

    last <= highest             counted before
    highest < first             not counted: count it, and remember that all below it have come, too
    first <= highest < last     partly counted: refused with the highest, so that the part can be taken apart there

``commit.lua`` keeps the windows; this module only reads the header.
"""

import re
from typing import NamedTuple

LARGEST_SEQUENCE = 2**53 - 1

FORM = (
    "Expected Idempotency-Key: <producer>:<sequence>, once: the name of who sends, 1 to 64 of "
    "A-Z a-z 0-9 . _ ~ : / @ + -, and an integer from 0 to 9007199254740991 that grows with every new request of that "
    "producer."
)

_KEY = re.compile(r"([A-Za-z0-9._~:/@+-]{1,64}):(0|[1-9][0-9]{0,15})", re.ASCII)


class Key(NamedTuple):
    """The idempotency key of a request, and when that came (milliseconds since 1970).

    With ``first`` it is a range of sequences, from there to ``sequence``.
    """

    producer: str
    sequence: int
    at: int
    first: int | None = None


def parse(header: str, now: int) -> Key | None:
    """The key in an Idempotency-Key header, with or without the quotes of the IETF draft; None if it is none.

    >>> parse('"gateway-7:1042"', 0)
    Key(producer='gateway-7', sequence=1042, at=0, first=None)
    >>> parse("gateway-7", 0) is None
    True
    """
    text = header.strip(" \t")  # What RFC 9110 lets surround a field value, and nothing else.
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    match = _KEY.fullmatch(text)
    if match is None or int(match[2]) > LARGEST_SEQUENCE:
        return None
    return Key(match[1], int(match[2]), now)
