"""Home Assistant: the discovery messages by which it finds the averages that are published to a broker.

There is a sensor for each number, and for each component of an object or a vector of at most 16, with a template that
takes it out of the payload. ``<prefix>/<stream>/$attributes`` has the attributes of these sensors: the latest value
with its time, and the count. ``<prefix>/$state`` is "online", and when this process is gone the broker sets it to
"offline" (the last will). No stream can have such names.
"""

import json
import re
from collections.abc import Iterator
from hashlib import sha256

from meanwhile.core import times
from meanwhile.core.shapes import Shape
from meanwhile.core.state import State

_MAX_COMPONENTS = 16  # Of a stream that has sensors in Home Assistant.
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]+")


def state_topic(prefix: str) -> str:
    """The topic that says whether this process is connected."""
    return f"{prefix}/$state"


def has_sensors(shape: Shape) -> bool:
    """Whether the streams of a shape have sensors."""
    return shape.components <= _MAX_COMPONENTS


def attributes_topic(prefix: str, name: str) -> str:
    """The topic of the attributes of the sensors of a stream."""
    return f"{prefix}/{name}/$attributes"


def attributes(state: State) -> dict[str, object]:
    """The attributes of the sensors of a stream."""
    shape, summary = state
    return {
        "latest": shape.value(summary.latest) if summary.latest else None,
        "last_reading_at": times.to_text(summary.last),
        "count": summary.count,
    }


def sensors(prefix: str, discovery: str, name: str, shape: Shape) -> Iterator[tuple[str, dict[str, object]]]:
    """Yields the discovery messages of a stream, as topic and content.

    ``prefix`` is the topic below which averages are published, ``discovery`` that below which Home Assistant looks.
    """
    if not has_sensors(shape):
        return
    for component in range(shape.components):
        place = shape.pointer(component)
        digest = sha256(f"{prefix} {name} {place}".encode()).hexdigest()[:8]
        ident = f"meanwhile_{_NOT_IN_IDS.sub('_', name + place)[:100]}_{digest}"
        config: dict[str, object] = {
            "name": f"{name}{place.replace('/', ' ')}",
            "unique_id": ident,
            "state_topic": f"{prefix}/{name}",
            "json_attributes_topic": attributes_topic(prefix, name),
            "availability_topic": state_topic(prefix),
            "state_class": "measurement",
            "device": {"identifiers": [f"meanwhile_{prefix}"], "name": f"Meanwhile {prefix}"},
        }
        if place:
            path = _path(shape, component)
            config["value_template"] = f"{{{{ value_json{path} }}}}"
            config["json_attributes_template"] = _attributes_template(path)
        yield f"{discovery}/sensor/{ident}/config", config


def _path(shape: Shape, component: int) -> str:
    """The place of a component inside a value, in a Jinja template."""
    for name, length in shape.members:
        if component < (length or 1):
            return (f"[{json.dumps(name, ensure_ascii=False)}]" if name is not None else "") + (
                f"[{component}]" if length else ""
            )
        component -= length or 1
    raise IndexError(component)


def _attributes_template(path: str) -> str:
    """A Jinja template that makes the attributes of one component out of those of the stream."""
    latest = f"value_json.latest{path} if value_json.latest is not none else none"
    return f"{{{{ dict(value_json, latest={latest}) | tojson }}}}"
