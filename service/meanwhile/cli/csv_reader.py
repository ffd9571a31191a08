"""CSV files as readings: each numeric column is a stream.

The file is read once, in order, in bounded memory. A column is numeric if it has a header and its first cell that is
not missing is a number; a later cell that is not one, or not one that can be recorded, is malformed: it is counted,
named by line and left out, never guessed at.
"""

import csv
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from meanwhile.core.exact_sums import LARGEST, SMALLEST
from meanwhile.core.stream_names import is_name

NUMBERS = f"numbers that are 0 or have a magnitude from {SMALLEST} to {LARGEST}"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._:~-]+")


class Unusable(Exception):
    """The file cannot be read as a table with named columns; the message says why."""


@dataclass
class Column:
    """A column of the file, what became of its cells, and the stream it goes to."""

    header: str
    stream: str
    is_numeric: bool | None = None
    missing: int = 0
    malformed: int = 0
    first_malformed_line: int = 0


def stream_name(prefix: str, header: str) -> str:
    """The stream of a column: what a name cannot hold becomes "_", and none at the end.

    >>> stream_name("air/", "PT08.S1(CO)")
    'air/PT08.S1_CO'
    """
    return prefix + _NOT_IN_NAMES.sub("_", header.strip()).strip("_")


def fingerprint(path: Path, *options: object) -> str:
    """Identifies the content of a file and how it is sent: the same again gives the same."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(repr(options).encode())
    return digest.hexdigest()[:32]


class CsvReader:
    """A CSV file with a header row, open for reading. Raises ``Unusable``."""

    def __init__(self, path: Path, *, prefix: str, missing: Sequence[str], delimiter: str = ",") -> None:
        self.size = path.stat().st_size
        self._missing_texts = {"", *(text.strip() for text in missing)}
        self._missing_numbers = {float(text) for text in missing if _is_number(text)}
        self._file = path.open("rb")
        try:
            text = (line.decode("utf-8-sig") for line in self._file)
            self._rows = csv.reader(text, delimiter=delimiter, strict=True)  # An open quote is an error.
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
        """Bytes read so far, of ``size``."""
        return self._file.tell()

    def batches(self, readings: int) -> Iterator[dict[str, list[float]]]:
        """The readings by stream, at most about ``readings`` at a time (a row is not divided)."""
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
            # The reader has counted the line that it does not understand, but not one that was never text.
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
        is_zero = value == 0 and not cell.lower().partition("e")[0].strip("+-0.")  # And not 1e-400, which becomes it.
        if not (is_zero or SMALLEST <= abs(value) <= LARGEST):
            column.malformed += 1
            column.first_malformed_line = column.first_malformed_line or self._rows.line_num
            return None
        return value

    def _check_stream(self, column: Column) -> None:
        if not is_name(column.stream):
            raise Unusable(f"The column {column.header!r} makes no stream name; choose another --prefix or header.")
        for one in self.columns:
            if one is not column and one.is_numeric and one.stream == column.stream:
                raise Unusable(f"The columns {one.header!r} and {column.header!r} make the same stream {one.stream}.")


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text.strip()) is not None
