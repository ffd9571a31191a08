"""LargeBodySlots: large requests are few at once, and wait for no longer than the timeout."""

import asyncio
import gc
import json

import pytest

from meanwhile.api.large_bodies import LargeBodySlots
from meanwhile.core.errors import Invalid, TooMany
from meanwhile.core.readings import Limits, collect
from meanwhile.formats.json_pieces import SMALL
from meanwhile.formats.json_readings import decode, decode_batch
from meanwhile.storage import background_thread
from meanwhile.storage.batcher import Overloaded
from tests.conftest import Api
from tests.support.frozen import frozen_cycle


async def test_two_large_requests_are_under_way_and_the_third_waits() -> None:
    two = LargeBodySlots(10.0)
    inside, most = 0, 0

    async def request() -> None:
        nonlocal inside, most
        async with two.slot():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*[request() for _ in range(10)])

    assert most == 2


async def test_who_finds_no_place_in_time_is_refused_and_a_place_that_is_left_is_free() -> None:
    two = LargeBodySlots(0.01)
    async with two.slot(), two.slot():
        with pytest.raises(Overloaded):
            async with two.slot():
                raise AssertionError
    async with two.slot(), two.slot():
        pass


async def test_a_large_body_is_recorded_as_a_small_one_is(api: Api) -> None:
    client = await api()
    values = [float(n % 7) for n in range(30_000)]
    body = json.dumps({"values": values}).encode()
    assert len(body) > SMALL

    one = await client.post("/v1/streams/one/readings", content=body)
    many = await client.post("/v1/readings", content=b'{"many": ' + body + b"}")
    wrong = await client.post("/v1/readings", content=b'{"wrong": ' + body + b', "": 1}')

    assert (200, 30_000, sum(values) / 30_000) == (one.status_code, one.json()["count"], one.json()["average"])
    assert {"readings": 30_000, "streams": 1} == many.json()
    assert 422 == wrong.status_code
    assert {"streams": ["many", "one"], "cursor": None} == (await client.get("/v1/streams")).json()


def test_numbers_are_limited_not_only_readings() -> None:
    limits = Limits(numbers=6)
    decode(b'{"values": [[1, 2, 3], [4, 5, 6]]}', 0, limits)
    decode_batch(b'{"a": {"value": {"x": [1, 2], "y": 3}}, "b": {"values": [1, 2, 3]}}', 0, limits)
    for body in (b'{"values": [[1, 2, 3, 4], [4, 5, 6, 7]]}', b'{"value": {"x": [1, 2, 3], "y": [4, 5, 6, 7]}}'):
        with pytest.raises(TooMany, match="at most 6 numbers"):
            decode(body, 0, limits)
    with pytest.raises(TooMany, match="at most 6 numbers"):
        decode_batch(b'{"a": {"value": [1, 2, 3, 4]}, "b": {"values": [1, 2, 3]}}', 0, limits)


@pytest.mark.parametrize("odd", [1e141, 1e-141, float("inf"), float("nan")])
def test_one_wide_reading_is_checked_as_many_are(odd: float) -> None:
    with pytest.raises(Invalid) as single:
        collect([[1.0, odd]], 0, 0, Limits())
    with pytest.raises(Invalid) as double:
        collect([[1.0, odd], [1.0, 1.0]], 0, 0, Limits())
    assert (single.value.detail, single.value.pointer) == (double.value.detail, double.value.pointer)


def test_a_zero_of_one_wide_reading_is_a_positive_one() -> None:
    assert "[[0.0], [1.0]]" == repr(collect([[-0.0, 1.0]], 0, 0, Limits()).columns)


async def test_what_heavy_work_made_is_not_looked_through_and_its_cycles_are_collected_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background_thread, "TIDY_INTERVAL", 0.05)
    try:
        made = await frozen_cycle()
        collecting = asyncio.create_task(LargeBodySlots(1.0).collect_garbage())
        for _ in range(100):
            await asyncio.sleep(0.02)
            if made() is None:
                break
        assert made() is None
        collecting.cancel()
    finally:
        gc.unfreeze()
