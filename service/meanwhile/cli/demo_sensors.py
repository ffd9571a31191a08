"""Simulated sensors, for trying the service without real ones: ``meanwhile demo``.

All names start with ``demo/``. A garden warms and cools with the time of day. The power consumption of a house changes
in steps as appliances switch on and off. A weather station on a roof sends objects, an accelerometer on a pump sends
vectors, and an attention head sends key/value pairs.
"""

import math
import random
import time
from collections.abc import Callable, Mapping

from meanwhile.cli.http_client import Client
from meanwhile.core.shapes import Value

DAY = 86_400.0
_APPLIANCES = {"fridge": (90.0, 900.0, 0.35), "kettle": (2_000.0, 400.0, 0.08), "heating": (1_400.0, 240.0, 0.3)}


def readings(at: float, noise: random.Random) -> dict[str, list[Value]]:
    """The readings of the sensors at a time (seconds since 1970), by stream.

    >>> sorted(readings(0.0, random.Random(7)))[0]
    'demo/attention/head-7'
    """
    day = math.sin(
        2 * math.pi * (at % DAY) / DAY - 2.0
    )  # Coldest shortly before two in the morning, warmest in the afternoon (UTC).
    gust = abs(noise.gauss(0, 1))
    temperature = 12.5 + 6 * day + noise.gauss(0, 0.15)
    power = 130 + noise.gauss(0, 4)
    for watts, period, share in _APPLIANCES.values():
        power += watts * (at % period < share * period)
    turn = 2 * math.pi * 1.7 * at
    found: dict[str, list[Value]] = {
        "demo/house/power": [round(power, 1)],
        "demo/pump/vibration": [
            [round(0.8 * math.sin(turn + phase) + noise.gauss(0, 0.12), 3) for phase in (0.0, 2.1, 4.2)]
            for _ in range(4)
        ],
        "demo/attention/head-7": [
            {
                "key": [round(noise.gauss(mean, 0.5), 4) for mean in (0.2, -0.1, 0.4, 0.0)],
                "value": [round(noise.gauss(mean, 0.3), 4) for mean in (1.0, 0.5, -0.5, 0.1)],
            }
        ],
    }
    if at % 2 < 1:
        found["demo/garden/temperature"] = [round(temperature, 2)]
        found["demo/garden/humidity"] = [round(min(99.0, 68 - 18 * day + noise.gauss(0, 0.8)), 1)]
    if at % 5 < 1:
        found["demo/roof/weather"] = [
            {
                "temperature": round(temperature + 0.8, 1),
                "humidity": round(64 - 16 * day + noise.gauss(0, 1), 1),
                "pressure": round(1013 + 3 * math.sin(at / 9_000) + noise.gauss(0, 0.1), 1),
                "wind": round(2.5 + 1.5 * gust, 1),
            }
        ]
    return found


def play(
    client: Client,
    seconds: float | None,
    report: Callable[[Mapping[str, list[Value]]], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Sends readings once a second, for ``seconds`` or until interrupted, and passes each batch to ``report``.

    Each request has an idempotency key whose sequence is the clock, so it is counted once however often it is sent.
    Raises ``Unsent``.
    """
    noise = random.Random()  # noqa: S311  # Not a secret.
    began = time.monotonic()
    tick = 0
    while seconds is None or tick < seconds:
        batch = readings(time.time(), noise)
        client.send(batch, f"demo:{time.time_ns() // 1_000}")
        report(batch)
        tick += 1
        sleep(max(0.0, began + tick - time.monotonic()))
