"""Reads CSV files: each numeric column becomes a stream.

The file is read once, in order, in bounded memory. A column is numeric if it has a header and its first cell that is
not missing is a number. A later cell that is not a number, or a number outside the range of a reading, is malformed: it
is counted, reported with its line and left out; the reader never guesses.
"""

import codecs
import csv
import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from meanwhile.core.exact_sums import LARGEST, SMALLEST
from meanwhile.core.stream_names import is_name

NUMBERS = f"numbers that are 0 or have a magnitude from {SMALLEST} to {LARGEST}"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BLOCK = 256 * 1024  # Bytes.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._:~-]+")


class Unusable(Exception):
    """The file is not CSV with a header row; the message says why."""


@dataclass
class Column:
    """A column of the file: its stream, and how many of its cells were missing or malformed."""

    header: str
    stream: str
    is_numeric: bool | None = None
    missing: int = 0
    malformed: int = 0
    first_malformed_line: int = 0


def stream_name(prefix: str, header: str) -> str:
    """The stream of a column. Characters that a name cannot contain become "_", which is stripped at both ends.

    >>> stream_name("air/", "PT08.S1(CO)")
    'air/PT08.S1_CO'
    """
    return prefix + _NOT_IN_NAMES.sub("_", header.strip()).strip("_")


def fingerprint(path: Path, prefix: str, missing: Sequence[str], delimiter: str) -> str:
    """A digest of the content of a file and of the options that it is sent with.

    It is the same for what is read in the same way: with or without a byte order mark and line ends after the last row,
    and with ``missing`` in any order, repeated, or written as other text of the same number.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = _end_of_rows(file)
        if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            left -= len(codecs.BOM_UTF8)
        else:
            file.seek(0)
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    digest.update(b"\n")
    digest.update(repr((prefix, sorted({_canonical(text) for text in missing} - {""}), delimiter)).encode())
    return digest.hexdigest()[:32]


def _end_of_rows(file: BinaryIO) -> int:
    """Where the last row ends, in bytes without its line end; the file is at its start then."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        block = file.read(end - start).rstrip(b"\r\n")
        end = start + len(block)
        if block:
            break
    file.seek(0)
    return end


def _canonical(text: str) -> str:
    """One text for all that mean the same as ``missing``.

    >>> _canonical(" n/a "), _canonical("-200"), _canonical("-2e2"), _canonical("-0.0"), _canonical("0.1")
    ('n/a', '-200', '-200', '0', '0.1')
    """
    if not _is_number(text):
        return text.strip()
    number = float(text) + 0.0  # -0.0 becomes 0.0, which equals it.
    return repr(number).removesuffix(".0") if math.isfinite(number) else f"{'-' if number < 0 else ''}1e999"


class CsvReader:
    """A CSV file with a header row, open for reading. Raises ``Unusable``.

    ``missing`` are the cells that mean no reading, in addition to empty ones.
    """

    def __init__(self, path: Path, *, prefix: str, missing: Sequence[str], delimiter: str = ",") -> None:
        self.size = path.stat().st_size
        self._missing_texts = {"", *(text.strip() for text in missing)}
        self._missing_numbers = {float(text) for text in missing if _is_number(text)}
        self._file = path.open("rb")
        try:
            text = (line.decode("utf-8-sig") for line in self._file)
            self._rows = csv.reader(text, delimiter=delimiter, strict=True)  # Strict: an unclosed quote is an error.
            headers = next(self._rows, [])
        except (csv.Error, UnicodeDecodeError, TypeError) as error:
            self._file.close()
            raise Unusable(f"{path} is not a CSV file in UTF-8: {error}.") from None
        if not any(map(str.strip, headers)):
            self._file.close()
            raise Unusable(f"{path} has no header row.")
        self.columns = [Column(header, stream_name(prefix, header)) for header in headers]
        self.longer_rows = 0

    def __enter__(self) -> "CsvReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def position(self) -> int:
        """Bytes read so far, out of ``size``."""
        return self._file.tell()

    def batches(self, readings: int) -> Iterator[dict[str, list[float]]]:
        """The readings by stream, in batches of about ``readings``; a batch ends with a complete row."""
        batch: dict[str, list[float]] = {}
        count = 0
        try:
            for row in self._rows:
                self.longer_rows += len(row) > len(self.columns)
                for column, cell in zip(self.columns, row, strict=False):
                    number = self._number(column, cell.strip())
                    if number is not None:
                        batch.setdefault(column.stream, []).append(number)
                        count += 1
                if count >= readings:
                    yield batch
                    batch, count = {}, 0
        except (csv.Error, UnicodeDecodeError) as error:
            # line_num counts a line that is not CSV, but not one that is not UTF-8.
            line = self._rows.line_num + isinstance(error, UnicodeDecodeError)
            raise Unusable(f"Line {line} is not CSV in UTF-8: {error}.") from None
        if batch:
            yield batch

    def _number(self, column: Column, cell: str) -> float | None:
        if cell in self._missing_texts:
            column.missing += 1
            return None
        is_number = _is_number(cell)
        if is_number and float(cell) in self._missing_numbers:
            column.missing += 1
            return None
        if column.is_numeric is None:
            column.is_numeric = is_number and column.header.strip() != ""
            if column.is_numeric:
                self._check_stream(column)
        if not column.is_numeric:
            return None
        value = float(cell) if is_number else math.nan
        is_zero = value == 0 and not cell.lower().partition("e")[0].strip(
            "+-0."
        )  # 1e-400 also becomes 0.0, and is refused.
        if not (is_zero or SMALLEST <= abs(value) <= LARGEST):
            column.malformed += 1
            column.first_malformed_line = column.first_malformed_line or self._rows.line_num
            return None
        return value

    def _check_stream(self, column: Column) -> None:
        if not is_name(column.stream):
            raise Unusable(
                f"The column {column.header!r} does not make a valid stream name. Change the header or --prefix."
            )
        for one in self.columns:
            if one is not column and one.is_numeric and one.stream == column.stream:
                raise Unusable(
                    f"The columns {one.header!r} and {column.header!r} make the same stream {one.stream}. Rename one."
                )


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text.strip()) is not None
