"""Why a request is refused before anything reads its meaning, or ends early: the exceptions of this floor.

``problems.py`` says how HTTP words them.
"""


class Refused(Exception):
    """A request that HTTP alone tells to refuse, before anything reads its meaning."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class UnsupportedMediaType(Refused):
    """The body has a type or an encoding that the endpoint does not know."""


class BodyTooLarge(Refused):
    """The body is larger than the limit, before or after inflation."""


class BadEncoding(Refused):
    """The body is not what its Content-Encoding says."""


class NotHttp(Refused):
    """What came over the connection is no HTTP request."""


class HeaderTooLarge(Refused):
    """The header of a request is larger than the limit."""


class BadTransferCoding(Refused):
    """The body comes in a transfer coding that this service does not know."""


class LengthRequired(Refused):
    """The request records something, and says of no body that it has one."""


class Misdirected(Refused):
    """The request is for a host that this service does not answer to."""


class TooManyConnections(Exception):
    """A worker has as many connections as it may have."""


class Idle(Refused):
    """An upload has sent no line for too long."""


class PartialWrite(Refused):
    """Some lines of a body were not recorded; the others were."""


class BadKey(Refused):
    """The Idempotency-Key is not one, or there is none where there has to be."""


class BadCursor(Refused):
    """The cursor does not come from a listing."""


class Stopping(Exception):
    """The service is shutting down while an upload goes on."""


class TooManyUploads(Exception):
    """As many uploads are open as may be."""


class Interrupted(Exception):
    """An upload ended before its end: its first ``recorded`` lines are recorded, and ``error`` says what came then.

    ``line`` is the number of the line that is wrong, from 1, where it is one.
    """

    def __init__(self, error: Exception, recorded: int, line: int | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.recorded = recorded
        self.line = line


class NoSuchStream(Exception):
    """Nothing has been recorded under this name, or it was deleted."""
