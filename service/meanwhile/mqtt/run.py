"""``meanwhile mqtt``: wires broker, bridge, journal and store, runs until a signal, and ends in order."""

import asyncio
import logging
import re
import signal
from collections.abc import Coroutine
from logging.config import dictConfig
from typing import Any

from meanwhile.core.readings import Limits
from meanwhile.formats.mqtt_payload import Options
from meanwhile.mqtt.bridge import Bridge
from meanwhile.mqtt.broker import Broker
from meanwhile.mqtt.broker_address import BrokerAddress
from meanwhile.mqtt.home_assistant import state_topic
from meanwhile.mqtt.journal import Journal
from meanwhile.mqtt.message_outcomes import Outcomes
from meanwhile.mqtt.published_averages import Averages
from meanwhile.mqtt.recorder import Recorder
from meanwhile.settings import MqttSettings, Settings
from meanwhile.storage import background_thread
from meanwhile.storage.committer import Committer
from meanwhile.storage.data_directory import DataDir
from meanwhile.storage.redis_checks import RedisChecks, refuse_unusable
from meanwhile.storage.redis_client import connect
from meanwhile.storage.store import Store
from meanwhile.telemetry.clock import milliseconds_now
from meanwhile.telemetry.logs import configuration

log = logging.getLogger(__name__)

_MAX_PACKET = 1024 * 1024  # Bytes; memory and the journal hold as many packets as the broker sends ahead.
_REPORT_INTERVAL = 60.0  # Seconds between two lines of the log about what was recorded.


def run(settings: Settings, mqtt: MqttSettings) -> None:
    """Runs until SIGINT or SIGTERM.

    Raises ``BrokerError``, ``JournalError``, ``EmbeddedError``, ``OSError``, or ``ValueError`` if the URL is malformed
    or TLS cannot use a file.
    """
    address = BrokerAddress.parse(mqtt.url, mqtt.username, mqtt.password)
    address = address._replace(ca=mqtt.ca, cert=mqtt.cert, key=mqtt.key)
    address.check_files()
    dictConfig(configuration(settings.log_level, access_log=False))
    asyncio.run(_run(settings, mqtt, address))


async def _run(settings: Settings, mqtt: MqttSettings, address: BrokerAddress) -> None:
    name = re.sub(r"[^A-Za-z0-9._-]", "_", mqtt.client_id)
    if settings.redis_url is not None:
        await refuse_unusable(settings.redis_url)
    options = Options(mqtt.stream_prefix, mqtt.split, mqtt.sequence)
    file = mqtt.journal or DataDir(settings.data_dir).path / f"mqtt-{name}.journal"
    journal = Journal(file, mqtt.in_flight, options)
    client = connect(settings.redis_url or DataDir(settings.data_dir).url)
    replicas = settings.replicas if settings.durability == "replicated" else 0
    store = Store(client, settings.prefix, max_streams=settings.max_streams, replicas=replicas)
    committer = Committer(store, max_waiting=settings.max_waiting, redis_timeout=settings.redis_timeout)
    redis_checks = RedisChecks(client, settings.prefix, settings.durability, strict=settings.strict)
    discovery = mqtt.discovery if mqtt.home_assistant else None
    broker = Broker(
        address,
        mqtt.client_id,
        mqtt.topic,
        receive_maximum=mqtt.in_flight,
        max_packet=min(settings.max_body, _MAX_PACKET),
        clock=milliseconds_now,
        last_will=None if mqtt.publish is None else state_topic(mqtt.publish),
        own=[] if mqtt.publish is None else [topic for topic in (mqtt.publish, discovery) if topic],
    )
    averages = None
    if mqtt.publish is not None:
        averages = Averages(
            store=store,
            broker=broker,
            prefix=mqtt.publish,
            discovery=discovery,
            redis_timeout=settings.redis_timeout,
        )
    outcomes = Outcomes()
    recorder = Recorder(
        committer,
        outcomes,
        options=options,
        limits=Limits(settings.max_readings, settings.max_components, settings.max_names, settings.max_numbers),
    )
    bridge = Bridge(
        broker,
        recorder,
        journal,
        outcomes,
        max_batch=mqtt.in_flight,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    others: list[Coroutine[Any, Any, object]] = [stopping.wait(), redis_checks.run(), _report(outcomes), _tidy()]
    if averages is not None:
        others.append(averages.run())
    recording = loop.create_task(_record(bridge))
    tasks = [recording, *map(loop.create_task, others)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # Raises what it failed with.
        bridge.stop()
        await asyncio.wait([recording], timeout=settings.shutdown_timeout)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await broker.stop()
        log.info("stopped; %s", outcomes)
        journal.save()
        journal.close()
        await client.aclose()


async def _record(bridge: Bridge) -> None:
    await bridge.recover()
    await bridge.run()


async def _report(outcomes: Outcomes) -> None:
    """Logs the outcomes of messages every minute, if they have changed."""
    logged = ""
    while True:
        await asyncio.sleep(_REPORT_INTERVAL)
        if str(outcomes) != logged:
            logged = str(outcomes)
            log.info("so far %s", logged)


async def _tidy() -> None:
    """Collects the cycles among objects that heavy work froze, every ten minutes."""
    while True:
        await asyncio.sleep(background_thread.TIDY_INTERVAL)
        background_thread.tidy()
