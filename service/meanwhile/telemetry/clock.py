"""The clock of the service. It is passed as a parameter, so that tests can replace it."""

import time


def milliseconds_now() -> int:
    """Milliseconds since 1970 (UTC)."""
    return time.time_ns() // 1_000_000
