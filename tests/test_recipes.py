"""The recipes: each says whether it was tried, and what is in them can at least be read."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCS = Path(__file__).parent.parent / "docs"
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
