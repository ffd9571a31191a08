"""Averages back to the broker: each stream's, retained, when it has changed, at most once a second.

All streams of the store are read in rounds, a second or more apart, so the averages of readings that came over HTTP are
published, too. The topic is ``<prefix>/<stream>``; the payload is the average as JSON, for a number just that number.

Home Assistant finds them by its discovery messages (``home_assistant.py``).
"""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from meanwhile.core.shapes import Shape
from meanwhile.core.state import State
from meanwhile.mqtt import home_assistant
from meanwhile.mqtt.broker import Broker
from meanwhile.storage.redis_client import StoreUnavailable
from meanwhile.storage.store import Store

log = logging.getLogger(__name__)

_INTERVAL = 1.0  # Seconds from one round to the next.
_PAGE = 200  # Streams that are read together.

_encode = msgspec.json.Encoder().encode


@dataclass(kw_only=True, eq=False)
class Averages:
    """The averages of the streams in ``store``, published to ``broker`` below the topic ``prefix``.

    ``discovery`` is the topic below which Home Assistant looks for discovery messages, None for no such messages.
    ``redis_timeout`` is how long one read may take, in seconds. On a new connection everything is published again,
    since the broker may have lost it.
    """

    store: Store
    broker: Broker
    prefix: str
    discovery: str | None
    redis_timeout: float
    _published: dict[str, tuple[object, Shape]] = field(default_factory=dict, init=False)
    _last_connection: int = field(default=0, init=False)

    async def run(self) -> None:
        """Publishes until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            if self.broker.connection:
                try:
                    await self._round()
                except StoreUnavailable:
                    log.debug("no averages are published: Redis is not available")
            await asyncio.sleep(max(0.1, started + _INTERVAL - loop.time()))

    async def _round(self) -> None:
        if self.broker.connection != self._last_connection:
            self._published.clear()
            self._last_connection = self.broker.connection
        seen: set[str] = set()
        cursor: str | None = None
        while True:
            deadline = asyncio.get_running_loop().time() + self.redis_timeout
            page = await self.store.listing.page("", _PAGE, cursor, deadline)
            states = await self.store.read(page.streams, deadline) if page.streams else []
            for name, state in zip(page.streams, states, strict=True):
                if isinstance(state, State):
                    seen.add(name)
                    self._publish(name, state)
            cursor = page.cursor
            if cursor is None:
                break
        for name in self._published.keys() - seen:
            self._remove(name)

    def _publish(self, name: str, state: State) -> None:
        shape, summary = state
        now = (summary.count, summary.first, summary.last, summary.latest, summary.sums)
        before = self._published.get(name)
        if before is not None and before[0] == now:
            return
        if before is None or before[1] != shape:
            for topic, config in self._sensors(name, shape):
                self.broker.publish(topic, _encode(config))
        self.broker.publish(f"{self.prefix}/{name}", _encode(shape.value(summary.averages())))
        if self._has_sensors(shape):
            content = _encode(home_assistant.attributes(state))
            self.broker.publish(home_assistant.attributes_topic(self.prefix, name), content)
        self._published[name] = (now, shape)

    def _remove(self, name: str) -> None:
        """Removes a deleted stream from the broker, by empty retained messages."""
        _, shape = self._published.pop(name)
        topics = [f"{self.prefix}/{name}", *(topic for topic, _ in self._sensors(name, shape))]
        if self._has_sensors(shape):
            topics.append(home_assistant.attributes_topic(self.prefix, name))
        for topic in topics:
            self.broker.publish(topic, b"")

    def _has_sensors(self, shape: Shape) -> bool:
        return self.discovery is not None and home_assistant.has_sensors(shape)

    def _sensors(self, name: str, shape: Shape) -> Iterator[tuple[str, dict[str, object]]]:
        return iter(()) if self.discovery is None else home_assistant.sensors(self.prefix, self.discovery, name, shape)
