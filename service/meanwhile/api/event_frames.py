"""Event frames: the bytes of the server-sent event that says what a stream is now, encoded once for all subscribers.

A frame is kept in the snapshot that it was made of, in place of the state, so the limits of the poller hold for frames
too, and a frame is freed when the last subscriber has taken it.
"""

import asyncio

import msgspec

from meanwhile.api.routes.streams import full_state
from meanwhile.core.state import Unreadable, decode
from meanwhile.live.watched_streams import Snapshot
from meanwhile.storage import background_thread

_WIDE = 16 * 1024  # Bytes of a state that is encoded in a thread: it may take 0.2 s.

_encode = msgspec.json.Encoder().encode


class EventFrames:
    """The frames of a process."""

    def __init__(self) -> None:
        self._under_way: dict[Snapshot, asyncio.Task[bytes]] = {}

    async def frame_of(self, snapshot: Snapshot) -> bytes:
        """The event of a snapshot, without its id. Empty if the state is unreadable: a GET of the stream says why."""
        if snapshot.encoded is not None:
            return snapshot.encoded
        if snapshot.stored is None or len(snapshot.stored) <= _WIDE:
            frame = _frame(snapshot.name, snapshot.stored)
            snapshot.replace_by(frame)
            return frame
        encoding = self._under_way.get(snapshot)
        if encoding is None:
            encoding = self._under_way[snapshot] = asyncio.create_task(_encode_in_thread(snapshot))
            encoding.add_done_callback(lambda _: self._under_way.pop(snapshot, None))
        return await asyncio.shield(encoding)


async def _encode_in_thread(snapshot: Snapshot) -> bytes:
    frame = await background_thread.run(_frame, snapshot.name, snapshot.stored)
    snapshot.replace_by(frame)
    return frame


def _frame(name: str, stored: bytes | None) -> bytes:
    if stored is None:
        return b'event: deleted\ndata: {"stream":"%b"}\n\n' % name.encode()
    try:
        state = decode(stored)
    except Unreadable:
        return b""
    return b"event: state\ndata: %b\n\n" % _encode(full_state(name, state) | {"state_bytes": len(stored)})
