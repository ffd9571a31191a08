"""One worker process: the application, with what a process of its own adds to it.

The parent of several workers serves nothing, so it never imports this; the application takes most of the time that
it takes to start.
"""

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from meanwhile.api.app import Meanwhile, create_app
from meanwhile.process.shared_directory import join, leave
from meanwhile.settings import WORKERS_SHARE, Settings

log = logging.getLogger(__name__)

# Objects: a request makes dozens and leaves no cycles. With 700, a twentieth of the time went there.
_GC_THRESHOLD = 20_000
_SWITCH_SECONDS = 0.001  # How long the event loop waits for a thread with heavy work; Python's own are 5 ms.


def create() -> Meanwhile:
    """The application of one worker process, with its settings from the environment that ``serve`` prepared."""
    shared = os.environ.get(WORKERS_SHARE)
    settings = Settings()
    try:
        membership = join(Path(shared)) if shared else None
    except FileNotFoundError:  # The parent was killed while this was starting, and others have tidied up.
        log.warning("the parent process is gone; stopping")
        raise SystemExit(1) from None
    app = create_app(settings, shared=Path(shared) if shared else None)
    inner = app.router.lifespan_context
    parent = multiprocessing.parent_process()
    if parent is not None:
        watch = threading.Thread(
            target=_stop_without, args=(parent, settings.stop_timeout), name="parent-watch", daemon=True
        )
        watch.start()

    @asynccontextmanager
    async def lifespan(app: Meanwhile) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        sys.setswitchinterval(_SWITCH_SECONDS)
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
        if shared and membership is not None and parent is not None and not parent.is_alive():
            leave(Path(shared), membership)  # Nobody else is left to remove it.

    app.router.lifespan_context = lifespan
    return app


def _stop_without(parent: BaseProcess, timeout: float) -> None:
    """Stops this process when its parent is gone, and ends it if it has not stopped ``timeout`` seconds later.

    Runs in a thread, because an event loop that is busy would not notice.
    """
    parent.join()
    log.warning("the parent process is gone; stopping")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(timeout)
    log.error("the worker has not stopped within %g s; ending it", timeout)
    os._exit(1)
