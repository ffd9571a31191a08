"""What happens if the data directory of a running service is moved, or its files are damaged."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import calls
from tests.support.running_service import count, embedded, embedded_pid, is_ready, kill_everything, post
from tests.support.servers import Service, eventually, service, short_directory


@contextmanager
def service_on(directory: Path) -> Iterator[Service]:
    """A service with the data directory "data" in this one, which may move; its log is elsewhere."""
    running = Service(directory / "log", arguments=("--data-dir", str(directory / "data")))
    running.data_dir.mkdir()
    running.start()
    try:
        yield running
    finally:
        running.stop()


def test_a_data_directory_that_is_removed_while_running_is_saved_again_from_memory() -> None:
    with short_directory() as directory, service_on(directory) as running:
        assert 200 == post(running, "s", 1.0).status_code
        (directory / "data").rename(directory / "elsewhere")
        statuses = [200]

        def is_saved() -> bool:
            statuses.append(post(running, "s", 1.0).status_code)
            return "1 key saved again" in running.log and statuses[-1] == 200

        eventually(is_saved)
        assert {200, 503} >= set(statuses)
        assert "was removed or moved while Valkey was running on it" in running.log
        assert 0 == running.stop()
        running.start()
        assert statuses.count(200) == count(running, "s")


def test_an_append_only_file_that_is_removed_while_running_is_saved_again_from_memory() -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        for file in (running.data_dir / "appendonlydir").iterdir():
            file.unlink()
        eventually(lambda: "1 key saved again" in running.log)
        os.kill(embedded_pid(running), signal.SIGKILL)
        eventually(lambda: is_ready(running))
        assert 1 == count(running, "s")


def replace_file(appendonlydir: Path) -> None:
    """As rsync does."""
    (file,) = appendonlydir.glob("*.incr.aof")
    shutil.copy(file, appendonlydir / "new")
    (appendonlydir / "new").rename(file)


def replace_directory(appendonlydir: Path) -> None:
    """As when a backup is restored."""
    appendonlydir.rename(appendonlydir.with_name("temp-old"))
    shutil.copytree(appendonlydir.with_name("temp-old"), appendonlydir)
    shutil.rmtree(appendonlydir.with_name("temp-old"))


def truncate_to_nothing(appendonlydir: Path) -> None:
    (file,) = appendonlydir.glob("*.incr.aof")
    os.truncate(file, 0)


def truncate_to_half(appendonlydir: Path) -> None:
    (file,) = appendonlydir.glob("*.incr.aof")
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [replace_file, replace_directory, truncate_to_nothing, truncate_to_half])
def test_an_append_only_file_that_is_changed_while_running_is_saved_again_from_memory(
    damage: Callable[[Path], None],
) -> None:
    with service() as running:
        for value in range(20):
            assert 200 == post(running, "s", float(value)).status_code
        size = sum(file.stat().st_size for file in (running.data_dir / "appendonlydir").glob("*.aof"))
        record = running.data_dir / "meanwhile.record"
        eventually(lambda: size <= sum(json.loads(record.read_bytes()).values()))  # It has seen what there is.
        damage(running.data_dir / "appendonlydir")
        eventually(lambda: "1 key saved again" in running.log)
        assert "was removed, replaced or truncated while Valkey was running on it" in running.log
        eventually(lambda: post(running, "s", 20.0).status_code == 200)
        for value in range(21, 30):
            assert 200 == post(running, "s", float(value)).status_code
        assert 0 == running.stop()
        assert 1 == running.log.count("saved again")
        running.start()
        assert 30 == count(running, "s")
        assert "shorter" not in running.log


def put_a_file(appendonlydir: Path) -> None:
    appendonlydir.touch()


def put_a_loop(appendonlydir: Path) -> None:
    appendonlydir.symlink_to(appendonlydir.name)


def put_a_manifest_that_is_a_directory(appendonlydir: Path) -> None:
    (appendonlydir / "appendonly.aof.manifest").mkdir(parents=True)


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [
        (put_a_file, "appendonlydir/appendonly.aof.manifest cannot be examined (Not a directory)"),
        (put_a_loop, "appendonlydir/appendonly.aof.manifest cannot be examined (Too many levels of symbolic links)"),
        (
            put_a_manifest_that_is_a_directory,
            "appendonlydir/appendonly.aof.manifest cannot be examined (Is a directory)",
        ),
    ],
)
def test_writes_are_refused_until_files_that_cannot_be_examined_are_replaced(
    obstacle: Callable[[Path], None], reason: str
) -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        appendonlydir = running.data_dir / "appendonlydir"
        shutil.rmtree(appendonlydir)
        obstacle(appendonlydir)
        eventually(lambda: "saving the data again failed" in running.log)
        assert f"{running.data_dir}/{reason}. Some streams may only be in memory now" in running.log
        checks = embedded_commands(running, "bgrewriteaof")
        eventually(lambda: embedded_commands(running, "bgrewriteaof") >= checks + 2 and not is_ready(running))
        assert 503 == post(running, "s", 1.0).status_code
        reply = calls.get(f"{running.url}/readyz")
        assert "Redis refuses writes (NOREPLICAS)" in reply.json()["detail"]
        assert "cannot be started" not in running.log
        if appendonlydir.is_dir():
            shutil.rmtree(appendonlydir)
        else:
            appendonlydir.unlink()
        eventually(lambda: "1 key saved again" in running.log and is_ready(running))
        assert 200 == post(running, "s", 1.0).status_code
        kill_everything(running)
        running.start()
        assert 2 == count(running, "s")


def embedded_commands(running: Service, name: str) -> int:
    """How often the embedded Valkey has been sent a command."""
    with embedded(running) as client:
        return int(client.info("commandstats").get(f"cmdstat_{name}", {"calls": 0})["calls"])


def test_writes_are_accepted_again_after_saving_has_failed_and_the_files_are_back() -> None:
    """As when a file system is unmounted and mounted again."""
    with short_directory() as directory, service_on(directory) as running:
        assert 200 == post(running, "s", 1.0).status_code
        (directory / "data").rename(directory / "elsewhere")
        (directory / "data").touch()
        eventually(lambda: "saving the data again failed" in running.log)
        assert 503 == post(running, "s", 1.0).status_code
        (directory / "data").unlink()
        (directory / "elsewhere").rename(directory / "data")
        eventually(lambda: "1 key saved again" in running.log and is_ready(running))
        assert 200 == post(running, "s", 1.0).status_code
        assert 0 == running.stop()
        assert 1 == running.log.count("saved again")
        running.start()
        assert 2 == count(running, "s")


def test_a_valkey_that_refuses_writes_when_it_is_adopted_saves_all_data_first() -> None:
    """The service may have been killed before the data in memory was saved again."""
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        assert running.process is not None
        running.process.kill()
        running.process.wait()
        with embedded(running) as client:
            client.config_set("min-replicas-to-write", 1)
        running.start()
        eventually(lambda: "1 key saved again" in running.log and is_ready(running))
        assert 200 == post(running, "s", 1.0).status_code


def test_a_socket_that_is_removed_is_made_again() -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        (running.data_dir / "valkey.sock").unlink()
        eventually(lambda: (running.data_dir / "valkey.sock").exists() and is_ready(running))
        assert "valkey.sock is gone; stopping Valkey, to start it again" in running.log
        assert 1 == count(running, "s")
