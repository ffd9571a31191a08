"""The connection to the broker: messages come in, acknowledgements and averages go out.

paho-mqtt keeps the connection in a separate thread, and connects again when it breaks, also at the start. The thread
hands what arrives to the event loop, where ``arrivals`` yields it; all other methods are called from there.

Six things are asked of the broker, which is why it has to speak MQTT 5:

- a *session* that does not expire: messages wait for us while we are not connected;
- *Receive Maximum*: how many messages it may send before the first of them is acknowledged;
- *No Local*: what we publish does not come back to us;
- *subscription identifiers*, if filters overlap: see ``topic_filters.py``;
- no packet above *Maximum Packet Size*;
- no *retained* messages when we subscribe: they were published before, and would come again at every start.

Brokers do not always keep to Receive Maximum, so beyond a limit of pending deliveries we stop reading, and TCP holds
back the rest.

**A delivery is acknowledged once, and on the connection that it came on.** When the connection breaks first, the broker
sends the message again on the next one, and that delivery is acknowledged. An acknowledgement on any other connection
could be taken for that of another message, which by then has the same packet identifier.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from meanwhile.mqtt.broker_address import BrokerAddress
from meanwhile.mqtt.messages import Delivery, NewSession
from meanwhile.mqtt.topic_filters import Filters, is_shared

log = logging.getLogger(__name__)

_MAX_PENDING = 20_000  # Deliveries that are not acknowledged yet, beyond which nothing more is read.
_MAX_PENDING_BYTES = 64 * 1024 * 1024  # Likewise, of their payloads; one delivery may be larger.
_NO_EXPIRY = 0xFFFFFFFF  # Seconds until a session expires: MQTT's way to say that it does not.
_KEEP_ALIVE = 30  # Seconds.
_MIN_PAUSE, _MAX_PAUSE = 1, 30  # Seconds until the next attempt to connect; integers, for paho.


class BrokerError(Exception):
    """The broker cannot be used in this way; the message says why and what to do."""


class _Client(paho.Client):
    """paho's client, which reports the end of its thread. Nothing else would say that nothing is received any more."""

    on_end: Callable[[BaseException | None], None]

    def loop_forever(self, *args: Any, **kwargs: Any) -> Any:
        """What paho's thread runs."""
        error: BaseException | None = None
        try:
            return super().loop_forever(*args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.on_end(error)


class Broker:
    """A connection that is made again when it breaks.

    It is for the session ``client_id`` at the broker at ``address``, and subscribes to the filters ``topics``. The
    broker may send ``receive_maximum`` messages without an acknowledgement, and packets of ``max_packet`` bytes.
    ``clock`` gives the milliseconds since 1970. ``last_will`` is a topic that says "online" while the connection is
    there, and otherwise "offline"; None for none. ``own`` are the topics below which this process publishes.
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        topics: Sequence[str],
        *,
        receive_maximum: int,
        max_packet: int,
        clock: Callable[[], int],
        last_will: str | None = None,
        own: Sequence[str] = (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrivals = asyncio.Queue[Delivery | NewSession | BaseException]()
        self._address = address
        self._filters = Filters(topics, own)
        self._subscribing: dict[int, str] = {}
        self._clock = clock
        self._last_will = last_will
        self._receive_maximum = receive_maximum
        self._max_packet = max_packet
        self._guard = threading.Lock()  # Held while the number of the connection changes, and while it is used.
        self._connection = 0
        self._is_up = False
        self._is_logged_down = False
        self._room = threading.Condition()
        self._pending = self._pending_bytes = 0
        self._is_stopping = False
        self._client = client = _Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, manual_ack=True)
        client.on_end = self._on_end
        client.reconnect_delay_set(_MIN_PAUSE, _MAX_PAUSE)
        client.on_pre_connect = lambda *_: self._mark_down()
        client.on_connect = self._on_connect
        client.on_connect_fail = lambda *_: self._log_down("it cannot be reached")
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

    async def arrivals(self) -> AsyncIterator[Delivery | NewSession]:
        """Connects, now or as soon as the broker is there, and yields what arrives, in order.

        Every delivery has to be acknowledged. Raises ``BrokerError``, or what paho's thread ended with.
        """
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # theirs
        properties.SessionExpiryInterval = _NO_EXPIRY
        properties.ReceiveMaximum = self._receive_maximum
        properties.MaximumPacketSize = self._max_packet
        host, port = self._address.host, self._address.port
        self._client.connect_async(host, port, _KEEP_ALIVE, clean_start=False, properties=properties)
        self._client.loop_start()
        while True:
            arrival = await self._arrivals.get()
            if isinstance(arrival, BaseException):
                raise arrival
            yield arrival

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
        """Acknowledges a delivery, and makes room for another. If its connection is gone, it only makes room."""
        with self._room:
            self._pending -= 1
            self._pending_bytes -= len(delivery.payload)
            self._room.notify()
        with self._guard:
            if delivery.qos and self._is_up and delivery.connection == self._connection:
                self._client.ack(delivery.mid, delivery.qos)

    def publish(self, topic: str, payload: bytes) -> None:
        """Publishes a retained message; without a connection it is lost."""
        if self._is_up:
            self._client.publish(topic, payload, retain=True)

    def _mark_down(self) -> None:
        with self._guard:
            self._is_up = False

    def _log_down(self, reason: str) -> None:
        if not self._is_logged_down:
            log.warning("no connection to the broker at %s:%d: %s", self._address.host, self._address.port, reason)
        self._is_logged_down = True

    # The rest runs in paho's thread.

    def _put(self, arrival: Delivery | NewSession | BaseException) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrivals.put_nowait, arrival)

    def _on_end(self, error: BaseException | None) -> None:
        if error is not None:
            self._put(error)

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._log_down(f"it answers {str(reason).lower()}")
            return
        log.log(
            logging.WARNING if self._is_logged_down else logging.INFO,
            "connected to the broker at %s:%d; its session %s",
            *(self._address.host, self._address.port, "is still there" if flags.session_present else "is new"),
        )
        self._is_logged_down = False
        identified = getattr(properties, "SubscriptionIdentifierAvailable", 1)
        if not identified and (two := self._filters.overlap()):
            explanation = (
                f"The topics {two[0]!r} and {two[1]!r} overlap, and this broker has no subscription identifiers, so "
                "messages would count twice. Choose topics that do not overlap."
            )
            self._put(BrokerError(explanation))
            return
        with self._guard:
            self._connection += 1
            self._is_up = True
        if not flags.session_present:
            self._put(NewSession())
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
        self._mark_down()
        if reason.is_failure:
            self._log_down(f"the connection broke ({str(reason).lower()})")

    def _on_subscribe(self, client: Any, data: Any, mid: int, reasons: list[ReasonCode], properties: Any) -> None:
        topic = self._subscribing.pop(mid, "")
        for reason in reasons:
            if reason.is_failure:
                log.error("the broker refuses the topic %r: %s", topic, str(reason).lower())
            else:
                log.info("subscribed to %r", topic)

    def _on_message(self, client: Any, data: Any, message: paho.MQTTMessage) -> None:
        delivery = self._delivery(message)
        with self._room:
            while self._pending >= _MAX_PENDING or (self._pending and self._pending_bytes > _MAX_PENDING_BYTES):
                self._room.wait(1)
                if self._is_stopping:
                    return
            self._pending += 1
            self._pending_bytes += len(delivery.payload)
        self._put(delivery)

    def _delivery(self, message: paho.MQTTMessage) -> Delivery:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""  # No broker may send such a topic; it is refused like any other that names no stream.
        properties = message.properties
        user_properties = getattr(properties, "UserProperty", ())
        keys = [value for name, value in user_properties if name.lower() == "idempotency-key"]
        return Delivery(
            connection=self._connection,
            mid=message.mid,
            qos=message.qos,
            is_redelivered=message.dup,
            is_retained=message.retain,
            topic=topic,
            payload=bytes(message.payload),
            key=",".join(keys) if keys else None,
            content_type=getattr(properties, "ContentType", None),
            at=self._clock(),
            is_copy=self._filters.is_copy(topic, getattr(properties, "SubscriptionIdentifier", ())),
            is_own=self._filters.is_own(topic),
        )


def _options(topic: str) -> SubscribeOptions:
    # A shared subscription may not have No Local.
    return SubscribeOptions(qos=1, noLocal=not is_shared(topic), retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
