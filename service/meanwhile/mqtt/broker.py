"""The connection to the broker: deliveries come in, acknowledgements and averages go out.

paho-mqtt keeps the connection in a thread of its own, and makes it again when it breaks, also at the start. Deliveries
are handed to the event loop; all other methods are called from there.

Six things are asked of the broker, which is why it has to speak MQTT 5:

- a *session* that does not expire: what comes while we are away waits for us;
- *Receive Maximum*: so many messages at most are under way to us without an acknowledgement;
- *No Local*: what we publish does not come back to us;
- *subscription identifiers*, if filters overlap: see ``topic_filters.py``;
- no packet above *Maximum Packet Size*;
- no *retained* messages when we subscribe: they were sent to somebody before, and again at every start.

Brokers do not always keep to Receive Maximum, so past a number of deliveries we stop to read, and TCP holds the rest.

**A delivery is acknowledged once, and on the connection that it came by.** When the connection breaks first, the broker
sends the message again on the next one, and that delivery is acknowledged. An acknowledgement by any other connection
could be taken for that of another message, which by then has the same packet identifier.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from meanwhile.mqtt.topic_filters import Filters, is_shared

log = logging.getLogger(__name__)

_MOST_AHEAD = 20_000  # Deliveries that are not done with, before no more are read.
_MOST_BYTES_AHEAD = 64 * 1024 * 1024  # Likewise, their payloads; one delivery is let in whatever its size.
_NEVER = 0xFFFFFFFF  # Seconds until a session expires: MQTT's way to say that it does not.
_KEEP_ALIVE = 30  # Seconds.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1, 30  # Seconds before the connection is tried again; whole ones, for paho.


class Address(NamedTuple):
    """Where a broker is, and how to show who we are."""

    host: str
    port: int
    tls: bool
    username: str | None
    password: str | None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @classmethod
    def parse(cls, url: str, username: str | None, password: str | None) -> "Address":
        """The address in ``mqtt://[user[:password]@]host[:port]`` or ``mqtts://...``. Raises ``ValueError``."""
        parts = urlsplit(url)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("Expected mqtt://host:port or mqtts://host:port.")
        tls = parts.scheme == "mqtts"
        user = username if username is not None else (parts.username and unquote(parts.username))
        secret = password if password is not None else (parts.password and unquote(parts.password))
        return cls(parts.hostname, parts.port or (8883 if tls else 1883), tls, user, secret)


@dataclass(slots=True, eq=False)
class Delivery:
    """A message as it came by one connection."""

    connection: int
    mid: int
    qos: int
    is_again: bool  # DUP: the broker has sent it before, on this session.
    is_retained: bool
    topic: str
    payload: bytes
    key: str | None
    content_type: str | None
    is_copy: bool = False  # Of a message that comes for another filter of ours.


class BrokerError(Exception):
    """The broker cannot be used in this way; the message says why and what to do."""


class _Client(paho.Client):
    """paho's client, which says when its thread ends. Nothing else would notice that nothing is received any more."""

    ended: Callable[[BaseException | None], None]

    def loop_forever(self, *args: Any, **kwargs: Any) -> Any:
        """What paho's thread runs."""
        error: BaseException | None = None
        try:
            return super().loop_forever(*args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.ended(error)


class Broker:
    """A connection that makes itself again. ``last_will`` is a topic that says "online" and, by the broker, "offline".

    ``arrived`` is called for every delivery, ``resumed`` when a connection is there, with whether the broker still had
    our session; both in the event loop. ``failed`` completes if the thread ends by itself.
    """

    def __init__(
        self,
        address: Address,
        client_id: str,
        topics: Sequence[str],
        *,
        receive_maximum: int,
        max_packet: int,
        arrived: Callable[[Delivery], None],
        resumed: Callable[[bool], None],
        last_will: str | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._filters = Filters(topics)
        self._subscribing: dict[int, str] = {}
        self._arrived = arrived
        self._resumed = resumed
        self._last_will = last_will
        self._receive_maximum = receive_maximum
        self._max_packet = max_packet
        self._guard = threading.Lock()  # Held while the number of the connection changes, and while it is acted upon.
        self._connection = 0
        self._is_up = False
        self._said_away = False
        self._room = threading.Condition()
        self._ahead = self._bytes_ahead = 0
        self._is_stopping = False
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self._client = client = _Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, manual_ack=True)
        client.ended = lambda error: self._call(self._on_ended, error)
        client.reconnect_delay_set(_SHORTEST_PAUSE, _LONGEST_PAUSE)
        client.on_pre_connect = lambda *_: self._is_down()
        client.on_connect = self._on_connect
        client.on_connect_fail = lambda *_: self._say_away("it cannot be reached")
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.tls:
            ca, cert, key = (None if path is None else str(path) for path in (address.ca, address.cert, address.key))
            client.tls_set(ca, cert, key)
        if last_will is not None:
            client.will_set(last_will, "offline", qos=1, retain=True)

    def start(self) -> None:
        """Connects, now or as soon as the broker is there."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # theirs
        properties.SessionExpiryInterval = _NEVER
        properties.ReceiveMaximum = self._receive_maximum
        properties.MaximumPacketSize = self._max_packet
        host, port = self._address.host, self._address.port
        self._client.connect_async(host, port, _KEEP_ALIVE, clean_start=False, properties=properties)
        self._client.loop_start()

    async def stop(self) -> None:
        """Disconnects, after everything that was acknowledged and published; the broker keeps the session."""
        if self._last_will is not None:
            self.publish(self._last_will, b"offline")
        self._is_stopping = True
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    @property
    def connection(self) -> int:
        """The number of the connection that is up; 0 if none is."""
        return self._connection if self._is_up else 0

    def acknowledge(self, delivery: Delivery) -> None:
        """Is done with a delivery: acknowledges it, unless its connection is gone and so another one is to come."""
        with self._room:
            self._ahead -= 1
            self._bytes_ahead -= len(delivery.payload)
            self._room.notify()
        with self._guard:
            if delivery.qos and self._is_up and delivery.connection == self._connection:
                self._client.ack(delivery.mid, delivery.qos)

    def publish(self, topic: str, payload: bytes) -> None:
        """Publishes a retained message; without a connection it is lost."""
        if self._is_up:
            self._client.publish(topic, payload, retain=True)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _is_down(self) -> None:
        with self._guard:
            self._is_up = False

    def _say_away(self, reason: str) -> None:
        if not self._said_away:
            log.warning("no connection to the broker at %s:%d: %s", self._address.host, self._address.port, reason)
        self._said_away = True

    # The rest runs in paho's thread.

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._say_away(f"it answers {str(reason).lower()}")
            return
        log.log(
            logging.WARNING if self._said_away else logging.INFO,
            "connected to the broker at %s:%d; its session %s",
            *(self._address.host, self._address.port, "is still there" if flags.session_present else "is new"),
        )
        self._said_away = False
        identified = getattr(properties, "SubscriptionIdentifierAvailable", 1)
        if not identified and (two := self._filters.overlap()):
            reason_why = (
                f"The topics {two[0]!r} and {two[1]!r} overlap, and this broker has no subscription identifiers, so "
                "messages would count twice. Choose topics that do not overlap."
            )
            self._call(self._on_ended, BrokerError(reason_why))
            return
        with self._guard:
            self._connection += 1
            self._is_up = True
        self._call(self._resumed, flags.session_present)
        if self._last_will is not None:
            client.publish(self._last_will, "online", retain=True)
        self._subscribing.clear()
        for topic, identifier in self._filters.identifiers.items():
            subscribe = None
            if identified:
                subscribe = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]  # theirs
                subscribe.SubscriptionIdentifier = identifier
            _, mid = client.subscribe([(topic, _options(topic))], properties=subscribe)
            self._subscribing[mid] = topic

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        self._is_down()
        if reason.is_failure:
            self._say_away(f"the connection broke ({str(reason).lower()})")

    def _on_subscribe(self, client: Any, data: Any, mid: int, reasons: list[ReasonCode], properties: Any) -> None:
        topic = self._subscribing.pop(mid, "")
        for reason in reasons:
            if reason.is_failure:
                log.error("the broker refuses the topic %r: %s", topic, str(reason).lower())
            else:
                log.info("subscribed to %r", topic)

    def _on_message(self, client: Any, data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""  # No topic that a broker may send; refused like any other that names no stream.
        properties = message.properties
        users = getattr(properties, "UserProperty", ())
        keys = [value for name, value in users if name.lower() == "idempotency-key"]
        delivery = Delivery(
            self._connection,
            message.mid,
            message.qos,
            message.dup,
            message.retain,
            topic,
            bytes(message.payload),
            ",".join(keys) if keys else None,
            getattr(properties, "ContentType", None),
            self._filters.is_copy(topic, getattr(properties, "SubscriptionIdentifier", ())),
        )
        with self._room:
            while self._ahead >= _MOST_AHEAD or (self._ahead and self._bytes_ahead > _MOST_BYTES_AHEAD):
                self._room.wait(1)
                if self._is_stopping:
                    return
            self._ahead += 1
            self._bytes_ahead += len(delivery.payload)
        self._call(self._arrived, delivery)

    def _on_ended(self, error: BaseException | None) -> None:
        if error is not None and not self.failed.done():
            self.failed.set_exception(error)


def _options(topic: str) -> SubscribeOptions:
    # A shared subscription may not have No Local.
    return SubscribeOptions(qos=1, noLocal=not is_shared(topic), retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
