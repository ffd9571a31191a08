"""Finds the streams of prefixes, also those that are new, by SCAN.

SCAN looks at all keys, so this takes at most a tenth of the time, and all prefixes share one run. A group whose
round comes between two runs takes part in the next run, so groups with short intervals do not keep it waiting.
"""

import asyncio
from collections.abc import Collection

from meanwhile.core.errors import Invalid
from meanwhile.live.duration_estimate import DurationEstimate
from meanwhile.live.watch_list import MAX_STREAMS, WatchList
from meanwhile.live.watched_streams import PrefixGroup
from meanwhile.storage.store import Store

_PAUSE = 0.5  # Seconds between two runs, at least.


class NewStreams:
    """Adds streams to the groups that cover them.

    ``watch_list`` gets the streams that ``store`` has; ``redis_timeout`` is how long a run may take, in seconds.
    """

    def __init__(self, store: Store, watch_list: WatchList, redis_timeout: float) -> None:
        self._store = store
        self._watch_list = watch_list
        self._redis_timeout = redis_timeout
        self._duration = DurationEstimate()
        self._next = 0.0  # When the next run is due, by the loop's clock.
        self._waiting: set[PrefixGroup] = set()  # Groups whose last round came before that.

    async def run(self, groups: Collection[PrefixGroup]) -> bool:
        """Adds new streams to these groups, if it is time to, or if one of them is new. Returns whether it was.

        Raises ``Invalid`` if one has too many streams, or ``StoreUnavailable``.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        if began < self._next and all(group.is_listed for group in groups):
            self._waiting.update(groups)
            return False
        for group in groups:
            if not group.is_listed:
                self._watch_list.add_known(group)
        sought = {*groups, *(group for group in self._waiting if group.subscribers)}
        self._waiting.clear()
        known = {name for group in sought for name in group.streams}  # In one group means in all that cover it.
        prefixes = tuple(group.prefix for group in sought)
        found = await self._store.listing.new_streams(known, prefixes, MAX_STREAMS, began + self._redis_timeout)
        self._duration.add(loop.time() - began)
        self._next = loop.time() + max(_PAUSE, 10 * self._duration.seconds)
        if len(found) <= MAX_STREAMS:
            for name in found:
                self._watch_list.discover(name)
        if len(found) > MAX_STREAMS or any(len(group.streams) > MAX_STREAMS for group in groups):
            raise Invalid(f"Expected a prefix of at most {MAX_STREAMS} streams; a longer one has fewer.")
        for group in groups:
            group.is_listed = True
        return True
