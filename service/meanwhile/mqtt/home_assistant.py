"""Home Assistant: the discovery messages by which it finds the averages that are published to a broker.

There is a sensor for each number, and for each component of an object or a vector of at most 16, with a template that
takes it out of the payload. ``<prefix>/$state`` is "online", and when this process is gone the broker sets it to
"offline" (the last will); no stream can have that name.
"""

import json
import re
from collections.abc import Iterator
from hashlib import sha256

from meanwhile.core.shapes import Shape

_MAX_COMPONENTS = 16  # Of a stream that has sensors in Home Assistant.
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]+")


def state_topic(prefix: str) -> str:
    """The topic that says whether this process is connected."""
    return f"{prefix}/$state"


def sensors(prefix: str, discovery: str, name: str, shape: Shape) -> Iterator[tuple[str, dict[str, object]]]:
    """Yields the discovery messages of a stream, as topic and content.

    ``prefix`` is the topic below which averages are published, ``discovery`` that below which Home Assistant looks.
    """
    if shape.components > _MAX_COMPONENTS:
        return
    for component in range(shape.components):
        place = shape.pointer(component)
        digest = sha256(f"{prefix} {name} {place}".encode()).hexdigest()[:8]
        ident = f"meanwhile_{_NOT_IN_IDS.sub('_', name + place)[:100]}_{digest}"
        config: dict[str, object] = {
            "name": f"{name}{place.replace('/', ' ')}",
            "unique_id": ident,
            "state_topic": f"{prefix}/{name}",
            "availability_topic": state_topic(prefix),
            "state_class": "measurement",
            "device": {"identifiers": [f"meanwhile_{prefix}"], "name": f"Meanwhile {prefix}"},
        }
        if place:
            config["value_template"] = _template(shape, component)
        yield f"{discovery}/sensor/{ident}/config", config


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
