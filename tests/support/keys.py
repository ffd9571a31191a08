"""Idempotency keys, good and bad."""

import asyncio

from meanwhile.core.state import State
from meanwhile.storage.store import Store


def soon() -> float:
    return asyncio.get_running_loop().time() + 10


async def digits(store: Store, stream: str) -> list[int]:
    """Which powers of four a stream has counted, each as often as it stands here."""
    (state,) = await store.read([stream], soon())
    if state is None:
        return []
    assert isinstance(state, State)
    total, denominator = state.summary.sums.ratios(1)[0]
    assert 1 == denominator
    found = [digit for digit in range(240) for _ in range(total >> 2 * digit & 3)]
    assert state.summary.count == len(found)
    return found


MALFORMED = [
    *("", " ", '"', '""', ":", "a", "a:", ":1", "1", '":1"', '"a:1', 'a:1"', '""a:1""', "'a:1'", '"a":1', '"a:1";x=1'),
    *("a:-1", "a:+1", "a:-0", "a:01", "a:00", "a:1.5", "a:1.0", "a:1e3", "a:0x10", "a:1_000", "a:NaN", "a:one"),
    *("a:9007199254740992", "a:18446744073709551616", "a:" + "9" * 300, "a:" + "0" * 300),
    *("a" * 65 + ":1", "a" * 300 + ":1", "a b:1", "a: 1", "a :1", '" a:1"', '"a:1 "', "a:1,", "a:1, a:2", "a:1 a:2"),
    *("é:1", "a:\u0661", "a:\xb2", "a\x00:1", "a:1\x00", "a{}:1", "a*:1", "a;b:1", "a\\b:1"),
    *("\xa0a:1", "a:1\xa0", "\x85a:1", "a:1\x1f", "a:1\n", "a:1\r\n"),
]
