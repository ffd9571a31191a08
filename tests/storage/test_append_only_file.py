"""What the service says of an append-only file that is no longer what it was; Valkey itself says little or nothing."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from meanwhile.storage.append_only_file import AppendOnlyFile
from meanwhile.storage.data_directory import DataDir, EmbeddedError
from tests.support.running_service import count, embedded_pid, post
from tests.support.servers import Service, service


def incremental(running: Service) -> Path:
    (file,) = (running.data_dir / "appendonlydir").glob("*.incr.aof")
    return file


def refused(running: Service) -> str:
    running.start(until_live=False)
    assert running.process is not None
    assert 1 == running.process.wait(30)
    return running.log


def test_a_torn_tail_is_cut_off_and_said_with_its_length() -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        assert running.process is not None
        os.kill(running.process.pid, signal.SIGSTOP)  # So that it does not start another one.
        os.kill(embedded_pid(running), signal.SIGKILL)
        running.process.kill()
        running.process.wait()
        with incremental(running).open("ab") as file:
            file.write(b"*3\r\n$3\r\nSE")  # A power failure in the middle of a write.
        running.start()
        assert f"{incremental(running)} ended in an incomplete write" in running.log
        assert "Valkey truncated the last 10 bytes" in running.log
        assert "shorter" not in running.log
        assert 1 == count(running, "s")


def test_a_file_that_was_truncated_is_said_with_what_to_do() -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        running.stop()
        size = incremental(running).stat().st_size
        os.truncate(incremental(running), 0)
        running.start()
        assert f"{incremental(running)} is {size} bytes shorter than when Valkey last ran on it" in running.log
        assert "stop the service and restore" in running.log
        running.stop()
        running.start()
        assert "shorter" not in running.log


@pytest.mark.parametrize("what", ["appendonlydir", "appendonlydir/appendonly.aof.manifest"])
def test_streams_that_are_missing_are_not_replaced_by_none(what: str, tmp_path: Path) -> None:
    """Without its manifest Valkey would empty the files that are there."""
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        running.stop()
        shutil.move(running.data_dir / what, tmp_path / "aside")
        said = refused(running)
        assert f"The streams of {running.data_dir} are gone" in said
        assert "to start with no streams, remove meanwhile.record" in said
        shutil.move(tmp_path / "aside", running.data_dir / what)
        running.start()
        assert 1 == count(running, "s")


def test_removing_what_the_message_names_starts_with_no_streams() -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        running.stop()
        (running.data_dir / "appendonlydir" / "appendonly.aof.manifest").unlink()
        assert "remove meanwhile.record and appendonlydir from that directory" in refused(running)
        (running.data_dir / "meanwhile.record").unlink()
        shutil.rmtree(running.data_dir / "appendonlydir")
        running.start()
        assert 0 == count(running, "s")


def test_a_manifest_that_no_longer_names_a_file_is_refused() -> None:
    """Without the line Valkey would start with no streams, and the next write would take the file's place."""
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        running.stop()
        manifest = running.data_dir / "appendonlydir" / "appendonly.aof.manifest"
        whole = manifest.read_text()
        manifest.write_text("".join(line for line in whole.splitlines(keepends=True) if ".incr." not in line))
        assert "appendonly.aof.manifest no longer names appendonly.aof.1.incr.aof" in refused(running)
        manifest.write_text(whole)
        running.start()
        assert 1 == count(running, "s")


@pytest.mark.parametrize("record", ["[" * 100_000, "nonsense", ""])
def test_a_record_that_cannot_be_read_is_no_reason_not_to_start(record: str) -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        running.stop()
        (running.data_dir / "meanwhile.record").write_text(record)
        running.start()
        assert 1 == count(running, "s")
        assert "meanwhile.record has no record of it: it is empty or not valid JSON" in running.log
        running.stop()
        running.start()
        assert "cannot check whether" not in running.log


def put_a_directory(record: Path) -> None:
    record.unlink()
    record.mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "it does not exist"),
        (put_a_directory, "it cannot be read: Is a directory"),
        (lambda record: record.write_bytes(b""), "it is empty or not valid JSON"),
        (lambda record: record.write_bytes(b'{"x'), "it is empty or not valid JSON"),
        (lambda record: record.write_bytes(b"[]"), "it does not contain the sizes of files"),
        (lambda record: record.write_bytes(b"{}"), "it does not contain the sizes of files"),
        (lambda record: record.write_bytes(b'{"a.aof": "12"}'), "it does not contain the sizes of files"),
        (lambda record: record.write_bytes(b'{"a.aof": true}'), "it does not contain the sizes of files"),
    ],
)
def test_a_record_that_does_not_serve_is_reported_when_it_is_needed(
    damage: Callable[[Path], None], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "appendonlydir"
    directory.mkdir()
    (directory / "appendonly.aof.manifest").write_text("file a.aof seq 1 type i\n")
    (directory / "a.aof").write_text("SET s 1\n")
    files = AppendOnlyFile(DataDir(tmp_path))
    files.save_record()
    assert {"a.aof": 8} == json.loads((tmp_path / "meanwhile.record").read_bytes())
    assert [] == caplog.messages
    AppendOnlyFile(DataDir(tmp_path)).check()
    assert [] == caplog.messages
    damage(tmp_path / "meanwhile.record")
    AppendOnlyFile(DataDir(tmp_path)).check()
    expected = (
        f"cannot check whether {directory} is shorter than when Valkey last ran on it, because "
        f"{tmp_path}/meanwhile.record has no record of it: {reason}"
    )
    assert [expected] == caplog.messages


def test_a_record_that_cannot_be_written_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("file a.aof seq 1 type i\n")
    files = AppendOnlyFile(DataDir(tmp_path))
    files.check()
    caplog.clear()
    (tmp_path / "meanwhile.record").mkdir()
    for length in range(3):
        (tmp_path / "appendonlydir" / "a.aof").write_text("x" * length)
        files.save_record()
    assert [f"cannot write {tmp_path}/meanwhile.record (Is a directory)"] == [
        message.partition(":")[0] for message in caplog.messages
    ]


def test_a_listed_file_that_is_missing_is_refused() -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        running.stop()
        incremental(running).unlink()
        assert "appendonly.aof.1.incr.aof" in refused(running)


def test_a_first_start_that_was_killed_before_it_had_a_manifest_is_simply_repeated(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "appendonly.aof.1.base.rdb").write_bytes(bytes(89))
    (tmp_path / "appendonlydir" / "appendonly.aof.1.incr.aof").touch()
    AppendOnlyFile(DataDir(tmp_path)).check()


@pytest.mark.parametrize("record", [b"", b"[]", b"\xff", b'{"a": "b"}'])
def test_a_record_that_cannot_be_read_still_says_that_there_were_streams(record: bytes, tmp_path: Path) -> None:
    (tmp_path / "meanwhile.record").write_bytes(record)
    with pytest.raises(EmbeddedError, match="are gone"):
        AppendOnlyFile(DataDir(tmp_path)).check()


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


def test_a_file_that_is_truncated_just_before_the_end_is_reported_then_and_at_the_next_start() -> None:
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        running.stop()
        files = AppendOnlyFile(DataDir(running.data_dir))
        assert files.damage() is None
        files.save_record()
        os.truncate(incremental(running), 0)
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
