"""A reference cycle that expensive work has made, and that is frozen: only ``background_thread.tidy`` collects it."""

import gc
import weakref
from typing import Any

from meanwhile.storage import background_thread


class Cycle:
    """Something that refers to itself."""

    itself: Any


def _work() -> "weakref.ref[Cycle]":
    cycle = Cycle()
    cycle.itself = cycle
    return weakref.ref(cycle)


async def frozen_cycle() -> "weakref.ref[Cycle]":
    """Such a cycle, which a collection has left alone."""
    before = gc.get_freeze_count()
    made = await background_thread.run(_work)
    assert gc.get_freeze_count() > before
    gc.collect()
    assert made() is not None
    return made
