"""The refusals of the HTTP layer: exceptions, which ``problems.py`` maps to problem documents."""


class Refused(Exception):
    """A request that is refused before its content is interpreted; ``detail`` says what was expected."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class UnsupportedMediaType(Refused):
    """The body has a media type or content encoding that the endpoint does not support."""


class BodyTooLarge(Refused):
    """The body is larger than the limit, before or after inflation."""


class BadEncoding(Refused):
    """The body does not match its Content-Encoding."""


class NotHttp(Refused):
    """The connection received something that is not an HTTP request."""


class HeaderTooLarge(Refused):
    """The header of a request is larger than the limit."""


class BadTransferCoding(Refused):
    """The body uses a transfer coding that this service does not support."""


class LengthRequired(Refused):
    """The request needs a body and announces none."""


class Misdirected(Refused):
    """The request names a host that this service does not answer to."""


class TooManyConnections(Exception):
    """The worker has reached its maximum number of connections."""


class Idle(Refused):
    """An upload has not sent a line in time."""


class PartialWrite(Refused):
    """Some lines of a body were not recorded; the others were."""


class BadKey(Refused):
    """The Idempotency-Key is malformed, missing although required, or not allowed."""


class BadCursor(Refused):
    """The cursor is not one that a listing has returned."""


class Stopping(Exception):
    """The service shuts down during an upload."""


class TooManyUploads(Exception):
    """The worker has reached its maximum number of open uploads."""


class Interrupted(Exception):
    """An upload ended early: its first ``recorded`` lines are recorded, and ``error`` says why it ended.

    ``line`` is the number of the invalid line, from 1, or None if no line is invalid.
    """

    def __init__(self, error: Exception, recorded: int, line: int | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.recorded = recorded
        self.line = line


class NoSuchStream(Exception):
    """No stream has this name: it was never recorded, or was deleted."""
