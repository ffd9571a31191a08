"""``meanwhile mqtt``: wires broker, bridge, journal and store, runs until a signal, and ends in order."""

import asyncio
import logging
import re
import signal
from logging.config import dictConfig
from typing import Any

from meanwhile.core.readings import Limits
from meanwhile.formats.mqtt_payload import Options
from meanwhile.mqtt.bridge import Bridge
from meanwhile.mqtt.broker import Address, Broker
from meanwhile.mqtt.journal import Journal
from meanwhile.mqtt.published_averages import Averages, state_topic
from meanwhile.settings import MqttSettings, Settings
from meanwhile.storage.committer import Committer
from meanwhile.storage.data_directory import DataDir
from meanwhile.storage.redis_checks import RedisChecks, refuse_unusable
from meanwhile.storage.redis_client import connect
from meanwhile.storage.store import Store
from meanwhile.telemetry.clock import milliseconds_now
from meanwhile.telemetry.logs import configuration

log = logging.getLogger(__name__)

_LARGEST_PACKET = 1024 * 1024  # Bytes; in_flight of them are in memory and in the journal.
_REPORT = 60.0  # Seconds between two lines of the log about what was recorded.


def run(settings: Settings, mqtt: MqttSettings) -> None:
    """Runs until SIGINT or SIGTERM. Raises ``JournalError``, ``ValueError`` for a URL that is none, ``OSError``,
    ``EmbeddedError``."""
    address = Address.parse(mqtt.url, mqtt.username, mqtt.password)._replace(ca=mqtt.ca, cert=mqtt.cert, key=mqtt.key)
    dictConfig(configuration(settings.log_level, access_log=False))
    asyncio.run(_run(settings, mqtt, address))


async def _run(settings: Settings, mqtt: MqttSettings, address: Address) -> None:
    name = re.sub(r"[^A-Za-z0-9._-]", "_", mqtt.client_id)
    if settings.redis_url is not None:
        await refuse_unusable(settings.redis_url)
    journal = Journal(mqtt.journal or DataDir(settings.data_dir).path / f"mqtt-{name}.journal", mqtt.in_flight)
    client = connect(settings.redis_url or DataDir(settings.data_dir).url)
    replicas = settings.replicas if settings.durability == "replicated" else 0
    store = Store(client, settings.prefix, max_streams=settings.max_streams, replicas=replicas)
    committer = Committer(store, max_waiting=settings.max_waiting, redis_timeout=settings.redis_timeout)
    averages = None
    if mqtt.publish is not None:
        averages = Averages(
            store,
            prefix=mqtt.publish,
            discovery=mqtt.discovery if mqtt.home_assistant else None,
            redis_timeout=settings.redis_timeout,
        )
    bridge = Bridge(
        committer,
        journal,
        clock=milliseconds_now,
        options=Options(mqtt.stream_prefix, mqtt.split, mqtt.sequence),
        limits=Limits(settings.max_readings, settings.max_components, settings.max_names, settings.max_numbers),
        most=mqtt.in_flight,
        is_own=(lambda topic: False) if averages is None else averages.is_own,
    )
    broker = Broker(
        address,
        mqtt.client_id,
        mqtt.topic,
        receive_maximum=mqtt.in_flight,
        max_packet=min(settings.max_body, _LARGEST_PACKET),
        arrived=bridge.arrived,
        resumed=bridge.resumed,
        last_will=None if mqtt.publish is None else state_topic(mqtt.publish),
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    work = loop.create_task(_work(bridge, broker))
    others: list[asyncio.Future[Any]] = [loop.create_task(_report(bridge)), loop.create_task(stopping.wait())]
    redis_checks = RedisChecks(client, settings.durability, strict=settings.strict)
    others.append(loop.create_task(redis_checks.run()))
    if averages is not None:
        others.append(loop.create_task(averages.run(broker)))
    try:
        done, _ = await asyncio.wait([work, *others, broker.failed], return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()  # What ended by itself says why.
        bridge.stop()
        await asyncio.wait([work], timeout=settings.shutdown_timeout)
    finally:
        for task in (work, *others):
            task.cancel()
        await asyncio.gather(work, *others, return_exceptions=True)
        await broker.stop()
        log.info("stopped; %s", _words(bridge))
        journal.save()
        journal.close()
        await client.aclose()


async def _work(bridge: Bridge, broker: Broker) -> None:
    await bridge.recover()
    broker.start()
    await bridge.run(broker.acknowledge)


async def _report(bridge: Bridge) -> None:
    said = ""
    while True:
        await asyncio.sleep(_REPORT)
        if _words(bridge) != said:
            said = _words(bridge)
            log.info("so far %s", said)


def _words(bridge: Bridge) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(bridge.counts.items()) if number) or "nothing came"
