"""The documents cannot lie: their commands run, replies are compared, tables and links are held against the code."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from typer.main import get_command

from benchmarks.report import replace_section
from meanwhile.api import problems
from meanwhile.api.app import create_app
from meanwhile.api.endpoint import Endpoint
from meanwhile.cli.commands import app
from meanwhile.settings import MqttSettings, Settings
from tests.faults.results import with_block
from tests.support import calls
from tests.support.paths import ROOT
from tests.support.servers import Service, clean_environment, eventually, service, valkey

DOCUMENTS = {path: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
README = DOCUMENTS[ROOT / "README.md"]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def document(name: str) -> str:
    """One document of ``docs/``."""
    return DOCUMENTS[ROOT / "docs" / f"{name}.md"]


def transcripts() -> list[tuple[str, str]]:
    """Commands that are followed by what they print last."""
    blocks = re.compile(r"```sh\n((?:(?!```).)*)```\n\n```text\n(.*?)```", re.DOTALL)
    names = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("reliability", "formats"))]
    return [found for name in names for found in blocks.findall(DOCUMENTS[name])]


def table(header: str, text: str) -> list[list[str]]:
    """The rows of the table with this header."""
    lines = text[text.index(header) :].splitlines()[2:]
    rows = lines[: next(i for i, line in enumerate([*lines, ""]) if not line.startswith("|"))]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def described_settings(name: str) -> list[list[str]]:
    """The rows of a table of settings: variable, default, and the description as the help of the command shows it."""
    rows = table("| variable |", document(name))
    return [[variable, default, description.replace("`", "")] for variable, default, description in rows]


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as started:
        yield started


def test_every_command_prints_what_the_documents_show(running: Service) -> None:
    environment = clean_environment() | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MEANWHILE_URL": running.url,
    }
    assert len(transcripts()) >= 9
    for commands, shown in transcripts():
        ran = subprocess.run(
            [
                *("bash", "-e", "-c"),
                commands.replace("curl ", "curl -sS --globoff ").replace("http://127.0.0.1:8000", running.url),
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=60,
            check=False,
        )
        assert (0, "") == (ran.returncode, ran.stderr), commands
        assert TIME.sub("TIME", ran.stdout.strip()).endswith(TIME.sub("TIME", shown.strip())), commands


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[path]):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", DOCUMENTS[file], re.MULTILINE)
            assert anchor in map(slug, headings), target


def test_every_document_is_linked_from_the_readme() -> None:
    linked = {(ROOT / target).resolve() for target in re.findall(r"\]\((docs/[^)\s]+\.md)\)", README)}
    assert set(DOCUMENTS) - {ROOT / "README.md"} == linked


def test_the_readme_is_short_and_nothing_in_it_has_to_be_edited_before_it_is_pasted() -> None:
    assert len(README.encode()) <= 12_000
    for commands in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        assert not re.search(r"^\$ ", commands, re.MULTILINE)


def test_the_api_table_has_every_route_and_no_other() -> None:
    routes = create_app(Settings()).router.routes
    assert {
        (route.operation.method, route.path.replace(":path}", "}")) for route in routes if isinstance(route, Endpoint)
    } == {tuple(row[0].strip("`").split(" ")) for row in table("| method and path |", document("api"))}


def test_the_settings_table_has_every_setting_with_its_default() -> None:
    defaults = {
        "redis_url": "none",
        "data_dir": "`~/.local/share/meanwhile`",
        "api_keys": "none",
        "allowed_hosts": "none",
    }
    assert [
        [f"`MEANWHILE_{name.upper()}`", defaults.get(name, f"`{str(field.default).lower()}`"), field.description]
        for name, field in Settings.model_fields.items()
    ] == described_settings("settings")


def test_the_settings_of_mqtt_are_all_documented_with_their_defaults() -> None:
    def shown(default: object) -> str:
        text = " ".join(default) if isinstance(default, list) else str(default).lower()
        return "none" if default in (None, "") else f"`{text}`"

    assert [
        [f"`MEANWHILE_MQTT_{name.upper()}`", shown(field.default), field.description]
        for name, field in MqttSettings.model_fields.items()
    ] == described_settings("mqtt")


def test_meanwhile_mqtt_has_every_option_that_its_document_names() -> None:
    command = get_command(app).commands["mqtt"]  # type: ignore[attr-defined]  # it is a group
    known = {name for one in command.params for name in one.opts}
    named = set(re.findall(r"`[^`\n]*?(--[a-z][a-z-]+)", document("mqtt"))) | set(
        re.findall(r"meanwhile mqtt.* (--[a-z-]+)", document("mqtt"))
    )
    named |= set(re.findall(r"`(--[a-z][a-z-]+)`", document("mqtt")))
    assert {"--topic", "--publish", "--sequence", "--redis-timeout", "--shutdown-timeout"} <= named
    assert set() == named - known - {"--profile"}


def test_the_status_table_has_every_status_of_the_error_table() -> None:
    shown = {int(status) for row in table("| status |", document("api")) for status in row[0].split(", ")}
    assert {problem.status for problem in problems.TABLE.values()} | {200, 405, 500} == shown


def test_the_table_of_faults_is_what_a_run_measured() -> None:
    result = json.loads((ROOT / "tests" / "faults" / "results.json").read_text())
    assert document("reliability") == with_block(document("reliability"), result)
    assert all((0, 0) == (row["lost"], row["doubled"]) for row in result["rows"])


def test_the_commands_to_start_with_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {name for text in DOCUMENTS.values() for name in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)}
    assert {"run", "test"} <= named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_the_acl_suffices() -> None:
    (rule,) = re.findall(r"^ *(user meanwhile .*)$", document("operations"), re.MULTILINE)
    with (
        valkey() as server,
        Redis.from_url(server.url) as admin,
        service(MEANWHILE_REDIS_URL=f"unix://meanwhile:secret@{server.socket}") as started,
        calls.client(base_url=started.url) as client,
    ):
        assert 503 == client.get("/readyz").status_code
        admin.execute_command("ACL", "SETUSER", *rule.split()[1:])
        eventually(lambda: client.get("/readyz").status_code == 200)
        requests = [
            client.get("/readyz"),
            client.post("/v1/streams/acl/readings", json={"value": 1}),
            client.post("/v1/readings", json={"acl": {"value": 1}}, headers={"Idempotency-Key": "a:1"}),
            client.get("/v1/streams/acl"),
            client.get("/v1/streams"),
            client.delete("/v1/streams/acl"),
        ]
        assert [200] * len(requests) == [reply.status_code for reply in requests]
        assert "fsyncs" not in started.log


def test_every_file_that_the_documents_name_exists() -> None:
    pattern = r"`((?:service|tests|benchmarks|docs)/[^`{}<>]*)`"
    named = {name for text in DOCUMENTS.values() for name in re.findall(pattern, text)}
    assert named
    assert set() == {name for name in named if not (ROOT / name).exists()}


def test_the_figures_of_speed_are_those_of_the_last_benchmark() -> None:
    found = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert document("performance") == replace_section(document("performance"), found)
