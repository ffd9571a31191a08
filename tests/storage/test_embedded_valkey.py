"""Which server is started, and what is said of one that is slow or gone; ``test_server.py`` tests the rest."""

import logging
import os
import signal
from pathlib import Path

import pytest
import redis

from meanwhile.storage import embedded_valkey as embedded_module
from meanwhile.storage import valkey_server, valkey_supervisor
from meanwhile.storage.data_directory import DataDir, EmbeddedError
from meanwhile.storage.embedded_valkey import EmbeddedValkey
from meanwhile.storage.valkey_server import Valkey, server_binary
from tests.support.running_service import count, embedded, is_ready, post
from tests.support.servers import answers_ping, eventually, service, short_directory


@pytest.fixture
def search_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only directory on PATH, empty, of a machine without the wheel."""
    monkeypatch.setattr(valkey_server, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_without_the_wheel_a_server_on_the_path_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).symlink_to(server_binary())
    monkeypatch.setattr(valkey_server, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tmp_path / name == server_binary()
    with short_directory() as data_dir, EmbeddedValkey(data_dir):
        assert answers_ping(data_dir / "valkey.sock")


def test_valkey_is_preferred_to_redis(search_path: Path) -> None:
    for name in ("valkey-server", "redis-server"):
        (search_path / name).touch(0o755)
    assert search_path / "valkey-server" == server_binary()


def test_without_any_server_it_says_what_to_install_or_set(search_path: Path) -> None:
    with short_directory() as data_dir, pytest.raises(EmbeddedError, match=r"install .* or set MEANWHILE_REDIS_URL"):
        EmbeddedValkey(data_dir).__enter__()


def test_a_server_that_cannot_be_executed_is_named(search_path: Path) -> None:
    binary = search_path / "valkey-server"
    binary.write_text("This is no program.")
    binary.chmod(0o755)
    with short_directory() as data_dir, pytest.raises(EmbeddedError, match=r"Valkey cannot be started: .*Exec format"):
        EmbeddedValkey(data_dir).__enter__()


def test_a_server_that_ends_by_itself_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    """As on a full disk: it says why only there."""
    binary = tmp_path / "valkey-server"
    binary.write_text("#!/bin/sh\necho 'Error writing to the AOF file: No space left on device'\nexit 1\n")
    binary.chmod(0o755)
    with short_directory() as path:
        data_dir = DataDir(path)
        server = Valkey(data_dir, appendfsync="always", binary=binary)
        with data_dir.server_lock() as lock:
            server.start(lock)
        expected = (
            f"its exit code is 1; the end of {data_dir.log} says:\n"
            "Error writing to the AOF file: No space left on device"
        )
        assert expected == server.reap()


def test_a_server_that_takes_long_to_load_is_waited_for_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slow = tmp_path / "valkey-server"
    slow.write_text(
        f'#!/bin/sh\nexec {server_binary()} "$@" --key-load-delay 500 --loading-process-events-interval-bytes 1024\n'
    )
    slow.chmod(0o755)
    with short_directory() as data_dir:
        with EmbeddedValkey(data_dir), redis.Redis(unix_socket_path=str(data_dir / "valkey.sock")) as client:
            client.mset({f"key-{number}": "x" for number in range(4_000)})
            client.bgrewriteaof()  # A base file is read in pieces that let it answer in between.
            eventually(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
        monkeypatch.setattr(embedded_module, "server_binary", lambda: slow)
        monkeypatch.setattr(valkey_supervisor, "_SILENCE_LIMIT", 0.1)
        monkeypatch.setattr(valkey_supervisor, "_REPORT_INTERVAL", 0.1)
        caplog.set_level(logging.INFO)
        with EmbeddedValkey(data_dir):
            assert f"Valkey is loading the streams of {data_dir}: " in caplog.text
            assert "is ready, with 4000 keys" in caplog.text


def test_a_rewrite_that_outlives_its_server_is_ended() -> None:
    """It has inherited the lock, so no other server could be started until it is done."""
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        with embedded(running) as client:
            client.config_set("rdb-key-save-delay", 20_000_000)  # Microseconds.
            client.bgrewriteaof()
            eventually(lambda: list(running.data_dir.glob("temp-rewriteaof-*")) != [])
            pid = int(client.info("server")["process_id"])
        os.kill(pid, signal.SIGKILL)
        eventually(
            lambda: f"Valkey (process {pid}) is gone, but its rewrite of the append-only file still runs" in running.log
        )
        eventually(lambda: is_ready(running))
        assert 1 == count(running, "s")
        assert [] == list(running.data_dir.glob("temp-*"))
