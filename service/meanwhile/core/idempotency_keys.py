"""Idempotency keys: a stream counts a reading once, however often it is sent.

A key is ``<producer>:<sequence>``, as in ``gateway-7:1042``: the name of the sender, and a number that grows with every
new request of that producer (a counter that starts from a clock, so that it also grows across restarts). For each
producer, a stream remembers the highest sequence it has counted and a window of 64 bits for the 64 sequences below it,
as IPsec does against replayed packets (RFC 4303, section 3.4.3). The stream keeps them in its state, so they change
atomically with the sums. They have a constant size and need no expiry:

    sequence             was it counted?
    above the highest    no: count it, and move the window up to it
    in the window        the bit of the window says so
    too old              unknown: refuse it, do not count it

So a producer may have about 64 requests in flight, in any order. A stream remembers 16 producers with their windows.
When another producer arrives, the producer that has been idle longest *retires*: the stream still remembers its highest
sequence, so none of its readings is counted twice. Its next higher sequence is counted and gives it a new window. Only
sequences below the one at which it retired are refused as too old, whether counted or not. A stream remembers 1,000
retired producers. When one more has to retire, the stream forgets the oldest of them if that producer has been idle for
an hour; otherwise it refuses the new producer.

These decisions use no clock of a client or a worker. The clock of the Redis server decides which producer retires and
which one is forgotten. It also guards against a wrong client clock: a sequence that reads as a time (in seconds,
milliseconds or microseconds since 1970) must not be more than a day ahead of both that clock and the producer's earlier
sequences. Otherwise one request with a wrong clock would make all later sequences too old.

If the service has API keys, a producer belongs to the owner of the key that uses it (``auth.py``) and is remembered as
``<owner>#<producer>``. The name of a producer contains no "#", so no key can use or lock out the producers of another
owner.

An upload is committed in parts, in order. Each part has a *range* of sequences, the same for all streams of the part.
A range tells a stream that it has now received everything from the producer up to the last sequence of the range:

    last <= highest             counted before
    highest < first             not counted: count it, and remember that all sequences below it have arrived, too
    first <= highest < last     partly counted: refuse it and report the highest, so that the client sends the rest

Streams that have counted different parts of a range receive the rest of it in one commit: for each stream, the range
starts after the sequences that it has counted (``Key.firsts``).

**Timestamps.** A point of line protocol has no key, but it has a time, and a stream can use that time to count the
point once. Timestamps are whole nanoseconds, and a client resends whole batches of them, so they are not sequences of a
producer. A stream remembers the latest 64 timestamps that it has counted, exactly, and a *floor*, the highest timestamp
that it no longer remembers. For a timestamp up to the floor, the stream cannot tell whether it was counted, so it
refuses it. A stream also remembers the digests of the last 16 batches that it has counted completely, so a client can
resend a batch of any size.

``idempotency.lua`` and ``remembered_timestamps.lua`` implement these rules; this module only parses the header.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

MAX_SEQUENCE = 2**53 - 1

FORM = (
    "Expected one Idempotency-Key: <producer>:<sequence>. The producer is the name of the sender, 1 to 64 of "
    "A-Z a-z 0-9 . _ ~ : / @ + -; the sequence is an integer from 0 to 9007199254740991 that grows with every new "
    "request of that producer."
)

_KEY = re.compile(r"([A-Za-z0-9._~:/@+-]{1,64}):(0|[1-9][0-9]{0,15})", re.ASCII)


class Key(NamedTuple):
    """The idempotency key of a request. With ``first``, it is the range of sequences from ``first`` to ``sequence``.

    ``firsts`` maps streams to a later start of the range: these streams have counted the sequences before it.
    """

    producer: str
    sequence: int
    first: int | None = None
    firsts: Mapping[str, int] = MappingProxyType({})


class Timestamps(NamedTuple):
    """The timestamps of readings of one stream, which counts each timestamp once.

    ``times`` has two integers for each timestamp, in ascending order: seconds since 1970 and nanoseconds. ``digest``
    identifies the batch and has at most 52 bits. ``completes`` says that these are the last timestamps of the batch.
    """

    times: Sequence[int]
    digest: int
    completes: bool


def parse(header: str, owner: str = "") -> Key | None:
    """Parses an Idempotency-Key header, with or without the quotes of the IETF draft. Returns None if it is malformed.

    With ``owner``, the producer belongs to that owner.

    >>> parse('"gateway-7:1042"')
    Key(producer='gateway-7', sequence=1042, first=None, firsts=mappingproxy({}))
    >>> parse("gateway-7:1042", "plant").producer
    'plant#gateway-7'
    >>> parse("gateway-7") is None
    True
    """
    text = header.strip(" \t")  # RFC 9110 allows only these around a field value.
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    match = _KEY.fullmatch(text)
    if match is None or int(match[2]) > MAX_SEQUENCE:
        return None
    return Key(f"{owner}#{match[1]}" if owner else match[1], int(match[2]))
