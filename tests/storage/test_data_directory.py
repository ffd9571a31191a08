"""The data directory: which paths it may have, who may read it, who holds it; mostly with the real command."""

import errno
import fcntl
import os
import pwd
import stat
from pathlib import Path

import pytest

from meanwhile.settings import Settings
from meanwhile.storage import data_directory
from meanwhile.storage.data_directory import DataDir, EmbeddedError, Lock
from tests.support.running_service import count, is_ready, post
from tests.support.servers import Service, eventually, meanwhile, service, short_directory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize(
    "name", ["with space", "a#b", "a%41b", "a?b=c", "a;b", "a&b@c:d", "ünï", "'q\"", "$(x)", "a\\b"]
)
def test_a_data_directory_may_have_any_printable_name(name: str) -> None:
    with short_directory() as directory:
        (directory / name).mkdir()
        with service(data_dir=directory / name) as running:
            assert 200 == post(running, "s", 1.0).status_code
            assert is_ready(running)


def test_two_names_that_differ_only_by_quoting_are_two_directories(tmp_path: Path) -> None:
    assert DataDir(tmp_path / "a%41b").url != DataDir(tmp_path / "aAb").url
    with short_directory() as directory:
        for name in ("a%41b", "aAb"):
            (directory / name).mkdir()
        with service(data_dir=directory / "a%41b") as one, service(data_dir=directory / "aAb") as other:
            assert 200 == post(one, "s", 1.0).status_code
            assert (1, 0) == (count(one, "s"), count(other, "s"))


def test_an_empty_path_is_refused_and_an_empty_variable_is_none() -> None:
    refused = meanwhile("serve", "--port", "0", "--data-dir", "")
    assert 2 == refused.returncode
    assert "Expected a path, got an empty string." in refused.stderr
    assert Settings().data_dir == Settings(data_dir=Settings().data_dir).data_dir


def test_an_empty_variable_stands_for_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEANWHILE_DATA_DIR", "")
    monkeypatch.setenv("XDG_DATA_HOME", "/x")
    assert Path("/x/meanwhile") == Settings().data_dir


def test_without_a_home_only_the_default_directory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As with ``docker run --user 12345``: no HOME, and nobody in the user database either."""

    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    for variable in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    settings = Settings(redis_url="redis://127.0.0.1:6379/0")
    assert tmp_path == DataDir(tmp_path).path
    with pytest.raises(EmbeddedError, match=r"no home directory .* set HOME"):
        DataDir(settings.data_dir)


@pytest.mark.parametrize("name", ["a\n", "a\x7f", "a\udcff"])
def test_a_name_with_control_characters_or_stray_bytes_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="line break, another control character or bytes that are not UTF-8"):
        DataDir(tmp_path / name)


def test_a_relative_path_and_a_symbolic_link_lead_to_the_same_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_directory() as directory:
        monkeypatch.chdir(directory)
        (directory / "link").symlink_to("real")
        (directory / "real").mkdir()
        with service(data_dir=Path("real")) as running:
            assert 200 == post(running, "s", 1.0).status_code
            second = meanwhile("serve", "--port", "0", "--data-dir", str(directory / "link"))
            assert 1 == second.returncode
            assert f"Another meanwhile is running on {directory / 'link'}." in second.stderr


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "dangling", "file/below"):
        with pytest.raises(EmbeddedError, match=r"cannot be used: Not a directory\. Choose another directory"):
            DataDir(tmp_path / name).claim()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(EmbeddedError, match="does not support locks"):
        DataDir(tmp_path).claim()


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_the_directory_and_everything_in_it_is_for_the_owner_alone_whatever_the_umask(umask: int) -> None:
    with short_directory() as directory:
        running = Service(directory / "log", arguments=("--data-dir", str(directory / "new")))
        running.data_dir.mkdir()
        before = os.umask(umask)
        try:
            running.start(until_live=False)
        finally:
            os.umask(before)
        try:
            (running.data_dir / "service.log").chmod(0o600)
            eventually(running.is_up)
            assert 200 == post(running, "s", 1.0).status_code
            found = {path: mode(path) for path in [directory / "new", *(directory / "new").rglob("*")]}
            assert {"meanwhile.lock", "valkey.log", "valkey.sock", "appendonlydir"} <= {path.name for path in found}
            assert {} == {path: oct(bits) for path, bits in found.items() if bits & 0o077}
        finally:
            running.stop()


def test_what_others_could_read_is_taken_from_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "appendonlydir").mkdir(0o755)
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").touch(0o644)
    (tmp_path / "valkey.log").touch(0o644)
    tmp_path.chmod(0o755)
    directory = DataDir(tmp_path)
    directory.claim()
    directory.release()
    assert {0o700, 0o600} == {mode(path) for path in [tmp_path, *tmp_path.rglob("*")]}
    assert "had mode 0755; changed it to 0700" in caplog.text


def test_a_directory_with_other_things_in_it_is_left_as_it_is_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "thesis.tex").touch(0o644)
    tmp_path.chmod(0o755)
    directory = DataDir(tmp_path)
    directory.claim()
    directory.release()
    assert (0o755, 0o644) == (mode(tmp_path), mode(tmp_path / "thesis.tex"))
    assert "has mode 0755 and contains other files" in caplog.text


def test_a_large_log_of_the_server_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_directory, "_MAX_LOG", 10)
    directory = DataDir(tmp_path)
    with directory.log.open("ab", buffering=0) as server:  # As the server has it open.
        server.write(b"a long line\n")
        directory.rotate_log()
        server.write(b"short\n")
        directory.rotate_log()
    assert "short\n" == directory.log.read_text()
    assert "a long line\n" == (tmp_path / "valkey.log.1").read_text()


def test_the_lock_of_the_server_is_the_file_and_the_directory(tmp_path: Path) -> None:
    """A server of an older version locks only the file; and the file may be removed."""
    directory = DataDir(tmp_path)
    with Lock(tmp_path / "valkey.lock") as old, directory.server_lock() as new:
        assert old.acquire()
        assert not new.acquire()
    with directory.server_lock() as held, directory.server_lock() as other:
        assert held.acquire()
        assert not other.acquire()
        (tmp_path / "valkey.lock").unlink()
        with directory.server_lock() as third:
            assert not third.acquire()
            with Lock(tmp_path / "valkey.lock") as old:
                assert old.acquire()  # What could not be acquired as a whole is not held in part.
    with directory.server_lock() as free:
        assert free.acquire()


def test_without_locks_on_directories_the_lock_of_the_file_suffices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def like_nfs(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", like_nfs)
    directory = DataDir(tmp_path)
    with directory.server_lock() as held, directory.server_lock() as other:
        assert held.acquire()
        assert not other.acquire()
