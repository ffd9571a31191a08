"""Reads event streams of a running service, for the tests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support import calls


@dataclass
class Events:
    """An open event stream."""

    reply: httpx.Response
    lines: Iterator[str]
    last_id: str = ""
    comments: int = 0

    def next(self) -> tuple[str, dict[str, Any]]:
        """The next event and its data; comments are counted."""
        event = ""
        for line in self.lines:
            if line.startswith(":"):
                self.comments += 1
            elif line.startswith("id: "):
                self.last_id = line[4:]
            elif line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: "):
                return event, json.loads(line[6:])
        raise EOFError

    def until_ready(self) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """What there is at the start, by stream, and what ``ready`` says."""
        found: dict[str, dict[str, Any]] = {}
        while True:
            event, data = self.next()
            if event == "ready":
                return found, data
            found[data["stream"]] = data | {"event": event}


@contextmanager
def watching(url: str, path: str, **arguments: Any) -> Iterator[Events]:
    """An event stream of the service at ``url``."""
    timeout = httpx.Timeout(30)
    with calls.stream("GET", f"{url}{path}", timeout=timeout, **arguments) as reply:
        if reply.status_code != 200:
            reply.read()
        yield Events(reply, reply.iter_lines())


def post(url: str, stream: str, *values: Any, headers: dict[str, str] | None = None) -> None:
    """Records readings."""
    target = f"{url}/v1/streams/{stream}/readings"
    reply = calls.post(target, json={"values": values}, headers=headers)
    assert 200 == reply.status_code, reply.text


def post_batch(url: str, batch: dict[str, Any]) -> None:
    """Records readings of many streams."""
    reply = calls.post(f"{url}/v1/readings", json=batch)
    assert 200 == reply.status_code, reply.text


def delete(url: str, stream: str) -> None:
    """Forgets a stream."""
    reply = calls.delete(f"{url}/v1/streams/{stream}")
    assert 200 == reply.status_code, reply.text
