"""Idempotency keys: a reading is counted once, however often it is sent.

A key is ``<producer>:<sequence>``, as in ``gateway-7:1042``: who sends, and a number that grows with every new request
of that producer (a counter that starts at a clock, so that it grows over restarts). Each stream remembers, inside its
state and so atomically with the sums, for each producer the highest sequence it has counted and a window of 64 bits for
the 64 below it, as IPsec does against replayed packets (RFC 4303, section 3.4.3). That is constant in size and needs no
expiry:

    sequence             is it counted?
    above the highest    no: count it, and move the window up to it
    in the window        its bit says
    below the window     nobody knows any more: refused, not counted

So a producer may have about 64 requests under way at once, in any order. A stream remembers 16 producers with their
windows. When another one comes, the one that is idle longest *retires*: the stream still remembers its highest
sequence, so nothing of it is counted twice, and what it sends next is counted and gives it a window again. Only what it
sent out of order before it retired is refused as too old. A stream remembers 1,000 retired producers. When another one
has to retire, the first of them is forgotten if it was idle for an hour; otherwise the new producer is refused.

No clock of a client or a worker decides any of that, only the Redis server's, and only which producer retires or is
forgotten. A sequence that reads as a time (in seconds, milliseconds or microseconds since 1970) must not be more than a
day ahead of that clock and of the producer's sequences before it: one request from a clock that was wrong would
otherwise make all later ones too old.

Where there are API keys, a producer belongs to the owner of the key that uses it (``auth.py``) and is remembered as
``<owner>#<producer>``. A producer's name has no "#", so no key can use or lock out the producers of another owner.

An upload that is committed in parts, in order, has a *range* of sequences in each, the same for all streams of a part.
A range says of a stream that everything of the producer up to its last sequence has now come:

    last <= highest             counted before
    highest < first             not counted: count it, and remember that all below it have come, too
    first <= highest < last     partly counted: refused with the highest, so that the rest of the part can be sent

Streams that have counted different parts of a range get the rest of it together: for each of them the range starts
behind what it has counted (``Key.firsts``).

**Timestamps.** A point of line protocol has no key, but a time, by which a stream can count it once. Timestamps are
whole nanoseconds and come in batches that are sent again whole, so they are not sequences of a producer. A stream
remembers the latest 64 timestamps that it has counted, exactly, and a *floor*, the highest of those that it no longer
remembers; of a timestamp up to the floor nobody knows, so it is refused. And it remembers the digests of the last 16
batches that it has counted whole, so that a batch of any size can be sent again.

``once.lua`` keeps all of that; this module only reads the header.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

LARGEST_SEQUENCE = 2**53 - 1

FORM = (
    "Expected Idempotency-Key: <producer>:<sequence>, once: the name of who sends, 1 to 64 of "
    "A-Z a-z 0-9 . _ ~ : / @ + -, and an integer from 0 to 9007199254740991 that grows with every new request of that "
    "producer."
)

_KEY = re.compile(r"([A-Za-z0-9._~:/@+-]{1,64}):(0|[1-9][0-9]{0,15})", re.ASCII)


class Key(NamedTuple):
    """The idempotency key of a request. With ``first`` it is a range of sequences, from there to ``sequence``.

    ``firsts`` has the streams for which the range starts later, because they have counted what is before that.
    """

    producer: str
    sequence: int
    first: int | None = None
    firsts: Mapping[str, int] = MappingProxyType({})


class Stamps(NamedTuple):
    """Timestamps by which the readings of one stream are counted once.

    ``times`` has two integers for each, ascending: seconds since 1970 and nanoseconds. With ``completes`` they are the
    last ones of the batch that has this digest, of at most 52 bits.
    """

    times: Sequence[int]
    digest: int
    completes: bool


def parse(header: str, owner: str = "") -> Key | None:
    """The key in an Idempotency-Key header, with or without the quotes of the IETF draft; None if it is none.

    With an ``owner`` the producer is one of theirs.

    >>> parse('"gateway-7:1042"')
    Key(producer='gateway-7', sequence=1042, first=None, firsts=mappingproxy({}))
    >>> parse("gateway-7:1042", "plant").producer
    'plant#gateway-7'
    >>> parse("gateway-7") is None
    True
    """
    text = header.strip(" \t")  # What RFC 9110 lets surround a field value, and nothing else.
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    match = _KEY.fullmatch(text)
    if match is None or int(match[2]) > LARGEST_SEQUENCE:
        return None
    return Key(f"{owner}#{match[1]}" if owner else match[1], int(match[2]))
