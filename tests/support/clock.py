"""The clock of an event loop in the hands of a test, so that seconds pass when the test says so and no test waits."""

import asyncio


class Clock:
    """Stands still until it is moved on; ``now`` is what ``loop.time()`` returns, in seconds.

    Sockets are as real as ever. What waits for one waits in vain if the clock alone could end its wait, and then the
    time limit of the test ends it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = loop.time()
        loop.time = lambda: self.now  # type: ignore[method-assign]  # The loop asks itself.

    def advance(self, seconds: float) -> None:
        """Moves it on. What is due then happens when the caller next awaits something."""
        self.now += seconds
