"""Other clients of the same Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

Answer = Callable[[bytes], bytes | None]


async def _bulk(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readuntil())[1:])
    return (await reader.readexactly(size + 2))[:-2]


@asynccontextmanager
async def peer(answer: Answer) -> AsyncIterator[tuple[str, list[bytes]]]:
    """The URL of a socket that greets like a Redis, and the names of the commands that reach it besides greetings.

    ``answer`` gives the reply to such a command; None closes the connection instead.
    """
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                name, *_ = [await _bulk(reader) for _ in range(int((await reader.readuntil())[1:]))]
                reply: bytes | None
                if name == b"HELLO":
                    reply = b"%1\r\n$5\r\nproto\r\n:3\r\n"
                elif name in {b"CLIENT", b"PING"}:
                    reply = b"+OK\r\n"
                else:
                    received.append(name)
                    reply = answer(name)
                if reply is None:
                    break
                writer.write(reply)
                if not reply.endswith(b"\r\n"):
                    break
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", received
