"""Readings at a steady rate over 64 connections, each POST timed from when it was due; prints what came of it as JSON.

python paced.py URL READINGS_A_SECOND SECONDS STREAMS
"""

import asyncio
import json
import sys
import time

CONNECTIONS = 64


async def main(url: str, rate: float, seconds: float, streams: int) -> None:
    host, port = url.removeprefix("http://").split(":")
    due: asyncio.Queue[tuple[int, float] | None] = asyncio.Queue()
    times: list[float] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (job := await due.get()) is not None:
            number, at = job
            body = b'{"value": 21.5}'
            head = f"POST /v1/streams/s/{number % streams}/readings HTTP/1.1\r\nHost: {host}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            times.append(time.perf_counter() - at)
        writer.close()

    workers = [asyncio.create_task(connection()) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    total = int(rate * seconds)
    for number in range(total):
        at = began + number / rate
        if (wait := at - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        due.put_nowait((number, at))
    for _ in workers:
        due.put_nowait(None)
    await asyncio.gather(*workers)
    times.sort()
    percentile = {f"p{p}": 1000 * times[min(len(times) - 1, len(times) * p // 100)] for p in (50, 99)}
    print(json.dumps({"sent": len(times), "seconds": time.perf_counter() - began} | percentile))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
