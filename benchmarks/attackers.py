"""``python -m benchmarks.attackers NUMBER TOGETHER SECONDS PORT``: carries out one of ``attacks.ATTACKS``.

All bytes are built first. Then it writes a line, waits for one on standard input, attacks, and writes a line of JSON.
"""

import asyncio
import sys
import time
from collections import Counter

import msgspec

from benchmarks import raw_http
from benchmarks.attacks import ATTACKS, Attack


class Outcome(msgspec.Struct):
    """How many replies of an attack had which status, and how many seconds it took."""

    statuses: dict[str, int]
    seconds: float


async def _converse(attack: Attack, sent: bytes, port: int, statuses: Counter[str]) -> None:
    """One connection of an attack."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        if attack.drip:
            while True:
                await asyncio.sleep(0.5)
                writer.write(attack.drip)
                await writer.drain()
        for _ in range(attack.replies):
            statuses[str(await raw_http.read_reply(reader))] += 1
        if not attack.replies:
            status, _ = await raw_http.read_head(reader)
            statuses[str(status)] += 1
            while await reader.read(1 << 16):
                pass
    except (OSError, EOFError):
        statuses["hung up"] += 1
    finally:
        if writer is not None:
            writer.transport.abort()


async def _prepare(attack: Attack, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in attack.prepare():
        writer.write(request)
        if (status := await raw_http.read_reply(reader)) != 200:
            raise SystemExit(f"{attack.name}: preparing was answered with {status}")
    writer.close()


async def _attack(attack: Attack, conversations: list[bytes], at_most: float, port: int) -> Outcome:
    statuses: Counter[str] = Counter()
    begun = time.perf_counter()
    tasks = [asyncio.create_task(_converse(attack, sent, port, statuses)) for sent in conversations]
    _, late = await asyncio.wait(tasks, timeout=attack.seconds or at_most)
    seconds = time.perf_counter() - begun
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if late:
        statuses["waits" if attack.seconds else "overdue"] += len(late)
    return Outcome(dict(sorted(statuses.items())), seconds)


def main(number: int, together: int, seconds: int, port: int) -> None:
    """Carries out the attack with this number, for ``seconds`` at most; ``together`` is how many do it at once."""
    attack = ATTACKS[number]
    first = 0 if together == 1 else 1
    if first == 0:
        asyncio.run(_prepare(attack, port))
    conversations = [sent for k in range(first, first + together) for sent in attack.build(k)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    outcome = asyncio.run(_attack(attack, conversations, seconds, port))
    sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]))
