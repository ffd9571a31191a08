"""The readings that wait for a commit: how many may, and how the rest is refused.

A worker lets ``max_waiting`` readings wait, or one request of any size; and as many of large requests, so that these do
not keep small ones out. Further requests are refused with ``Overloaded``, which is a 503.

A refusal takes a quarter of a second. Otherwise clients that retry at once, whatever Retry-After says, would cost other
requests as much time as if they were served (``make test-faults`` measures it).
"""

import asyncio
from typing import NoReturn

from meanwhile.storage.batcher import Overloaded
from meanwhile.telemetry.counters import Counters

_REFUSAL_DELAY = 0.25  # Seconds.


class WaitingReadings:
    """The number of waiting readings of one worker.

    ``max_waiting`` is the limit. ``counters`` have the gauge of these readings.
    """

    def __init__(self, max_waiting: int, counters: Counters) -> None:
        self._max_waiting = max_waiting
        self._counters = counters
        self._small = 0  # Readings, except those of large requests.
        self._large = 0  # Readings of large requests.

    def admit(self, readings: int) -> bool:
        """Lets the readings of a request wait. Returns False if that are too many."""
        if self._small and self._small + readings > self._max_waiting:
            return False
        self._small += readings
        self._counters.set_waiting(self._small + self._large)  # Without ``add``: a call less for each request.
        return True

    def admit_large(self, readings: int) -> bool:
        """Lets the readings of a large request wait. Returns False if that are too many."""
        if self._large and self._large + readings > self._max_waiting:
            return False
        self.add_large(readings)
        return True

    def add(self, readings: int) -> None:
        """Adds readings, whatever the limit; a negative number if they no longer wait."""
        self._small += readings
        self._counters.set_waiting(self._small + self._large)

    def add_large(self, readings: int) -> None:
        """Adds readings of a large request likewise."""
        self._large += readings
        self._counters.set_waiting(self._small + self._large)

    async def refuse(self) -> NoReturn:
        """Raises ``Overloaded``, after a while."""
        await asyncio.sleep(_REFUSAL_DELAY)
        raise Overloaded
