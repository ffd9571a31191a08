"""Answers connections that are made while the service stops.

The workers no longer accept them, but the kernel does, as long as a process has the listening socket. Without an answer
they would wait until the last process ends, and then be reset: the client could not tell whether its reading was
recorded. Here, each gets a 503 at once, which says that it was not.
"""

import asyncio
import socket
import threading
from contextlib import suppress

from meanwhile.api.problems import encode
from meanwhile.api.refusals import Stopping

_LINGER = 1.0  # Seconds for a client to read its reply; to close earlier could reset the connection.
_POLL = 0.02  # Seconds.


class LateConnections:
    """Replies with 503 to every connection of a listening socket, in a thread.

    ``listener`` is a duplicate of the socket; ``close`` closes it.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._closing = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="late-connections", daemon=True)

    def start(self) -> None:
        """Starts to reply. May be called again, and from a signal handler."""
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        """Replies to the connections that have been made until now, and closes the socket."""
        if self._thread.is_alive():
            self._closing.set()
            self._thread.join(2 * _LINGER)
        self._listener.close()

    async def _serve(self) -> None:
        replies: set[asyncio.Task[None]] = set()

        def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(_refuse(reader, writer))
            replies.add(task)
            task.add_done_callback(replies.discard)

        async with await asyncio.start_server(reply, sock=self._listener):
            while not self._closing.is_set():  # noqa: ASYNC110  # Another thread sets it.
                await asyncio.sleep(_POLL)
            await asyncio.sleep(_POLL)  # For connections that the kernel has accepted in the meantime.
        if replies:
            await asyncio.wait(replies)


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    status, headers, body = encode(Stopping())
    lines = [b"HTTP/1.1 %d Service Unavailable" % status, *(b"%b: %b" % header for header in headers)]
    writer.write(b"\r\n".join([*lines, b"connection: close", b"", body]))
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LINGER):
            await writer.drain()
            writer.write_eof()
            while await reader.read(64 * 1024):
                pass
    writer.close()
