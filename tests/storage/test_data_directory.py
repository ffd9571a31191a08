"""The data directory: which paths it may have, who may read it, who holds it; mostly with the real command."""

import errno
import fcntl
import json
import os
import pwd
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from meanwhile.settings import Settings
from meanwhile.storage import data_directory
from meanwhile.storage.append_only_file import AppendOnlyFile
from meanwhile.storage.data_directory import DataDir, EmbeddedError, Lock
from tests.support import calls
from tests.support.running_service import count, embedded, is_ready, kill_everything, post
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


def test_a_data_directory_that_is_removed_while_running_is_saved_again_from_memory() -> None:
    with short_directory() as directory:
        running = Service(directory / "log", arguments=("--data-dir", str(directory / "data")))
        running.data_dir.mkdir()
        running.start()
        try:
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
        finally:
            running.stop()


def test_an_append_only_file_that_is_removed_while_running_is_saved_again_from_memory() -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        for file in (running.data_dir / "appendonlydir").iterdir():
            file.unlink()
        eventually(lambda: "1 key saved again" in running.log)
        with embedded(running) as client:
            pid = int(client.info("server")["process_id"])
        os.kill(pid, signal.SIGKILL)
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


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG, errno.EPERM])
def test_files_are_not_intact_whatever_the_error(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tmp_path / "appendonlydir" / "appendonly.aof.manifest"
    manifest.parent.mkdir()
    manifest.write_text("file appendonly.aof.1.incr.aof seq 1 type i\n")
    (tmp_path / "appendonlydir" / "appendonly.aof.1.incr.aof").touch()
    files = AppendOnlyFile(DataDir(tmp_path))
    files.check()
    assert files.damage() is None

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(manifest.parent))

    monkeypatch.setattr(Path, "iterdir", fail)
    assert f"{manifest.parent} cannot be examined ({os.strerror(number)})" == files.damage()


def test_a_named_pipe_in_place_of_a_file_does_not_block_the_check(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    os.mkfifo(tmp_path / "appendonlydir" / "appendonly.aof.manifest")
    assert AppendOnlyFile(DataDir(tmp_path)).damage() is not None


def test_writes_are_accepted_again_after_saving_has_failed_and_the_files_are_back() -> None:
    """As when a file system is unmounted and mounted again."""
    with short_directory() as directory:
        running = Service(directory / "log", arguments=("--data-dir", str(directory / "data")))
        running.data_dir.mkdir()
        running.start()
        try:
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
        finally:
            running.stop()


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


def test_a_file_that_is_truncated_just_before_the_end_is_reported_then_and_at_the_next_start() -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        running.stop()
        files = AppendOnlyFile(DataDir(running.data_dir))
        assert files.damage() is None
        files.save_record()
        truncate_to_nothing(running.data_dir / "appendonlydir")
        files.save_record()
        assert files.damage() is not None
        running.start()
        assert "bytes shorter than when Valkey last ran on it" in running.log


@pytest.mark.parametrize("left", [0, 500])
def test_a_file_that_is_truncated_and_has_grown_again_by_the_next_look_is_noticed(left: int, tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    manifest = tmp_path / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("file appendonly.aof.1.incr.aof seq 1 type i\n")
    file = tmp_path / "appendonlydir" / "appendonly.aof.1.incr.aof"
    files = AppendOnlyFile(DataDir(tmp_path))
    files.check()
    with file.open("ab", buffering=0) as server:
        for number in range(100):
            server.write(b"SET s %d\n" % number)
            assert files.damage() is None
            files.save_record()
        os.truncate(file, left)
        for number in range(100, 300):
            server.write(b"SET s %d\n" % number)
        assert files.damage() is not None
        files.save_record()
        assert files.damage() is not None


def test_a_manifest_of_an_older_backup_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    manifest = tmp_path / "appendonlydir" / "appendonly.aof.manifest"
    files = AppendOnlyFile(DataDir(tmp_path))
    files.check()
    for number, is_intact in ((1, True), (3, True), (2, False), (3, True), (4, True)):
        manifest.write_text(f"file appendonly.aof.{number}.incr.aof seq {number} type i\n")
        (tmp_path / "appendonlydir" / f"appendonly.aof.{number}.incr.aof").touch()
        assert is_intact == (files.damage() is None)
        if is_intact:
            files.save_record()


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


def test_a_socket_that_is_removed_is_made_again() -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        (running.data_dir / "valkey.sock").unlink()
        eventually(lambda: (running.data_dir / "valkey.sock").exists() and is_ready(running))
        assert "valkey.sock is gone; stopping Valkey, to start it again" in running.log
        assert 1 == count(running, "s")
