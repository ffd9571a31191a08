"""Runs expensive pure functions, such as the deviations of a thousand components, in one thread off the event loop.

One thread is enough, because Python runs one thread at a time: more threads would only take more time from the event
loop. A function that takes a few milliseconds does not need the thread. If the caller is cancelled before the function
starts, the function never runs.
"""

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")

_executor = ThreadPoolExecutor(1, thread_name_prefix="background")  # The first call starts the thread.


async def run(function: Callable[..., _Result], *args: object) -> _Result:
    """Calls ``function(*args)`` in the thread. Returns its result, or raises its exception."""
    return await asyncio.get_running_loop().run_in_executor(_executor, _run, function, args)


def _run(function: Callable[..., _Result], args: tuple[object, ...]) -> _Result:
    """Calls the function with the cyclic garbage collector off, because it stops all threads while it scans objects.

    Expensive work creates many objects and no cycles. Afterwards all objects are frozen, so that later collections do
    not scan them; ``LargeBodySlots.collect_garbage`` does so at a quiet time.
    """
    gc.disable()
    try:
        return function(*args)
    finally:
        gc.freeze()
        gc.enable()
