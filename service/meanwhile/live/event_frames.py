"""Frames: the bytes of an event that says what a stream is now, made once for all who watch it."""

import asyncio
from collections.abc import Callable

from meanwhile.core.state import State, Unreadable, decode
from meanwhile.live.watched_streams import Watched
from meanwhile.storage import background_thread

_WIDE = 16 * 1024  # Bytes of a state that becomes a frame in a thread: it may take 0.2 s.

Encode = Callable[[str, State | None, int], bytes]


class Frames:
    """The frames of a process.

    ``encode`` makes the frame of a stream: from its name, state and the state's size in bytes, or from its name, None
    and 0 when it does not exist.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._under_way: dict[tuple[str, bytes], asyncio.Task[bytes]] = {}

    async def of(self, stream: Watched) -> bytes:
        """The frame of a stream, empty if its state is not readable: whoever asks for the stream itself is told."""
        if stream.frame is not None:
            return stream.frame
        stored = stream.stored
        if stored is None or len(stored) <= _WIDE:
            frame = self._made(stream.name, stored)
        else:
            key = stream.name, stored
            making = self._under_way.get(key)
            if making is None:
                making = self._under_way[key] = asyncio.create_task(background_thread.run(self._made, *key))
                making.add_done_callback(lambda _: self._under_way.pop(key, None))
            frame = await asyncio.shield(making)
        if stream.stored is stored:  # It may have changed meanwhile.
            stream.frame, stream.stored = frame, None
        return frame

    def _made(self, name: str, stored: bytes | None) -> bytes:
        try:
            state = None if stored is None else decode(stored)
        except Unreadable:
            return b""
        return self._encode(name, state, len(stored or b""))
