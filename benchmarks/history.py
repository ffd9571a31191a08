"""The approach that constant state replaces: keep every reading, average when asked.

A Redis list for each stream, a route that appends to it and one that reads all of it. The average is exact enough
(``math.fsum``), the state grows with every reading, and so does the time of a read.
"""

import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel
from redis.asyncio import Redis

_PUSH = 10_000  # Values in a command.


class Readings(BaseModel):
    """What a sensor sends."""

    values: list[float]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Opens and closes the client."""
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        app.state.redis = redis
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/streams/{stream}/readings")
async def record(stream: str, readings: Readings, request: Request) -> dict[str, Any]:
    """Appends readings."""
    redis: Redis = request.app.state.redis
    count = 0
    for start in range(0, len(readings.values), _PUSH):
        count = await redis.rpush(f"history:{stream}", *readings.values[start : start + _PUSH])
    return {"stream": stream, "count": count}


@app.get("/v1/streams/{stream}/average")
async def average(stream: str, request: Request) -> dict[str, Any]:
    """Reads everything and averages it."""
    redis: Redis = request.app.state.redis
    values = await redis.lrange(f"history:{stream}", 0, -1)
    if not values:
        raise HTTPException(404)
    return {"stream": stream, "count": len(values), "average": math.fsum(map(float, values)) / len(values)}
