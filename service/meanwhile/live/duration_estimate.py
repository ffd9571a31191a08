"""How long a repeated operation takes, learned with care.

One that is slow only because Redis or the machine is busy at most doubles the estimate, so pauses that grow with it
stay short after a hiccup.
"""

_QUICK = 0.025  # Seconds; a first operation of this length is not yet thought slow.


class DurationEstimate:
    """What an operation takes, in seconds; 0 until it is known."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Learns that the operation has just taken this long."""
        self.seconds = min(seconds, 2 * max(self.seconds, _QUICK))
