"""Stream TSV and CSV files, and the first sheet of a spreadsheet, through Arrow with the line number of every row."""

from __future__ import annotations

import codecs
import csv
import io
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

_HEAD_BYTES = 1 << 20
_BLOCK_BYTES = 4 << 20
_SAMPLE_LINES = 100
_LINE_BREAK = re.compile(b"\n")
_WANTED = "text in UTF-8 (Excel: 'CSV UTF-8')"
_DNA = re.compile(r"[ACGTUN]", re.IGNORECASE)
_SPACES_AND_NUMBERS = re.compile(r"(?<!\S)\d+(?!\S)|\s+")
_DELIMITERS = ("\t", ",", ";")

# Raised by zipfile, the XML parser (SyntaxError) and openpyxl on damaged spreadsheets.
_OF_DAMAGED_SHEETS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class Layout(NamedTuple):
    """Shape of a delimited file."""

    delimiter: str
    names: list[str]  # of the header, else positions counted from 0, without empty columns at the end
    skip_lines: int  # before the first row
    has_header: bool
    sample: list[list[str]]  # the first rows, field by field
    padding: int = 0  # empty columns without a name at the end of each row

    def texts_of(self, name: str) -> list[str]:
        """Give the sampled fields of a column."""
        index = self.names.index(name)
        return [row[index] for row in self.sample]

    def columns_that_are(self, kind: Callable[[str], bool]) -> list[str]:
        """Names of the columns whose sampled fields are mostly of a kind."""
        return [name for name in self.names if are_mostly(kind, self.texts_of(name))]

    def decimal_comma_columns(self, is_sheet: bool = False) -> list[str]:
        """Names of the columns whose numbers have a decimal comma: some sampled value has a comma, none has a point.

        Text between semicolons has decimal commas unless a value has a point, and text between commas has none.
        """
        if self.delimiter == "," and not is_sheet:
            return []
        return [name for name in self.names if self._has_decimal_comma(self.texts_of(name))]

    def _has_decimal_comma(self, texts: list[str]) -> bool:
        marks = {mark for text in texts if not is_missing(text) for mark in ".," if mark in text}
        return marks == {","} or (not marks and self.delimiter == ";")


def are_mostly(kind: Callable[[str], bool], texts: Sequence[str]) -> bool:
    """Whether at least half of the texts that are not missing are of a kind."""
    known = [text for text in texts if text.strip() and not is_missing(text)]
    return 2 * sum(map(kind, known)) >= max(len(known), 1)


def is_missing(text: str) -> bool:
    """Whether a field is a usual word for a missing value; an empty field is not."""
    from tokenization import is_missing as is_word  # it loads transformers, which few files need

    return is_word(text)


def is_number(text: str) -> bool:
    """Whether a field is a number, with a decimal point or comma."""
    try:
        float(text.replace(",", ".", 1))
    except ValueError:
        return False
    return True


def looks_like_dna(text: str) -> bool:
    """Whether a field is most likely a sequence: at least four letters, nearly all of them A, C, G, T, U or N."""
    text = _SPACES_AND_NUMBERS.sub("", text)
    return len(text) >= 4 and len(_DNA.findall(text)) > 0.9 * len(text)


def open_bytes(path: Path, compression: str | None, max_rows: int | None = None) -> pa.NativeFile:
    """Open a text file, or the first sheet (up to `max_rows`) of an `.xlsx` file as comma-separated text."""
    if path.suffix.lower() != ".xlsx":
        return pa.input_stream(str(path), compression=compression)
    try:
        import openpyxl
    except ImportError as error:
        raise ValueError(f"{path}: reading .xlsx needs openpyxl (pip install openpyxl); or save it as .csv") from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = [
            [_field(cell) for cell in row] for row in book.worksheets[0].iter_rows(max_row=max_rows, values_only=True)
        ]
        book.close()
    except _OF_DAMAGED_SHEETS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as .xlsx: {reason}") from error
    lengths = [max((index for index, text in enumerate(row, start=1) if text), default=0) for row in rows]
    width = max(lengths[:_SAMPLE_LINES], default=0)
    text, blank = io.StringIO(), [""] * width
    full = ((row + blank)[: max(width, length)] if length else [] for row, length in zip(rows, lengths, strict=True))
    csv.writer(text, lineterminator="\n").writerows(full)
    return pa.BufferReader(text.getvalue().encode())


def _field(cell: object) -> str:
    """Write a cell of a spreadsheet on one line."""
    return "" if cell is None else " ".join(str(cell).splitlines())


def read_head(path: Path, compression: str | None) -> bytes:
    """Read the whole lines of the first megabyte of a file, or all of it if it has no line break."""
    with open_bytes(path, compression, _SAMPLE_LINES) as stream:
        head = stream.read(_HEAD_BYTES)
    if len(head) == _HEAD_BYTES:
        head = head[: max(head.rfind(b"\n"), head.rfind(b"\r")) + 1] or head
    return head


def refuse_binary(head: bytes, path: Path) -> None:
    """Raise if a file is UTF-16 or binary, by its beginning."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is text in UTF-16 (Excel's 'Unicode Text'): save it as {_WANTED}")
    if b"\0" in head:
        raise ValueError(f"{path} is a binary file, not text: save it as {_WANTED}")


def _refuse_other_encodings(head: bytes, path: Path) -> None:
    """Raise if text is not UTF-8; a character may be cut off at the end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        line = head[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text; save it as {_WANTED}") from error


def find_layout(path: Path, compression: str | None, delimiter: str, known_names: Collection[str]) -> Layout:
    """Find header and columns from the beginning of a file; `compression` is `"gzip"`, `"zstd"` or None.

    Another delimiter (tab, comma, semicolon) is used if only that one gives a column with a known name or with DNA. The
    first line that is not blank is a header if it holds one of `known_names` (in lower case), or neither a number nor
    DNA nor a word for a missing value. Raises a `ValueError` if the file is empty or not UTF-8 text.
    """
    head = read_head(path, compression)
    refuse_binary(head, path)
    _refuse_other_encodings(head, path)
    lines = head.removeprefix(b"\xef\xbb\xbf").splitlines()
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise ValueError(f"{path} is empty")
    texts = [line.decode(errors="replace") for line in lines[first : first + _SAMPLE_LINES]]
    try:
        delimiter, rows = _split(texts, delimiter, known_names)
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    has_header = any(name.strip().lower() in known_names for name in rows[0]) or not any(
        is_number(text) or looks_like_dna(text) or is_missing(text) for text in rows[0]
    )
    names = rows[0] if has_header else [str(index) for index in range(len(rows[0]))]
    width, padding = _measure(names, rows[1:])
    sample = [row[:width] for row in rows[has_header:] if len(row) == width + padding]
    return Layout(delimiter, names[:width], first + has_header, has_header, sample, padding)


def _split(lines: list[str], delimiter: str, known_names: Collection[str]) -> tuple[str, list[list[str]]]:
    """Split lines at the first delimiter that gives a column with a known name or with DNA, else at the usual one."""

    def fits(rows: list[list[str]]) -> bool:
        dna = (looks_like_dna(text) and not set(text) & set(_DELIMITERS) for row in rows for text in row)
        return any(name.strip().lower() in known_names for name in rows[0]) or any(dna)

    for one in (delimiter, *_DELIMITERS):
        rows = list(csv.reader(lines, delimiter=one))
        if fits(rows):
            return one, rows
    return delimiter, list(csv.reader(lines, delimiter=delimiter))


def _measure(names: list[str], rows: list[list[str]]) -> tuple[int, int]:
    """Count the columns to be read, and the empty columns without a name after them."""
    width = max((index for index, name in enumerate(names, start=1) if name.strip()), default=0)
    if not width or any(text for row in rows for text in row[width:]):
        return len(names), 0
    usual = Counter(len(row) for row in rows if width <= len(row) <= len(names)).most_common(1)
    return width, usual[0][0] - width if usual else 0


def read_delimited(
    path: Path, compression: str | None, layout: Layout, on_malformed: Callable[[int, str], None]
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yield tables of all columns as text, and the line (rows,) int64 of each row; blank lines are left out.

    `on_malformed` is called with the number and the reason for each line with too few or too many columns. Raises a
    `ValueError` if a field in quotes spans lines, which would shift the numbers of all lines below it, or if a column
    without a name is not empty.
    """
    malformed: list[int] = []

    def skip_line(row: pyarrow.csv.InvalidRow) -> str:
        plural = "" if row.actual_columns == 1 else "s"
        text = row.text if len(row.text) <= 40 else row.text[:40] + "..."
        on_malformed(row.number, f"{row.actual_columns} column{plural} instead of {row.expected_columns}: {text!r}")
        malformed.append(-row.number if "\n" in row.text else row.number)
        return "skip"

    with open_bytes(path, compression) as stream:
        next_line = layout.skip_lines + 1
        for block in _blocks(stream, layout, skip_line, path):
            numbers = _leave_out(next_line, block.num_rows, malformed)
            _refuse_line_breaks(block, numbers, malformed, path)
            if block.num_rows:
                next_line = int(numbers[-1]) + 1
                malformed[:] = [number for number in malformed if number >= next_line]
                yield _drop_blank(_drop_padding(pa.Table.from_batches([block]), numbers, layout, path), numbers)
        _refuse_line_breaks(None, None, malformed, path)


def _blocks(stream: pa.NativeFile, layout: Layout, on_invalid: Callable, path: Path) -> Iterator[pa.RecordBatch]:
    """Parse a stream block by block, every column as text."""
    # Without threads Arrow knows the line numbers of invalid rows, and it is faster too.
    names = [*layout.names, *(f"\0{index}" for index in range(layout.padding))]
    read = pyarrow.csv.ReadOptions(
        use_threads=False, block_size=_BLOCK_BYTES, column_names=names, skip_rows=layout.skip_lines
    )
    parse = pyarrow.csv.ParseOptions(
        delimiter=layout.delimiter, ignore_empty_lines=False, invalid_row_handler=on_invalid
    )
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    try:
        yield from pyarrow.csv.open_csv(stream, read, parse, convert)
    except pa.ArrowInvalid as error:
        if "straddl" in str(error):
            raise ValueError(f"{path} has a line of more than {_BLOCK_BYTES:,} bytes; is it a table?") from error
        if "invalid UTF8" in str(error):
            raise ValueError(f"{path} is not UTF-8 text throughout; save it as {_WANTED}") from error
        if "out of sync" in str(error):
            raise ValueError(f'{path}: a field in quotes (") does not end on its line; mend the quotes') from error
        # Either message, on a file that is not empty, means a header and nothing below it.
        if not any(text in str(error) for text in ("Empty CSV file", "Could not skip initial")):
            raise


def _leave_out(first: int, count: int, left_out: list[int]) -> np.ndarray:
    """Return the first `count` integers from `first` on that are not in `left_out`."""
    numbers = np.arange(first, first + count + len(left_out), dtype=np.int64)
    return numbers[~np.isin(numbers, left_out)][:count] if left_out else numbers


def _refuse_line_breaks(
    block: pa.RecordBatch | None, numbers: np.ndarray | None, malformed: list[int], path: Path
) -> None:
    """Raise if a field holds a line break; a malformed line that holds one has a negative number."""
    broken = [-number for number in malformed if number < 0]
    for column in block.columns if block is not None else ():
        letters = column.buffers()[2]
        if letters is not None and _LINE_BREAK.search(letters):
            rows = pc.indices_nonzero(pc.match_substring(column, "\n"))
            broken.append(int(numbers[rows[0].as_py()]))
    if broken:
        raise ValueError(f'{path}, line {min(broken)}: a field in quotes (") does not end on its line; mend the quotes')


def _drop_padding(rows: pa.Table, numbers: np.ndarray, layout: Layout, path: Path) -> pa.Table:
    """Drop the columns without a name, which must be empty."""
    for column in rows.columns[len(layout.names) :]:
        filled = np.flatnonzero(pc.binary_length(column).to_numpy())
        if filled.size:
            value = column[int(filled[0])].as_py()
            raise ValueError(f"{path}, line {numbers[filled[0]]}: {value!r} is in a column without a name; name it")
    return rows.select(range(len(layout.names)))


def _drop_blank(rows: pa.Table, numbers: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """Drop rows in which every column is empty."""
    filled = np.zeros(rows.num_rows, dtype=bool)
    for column in rows.columns:
        filled |= pc.binary_length(column).to_numpy() > 0
        if filled.all():
            return rows, numbers
    return rows.filter(pa.array(filled)), numbers[filled]
