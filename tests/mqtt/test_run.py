"""What the process of ``meanwhile mqtt`` does apart from recording."""

import asyncio
import gc

import pytest

from meanwhile.mqtt import run
from meanwhile.storage import background_thread
from tests.support.frozen import frozen_cycle


async def test_cycles_that_heavy_work_froze_are_collected_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Committing runs heavy work, which freezes everything that is there."""
    monkeypatch.setattr(background_thread, "TIDY_INTERVAL", 0.05)

    try:
        made = await frozen_cycle()
        tidying = asyncio.create_task(run._tidy())
        async with asyncio.timeout(10):
            while made() is not None:  # noqa: ASYNC110  # Nothing says when the collector has run.
                await asyncio.sleep(0.02)
        tidying.cancel()
    finally:
        gc.unfreeze()
