"""Heavy pure work, such as the deviations of a thousand components: off the event loop, in one thread, in turn.

One thread, because Python runs one at a time: more of them would only take more turns from the event loop. Work that
takes a few milliseconds is not worth it. The task that waits can be cancelled; work that has not begun then never does.

The work runs without the collector of reference cycles, and what it made is frozen, together with everything else that
is there (``_run`` says why). So a process that runs heavy work has to call ``tidy`` every ``TIDY_INTERVAL`` seconds.
"""

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

TIDY_INTERVAL = 600.0  # Seconds.

_Result = TypeVar("_Result")

_executor = ThreadPoolExecutor(1, thread_name_prefix="heavy")  # Its thread starts with the first work.


async def run(function: Callable[..., _Result], *args: object) -> _Result:
    """``function(*args)``. Raises what it raises."""
    return await asyncio.get_running_loop().run_in_executor(_executor, _run, function, args)


def tidy() -> None:
    """Collects the reference cycles among all objects, also those that heavy work froze.

    It takes long while large requests are in memory.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _run(function: Callable[..., _Result], args: tuple[object, ...]) -> _Result:
    """Runs without the collector of cycles: heavy work makes none, and looking through all that it makes takes long.

    For the same reason, what it made is frozen, and with it everything else that is there.
    """
    gc.disable()
    try:
        return function(*args)
    finally:
        gc.freeze()
        gc.enable()
