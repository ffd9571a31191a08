"""A small fuzzer: changes bytes that are right into some that are not, from a seed, and watches the time.

``python -m tests.fuzz`` does the same for longer, guided by what code each input reaches, where atheris is installed.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random

MAX_SIZE = 64 * 1024  # Bytes of an input.
MAX_SECONDS = 0.05  # CPU for an input, of its thread.
_REPEAT = 4  # Times that a slow input is tried again: what counts is the shortest.
_WORDS = [
    *(b'"', b"\\", b"\\u003a", b"{", b"}", b"[", b"]", b":", b",", b"\r\n", b"\n", b"\0", b"\xff", b"\xc3\xa9", b" "),
    *(b"0", b"-0", b"1e-400", b"1e400", b"9007199254740993", b"1e140", b"null", b"true", b"nan", b"0" * 120),
    *(b"\xc2", b"\xc3", b"\xc4", b"\xc5", b"\x5f", b"\x9f", b"\xbf", b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Upgrade: h2c\r\nConnection: Upgrade\r\n"),
    *(b"\x1f\x8b\x08\x00", b"=", b"#", b"\\ ", b"/", b".."),
]

Target = Callable[[bytes], None]


def mutate(data: bytes, others: list[bytes], rng: Random) -> bytes:
    """These bytes, changed in a few places."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        at = rng.randint(0, len(changed))
        end = min(len(changed), at + rng.choice([0, 0, 1, 1, 2, 5, 20]))
        kind = rng.randrange(6)
        if kind == 0:
            changed[at:end] = rng.choice(_WORDS)
        elif kind == 1:
            changed[at:end] = rng.randbytes(rng.choice([1, 1, 4]))
        elif kind == 2:
            del changed[at:end]
        elif kind == 3:
            other = rng.choice(others)
            start = rng.randint(0, len(other))
            changed[at:end] = other[start : start + rng.randint(0, 60)]
        elif kind == 4:
            changed[at:at] = bytes(changed[at : at + rng.randint(1, 40)]) * rng.choice([1, 2, 2, 30, 1_500])
        elif at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed[:MAX_SIZE])


def inputs(seeds: list[bytes], rng: Random) -> Iterator[bytes]:
    """Endless: the seeds, then what they become, some of which is changed again."""
    yield from [*seeds, b""]
    pool = list(seeds)
    while True:
        data = mutate(rng.choice(pool), pool, rng)
        if len(pool) < 200 or rng.random() < 0.01:
            pool.append(data)
        if len(pool) > 400:
            pool = seeds + rng.sample(pool, 100)
        yield data


def seconds_of(target: Target, data: bytes) -> float:
    """CPU that the target takes for these bytes; of the shortest of some tries if it is too much."""
    shortest = float("inf")
    for _ in range(_REPEAT):
        start = time.thread_time()
        target(data)
        shortest = min(shortest, time.thread_time() - start)
        if shortest <= MAX_SECONDS:
            break
    return shortest


def fuzz_some(target: Target, seeds: list[bytes], number: int, seed: int) -> None:
    """Calls the target with as many inputs, however long they take. Raises ``AssertionError``."""
    for data in islice(inputs(seeds, Random(seed)), number):
        try:
            target(data)
        except Exception as error:
            raise AssertionError(f"{target.__name__} failed for {data!r}") from error


def fuzz(target: Target, seeds: list[bytes], seconds: float, seed: int) -> int:
    """Calls the target with changed bytes for some seconds of CPU; returns how often. Raises ``AssertionError``.

    An input that takes too long fails as well.
    """
    rng = Random(seed)
    end = time.thread_time() + seconds
    for number, data in enumerate(inputs(seeds, rng)):
        if time.thread_time() >= end:
            return number
        try:
            taken = seconds_of(target, data)
        except Exception as error:
            raise AssertionError(f"{target.__name__} failed for {data!r}") from error
        assert taken <= MAX_SECONDS, f"{target.__name__} took {taken:.3f} s for {data!r}"
    raise AssertionError
