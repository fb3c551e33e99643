"""Stream TSV and CSV files through Arrow with the line number of every row."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Collection, Iterator
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


class Layout(NamedTuple):
    """Shape of a delimited file.

    Attributes
    ----------
    delimiter : str
        The character between two fields.
    names : list of str
        Column names: of the header, else positions counted from 0.
    skip_lines : int
        Lines before the first row.
    has_header : bool
        Whether the first line that is not blank names the columns.
    sample : list of list of str
        The first rows, field by field.
    """

    delimiter: str
    names: list[str]
    skip_lines: int
    has_header: bool
    sample: list[list[str]]

    def columns_that_are(self, kind: Callable[[str], bool]) -> list[str]:
        """Names of the columns in which at least half of the sampled fields are of a kind."""
        return [
            name
            for index, name in enumerate(self.names)
            if 2 * sum(kind(row[index]) for row in self.sample) >= max(len(self.sample), 1)
        ]


def is_number(text: str) -> bool:
    """Whether a field can be read as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def looks_like_dna(text: str) -> bool:
    """Whether a field is most likely a sequence: four letters or more, nearly all of them A, C, G, T, U or N."""
    return len(text) >= 4 and len(_DNA.findall(text)) > 0.9 * len(text)


def read_head(path: Path, compression: str | None) -> bytes:
    """Read the whole lines of the first megabyte of a file, or all of it where it has no line break.

    Parameters
    ----------
    path, compression
        See `find_layout`.

    Returns
    -------
    bytes
    """
    with pa.input_stream(str(path), compression=compression) as stream:
        head = stream.read(_HEAD_BYTES)
    if len(head) == _HEAD_BYTES:
        head = head[: max(head.rfind(b"\n"), head.rfind(b"\r")) + 1] or head
    return head


def refuse_binary(head: bytes, path: Path) -> None:
    """Refuse a file that is no text of one byte a letter, from its beginning.

    Parameters
    ----------
    head : bytes
        From `read_head`.
    path : Path
        The file, for the message.

    Raises
    ------
    ValueError
        Saying what it is.
    """
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is text in UTF-16 (Excel's 'Unicode Text'): save it as {_WANTED}")
    if b"\0" in head:
        raise ValueError(f"{path} is no text but a binary file: save it as {_WANTED}")


def _refuse_other_encodings(head: bytes, path: Path) -> None:
    """Refuse text that is not UTF-8; a letter may be cut off at the end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        line = head[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text; save it as {_WANTED}") from error


def find_layout(path: Path, compression: str | None, delimiter: str, known_names: Collection[str]) -> Layout:
    """Find header and columns from the beginning of a file.

    Parameters
    ----------
    path : Path
        The file.
    compression : str or None
        `"gzip"`, `"zstd"` or `None`.
    delimiter : str
        The character between two fields.
    known_names : collection of str
        Names (in lower case) that a header may hold; the first line that is not blank is a header if it holds one of
        them, or neither a number nor DNA.

    Returns
    -------
    Layout
        What was found.

    Raises
    ------
    ValueError
        If the file has no line that is not blank, or is not UTF-8 text.
    """
    head = read_head(path, compression)
    refuse_binary(head, path)
    _refuse_other_encodings(head, path)
    lines = head.removeprefix(b"\xef\xbb\xbf").splitlines()
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise ValueError(f"{path} is empty")
    texts = (line.decode(errors="replace") for line in lines[first : first + _SAMPLE_LINES])
    try:
        rows = list(csv.reader(texts, delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    has_header = any(name.strip().lower() in known_names for name in rows[0]) or not any(
        is_number(text) or looks_like_dna(text) for text in rows[0]
    )
    names = rows[0] if has_header else [str(index) for index in range(len(rows[0]))]
    sample = [row for row in rows[has_header:] if len(row) == len(names)]
    return Layout(delimiter, names, first + has_header, has_header, sample)


def read_delimited(
    path: Path, compression: str | None, layout: Layout, on_malformed: Callable[[int, str], None]
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Stream a delimited file; blank lines are left out.

    Parameters
    ----------
    path : Path
        The file.
    compression : str or None
        `"gzip"`, `"zstd"` or `None`.
    layout : Layout
        What `find_layout` found.
    on_malformed : callable
        Called with the number of each line with too few or too many columns, and the reason.

    Yields
    ------
    rows : pyarrow.Table
        (rows of a block) with every column as a string.
    numbers : numpy.ndarray
        (rows of a block,) int64 line of each row, counted from 1.

    Raises
    ------
    ValueError
        If a field in quotes spans lines: it would shift the numbers of all lines below it.
    """
    malformed: list[int] = []

    def skip_line(row: pyarrow.csv.InvalidRow) -> str:
        plural = "" if row.actual_columns == 1 else "s"
        text = row.text if len(row.text) <= 40 else row.text[:40] + "..."
        on_malformed(row.number, f"{row.actual_columns} column{plural} instead of {row.expected_columns}: {text!r}")
        malformed.append(-row.number if "\n" in row.text else row.number)
        return "skip"

    with pa.input_stream(str(path), compression=compression) as stream:
        next_line = layout.skip_lines + 1
        for block in _blocks(stream, layout, skip_line, path):
            numbers = _leave_out(next_line, block.num_rows, malformed)
            _refuse_line_breaks(block, numbers, malformed, path)
            if block.num_rows:
                next_line = int(numbers[-1]) + 1
                malformed[:] = [number for number in malformed if number >= next_line]
                yield _drop_blank(pa.Table.from_batches([block]), numbers)
        _refuse_line_breaks(None, None, malformed, path)


def _blocks(stream: pa.NativeFile, layout: Layout, on_invalid: Callable, path: Path) -> Iterator[pa.RecordBatch]:
    """Parse a stream block by block, every column as text."""
    # Without threads Arrow knows the line numbers of invalid rows, and it is faster too.
    read = pyarrow.csv.ReadOptions(
        use_threads=False, block_size=_BLOCK_BYTES, column_names=layout.names, skip_rows=layout.skip_lines
    )
    parse = pyarrow.csv.ParseOptions(
        delimiter=layout.delimiter, ignore_empty_lines=False, invalid_row_handler=on_invalid
    )
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(layout.names, pa.string()), strings_can_be_null=False
    )
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
    """Return the first `count` integers from `first` on that are not left out."""
    numbers = np.arange(first, first + count + len(left_out), dtype=np.int64)
    return numbers[~np.isin(numbers, left_out)][:count] if left_out else numbers


def _refuse_line_breaks(
    block: pa.RecordBatch | None, numbers: np.ndarray | None, malformed: list[int], path: Path
) -> None:
    """Refuse line breaks within a field; a malformed line that holds one has a negative number."""
    broken = [-number for number in malformed if number < 0]
    for column in block.columns if block is not None else ():
        letters = column.buffers()[2]
        if letters is not None and _LINE_BREAK.search(letters):
            rows = pc.indices_nonzero(pc.match_substring(column, "\n"))
            broken.append(int(numbers[rows[0].as_py()]))
    if broken:
        raise ValueError(f'{path}, line {min(broken)}: a field in quotes (") does not end on its line; mend the quotes')


def _drop_blank(rows: pa.Table, numbers: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """Leave out rows of which every column is empty."""
    filled = np.zeros(rows.num_rows, dtype=bool)
    for column in rows.columns:
        filled |= pc.binary_length(column).to_numpy() > 0
        if filled.all():
            return rows, numbers
    return rows.filter(pa.array(filled)), numbers[filled]
