"""What workers count together: nothing is lost when one is killed, and no counter goes back."""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from meanwhile.telemetry.counters import CELLS, SECONDS, STATUSES, Counters


def count_and_die(directory: Path, readings: int) -> None:
    Counters(directory).committed(readings, readings, 0, 0.001)
    os.kill(os.getpid(), signal.SIGKILL)


def recorded(counters: Counters) -> float:
    return counters.totals()[counters.recorded]


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.0005, 0), (0.00051, 1), (10.0, len(SECONDS) - 1), (10.1, len(SECONDS))]
)
def test_a_value_is_in_the_first_bucket_whose_bound_is_not_below_it(seconds: float, bucket: int) -> None:
    counters = Counters()
    counters.committed(1, 1, 0, seconds)
    total, buckets = counters.commit_seconds.read(counters.totals())
    assert seconds == total
    assert [float(i == bucket) for i in range(len(SECONDS) + 1)] == buckets


def test_a_status_that_is_not_expected_is_counted_as_other() -> None:
    counters = Counters()
    route = counters.route("GET", "/x")
    route.answered(418, 0.1)
    counts = {status: sum(row.read(counters.totals())[1]) for status, row in route.rows()}
    assert {str(status): 0.0 for status in STATUSES} | {"other": 1.0} == counts


def test_workers_that_share_a_directory_see_the_same_totals(tmp_path: Path) -> None:
    workers = [Counters(tmp_path), Counters(tmp_path), Counters(tmp_path)]
    for readings, worker in enumerate(workers, start=1):
        worker.committed(readings, readings, 0, 0.001)
    assert [6.0, 6.0, 6.0] == [recorded(worker) for worker in workers]


def test_waiting_readings_are_summed_over_workers(tmp_path: Path) -> None:
    first, second = Counters(tmp_path), Counters(tmp_path)
    first.set_waiting(3)
    second.set_waiting(4)
    second.set_waiting(2)
    assert 5.0 == first.totals()[first.waiting]


def test_what_a_killed_worker_counted_stays_and_its_place_is_taken(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    mine = Counters(tmp_path)
    for _ in range(2):
        dying = spawn.Process(target=count_and_die, args=(tmp_path, 5))
        dying.start()
        dying.join()
        assert -signal.SIGKILL == dying.exitcode
    assert 10.0 == recorded(mine)
    assert {"0.cells", "1.cells"} == {file.name for file in tmp_path.iterdir()}


@pytest.mark.parametrize("size", [0, 100])
def test_a_file_that_a_worker_has_only_begun_is_left_out(tmp_path: Path, size: int) -> None:
    counters = Counters(tmp_path)
    counters.committed(1, 1, 0, 0.001)
    (tmp_path / "1.cells").write_bytes(bytes(size))
    assert 1.0 == recorded(counters)


def test_a_file_that_a_dying_worker_left_short_is_completed(tmp_path: Path) -> None:
    (tmp_path / "0.cells").write_bytes(bytes(100))
    counters = Counters(tmp_path)
    counters.committed(1, 1, 0, 0.001)
    assert 1.0 == recorded(counters)
    assert 8 * CELLS == (tmp_path / "0.cells").stat().st_size


def test_a_worker_whose_directory_is_removed_counts_alone_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a program that cleans up /dev/shm does."""
    directory = tmp_path / "shared"
    directory.mkdir()
    mine, other = Counters(directory), Counters(directory)
    for counters in (mine, other):
        counters.committed(2, 2, 0, 0.001)
    assert 4.0 == recorded(mine)
    assert "" == caplog.text
    shutil.rmtree(directory)
    assert [2.0, 2.0, 2.0] == [recorded(mine), recorded(mine), recorded(other)]
    assert 2 == caplog.text.count(f"{directory}, cannot be used (its file was removed): this worker counts alone")
    new = Counters(directory)
    new.committed(1, 1, 0, 0.001)
    assert 1.0 == recorded(new)
    assert 1 == caplog.text.count("cannot be used (No such file or directory): this worker counts alone")


def test_what_is_in_the_directory_besides_files_of_counters_is_left_out(tmp_path: Path) -> None:
    counters = Counters(tmp_path)
    (tmp_path / "9.cells").mkdir()
    (tmp_path / "8.cells").symlink_to("8.cells")
    counters.committed(2, 2, 0, 0.001)
    assert 2.0 == recorded(counters)
