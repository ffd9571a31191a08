"""What outlives a crash: the batch under way, what was counted, and sequences that never come twice."""

import os
import struct
from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from meanwhile.formats.mqtt_payload import Options
from meanwhile.mqtt.journal import MIN_REMEMBERED, Journal, JournalError
from meanwhile.mqtt.messages import Message


def message(mid: int, payload: bytes = b"1", key: str | None = None) -> Message:
    return Message(mid, 0, "a/b", payload, key)


def reopen(journal: Journal, file: Path, in_flight: int = 10) -> Journal:
    """As after a kill -9, which leaves the file as it is."""
    journal.close()
    return Journal(file, in_flight)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "below" / "journal"


def test_a_batch_that_was_begun_is_there_again_with_its_sequence(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([message(1), message(2)])
    again = reopen(journal, file)
    assert (journal.producer, 1, [message(1), message(2)]) == (again.producer, again.sequence, again.batch)
    assert not again.was_counted(message(1))


def test_after_it_was_committed_again_its_messages_are_counted(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([message(1)])
    again = reopen(journal, file)
    again.end()
    assert again.was_counted(message(1))


def test_after_an_orderly_end_there_is_nothing_to_finish(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([message(1)])
    journal.end()
    journal.save()
    again = reopen(journal, file)
    assert (1, []) == (again.sequence, again.batch)
    assert again.was_counted(message(1))


def test_a_batch_is_counted_once_the_next_one_was_begun(file: Path) -> None:
    journal = Journal(file, 10)
    for mid in (1, 2, 3):
        journal.begin([message(mid)])
        journal.end()
    again = reopen(journal, file)
    assert [message(3)] == again.batch
    assert (True, True) == (again.was_counted(message(1)), again.was_counted(message(2)))


def test_another_content_under_the_same_identifier_was_not_counted(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([message(1)])
    journal.end()
    assert journal.was_counted(message(1))
    assert not journal.was_counted(message(1, b"2"))
    assert not journal.was_counted(message(1, key="p:1"))
    assert not journal.was_counted(message(2))


def test_sequences_never_come_twice(file: Path) -> None:
    journal = Journal(file, 10)
    seen = []
    for _ in range(3):
        journal.begin([message(1)])
        seen.append(journal.sequence)
        journal = reopen(journal, file)
        journal.end()
    assert [1, 2, 3] == seen


def test_a_new_session_forgets_what_was_counted_for_good(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([message(1)])
    journal.end()
    journal.forget()
    assert not journal.was_counted(message(1))
    again = reopen(journal, file)
    again.end()
    assert not again.was_counted(message(1))


def test_a_record_that_was_not_written_to_its_end_is_left_out(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([message(1)])
    journal.begin([message(2)])
    whole = file.read_bytes()
    for cut in (1, 8, 20):
        journal.close()
        file.write_bytes(whole[:-cut])
        journal = Journal(file, 10)
        assert (1, [message(1)]) == (journal.sequence, journal.batch)


def test_the_window_is_limited_and_so_is_the_file(file: Path) -> None:
    journal = Journal(file, 10)
    for first in range(1, 3 * MIN_REMEMBERED, 500):
        journal.begin([message(mid, b"x" * 100) for mid in range(first, first + 500)])
        journal.end()
    assert not journal.was_counted(message(1, b"x" * 100))
    assert journal.was_counted(message(first, b"x" * 100))
    assert file.stat().st_size < 1_300_000
    again = reopen(journal, file)
    assert again.was_counted(message(first - 1, b"x" * 100))


def test_a_broker_that_reuses_identifiers_early_is_not_trusted_again(file: Path) -> None:
    """Killed before the second message under an identifier is written down, it would be taken for the first."""
    journal = Journal(file, 10)
    journal.begin([message(1)])
    journal.end()
    journal.check_reuse(1)
    journal.begin([message(1)])
    journal.end()
    again = reopen(journal, file)
    again.end()
    assert not again.was_counted(message(1))


def test_two_processes_cannot_have_one_journal(file: Path) -> None:
    journal = Journal(file, 10)
    with pytest.raises(JournalError, match="Another"):
        Journal(file, 10)
    journal.close()


def three_batches(file: Path) -> bytes:
    journal = Journal(file, 10)
    for mid in (1, 2, 3):
        journal.begin([message(mid)])
        journal.end()
    journal.close()
    return file.read_bytes()


def test_after_any_flipped_byte_no_sequence_comes_twice_and_the_damaged_file_is_kept(file: Path) -> None:
    """Sequences that come again would make the streams take new messages for counted ones: lost without a word."""
    whole = three_batches(file)
    for place in range(len(whole)):
        damaged = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        file.write_bytes(damaged)
        journal = Journal(file, 10)
        before = {(journal.producer, sequence) for sequence in range(4)}
        journal.begin([message(9)])
        assert (journal.producer, journal.sequence) not in before, place
        assert 1 == journal.sequence, place
        journal.close()
        (kept,) = file.parent.glob("*.damaged-*")
        assert damaged == kept.read_bytes()
        kept.unlink()


def test_after_any_cut_and_any_tail_of_zeros_no_sequence_comes_twice(file: Path) -> None:
    whole = three_batches(file)
    (length,) = struct.unpack_from(">I", whole)
    for cut in range(8 + length + 1, len(whole)):
        for content in (whole[:cut], whole[:cut] + bytes(len(whole) - cut), whole + bytes(cut)):
            file.write_bytes(content)
            journal = Journal(file, 10)
            used = journal.producer
            is_boundary = content == whole[:cut] and used_up_to(whole, cut)
            journal.begin([message(9)])
            assert is_boundary or (used != journal.producer and journal.sequence == 1), cut
            journal.close()
    assert [] == list(file.parent.glob("*.damaged-*"))


def used_up_to(whole: bytes, cut: int) -> bool:
    """Whether a record ends there; what a later one said cannot be known then."""
    position = 0
    while position < cut:
        position += 8 + int(struct.unpack_from(">I", whole, position)[0])
    return position == cut


def test_a_journal_that_was_damaged_finishes_its_batch_with_the_old_key(file: Path) -> None:
    whole = three_batches(file)
    middle = len(whole) - 60  # In the record before the last one, or the last one's start.
    file.write_bytes(whole[:middle] + b"?" + whole[middle + 1 :])
    first = Journal(file, 10)
    again = reopen(first, file)  # A crash before the batch is finished changes nothing.
    assert (first.producer, first.sequence, first.batch) == (again.producer, again.sequence, again.batch)
    again.end()
    again.begin([message(4)])
    assert first.producer != again.producer


def test_messages_that_wait_are_not_counted_and_survive(file: Path) -> None:
    journal = Journal(file, 10)
    held, counted = message(1), message(2)
    journal.begin([held, counted])
    held.done.append("a")
    journal.end([held])
    journal.begin([held, message(3)])
    again = reopen(journal, file)
    assert [held, message(3)] == again.batch
    assert (False, True) == (again.was_counted(held), again.was_counted(counted))


def test_a_directory_and_an_empty_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(JournalError, match="Is a directory; choose --journal"):
        Journal(tmp_path / "directory", 10)
    (tmp_path / "empty").touch()
    Journal(tmp_path / "empty", 10).close()
    assert "is empty" in caplog.text


def test_a_journal_behind_a_symbolic_link_stays_where_the_link_points(tmp_path: Path) -> None:
    """A file that replaced the link left the journal on its volume behind, with sequences that came again."""
    (tmp_path / "volume").mkdir()
    target, link = tmp_path / "volume" / "journal", tmp_path / "link"
    sequences = []
    for _ in range(3):
        link.unlink(missing_ok=True)  # As in a container that is made again, on the same volume.
        link.symlink_to("volume/journal")
        journal = Journal(link, 10)
        with pytest.raises(JournalError, match="Another"):
            Journal(target, 10)
        journal.begin([message(1)])
        sequences.append((journal.producer, journal.sequence))
        journal.end()
        journal.save()
        journal.close()
        assert link.is_symlink()
    assert [1, 2, 3] == [sequence for _, sequence in sequences]
    assert 1 == len({producer for producer, _ in sequences})
    assert {"journal", "journal.lock"} == {file.name for file in (tmp_path / "volume").iterdir()}
    assert {"volume", "link"} == {file.name for file in tmp_path.iterdir()}


def test_only_its_owner_can_read_what_is_beside_a_journal(tmp_path: Path) -> None:
    target, link = tmp_path / "journal", tmp_path / "link"
    whole = three_batches(target)
    target.write_bytes(b"?" + whole[1:])
    link.symlink_to(target)
    Journal(link, 10).close()
    files = {file.name.partition("-")[0]: file.lstat().st_mode & 0o777 for file in tmp_path.iterdir() if file != link}
    assert {"journal": 0o600, "journal.lock": 0o600, "journal.damaged": 0o600} == files


@pytest.mark.parametrize("is_linked", [False, True])
def test_what_is_not_a_regular_file_is_refused_and_nothing_made_beside_it(tmp_path: Path, is_linked: bool) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(JournalError, match="Is not a regular file; choose --journal"):
        Journal(Path("/dev/null"), 10)
    place = tmp_path / "link" if is_linked else tmp_path / "fifo"
    if is_linked:
        place.symlink_to("fifo")
    before = set(tmp_path.iterdir())
    with pytest.raises(JournalError, match="Is not a regular file; choose --journal"):
        Journal(place, 10)
    assert before == set(tmp_path.iterdir())


def test_a_draft_that_is_left_over_is_replaced_whatever_it_is(file: Path) -> None:
    Journal(file, 10).close()
    os.mkfifo(f"{file}.new")
    Journal(file, 10).close()
    assert file.is_file()


def test_a_batch_keeps_the_options_that_it_began_with(file: Path) -> None:
    first, second = Options("old/"), Options("new/", split=True, sequence="seq")
    journal = Journal(file, 10, first)
    journal.begin([message(1)])
    journal.close()
    journal = Journal(file, 10, second)
    assert [first] == [one.options for one in journal.batch]
    (held,) = journal.batch
    journal.end([held])
    journal.begin([held, message(2)])
    for options, expected in ((second, [first, None]), (Options(), [first, second]), (first, [None, second])):
        journal.close()
        journal = Journal(file, 10, options)
        assert expected == [one.options for one in journal.batch]
    journal.close()


def test_a_record_of_a_version_without_options_is_read(file: Path) -> None:
    file.parent.mkdir()
    batch = [[1, 0, "a/b", b"1", None, None, [], False]]
    record = msgspec.msgpack.encode([1, "mqtt-0123456789abcdef", 3, False, [], batch, False])
    file.write_bytes(struct.pack(">II", len(record), crc32(record)) + record)
    journal = Journal(file, 10, Options("new/"))
    assert (3, [message(1)]) == (journal.sequence, journal.batch)
    journal.close()


def test_a_full_disk_is_said_and_what_was_written_before_is_kept(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([message(1)])
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._log)
    os.close(full)
    with pytest.raises(JournalError, match="cannot be written: No space left"):
        journal.begin([message(2)])
    assert [message(1)] == reopen(journal, file).batch


def test_a_journal_of_another_version_is_refused_and_kept(file: Path) -> None:
    file.parent.mkdir()
    for record in (msgspec.msgpack.encode([2, "mqtt-0123456789abcdef", 1, False, [], []]), msgspec.msgpack.encode([2])):
        content = struct.pack(">II", len(record), crc32(record)) + record
        file.write_bytes(content)
        with pytest.raises(JournalError, match="of this version"):
            Journal(file, 10)
        assert content == file.read_bytes()


@pytest.mark.parametrize("content", [b"x", b"\x00" * 20, b"not a journal at all, but text"])
def test_what_is_no_journal_is_refused_and_kept(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(JournalError, match="no journal"):
        Journal(file, 10)
    assert content == file.read_bytes()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="choose --journal"):
        Journal(tmp_path / "file" / "journal", 10)


def test_a_last_record_that_is_cut_and_is_not_text_is_damage_like_any_other(file: Path) -> None:
    whole = three_batches(file)
    producer = whole.rindex(b"mqtt-")
    file.write_bytes(whole[: producer + 20] + b"\xe2" + whole[producer + 21 : -1])
    journal = Journal(file, 10)
    journal.begin([message(9)])
    assert 1 == journal.sequence
    journal.close()
