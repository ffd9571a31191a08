"""Heavy pure work, such as the deviations of a thousand components: off the event loop, in one thread, in turn.

One thread, because Python runs one at a time: more of them would only take more turns from the event loop. Work that
takes a few milliseconds is not worth it. Whoever waits can be cancelled; what has not begun then never does.
"""

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")

_executor = ThreadPoolExecutor(1, thread_name_prefix="heavy")  # Its thread starts with the first work.


async def run(function: Callable[..., _Result], *args: object) -> _Result:
    """``function(*args)``. Raises what it raises."""
    return await asyncio.get_running_loop().run_in_executor(_executor, _run, function, args)


def _run(function: Callable[..., _Result], args: tuple[object, ...]) -> _Result:
    """Without the collector of cycles: heavy work makes none, and to look through all that it makes stops everybody.

    What it made is frozen for the same reason, and so is what else is there; ``Places.tidy`` looks through that.
    """
    gc.disable()
    try:
        return function(*args)
    finally:
        gc.freeze()
        gc.enable()
