"""Averages back to the broker: each stream's, retained, when it has changed, at most once a second.

All streams of the store are read in rounds, a second or more apart, so the averages of readings that came over HTTP are
published, too. The topic is ``<prefix>/<stream>``; the payload is the average as JSON, for a number just that number.

Home Assistant finds them by discovery messages: a sensor for each number, and for each component of an object or a
vector of at most 16, with a template that takes it out of the payload. ``<prefix>/$state`` is "online", and when this
process is gone the broker sets it to "offline" (the last will); no stream can have that name.
"""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec

from meanwhile.core.shapes import Shape
from meanwhile.core.state import State
from meanwhile.mqtt.broker import Broker
from meanwhile.storage.redis_client import StoreUnavailable
from meanwhile.storage.store import Store

log = logging.getLogger(__name__)

_INTERVAL = 1.0  # Seconds from one round to the next.
_PAGE = 200  # Streams that are read together.
_MAX_COMPONENTS = 16  # Of a stream that has sensors in Home Assistant.
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]+")

_encode = msgspec.json.Encoder().encode


def state_topic(prefix: str) -> str:
    """The topic that says whether this process is connected."""
    return f"{prefix}/$state"


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

    def is_own(self, topic: str) -> bool:
        """Whether this process publishes to a topic; what comes back from there must not be recorded."""
        return topic.startswith((f"{self.prefix}/", *([f"{self.discovery}/"] if self.discovery else [])))

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
        now = (summary.count, summary.first, summary.last, summary.sums)
        before = self._published.get(name)
        if before is not None and before[0] == now:
            return
        if before is None or before[1] != shape:
            for topic, config in self._sensors(name, shape):
                self.broker.publish(topic, _encode(config))
        self.broker.publish(f"{self.prefix}/{name}", _encode(shape.value(summary.averages())))
        self._published[name] = (now, shape)

    def _remove(self, name: str) -> None:
        """Removes a deleted stream from the broker, by empty retained messages."""
        _, shape = self._published.pop(name)
        for topic in (f"{self.prefix}/{name}", *(topic for topic, _ in self._sensors(name, shape))):
            self.broker.publish(topic, b"")

    def _sensors(self, name: str, shape: Shape) -> Iterator[tuple[str, dict[str, object]]]:
        """Home Assistant's discovery messages for a stream, as topic and content."""
        if self.discovery is None or shape.components > _MAX_COMPONENTS:
            return
        for component in range(shape.components):
            place = shape.pointer(component)
            digest = sha256(f"{self.prefix} {name} {place}".encode()).hexdigest()[:8]
            ident = f"meanwhile_{_NOT_IN_IDS.sub('_', name + place)[:100]}_{digest}"
            config: dict[str, object] = {
                "name": f"{name}{place.replace('/', ' ')}",
                "unique_id": ident,
                "state_topic": f"{self.prefix}/{name}",
                "availability_topic": state_topic(self.prefix),
                "state_class": "measurement",
                "device": {"identifiers": [f"meanwhile_{self.prefix}"], "name": f"Meanwhile {self.prefix}"},
            }
            if place:
                config["value_template"] = _template(shape, component)
            yield f"{self.discovery}/sensor/{ident}/config", config


def _template(shape: Shape, component: int) -> str:
    """A Jinja template that takes a component out of the payload."""
    path = ""
    for name, length in shape.members:
        if component < (length or 1):
            path = (f"[{json.dumps(name, ensure_ascii=False)}]" if name is not None else "") + (
                f"[{component}]" if length else ""
            )
            break
        component -= length or 1
    return f"{{{{ value_json{path} }}}}"
