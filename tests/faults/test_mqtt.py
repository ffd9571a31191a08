"""``kill -9`` of ``meanwhile mqtt`` while 2,000 messages a second come in at QoS 1.

Half of the messages are powers of four, each once in a stream of at most 60, so the exact sum says of each how often it
was counted. The other half all have the same payload, on ten topics: nothing but the packet tells one from the next.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import paho.mqtt.client as paho
import pytest
import redis
from paho.mqtt.enums import CallbackAPIVersion

from meanwhile.core.state import decode
from tests.faults.conftest import Row
from tests.support.brokers import Bridge, Mosquitto, bridge, mosquitto
from tests.support.servers import Valkey, eventually, valkey

pytestmark = pytest.mark.faults

RATE = 2_000
KILLS = 10
DIGITS = 60
SAME = 10  # Topics whose messages are all alike.
IN_FLIGHT = 100
MOST = 200_000


@dataclass
class Publisher:
    """Publishes at a fixed rate in a thread; every message is acknowledged by the broker in the end."""

    port: int
    payload: Callable[[float, int], str]
    sent: int = 0
    seconds: float = 0.0
    stopping: threading.Event = field(default_factory=threading.Event)

    def topic(self, number: int) -> str:
        return f"unique/{number // 2 // DIGITS}" if number % 2 == 0 else f"same/{number // 2 % SAME}"

    def run(self) -> None:
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.max_inflight_messages_set(5_000)
        client.max_queued_messages_set(0)  # A busy machine may fall behind; what is sent late is sent all the same.
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        started = time.monotonic()
        infos = []
        while not self.stopping.is_set() and self.sent < MOST:
            due = int((time.monotonic() - started) * RATE)
            for number in range(self.sent, due):
                value = 4.0 ** (number // 2 % DIGITS) if number % 2 == 0 else 1.0
                infos.append(client.publish(self.topic(number), self.payload(value, number), 1))
            self.sent = max(self.sent, due)
            time.sleep(0.005)
        self.seconds = time.monotonic() - started
        for info in infos:
            info.wait_for_publish(60)
        client.disconnect()
        client.loop_stop()


@contextmanager
def publishing(broker: Mosquitto, payload: Callable[[float, int], str]) -> Iterator[Publisher]:
    publisher = Publisher(broker.port, payload)
    thread = threading.Thread(target=publisher.run)
    thread.start()
    try:
        yield publisher
    finally:
        publisher.stopping.set()
        thread.join(90)


def counted(server: Valkey, publisher: Publisher) -> tuple[int, int]:
    """How many messages are not there, and how often one is there again."""
    sent = range(publisher.sent)
    expected: dict[str, int] = {}
    for number in sent:
        expected[publisher.topic(number)] = expected.get(publisher.topic(number), 0) + 1
    lost = doubled = 0
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        for topic, messages in expected.items():
            stored = client.get(f"meanwhile:stream:{topic}")
            assert stored is None or isinstance(stored, bytes)
            summary = None if stored is None else decode(stored).summary
            count = 0 if summary is None else summary.count
            if topic.startswith("unique/") and summary is not None:
                total, denominator = summary.sums.ratios(1)[0]
                assert 1 == denominator
                digits = [total >> 2 * digit & 3 for digit in range(messages)]
                assert sum(digits) == count, "counted four times or more"
                lost += digits.count(0)
                doubled += sum(digit - 1 for digit in digits if digit > 1)
            else:
                lost += max(0, messages - count)
                doubled += max(0, count - messages)
    return lost, doubled


def total(server: Valkey) -> int:
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        keys = list(client.scan_iter("meanwhile:stream:*", 1_000))
        return sum(decode(one).summary.count for one in client.mget(keys) if isinstance(one, bytes)) if keys else 0


def kill_ten_times(running: Bridge, server: Valkey, *, forget: bool) -> float:
    """Kills and starts the bridge again, each time after it has counted something; returns the longest absence."""
    longest = 0.0
    for _ in range(KILLS):
        before = total(server)
        eventually(lambda n=before: total(server) > n + RATE // 2, 30)  # type: ignore[misc]  # a default binds it
        running.kill()
        if forget:
            (running.directory / "journal").unlink()
        killed = time.monotonic()
        running.start()
        longest = max(longest, time.monotonic() - killed)
    return longest


@pytest.mark.parametrize(
    ("name", "arguments", "forget"),
    [
        ("plain payloads, with the journal", (), False),
        ("payload sequences, journal deleted", ("--sequence", "seq"), True),
    ],
)
def test_kill_9_of_meanwhile_mqtt_under_2_000_messages_a_second(
    report: Callable[[Row], None], name: str, arguments: tuple[str, ...], forget: bool
) -> None:
    def payload(value: float, number: int) -> str:
        return f'{{"value": {value!r}, "seq": {number}}}' if arguments else repr(value)

    with valkey() as server, mosquitto() as broker:
        environment = {"MEANWHILE_REDIS_URL": server.url, "MEANWHILE_MQTT_URL": broker.url}
        with bridge("--in-flight", str(IN_FLIGHT), *arguments, **environment) as running:
            with publishing(broker, payload) as publisher:
                absence = kill_ten_times(running, server, forget=forget)
            eventually(lambda: total(server) >= publisher.sent, 60)
            assert 0 == running.stop(), running.log
            lost, doubled = counted(server, publisher)
    rate = publisher.sent / publisher.seconds
    row = Row(
        f"kill -9 meanwhile mqtt x{KILLS}",
        f"{rate:.0f} messages/s, QoS 1",
        publisher.sent,
        lost,
        doubled,
        0,
        absence,
        name,
    )
    report(row)
    assert rate >= 0.95 * RATE
