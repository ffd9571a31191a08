"""The clock of the service. Who needs the time is handed it, so that tests can set it."""

import time


def milliseconds_now() -> int:
    """Milliseconds since 1970 (UTC)."""
    return time.time_ns() // 1_000_000
