"""The conventional way: a FastAPI route, a pydantic model, a client by ``Depends``, one awaited script per request.

It is written as a good programmer would in an afternoon, with nothing done to slow it down: the update is atomic
because it is a script, called by its hash, over pooled connections parsed by hiredis. It keeps count and mean only, the
mean drifts (it is rounded at each step), and nothing is on disk when it answers. It has our paths and our replies,
so the same requests can be sent to both.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

RECORD = """
local count = tonumber(redis.call('HGET', KEYS[1], 'count') or 0) + 1
local mean = tonumber(redis.call('HGET', KEYS[1], 'mean') or 0)
mean = mean + (tonumber(ARGV[1]) - mean) / count
local text = string.format('%.17g', mean)
redis.call('HSET', KEYS[1], 'count', count, 'mean', text)
return {count, text}
"""


class Reading(BaseModel):
    """What a sensor sends."""

    value: float


class Average(BaseModel):
    """What is known of a stream."""

    stream: str
    count: int
    average: float


def get_redis(request: Request) -> "Redis":
    """The client that the lifespan opened."""
    client: Redis = request.app.state.redis
    return client


def get_script(request: Request) -> AsyncScript:
    """The script that updates a running mean."""
    script: AsyncScript = request.app.state.record
    return script


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Opens and closes the client."""
    async with Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as redis:
        app.state.redis = redis
        app.state.record = redis.register_script(RECORD)
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/streams/{stream}/readings")
async def record(stream: str, reading: Reading, script: Annotated[AsyncScript, Depends(get_script)]) -> Average:
    """Records a reading."""
    count, mean = await script(keys=[f"stream:{stream}"], args=[reading.value])
    return Average(stream=stream, count=count, average=float(mean))


@app.get("/v1/streams/{stream}/average")
async def average(stream: str, redis: Annotated["Redis", Depends(get_redis)]) -> Average:
    """The running average of a stream."""
    count, mean = await redis.hmget(f"stream:{stream}", ["count", "mean"])
    if count is None or mean is None:
        raise HTTPException(404)
    return Average(stream=stream, count=int(count), average=float(mean))
