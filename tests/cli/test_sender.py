"""What is sent and what is not after a refusal: each reading is counted once, whatever the replies."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import repeat

import httpx
import pytest

from meanwhile.cli.http_client import Client, Unsent
from meanwhile.cli.sender import Outcome, Sender
from tests.support import calls
from tests.support.running_service import state
from tests.support.servers import Service, service


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as started:
        yield started


@contextmanager
def behind_a_proxy(running: Service, limits: Iterator[int]) -> Iterator[Client]:
    """A client whose requests pass a proxy, which has the next of ``limits`` for each, in bytes."""
    with Client(running.url) as client, calls.client(base_url=running.url) as direct:

        def forward(request: httpx.Request) -> httpx.Response:
            if len(request.content) > next(limits):
                return httpx.Response(413, text="<html>")
            key = {"Idempotency-Key": request.headers["Idempotency-Key"], "Content-Type": "application/json"}
            reply = direct.post(request.url.path, content=request.content, headers=key)
            return httpx.Response(reply.status_code, content=reply.content)

        client._http.close()
        client._http = httpx.Client(base_url=running.url, transport=httpx.MockTransport(forward))
        yield client


def test_whatever_the_limits_on_the_way_each_reading_is_counted_once(running: Service) -> None:
    batches = [{f"limits/{name}": [float(place)] * 20 for name in "abcde"} for place in range(6)]
    chance = random.Random(5)
    for _ in range(20):
        limits = iter(lambda: chance.choice([0, 150, 300, 10_000]), -1)
        with suppress(Unsent), behind_a_proxy(running, limits) as client:
            for number, batch in enumerate(batches):
                Sender(client, "send-limits", Outcome()).send(batch, number * 10_000)
    outcome = Outcome()
    with Client(running.url) as client:
        for number, batch in enumerate(batches):
            Sender(client, "send-limits", outcome).send(batch, number * 10_000)
    assert dict.fromkeys(batches[0], 120) == outcome.recorded
    assert [120] * 5 == [state(running, name)["count"] for name in batches[0]]


def test_a_limit_of_a_proxy_is_said(running: Service) -> None:
    said = r"413: .* 2 readings of a stream.* the proxy .*client_max_body_size"
    with behind_a_proxy(running, repeat(10)) as client, pytest.raises(Unsent, match=said):
        Sender(client, "send-p", Outcome()).send({"limits/x": [1.0, 2.0]}, 0)


def test_a_stream_that_has_refused_readings_gets_no_later_ones_so_that_they_can_be_sent_again(running: Service) -> None:
    """Later readings made the key of the refused ones too old, and then they passed for recorded."""
    batches = [{"hole/x": [float(place)], "hole/y": [1.0]} for place in range(4)]
    calls.post(f"{running.url}/v1/streams/hole/x/readings", json={"value": [1.0, 2.0]})
    outcome = Outcome()
    with Client(running.url) as client:
        for number, batch in enumerate(batches):
            Sender(client, "send-hole", outcome).send(batch, number * 10_000)
            if number == 1:
                calls.delete(f"{running.url}/v1/streams/hole/x")
        assert ({"hole/y": 4}, {"hole/x": 4}) == (outcome.recorded, outcome.refused)
        again = Outcome()
        for number, batch in enumerate(batches):
            Sender(client, "send-hole", again).send(batch, number * 10_000)
    assert ({"hole/x": 4, "hole/y": 4}, {}) == (again.recorded, again.refused)
    assert [4, 4] == [state(running, name)["count"] for name in batches[0]]


def test_a_file_with_more_batches_than_a_clock_has_days_is_sent_and_counted_once(running: Service) -> None:
    with Client(running.url) as client:
        outcome = Outcome()
        for number in [*range(22_430, 22_480), *range(22_430, 22_480)]:  # About now in seconds, in steps of 80,000.
            Sender(client, "send-g", outcome).send({"g/many": [1.0]}, number * 80_000)
    assert (100, 50, {}) == (outcome.recorded["g/many"], outcome.duplicates, outcome.refused)
    assert 50 == state(running, "g/many")["count"]


def test_what_is_refused_whatever_the_readings_is_said_once(running: Service) -> None:
    with Client(running.url) as client:
        client._http.headers["Host"] = "evil.test"
        with pytest.raises(Unsent, match=r"^421: .*MEANWHILE_ALLOWED_HOSTS"):
            Sender(client, "send-h", Outcome()).send({"g/421": [1.0, 2.0]}, 0)
