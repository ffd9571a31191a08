"""Uploads: NDJSON bodies of any length, whose lines are committed as they come.

An upload takes what has arrived (``upload_lines.py``), records the whole lines in it (``upload_recording.py``), and
only then takes more. So whatever arrives while a commit is under way is in the next one, a fast sender fills its
socket's buffers and waits, and an upload of any length takes the memory of one *block*. The lines before the first
wrong line are recorded.

With an idempotency key ``p:s``, line i (from 0, empty ones too) has the sequence s + i, and a block has the range of
its lines. So the whole file can be sent again with the same key, or what follows the recorded lines with a key that
starts there.

A connection may stay open all day, so the time limit of ordinary requests gives way to another: a line with a reading
every ``idle`` seconds. There are at most ``most`` of them at once. When the API keys are read again, an upload whose
key is gone, or allows less than what it has sent, ends at once; otherwise what the key allows now goes for the lines to
come.
"""

from collections.abc import Callable
from contextlib import aclosing

from meanwhile.api.auth import Forbidden, Guard, Unauthorized
from meanwhile.api.errors import BodyTooLarge, Interrupted, TooManyUploads
from meanwhile.api.gzip_inflation import Inflater
from meanwhile.api.request import Request
from meanwhile.api.request_body import Bodies, ClientGone, is_gzipped, require_body
from meanwhile.api.upload_lines import Connection, blocks
from meanwhile.api.upload_recording import Recording
from meanwhile.core.errors import Invalid
from meanwhile.core.idempotency_keys import Key
from meanwhile.core.readings import Limits
from meanwhile.storage.committer import Committer


class Uploads:
    """The uploads of one worker.

    ``longest_line`` is in bytes, ``idle`` and ``redis_timeout`` in seconds; ``clock`` gives ms since 1970.
    """

    def __init__(
        self,
        committer: Committer,
        bodies: Bodies,
        guard: Guard,
        clock: Callable[[], int],
        limits: Limits,
        *,
        longest_line: int,
        most: int,
        idle: float,
        redis_timeout: float,
    ) -> None:
        self._committer = committer
        self._bodies = bodies
        self._guard = guard
        self._clock = clock
        self._limits = limits
        self._longest_line = longest_line
        self._most = most
        self._idle = idle
        self._redis_timeout = redis_timeout
        self._open = 0

    async def record(self, request: Request, key: Key | None) -> dict[str, int]:
        """Records an upload and returns the reply. Raises ``Interrupted``, ``TooManyUploads`` or ``ClientGone``."""
        require_body(request.headers)
        recording = Recording(self._committer, self._limits, request.grant, key, self._redis_timeout)
        inflater = Inflater() if is_gzipped(request.headers) else None
        # A body without a length may take its time with its first line, too.
        is_chunked = request.headers.get(b"transfer-encoding") is not None
        message = None if is_chunked else await request.receive()
        is_open = message is None or bool(message.get("more_body", False))
        if is_open and self._open >= self._most:
            raise TooManyUploads
        self._open += is_open
        hold = None if request.connection is None else request.connection.hold()
        connection = Connection(message, request.receive, hold, self._idle)

        def authorize() -> None:
            try:
                recording.grant = self._guard.authorize(request.headers, "write")
            except (Unauthorized, Forbidden) as error:
                connection.end(error)
            else:
                if not recording.is_within(recording.grant.prefix):
                    connection.end(Forbidden("Expected streams that the key still reaches."))

        try:
            with self._guard.watch(authorize):
                async with aclosing(blocks(connection, inflater, self._longest_line, self._bodies)) as lines:
                    async for block in lines:
                        await recording.add(block, self._clock())
        except (Interrupted, ClientGone):
            raise
        except Exception as error:
            is_about_a_line = isinstance(error, BodyTooLarge)
            raise Interrupted(error, recording.lines, recording.lines + 1 if is_about_a_line else None) from error
        finally:
            self._open -= is_open
        if not recording.lines:
            raise Invalid("Expected at least one line.")
        return recording.reply()
