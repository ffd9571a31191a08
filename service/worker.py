"""One worker process: the application, with what a process of its own adds to it.

The parent of several workers serves nothing, so it never imports this; the application takes most of the time that
it takes to start.
"""

import asyncio
import gc
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.app import Meanwhile, create_app
from service.settings import WORKERS_SHARE

log = logging.getLogger(__name__)

# Objects: a request makes dozens and leaves no cycles. With 700, a twentieth of the time went there.
_GC_THRESHOLD = 20_000


def create() -> Meanwhile:
    """The application of one worker process, with its settings from the environment that ``serve`` prepared."""
    shared = os.environ.get(WORKERS_SHARE)
    app = create_app(shared=Path(shared) if shared else None)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Meanwhile) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        parent = multiprocessing.parent_process()
        if parent is not None:
            loop.add_reader(parent.sentinel, _stop_without_parent, parent.sentinel)
        reloads: set[asyncio.Task[None]] = set()

        def reload() -> None:
            task = loop.create_task(app.guard.reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # One that came meanwhile is told now.
        async with inner(app):
            gc.collect()
            gc.freeze()  # What start-up made stays; the collector need not look at it again.
            gc.set_threshold(_GC_THRESHOLD)
            yield
        if parent is not None and not parent.is_alive() and shared:
            shutil.rmtree(shared, ignore_errors=True)  # Nobody else is left to do it.

    app.router.lifespan_context = lifespan
    return app


def _stop_without_parent(sentinel: int) -> None:
    asyncio.get_running_loop().remove_reader(sentinel)
    log.warning("the parent process is gone; stopping")
    os.kill(os.getpid(), signal.SIGTERM)
