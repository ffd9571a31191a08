"""The recipes: each says whether it was tried, and what is in them can at least be read."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jinja2
import pytest
import yaml

from meanwhile.core.idempotency_keys import parse
from tests.support import calls
from tests.support.paths import ROOT
from tests.support.servers import service

DOCS = ROOT / "docs"
RECIPES = (DOCS / "recipes.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", RECIPES, re.MULTILINE))


class Tolerant(yaml.SafeLoader):  # type: ignore[misc]  # yaml is read without its types
    """YAML with tags such as ESPHome's !lambda."""


def anything(loader: Tolerant, tag: str, node: Any) -> str:
    return str(node.value)


Tolerant.add_multi_constructor("!", anything)


@pytest.mark.parametrize("title", SECTIONS)
def test_a_recipe_says_whether_it_was_tried(title: str) -> None:
    assert re.search(r"\btried\b|\bpass\b", SECTIONS[title], re.IGNORECASE)


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", RECIPES, re.DOTALL))
def test_yaml_is_yaml(block: str) -> None:
    assert yaml.load(block, Tolerant)


def test_the_flow_for_node_red_posts_what_the_service_takes() -> None:
    nodes = {node["id"]: node for node in json.loads((DOCS / "node-red-flow.json").read_text())}
    assert all(target in nodes for node in nodes.values() for wire in node.get("wires", []) for target in wire)
    assert nodes["reading"]["func"] in RECIPES
    assert {"/v1/streams/kitchen/temperature/readings", "/v1/streams/kitchen/temperature"} == {
        node["url"].removeprefix("http://127.0.0.1:8000") for node in nodes.values() if "url" in node
    }


# Keys ---------------------------------------------------------------------------------------------------------------

BURST = 50


def code(title: str, language: str) -> str:
    """The first block of this language in a recipe."""
    found = re.search(rf"```{language}\n(.*?)```", SECTIONS[title], re.DOTALL)
    assert found is not None
    return found[1]


def output_of(*command: str, **arguments: Any) -> list[str]:
    printed: str = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, **arguments).stdout
    return printed.split()


def keys_of_node_red() -> list[str]:
    if shutil.which("node") is None:
        pytest.skip("node is not installed; on Debian: apt install nodejs")
    script = f"""
        const store = {{}}
        const context = {{get: (name) => store[name], set: (name, value) => {{ store[name] = value }}}}
        const reading = new Function('msg', 'context', {json.dumps(code("Node-RED", "js"))})
        for (let i = 0; i < {BURST}; i++) console.log(reading({{payload: i}}, context).headers['Idempotency-Key'])
    """
    return output_of("node", "-e", script)


def keys_of_home_assistant() -> list[str]:
    command = yaml.safe_load(code("Home Assistant", "yaml"))["rest_command"]["meanwhile"]
    template = jinja2.Environment(autoescape=True).from_string(command["headers"]["Idempotency-Key"])

    def render() -> str:
        return template.render(now=lambda: datetime.now(UTC), as_timestamp=datetime.timestamp)

    def after_a_request() -> str:
        key, before = render(), time.time_ns()
        while time.time_ns() < before + 100_000:  # A request takes longer than this; they are queued.
            pass
        return key

    return [after_a_request() for _ in range(BURST)]


STAND_INS = """
#include <cstdio>
#include <cstring>
enum { WL_CONNECTED = 3 };
struct { void begin(const char*, const char*) {} int status() { return WL_CONNECTED; } } WiFi;
void configTime(int, int, const char*) {}
int analogReadMilliVolts(int) { return 214; }
void delay(int) {}
struct HTTPClient {
  void begin(const char*) {}
  void addHeader(const char* name, const char* value) { if (!strcmp(name, "Idempotency-Key")) puts(value); }
  int POST(const char*) { return 200; }
  void end() {}
};
"""


def keys_of_arduino(directory: Path) -> list[str]:
    """Those of the sketch, compiled with stand-ins for the board and its libraries."""
    if shutil.which("c++") is None:
        pytest.skip("a C++ compiler is not installed; on Debian: apt install g++")
    sketch = code("Arduino", "cpp").replace("#include <WiFi.h>\n#include <HTTPClient.h>\n", STAND_INS)
    (directory / "sketch.cpp").write_text(
        f"{sketch}int main() {{ setup(); for (int i = 0; i < {BURST}; i++) loop(); }}\n"
    )
    subprocess.run(["c++", "-std=c++17", "-o", "sketch", "sketch.cpp"], check=True, cwd=directory, timeout=120)
    return output_of(str(directory / "sketch"))


def keys_of_curl() -> list[str]:
    line = code("curl, from a pipe", "sh").splitlines()[0]
    return [output_of("sh", "-c", f'{line}\necho "$key"')[0] for _ in range(BURST)]


@pytest.mark.parametrize("recipe", ["Node-RED", "Home Assistant", "Arduino"])
async def test_a_burst_of_readings_by_a_recipe_is_counted_whole_and_once(
    client: httpx.AsyncClient, tmp_path: Path, recipe: str
) -> None:
    make: dict[str, Callable[[], list[str]]] = {
        "Node-RED": keys_of_node_red,
        "Home Assistant": keys_of_home_assistant,
        "Arduino": lambda: keys_of_arduino(tmp_path),
    }
    keys = make[recipe]()
    assert BURST == len(set(keys))
    sequences = [key.sequence for key in map(parse, keys) if key is not None]
    assert sequences == sorted(sequences)
    # Node-RED does not wait for one request before it sends the next; the others do, and send one again if need be.
    sent = [*reversed(keys), *keys] if recipe == "Node-RED" else [key for key in keys for _ in range(2)]
    for key in sent:
        reply = await client.post("/v1/streams/s/readings", json={"value": 1}, headers={"Idempotency-Key": key})
        assert 200 == reply.status_code
    assert BURST == (await client.get("/v1/streams/s/count")).json()["count"]


async def test_a_burst_of_uploads_by_the_recipe_for_curl_is_counted_whole_and_once(client: httpx.AsyncClient) -> None:
    for key in [key for key in keys_of_curl() for _ in range(2)]:
        reply = await client.put(
            "/v1/readings",
            content='{"stream": "s", "value": 1}\n' * 3,
            headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": key},
        )
        assert 200 == reply.status_code
    assert 3 * BURST == (await client.get("/v1/streams/s/count")).json()["count"]


def test_the_recipe_for_arrays_records_them() -> None:
    first, numpy = re.findall(r"```python\n(.*?)```", SECTIONS["numpy, PyTorch and other arrays"], re.DOTALL)
    compile(numpy, "numpy", "exec")
    with service() as running:
        program = first.replace("http://127.0.0.1:8000", running.url)
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
        average = calls.get(f"{running.url}/v1/streams/layer-3/head-7/average").json()["average"]
    assert {"key": [0.25, -1.5, 3.0], "value": [1.0, 2.0, 4.0]} == average


def test_every_recipe_with_a_key_is_tried_in_a_burst() -> None:
    with_keys = {title for title, text in SECTIONS.items() if "Idempotency-Key" in text}
    assert {"curl, from a pipe", "Home Assistant", "Node-RED", "Arduino"} == with_keys
