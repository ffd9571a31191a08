"""What outlives a crash: the batch under way, what was counted, and sequences that never come twice."""

from pathlib import Path

import pytest

from service.mqtt.journal import WINDOW, Journal, JournalError, Note


def note(mid: int, payload: bytes = b"1", key: str | None = None) -> Note:
    return Note(mid, 0, "a/b", payload, key)


def reopen(journal: Journal, file: Path, in_flight: int = 10) -> Journal:
    """As after a kill -9, which leaves the file as it is."""
    journal.close()
    return Journal(file, in_flight)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "below" / "journal"


def test_a_batch_that_was_begun_is_there_again_with_its_sequence(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([note(1), note(2)])
    again = reopen(journal, file)
    assert (journal.producer, 1, [note(1), note(2)]) == (again.producer, again.sequence, again.batch)
    assert not again.was_counted(note(1))


def test_after_it_was_committed_again_its_messages_are_counted(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([note(1)])
    again = reopen(journal, file)
    again.end()
    assert again.was_counted(note(1))


def test_after_an_orderly_end_there_is_nothing_to_finish(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([note(1)])
    journal.end()
    journal.save()
    again = reopen(journal, file)
    assert (1, []) == (again.sequence, again.batch)
    assert again.was_counted(note(1))


def test_a_batch_is_counted_once_the_next_one_was_begun(file: Path) -> None:
    journal = Journal(file, 10)
    for mid in (1, 2, 3):
        journal.begin([note(mid)])
        journal.end()
    again = reopen(journal, file)
    assert [note(3)] == again.batch
    assert (True, True) == (again.was_counted(note(1)), again.was_counted(note(2)))


def test_another_content_under_the_same_identifier_was_not_counted(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([note(1)])
    journal.end()
    assert journal.was_counted(note(1))
    assert not journal.was_counted(note(1, b"2"))
    assert not journal.was_counted(note(1, key="p:1"))
    assert not journal.was_counted(note(2))


def test_sequences_never_come_twice(file: Path) -> None:
    journal = Journal(file, 10)
    seen = []
    for _ in range(3):
        journal.begin([note(1)])
        seen.append(journal.sequence)
        journal = reopen(journal, file)
        journal.end()
    assert [1, 2, 3] == seen


def test_a_new_session_forgets_what_was_counted_for_good(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([note(1)])
    journal.end()
    journal.forget()
    assert not journal.was_counted(note(1))
    again = reopen(journal, file)
    again.end()
    assert not again.was_counted(note(1))


def test_a_record_that_was_not_written_to_its_end_is_left_out(file: Path) -> None:
    journal = Journal(file, 10)
    journal.begin([note(1)])
    journal.begin([note(2)])
    whole = file.read_bytes()
    for cut in (1, 8, 20):
        journal.close()
        file.write_bytes(whole[:-cut])
        journal = Journal(file, 10)
        assert (1, [note(1)]) == (journal.sequence, journal.batch)


def test_the_window_is_limited_and_so_is_the_file(file: Path) -> None:
    journal = Journal(file, 10)
    for first in range(1, 3 * WINDOW, 500):
        journal.begin([note(mid, b"x" * 100) for mid in range(first, first + 500)])
        journal.end()
    assert not journal.was_counted(note(1, b"x" * 100))
    assert journal.was_counted(note(first, b"x" * 100))
    assert file.stat().st_size < 1_300_000
    again = reopen(journal, file)
    assert again.was_counted(note(first - 1, b"x" * 100))


def test_a_broker_that_reuses_identifiers_early_is_not_trusted_again(file: Path) -> None:
    """Killed before the second message under an identifier is written down, it would be taken for the first."""
    journal = Journal(file, 10)
    journal.begin([note(1)])
    journal.end()
    journal.is_new(1)
    journal.begin([note(1)])
    journal.end()
    again = reopen(journal, file)
    again.end()
    assert not again.was_counted(note(1))


def test_two_processes_cannot_have_one_journal(file: Path) -> None:
    journal = Journal(file, 10)
    with pytest.raises(JournalError, match="Another"):
        Journal(file, 10)
    journal.close()


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
