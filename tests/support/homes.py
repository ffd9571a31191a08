"""A home: a broker, a service, and the bridge between them."""

from dataclasses import dataclass
from typing import Any

import redis

from meanwhile.core.state import State, decode
from tests.support.brokers import Bridge, Mosquitto
from tests.support.servers import Valkey, eventually


@dataclass
class Home:
    """A broker, a bridge and a Valkey, used by the tests of this module."""

    broker: Mosquitto
    bridge: Bridge
    server: Valkey

    def state(self, stream: str) -> State | None:
        with redis.Redis(unix_socket_path=str(self.server.socket)) as client:
            stored = client.get(f"meanwhile:stream:{stream}")
        return decode(stored) if isinstance(stored, bytes) else None

    def count(self, stream: str) -> int:
        state = self.state(stream)
        return 0 if state is None else state.summary.count

    def average(self, stream: str) -> Any:
        state = self.state(stream)
        assert state is not None
        return state.shape.value(state.summary.averages())

    def settle(self) -> None:
        """Returns when what was published before is recorded: messages come in order."""
        before = self.count("settle")
        self.broker.publish(("settle", "1"))
        eventually(lambda: self.count("settle") > before)
