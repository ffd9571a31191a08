"""Holds the reading of CSV files to "never guessed at": every cell is a reading, or counted with its reason."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meanwhile.cli.csv_reader import CsvReader, Unusable, fingerprint, stream_name
from meanwhile.core.stream_names import is_name
from tests.support.paths import DATA

law = settings(derandomize=True, deadline=None, max_examples=100)

AIR = DATA / "air-quality.csv"


def test_each_numeric_column_is_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "weather.csv"
    path.write_text("day,T (C),RH\nmon,21.5,40\ntue,-3,41.5\nwed,+1e1,.5\n")
    with CsvReader(path, prefix="home/", missing=[]) as sheet:
        assert [{"home/T_C": [21.5, -3.0, 10.0], "home/RH": [40.0, 41.5, 0.5]}] == list(sheet.batches(100))
        assert [False, True, True] == [column.is_numeric for column in sheet.columns]
        assert [0, 0, 0] == [column.malformed + column.missing for column in sheet.columns]


def test_every_cell_of_a_numeric_column_is_a_reading_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,x\nx,1\n,2\n 2 , \n1_0,3\n0x1,3\nnan,3\ninf,3\n1e400,3\n1e5,3\n")
    with CsvReader(path, prefix="", missing=[]) as sheet:
        assert [{"a": [1.0, 2.0, 1e5]}] == list(sheet.batches(100))
        a, b = sheet.columns
    assert (True, 1, 6, 3) == (a.is_numeric, a.missing, a.malformed, a.first_malformed_line)
    assert (False, 1, 0, 0) == (b.is_numeric, b.missing, b.malformed, b.first_malformed_line)


def test_a_sentinel_is_missing_however_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n-200\n1\n-200.0\n-2e2\n 2\nNA\n-200.5\n")
    with CsvReader(path, prefix="", missing=["-200", " NA "]) as sheet:
        assert [{"a": [1.0, 2.0, -200.5]}] == list(sheet.batches(100))
        assert (4, 0) == (sheet.columns[0].missing, sheet.columns[0].malformed)


@pytest.mark.parametrize("sentinel", ["-200", "-200.0"])
def test_a_missing_cell_does_not_make_a_column_numeric(tmp_path: Path, sentinel: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"note\n{sentinel}\ngood\nbad\n")
    with CsvReader(path, prefix="", missing=["-200"]) as sheet:
        assert [] == list(sheet.batches(100))
        assert (False, 1, 0) == (sheet.columns[0].is_numeric, sheet.columns[0].missing, sheet.columns[0].malformed)


def test_a_column_without_any_number_is_no_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,\n,1,\n,2,\n")
    with CsvReader(path, prefix="", missing=[]) as sheet:
        assert [{"b": [1.0, 2.0]}] == list(sheet.batches(100))
        assert [None, True, None] == [column.is_numeric for column in sheet.columns]


def test_a_short_row_has_fewer_readings(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n3\n\n4,5\n")
    with CsvReader(path, prefix="", missing=[]) as sheet:
        assert [{"a": [1.0, 3.0, 4.0], "b": [2.0, 5.0]}] == list(sheet.batches(100))


def test_quotes_windows_lines_other_delimiters_and_a_byte_order_mark_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeff"a;x";b\r\n"1";"2"\r\n3;"two\r\nlines"\r\n4;5'.encode())
    with CsvReader(path, prefix="", missing=[], delimiter=";") as sheet:
        assert [{"a_x": [1.0, 3.0, 4.0], "b": [2.0, 5.0]}] == list(sheet.batches(100))
        assert (1, 4) == (sheet.columns[1].malformed, sheet.columns[1].first_malformed_line)


def test_doubles_are_read_to_the_bit(tmp_path: Path) -> None:
    texts = ["0.1", "9007199254740993", "1e140", "1.0000000000000001e-140", "0.30000000000000004", "0e-400"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["a", *texts, ""]))
    with CsvReader(path, prefix="", missing=[]) as sheet:
        assert [{"a": [float(text) for text in texts]}] == list(sheet.batches(100))


@pytest.mark.parametrize("size", [1, 12, 13, 14, 400])
def test_batches_hold_every_reading_once_in_order_and_not_many_more_than_asked(size: int) -> None:
    with CsvReader(AIR, prefix="", missing=["-200"]) as sheet:
        taken: dict[str, list[float]] = {}
        for _, batch in zip(range(200), sheet.batches(size), strict=False):
            assert size <= sum(map(len, batch.values())) < size + 13
            for stream, readings in batch.items():
                taken.setdefault(stream, []).extend(readings)
    with CsvReader(AIR, prefix="", missing=["-200"]) as sheet:
        whole = next(sheet.batches(200_000))
    assert 13 == len(taken)
    assert {stream: whole[stream][: len(readings)] for stream, readings in taken.items()} == taken


def test_the_real_file_has_thirteen_numeric_columns_and_nothing_malformed() -> None:
    with CsvReader(AIR, prefix="air/", missing=["-200"]) as sheet:
        readings: dict[str, int] = {}
        for batch in sheet.batches(5_000):
            for stream, values in batch.items():
                readings[stream] = readings.get(stream, 0) + len(values)
        assert sheet.size == sheet.position == AIR.stat().st_size
        assert 0 == sum(column.malformed for column in sheet.columns)
        missing = {column.stream: column.missing for column in sheet.columns if column.is_numeric}
    assert 13 == len(readings)
    assert [9357] * 13 == [readings[stream] + missing[stream] for stream in readings]


def test_the_position_goes_from_the_start_to_the_size(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n" + "1\n" * 100_000)
    with CsvReader(path, prefix="", missing=[]) as sheet:
        positions = [sheet.position for _ in sheet.batches(1_000)]
        assert sorted(positions) == positions
        assert 0 < positions[0] < sheet.size == positions[-1]


@law
@given(st.text(st.sampled_from("aB0._:~- /()é_漢\n\x00"), max_size=10))
@example("PT08.S1(CO)")
@example(" T ")
@example("a/b")
@example("x\n")
def test_a_header_makes_a_stream_name_unless_nothing_usable_is_left_of_it(header: str) -> None:
    name = stream_name("p/", header)
    assert is_name(name) or name[2:] in {"", ".", "..", "readings", "average", "count", "events"}


@pytest.mark.parametrize(
    ("what", "content"),
    [
        ("a valid stream name", b"***\n1\n"),
        ("a valid stream name", b"average\n1\n"),
        ("a valid stream name", b"..\n1\n"),
        ("same stream", b"a b,a_b\n1,1\n"),
        ("same stream", b"a,a\n1,1\n"),
        ("UTF-8", b"\xff\n1\n"),
        ("UTF-8", "a\n1\n".encode("utf-16")),
        ("Line 3 ", b"a\n1\n\xff\n2\n"),
        ("Line 3 ", b"a\n1\n2\r3\n"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, what: str, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)

    def read() -> None:
        with CsvReader(path, prefix="", missing=[]) as sheet:
            list(sheet.batches(100))

    with pytest.raises(Unusable, match=what):
        read()


@pytest.mark.parametrize("delimiter", ["", "ab"])
def test_a_delimiter_that_is_not_one_character_is_refused(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    with pytest.raises(Unusable):
        CsvReader(path, prefix="", missing=[], delimiter=delimiter)


def test_two_text_columns_may_share_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("note,note,n\nx,y,1\n")
    with CsvReader(path, prefix="", missing=[]) as sheet:
        assert [{"n": [1.0]}] == list(sheet.batches(100))


def test_an_empty_file_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"")
    with pytest.raises(Unusable, match="no header row"):
        CsvReader(path, prefix="", missing=[])


@pytest.mark.parametrize("cell", ["1e-400", "-1E-400", "1e-141", "1e141", "1e999", "0.0e-1x", "nan", "1_000"])
def test_a_number_that_cannot_be_recorded_is_malformed_and_its_line_is_known(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"a\n1\n{cell}\n0.0\n")
    with CsvReader(path, prefix="", missing=[]) as sheet:
        assert [{"a": [1.0, 0.0]}] == list(sheet.batches(100))
        assert (1, 3) == (sheet.columns[0].malformed, sheet.columns[0].first_malformed_line)


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (b"a\n1\nNA", ["NA"]),
        (b"a\n1\nNA\r\n", ["NA"]),
        (b"a\n1\nNA\n\n\n", ["NA"]),
        (b"\xef\xbb\xbfa\n1\nNA\n", ["NA"]),
        (b"a\n1\nNA\n", ["NA", "NA"]),
        (b"a\n1\nNA\n", ["", " NA "]),
    ],
)
def test_what_is_read_in_the_same_way_is_the_same_file(tmp_path: Path, content: bytes, missing: list[str]) -> None:
    usual, other = tmp_path / "usual.csv", tmp_path / "other.csv"
    usual.write_bytes(b"a\n1\nNA\n")
    other.write_bytes(content)
    assert fingerprint(usual, "p/", ["NA"], ",") == fingerprint(other, "p/", missing, ",")


def test_other_options_and_other_rows_make_another_file(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"a\n1\n")
    kinds = [
        fingerprint(file, prefix, missing, delimiter)
        for prefix in ("", "p")
        for missing in ([], ["NA"], ["-1"], ["-1", "NA"], ["inf"], ["1e999"], ["-1e999"])
        for delimiter in ",;"
    ]
    for content in (b"a\n1\n2\n", b"a\n1\n\n2\n", b"a\n1 \n", b"", b"\n1\n"):
        file.write_bytes(content)
        kinds.append(fingerprint(file, "", [], ","))
    assert len(kinds) == len(set(kinds))


def test_a_file_of_many_blocks_is_known_by_all_of_them(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    rows = b"a\n" + b"12345678\n" * 100_000
    kinds = set()
    for content in (rows, rows + b"\n" * 600_000, rows[:-1]):
        file.write_bytes(content)
        kinds.add(fingerprint(file, "", [], ","))
    assert 1 == len(kinds)
    file.write_bytes(rows[:-2] + b"9\n")
    assert fingerprint(file, "", [], ",") not in kinds


@law
@given(st.lists(st.sampled_from(["1", "1.0", "+1e0", "-0", "0.0", "NA", " NA", "", "1e999", "2e999"])), st.data())
def test_missing_texts_in_any_order_and_repeated_make_the_same_file(missing: list[str], data: st.DataObject) -> None:
    other = data.draw(st.permutations(missing + missing[:2]))
    assert fingerprint(AIR, "", missing, ",") == fingerprint(AIR, "", other, ",")
