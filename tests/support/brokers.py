"""A real Mosquitto, and the real command ``meanwhile mqtt`` beside it."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from threading import Event
from uuid import uuid4

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support import processes
from tests.support.processes import Process
from tests.support.servers import clean_environment, eventually, free_port, short_directory

MOSQUITTO = which("mosquitto") or which("mosquitto", path="/usr/sbin:/usr/local/sbin")
CONFIG = """\
user root
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {directory}/
autosave_interval 1
max_queued_messages 0
{more}
"""


@dataclass
class Mosquitto:
    """A broker that a test may stop and start again on the same data."""

    directory: Path
    port: int
    more: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert MOSQUITTO is not None
        config = self.directory / "mosquitto.conf"
        config.write_text(CONFIG.format(port=self.port, directory=self.directory, more=self.more))
        with (self.directory / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stdout=log, stderr=log)
        eventually(self._accepts)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(20)

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def publish(
        self, *messages: tuple[str, str | bytes], retain: bool = False, key: str | None = None, qos: int = 1
    ) -> None:
        """Publishes, and returns when the broker has acknowledged all of it."""
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.max_inflight_messages_set(1_000)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # theirs
        if key is not None:
            properties.UserProperty = ("Idempotency-Key", key)
        sent = [client.publish(topic, payload, qos, retain, properties) for topic, payload in messages]
        for one in sent:
            one.wait_for_publish(30)
            assert one.is_published()
        client.disconnect()
        client.loop_stop()

    def retained(self, topic: str) -> dict[str, str]:
        """The retained messages of a topic, or of several; one that we send to ourselves comes after them."""
        heard: dict[str, str] = {}
        last = f"$last/{uuid4()}"  # "#", which the bridge subscribes to, leaves out what begins with a dollar.
        done = Event()

        def take(_: paho.Client, __: object, message: paho.MQTTMessage) -> None:
            if message.topic == last:
                done.set()
            elif message.retain:
                heard[message.topic] = message.payload.decode()

        def send_last(client: paho.Client, *_: object) -> None:
            client.publish(last, "")

        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.on_message = take
        client.on_subscribe = send_last
        client.connect("127.0.0.1", self.port)
        client.subscribe([(topic, 1), (last, 1)])
        client.loop_start()
        assert done.wait(30)
        client.disconnect()
        client.loop_stop()
        return heard


@contextmanager
def mosquitto(more: str = "") -> Iterator[Mosquitto]:
    """A running broker; skips where there is none to run."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed; on Debian: apt install mosquitto")
    with short_directory() as directory:
        broker = Mosquitto(directory, free_port(), more)
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()


@dataclass
class Bridge:
    """``meanwhile mqtt`` as a process, with a journal in a directory of its own."""

    directory: Path
    environment: dict[str, str]
    arguments: tuple[str, ...] = ()
    process: Process | None = None
    starts: int = field(default=0)

    @property
    def log(self) -> str:
        return (self.directory / "bridge.log").read_text()

    def start(self, *, wait: bool = True) -> None:
        """Starts the process; waits until it has subscribed, unless told not to."""
        before = self.log.count("subscribed to") if self.starts else 0
        self.starts += 1
        with (self.directory / "bridge.log").open("a") as log:
            self.process = processes.start(
                *("mqtt", "--journal", str(self.directory / "journal"), *self.arguments),
                env=clean_environment() | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            eventually(lambda: self.log.count("subscribed to") > before, 30)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


@contextmanager
def bridge(*arguments: str, **environment: str) -> Iterator[Bridge]:
    """A running bridge; without MEANWHILE_REDIS_URL in ``environment`` it looks for an embedded Valkey."""
    with short_directory() as directory:
        running = Bridge(directory, environment, arguments)
        running.start()
        try:
            yield running
        finally:
            running.stop()
