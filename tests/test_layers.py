"""Holds the direction of the imports: each module may know what is below it and nothing of what is above.

The mathematics knows neither Redis nor HTTP, the store neither HTTP nor settings, and only ``app.py`` wires; so each
can be read, tested and replaced on its own. The imports are read from the sources, those inside functions too.
"""

import ast
import re
import sys
from pathlib import Path

import meanwhile
import pytest

ROOT = Path(meanwhile.__file__).parent

# From the bottom up. A module may import modules of lower layers; "formats/" and "api/" also their own siblings.
LAYERS = [
    {
        *(
            "exact",
            "times",
            "idempotency",
            "key_file",
            "counters",
            "logs",
            "clock",
            "link",
            "options",
            "turns",
        ),
        *("data_dir", "shared_directory", "heavy"),
    },
    {"summary", "stream", "access", "append_only_file", "valkey", "watched"},
    {"keeper"},
    {"state"},
    {"verdicts"},
    {
        *(
            "formats",
            "formats.bodies",
            "formats.cbor",
            "formats.columns",
            "formats.json",
            "formats.line_names",
            "formats.line_protocol",
            "formats.pairs",
            "formats.pieces",
        ),
        *(
            "formats.mqtt",
            "formats.ndjson",
            "formats.senml",
            "metrics",
            "examination",
            "mqtt.journal",
            "mqtt.broker",
            "mqtt.filters",
            "store",
            "table",
        ),
        "client",
    },
    {"settings", "demo", "watch"},
    {"wide", "outcomes"},
    {"slices"},
    {"committer", "reader", "subscription", "frames"},
    {"live", "places"},
    {"problems"},
    {"deadlines", "head", "hosts"},
    {"protocol"},
    {
        *("api", "api.body", "api.contract", "api.document", "api.endpoint", "api.events", "api.health", "api.influx"),
        *(
            "api.inflation",
            "api.lines",
            "api.metrics",
            "api.models",
            "api.page",
            "api.readings",
            "api.recording",
            "api.stamps",
            "api.streams",
            "api.upload",
        ),
    },
    {"app", "embedded"},
    {"mqtt", "mqtt.averages", "mqtt.bridge", "mqtt.run", "server", "worker"},
    {"cli"},
    {"__main__"},
]
PURE = {"exact", "summary", "stream", "state", "verdicts", "times", "idempotency"}
CODECS = {
    "state": {"msgspec"},
    "verdicts": {"msgspec"},
    "formats.bodies": {"msgspec"},
    "formats.json": {"msgspec"},
    "formats.ndjson": {"msgspec"},
    "formats.pieces": {"msgspec"},
    "formats.senml": {"msgspec"},
}
MAY_IMPORT_REDIS = {"examination", "link", "store", "valkey", "keeper"}
MAY_IMPORT_SETTINGS = {"app", "mqtt.run", "server", "worker", "cli"}


def module_name(path: Path) -> str:
    """``service/meanwhile/api/request_body.py`` is "api.body", ``service/api/__init__.py`` "api", ``service/__init__.py`` ""."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_in(source: str) -> set[str]:
    """The full names of the modules that a source imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "Imports are absolute, so that they can be read."
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if name.removeprefix("service.") in MODULES}
            found |= (
                modules
                if node.module in {"service", "meanwhile.api", "meanwhile.formats", "meanwhile.mqtt"} and modules
                else set()
            )
            found |= {str(node.module)} if inner - modules or not modules else set()
    return found


def siblings(name: str) -> set[str]:
    """What a module imports of this service, as names of ``MODULES``."""
    imported = imports_in(MODULES[name].read_text())
    return {one.removeprefix("service").removeprefix(".") for one in imported if one.partition(".")[0] == "service"}


def strangers(name: str) -> set[str]:
    """The top-level packages that a module imports from outside this service."""
    return {one.partition(".")[0] for one in imports_in(MODULES[name].read_text())} - {"service"}


def layer(name: str) -> int:
    return next(i for i, modules in enumerate(LAYERS) if name in modules)


def allowed_in_pure(name: str) -> bool:
    return name in PURE or name.partition(".")[0] == "formats"


def test_imports_are_found_wherever_and_however_they_are_written() -> None:
    source = """
import os, redis.asyncio as r
from service import times, problems as p
from meanwhile.stream import Invalid
from meanwhile.api import readings
from redis import Redis
def f():
    from meanwhile.settings import Settings
    import msgspec.json
"""
    expected = {
        "os",
        "redis.asyncio",
        "meanwhile.core.times",
        "meanwhile.api.problems",
        "meanwhile.core.stream",
        "meanwhile.api.routes.readings",
    }
    assert expected | {"redis", "meanwhile.settings", "msgspec.json"} == imports_in(source)


def test_every_module_has_one_layer() -> None:
    placed = [name for modules in LAYERS for name in modules]
    assert sorted(set(MODULES) - {""}) == sorted(placed), "Give a new module its layer in tests/test_layers.py."


def test_the_map_names_every_module_below_those_that_it_imports() -> None:
    described = re.findall(r"^    (\w+)(?:\.py|/) ", meanwhile.__doc__ or "", re.MULTILINE)
    assert sorted({name.partition(".")[0] for name in MODULES if name} - {"__main__"}) == sorted(described)
    place = {top: number for number, top in enumerate(described)}
    for name in set(MODULES) - {"", "__main__"}:
        top = name.partition(".")[0]
        assert {top} >= {one.partition(".")[0] for one in siblings(name) if place[one.partition(".")[0]] >= place[top]}


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_point_down(name: str) -> None:
    package = name.partition(".")[0]
    upwards = {
        one
        for one in siblings(name)
        if layer(one) >= layer(name) and not ("." in name and one.partition(".")[0] == package)
    }
    assert set() == upwards


def test_the_package_itself_imports_nothing() -> None:
    assert set() == imports_in(MODULES[""].read_text())
    assert set() == {one for name in ("api", "formats", "mqtt") for one in imports_in(MODULES[name].read_text())}


@pytest.mark.parametrize("name", [name for name in MODULES if allowed_in_pure(name)])
def test_pure_modules_import_the_standard_library_and_each_other_only(name: str) -> None:
    assert set() == strangers(name) - sys.stdlib_module_names - CODECS.get(name, set())
    assert set() == {one for one in siblings(name) if not allowed_in_pure(one)}


@pytest.mark.parametrize("name", [name for name in MODULES if allowed_in_pure(name)])
def test_pure_modules_have_no_clock_no_files_no_network_and_no_logging(name: str) -> None:
    impure = {"asyncio", "io", "logging", "os", "pathlib", "random", "socket", "subprocess", "threading", "time"}
    assert set() == strangers(name) & impure


def test_the_store_and_its_link_know_redis_and_what_is_pure_only() -> None:
    assert {"hiredis", "redis"} == strangers("link") - sys.stdlib_module_names
    assert {"msgspec", "redis"} == strangers("store") - sys.stdlib_module_names
    assert set() == siblings("link")
    assert siblings("store") <= PURE | {"link"}


def test_formats_know_streams_times_and_the_domain_only() -> None:
    formats = {name for name in MODULES if name.startswith("formats.")}
    assert formats
    assert {"exact", "stream", "times", "idempotency"} >= {
        one for name in formats for one in siblings(name)
    } - formats - {"formats"}


def test_only_the_store_its_link_and_the_embedded_server_know_redis() -> None:
    assert {name for name in MODULES if name and "redis" in strangers(name)} <= MAY_IMPORT_REDIS


def test_only_what_wires_and_starts_knows_settings() -> None:
    assert {name for name in MODULES if name and "settings" in siblings(name)} <= MAY_IMPORT_SETTINGS


def test_only_what_faces_http_knows_the_framework() -> None:
    faces = {"problems", "app", "server", "protocol", "api", *(name for name in MODULES if name.startswith("api."))}
    assert {name for name in MODULES if strangers(name) & {"fastapi", "starlette", "uvicorn"}} <= faces
