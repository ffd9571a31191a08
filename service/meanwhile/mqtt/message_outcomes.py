"""What became of messages: counts, and log lines about those that are not recorded, at most one in ten seconds."""

import logging
import time
from collections import Counter

log = logging.getLogger(__name__)

_LOG_INTERVAL = 10.0  # Seconds between two lines of one kind.
_MAX_REASON = 500  # Characters of a reason: topics and lists of streams can be long.


class Outcomes:
    """The outcomes of a process's messages.

    ``counts`` has recorded, duplicates, copies, ignored, malformed, refused, and the skipped fields of objects.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._refusal_logged = -_LOG_INTERVAL
        self._hold_logged = -_LOG_INTERVAL
        self._not_logged = 0  # Messages refused since the last line about them.

    def refuse(self, outcome: str, messages: int, reason: str) -> None:
        """Counts messages that will never be recorded, and logs why."""
        self.counts[outcome] += messages
        self._not_logged += messages
        if time.monotonic() - self._refusal_logged >= _LOG_INTERVAL:
            more = self._not_logged - messages
            others = f" ({more} more since the last such line)" if more else ""
            log.warning("not recorded, from %s%s", reason[:_MAX_REASON], others)
            self._refusal_logged = time.monotonic()
            self._not_logged = 0

    def hold(self, reason: str, held: int) -> None:
        """Logs why a message is held; ``held`` is how many were held before."""
        if time.monotonic() - self._hold_logged >= _LOG_INTERVAL:
            log.warning("%s (messages held before: %d)", reason[:_MAX_REASON], held)
            self._hold_logged = time.monotonic()

    def __str__(self) -> str:
        """The counts, for the log."""
        counts = sorted(self.counts.items())
        return ", ".join(f"{number} {outcome}" for outcome, number in counts if number) or "nothing came"
