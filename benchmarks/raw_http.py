"""HTTP/1.1 requests as bytes, and their replies, with as little work as can be: the clients share two cores."""

import asyncio

BROKEN = 0  # Stands for the status where a connection ended without a reply.


def post(path: str, body: bytes, media_type: str = "application/json", **headers: str) -> bytes:
    """A POST with its length; the names of further ``headers`` have _ for -."""
    return head("POST", path, media_type, len(body), **headers) + body


def get(path: str) -> bytes:
    """A GET."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def head(method: str, path: str, media_type: str, length: int, **headers: str) -> bytes:
    """The head of a request whose body has ``length`` bytes."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: {media_type}\r\nContent-Length: {length}\r\n{more}\r\n"
    ).encode()


async def read_reply(reader: asyncio.StreamReader) -> int:
    """Reads a reply with a length and returns its status.

    Raises ``OSError`` or ``EOFError`` if the connection ends before the reply does.
    """
    status, length = await read_head(reader)
    while length:
        length -= len(piece := await reader.read(length))
        if not piece:
            raise EOFError
    return status


async def read_head(reader: asyncio.StreamReader) -> tuple[int, int]:
    """The status of a reply and the length of its body. Raises as ``read_reply`` does."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
    return int(lines[0].split()[1]), lengths[0] if lengths else 0
