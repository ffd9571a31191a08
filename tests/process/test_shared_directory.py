"""Where workers count together: what becomes of things that others, or a killed service, have left in that place."""

import os
import resource
from pathlib import Path

import pytest

from meanwhile.process import shared_directory as module
from meanwhile.process.shared_directory import NoSharedDirectory, join, leave, orphans_are_finishing, shared_directory


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Two empty places, best first."""
    found = [tmp_path / "memory", tmp_path / "disk"]
    for place in found:
        place.mkdir()
    monkeypatch.setattr(module, "_places", lambda: found)
    return found


def left_by_a_killed_service(place: Path) -> Path:
    left = place / "meanwhile-left"
    left.mkdir(0o700)
    (left / "0.cells").touch()
    (left / "workers.lock").touch()
    os.utime(left, (0, 0))
    return left


def test_it_is_made_in_the_best_place_and_removed_with_what_workers_made(places: list[Path]) -> None:
    with shared_directory(100) as directory:
        assert (places[0], 0o700) == (directory.parent, directory.stat().st_mode & 0o777)
        (directory / "0.cells").touch()
        os.close(join(directory))
    assert [] == list(places[0].iterdir())


def test_what_a_killed_service_has_left_is_removed_wherever_it_is(places: list[Path]) -> None:
    left = [left_by_a_killed_service(place) for place in places]
    with shared_directory(100):
        assert [False, False] == [directory.exists() for directory in left]


def test_what_workers_are_still_using_that_have_lost_their_parent_stays_until_the_last_one_leaves(
    places: list[Path],
) -> None:
    left = left_by_a_killed_service(places[0])
    memberships = [join(left), join(left)]
    with shared_directory(100):
        assert left.exists()
        assert orphans_are_finishing()
        for membership in memberships:
            assert left.exists()
            leave(left, membership)
            os.close(membership)
        assert not left.exists()
        assert not orphans_are_finishing()


def test_workers_that_have_a_parent_are_no_orphans(places: list[Path]) -> None:
    with shared_directory(100) as directory:
        membership = join(directory)
        assert not orphans_are_finishing()
        os.close(membership)


def test_things_of_others_are_neither_opened_nor_removed(places: list[Path], tmp_path: Path) -> None:
    place = places[0]
    os.mkfifo(place / "meanwhile-fifo")  # To open it would wait for somebody who writes to it.
    (place / "meanwhile-file").touch()
    (place / "meanwhile-link").symlink_to(tmp_path)
    (place / "meanwhile-dangling").symlink_to("nowhere")
    backup = place / "meanwhile-backup"
    backup.mkdir(0o700)
    (backup / "data.tar").touch()
    for path in place.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    before = sorted(tmp_path.rglob("*"))
    with shared_directory(100):
        pass
    assert before == sorted(tmp_path.rglob("*"))


def test_where_there_is_no_room_the_next_place_is_taken(places: list[Path]) -> None:
    places[0].rmdir()
    with shared_directory(100) as directory:
        assert places[1] == directory.parent


def test_without_any_room_it_says_what_to_do(places: list[Path]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))  # Python ignores SIGXFSZ, so writing more is an error.
    try:
        with pytest.raises(
            NoSharedDirectory, match=r"which needs 100 bytes .* Free some space, set TMPDIR, or use one worker"
        ):
            shared_directory(100).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [[], []] == [list(place.iterdir()) for place in places]
