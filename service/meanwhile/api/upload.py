"""Uploads: NDJSON bodies of any length, whose lines are committed as they arrive.

An upload takes the data that has arrived (``upload_lines.py``), records the complete lines in it
(``upload_recording.py``), and only then takes more. So data that arrives during a commit is in the next one, a fast
sender fills the buffers of its socket and waits, and an upload of any length needs the memory of one *block*. The lines
before the first invalid line are recorded.

With an idempotency key ``p:s``, line i (from 0, empty lines included) has the sequence s + i, and a block has the range
of its lines. So a client can send the whole file again with the same key, or only the lines that were not recorded,
with a key that starts at the first of them.

A connection may stay open all day, so the timeouts of ordinary requests do not apply: instead, a line with a reading
must arrive every ``idle_timeout`` seconds. At most ``max_uploads`` uploads are open at the same time. When the API keys
are reloaded, an upload ends at once if its key is gone or no longer allows the streams of the lines so far; otherwise
the new grant of the key applies to all further lines.
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
    """Records the uploads of one worker through ``committer``.

    ``bodies`` limits the memory of incomplete lines, ``guard`` authorizes, and ``limits`` are those of one reading.
    ``clock`` returns milliseconds since 1970. ``max_line`` is the limit of a line in bytes, and ``max_uploads`` the
    limit of open uploads. ``idle_timeout`` is the time limit for the next line, and ``redis_timeout`` limits how long
    a block waits while the committer is overloaded, both in seconds.
    """

    def __init__(
        self,
        committer: Committer,
        bodies: Bodies,
        guard: Guard,
        clock: Callable[[], int],
        limits: Limits,
        *,
        max_line: int,
        max_uploads: int,
        idle_timeout: float,
        redis_timeout: float,
    ) -> None:
        self._committer = committer
        self._bodies = bodies
        self._guard = guard
        self._clock = clock
        self._limits = limits
        self._max_line = max_line
        self._max_uploads = max_uploads
        self._idle_timeout = idle_timeout
        self._redis_timeout = redis_timeout
        self._open = 0

    async def record(self, request: Request, key: Key | None) -> dict[str, int]:
        """Records an upload and returns the reply.

        Raises ``LengthRequired``, ``UnsupportedMediaType``, ``Interrupted``, ``TooManyUploads``, ``ClientGone``, or
        ``Invalid`` if there are no lines.
        """
        require_body(request.headers)
        recording = Recording(self._committer, self._limits, request.grant, key, self._redis_timeout)
        inflater = Inflater() if is_gzipped(request.headers) else None
        # A body without a length may be slow from its first line on.
        is_chunked = request.headers.get(b"transfer-encoding") is not None
        message = None if is_chunked else await request.receive()
        is_open = message is None or bool(message.get("more_body", False))
        if is_open and self._open >= self._max_uploads:
            raise TooManyUploads
        self._open += is_open
        hold = None if request.connection is None else request.connection.hold(request.scope)
        connection = Connection(message, request.receive, hold, self._idle_timeout)

        def authorize() -> None:
            try:
                recording.grant = self._guard.authorize(request.headers, "write")
            except (Unauthorized, Forbidden) as error:
                connection.end(error)
            else:
                if not recording.is_within(recording.grant.prefix):
                    connection.end(Forbidden("Expected streams that the API key still allows."))

        try:
            with self._guard.watch(authorize):
                authorize()  # The keys may have been reloaded since the request was authorized.
                async with aclosing(blocks(connection, inflater, self._max_line, self._bodies)) as lines:
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
