"""Runs expensive pure functions, such as the deviations of a thousand components, in one thread off the event loop.

One thread is enough, because Python runs one thread at a time: more threads would only take more time from the event
loop. A function that takes a few milliseconds does not need the thread. If the caller is cancelled before the function
starts, the function never runs.

The functions run without the cyclic garbage collector, and what they make is frozen (``_run`` says why). So a process
that uses this thread must call ``tidy`` every ``TIDY_INTERVAL`` seconds.
"""

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

TIDY_INTERVAL = 600.0  # Seconds.

_Result = TypeVar("_Result")

_executor = ThreadPoolExecutor(1, thread_name_prefix="background")  # The first call starts the thread.


async def run(function: Callable[..., _Result], *args: object) -> _Result:
    """Calls ``function(*args)`` in the thread. Returns its result, or raises its exception."""
    return await asyncio.get_running_loop().run_in_executor(_executor, _run, function, args)


def tidy() -> None:
    """Collects the garbage cycles among all objects, frozen ones included.

    This takes long while large requests are in memory.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _run(function: Callable[..., _Result], args: tuple[object, ...]) -> _Result:
    """Calls the function without the cyclic garbage collector, which would stop all threads while it scans the objects.

    Expensive work creates no cycles but many objects. So all objects are frozen afterwards; ``tidy`` scans them later.
    """
    gc.disable()
    try:
        return function(*args)
    finally:
        gc.freeze()
        gc.enable()
