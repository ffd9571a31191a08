"""What the process of ``meanwhile mqtt`` does apart from recording."""

import asyncio
import gc
import weakref

import pytest

from meanwhile.mqtt import run
from meanwhile.storage import background_thread


class Cycle:
    itself: "Cycle"


async def test_cycles_that_heavy_work_froze_are_collected_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Committing runs heavy work, which freezes everything that is there."""
    monkeypatch.setattr(background_thread, "TIDY_INTERVAL", 0.05)

    def work() -> "weakref.ref[Cycle]":
        cycle = Cycle()
        cycle.itself = cycle
        return weakref.ref(cycle)

    try:
        made = await background_thread.run(work)
        gc.collect()
        assert made() is not None  # It is frozen.
        tidying = asyncio.create_task(run._tidy())
        async with asyncio.timeout(10):
            while made() is not None:  # noqa: ASYNC110  # Nothing says when the collector has run.
                await asyncio.sleep(0.02)
        tidying.cancel()
    finally:
        gc.unfreeze()
