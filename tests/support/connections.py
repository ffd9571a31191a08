"""Plain connections to a service, for what an HTTP library would not send, or not so slowly."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

BODY = b'{"value": 1}'

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """A connection to a port of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def post(stream: str, length: int = len(BODY), *headers: bytes) -> bytes:
    """The start of a request that records, up to the empty line."""
    line = b"POST /v1/streams/%s/readings HTTP/1.1\r\nHost: meanwhile\r\n" % stream.encode()
    return line + b"Content-Length: %d\r\n" % length + b"".join(headers) + b"\r\n"


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, object]]:
    """Status and body of the next response."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head.split(b" ")[1]), json.loads(await asyncio.wait_for(reader.readexactly(length), 20))
