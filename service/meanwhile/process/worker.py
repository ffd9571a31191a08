"""One worker process: the application with its signal handlers, garbage collection and the watch on its parent.

The parent of several workers serves no requests and does not import this module: importing the application takes most
of the start-up time.
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

# A request allocates dozens of objects and leaves no cycles. With the default of 700, collecting took 5 % of the time.
_GC_THRESHOLD = 20_000
_SWITCH_SECONDS = 0.001  # How long the event loop waits for a busy thread; the default is 5 ms.


def create() -> Meanwhile:
    """The application of one worker process. ``serve`` has put its settings into the environment."""
    shared = os.environ.get(WORKERS_SHARE)
    settings = Settings()
    parent = multiprocessing.parent_process()
    membership = None
    try:
        membership = join(Path(shared)) if shared else None
    except OSError:
        if parent is None or not parent.is_alive():  # Another service has removed the directory of the killed parent.
            log.warning("the parent process is gone; stopping")
            raise SystemExit(1) from None
        # Otherwise, somebody has removed the directory; the counters log it.
    app = create_app(settings, shared=Path(shared) if shared else None)
    inner = app.router.lifespan_context
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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # A pending one is delivered now.
        async with inner(app):
            gc.collect()
            gc.freeze()  # Objects from start-up stay; the collector skips them from now on.
            gc.set_threshold(_GC_THRESHOLD)
            yield
        if shared and membership is not None and parent is not None and not parent.is_alive():
            leave(Path(shared), membership)  # The parent can no longer remove it.

    app.router.lifespan_context = lifespan
    return app


def _stop_without(parent: BaseProcess, timeout: float) -> None:
    """Stops this process when its parent is gone, and kills it if it has not stopped ``timeout`` seconds later.

    Runs in a thread, because a busy event loop would not notice in time.
    """
    parent.join()
    log.warning("the parent process is gone; stopping")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(timeout)
    log.error("the worker did not stop within %g s; killing it", timeout)
    os._exit(1)
