"""Stream TSV and CSV files, and the first sheet of a spreadsheet, through Arrow with the line number of every row."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tokenization import is_missing

_HEAD_BYTES = 1 << 20
_BLOCK_BYTES = 4 << 20
_SAMPLE_LINES = 100
_DNA = re.compile(r"[ACGTUN]", re.IGNORECASE)
_SPACES_AND_NUMBERS = re.compile(r"(?<!\S)\d+(?!\S)|\s+")
_DELIMITERS = ("\t", ",", ";")
_WANTED = "text in UTF-8 (Excel: 'CSV UTF-8')"
_OPEN_QUOTE = 'a field in quotes (") does not end on its line; mend the quotes'
_ERRORS = {  # part of Arrow's message: ours
    "straddl": f"has a line of more than {_BLOCK_BYTES:,} bytes; is it a table?",
    "invalid UTF8": f"is not UTF-8 text; save it as {_WANTED}",
    "out of sync": f"cannot be read: {_OPEN_QUOTE}",
}
_NOTHING_BELOW_THE_HEADER = ("Empty CSV file", "Could not skip initial")


class Layout(NamedTuple):
    """Shape of a delimited file."""

    delimiter: str
    names: list[str]  # of the header, else positions counted from 0
    skip_lines: int  # before the first row
    has_header: bool
    sample: list[list[str]]  # the first rows, field by field

    def texts_of(self, name: str) -> list[str]:
        """Return the sampled fields of a column."""
        index = self.names.index(name)
        return [row[index] for row in self.sample]

    def decimal_comma_columns(self, is_sheet: bool = False) -> list[str]:
        """Names of the columns whose numbers have a decimal comma: some sampled value has a comma, none has a point.

        Without either mark, only semicolon-separated text has decimal commas. Comma-separated text never has them.
        """
        found = []
        for name in self.names if is_sheet or self.delimiter != "," else ():
            marks = {mark for text in self.texts_of(name) if not is_missing(text) for mark in ".," if mark in text}
            if marks == {","} or (not marks and self.delimiter == ";"):
                found.append(name)
        return found


def are_mostly(kind: Callable[[str], bool], texts: Sequence[str]) -> bool:
    """Whether `kind` holds for at least half of the texts that are not missing."""
    known = [text for text in texts if text.strip() and not is_missing(text)]
    return 2 * sum(map(kind, known)) >= max(len(known), 1)


def is_number(text: str) -> bool:
    """Whether a field is a number, with a decimal point or comma."""
    try:
        float(text.replace(",", ".", 1))
    except ValueError:
        return False
    return True


def looks_like_dna(text: str) -> bool:
    """Whether a field is most likely a sequence: at least four characters, nearly all of them A, C, G, T, U or N."""
    text = _SPACES_AND_NUMBERS.sub("", text)
    return len(text) >= 4 and len(_DNA.findall(text)) > 0.9 * len(text)


def open_bytes(path: Path, compression: str | None, max_rows: int | None = None) -> pa.NativeFile:
    """Open a text file, or the first sheet (up to `max_rows`) of an `.xlsx` file as comma-separated text."""
    if path.suffix.lower() != ".xlsx":
        return pa.input_stream(str(path), compression=compression)
    import pandas as pd

    try:
        sheet = pd.read_excel(path, header=None, nrows=max_rows, dtype=str, keep_default_na=False, engine="openpyxl")
    except Exception as error:  # openpyxl raises errors of any kind on damaged files
        raise ValueError(f"{path} cannot be read as .xlsx: {' '.join(str(error).split()) or type(error)}") from error
    text = sheet.replace(r"\s+", " ", regex=True).to_csv(header=False, index=False, lineterminator="\n")
    return pa.BufferReader(text.encode())


def read_head(path: Path, compression: str | None) -> bytes:
    """Read the whole lines of the first megabyte of a text file, or all of it if it has no line break."""
    with open_bytes(path, compression, _SAMPLE_LINES) as stream:
        head = stream.read(_HEAD_BYTES)
    if b"\0" in head:
        raise ValueError(f"{path} is UTF-16 text or a binary file: save it as {_WANTED}")
    if len(head) == _HEAD_BYTES:
        head = head[: max(head.rfind(b"\n"), head.rfind(b"\r")) + 1] or head
    return head


def find_layout(path: Path, compression: str | None, delimiter: str, known_names: Collection[str]) -> Layout:
    """Find header and columns from the beginning of a file; `compression` is `"gzip"`, `"zstd"` or None.

    Another delimiter (tab, comma, semicolon) is used if only that one gives a column with a known name or with DNA. The
    first line that is not blank is a header if it holds one of `known_names` (in lower case), or neither a number nor
    DNA nor a word for a missing value. Raises a `ValueError` if the file is empty or not UTF-8 text.
    """
    head = read_head(path, compression)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < _HEAD_BYTES)
    except UnicodeDecodeError as error:
        line = head[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text; save it as {_WANTED}") from error
    lines = head.removeprefix(b"\xef\xbb\xbf").splitlines()
    first = next((number for number, line in enumerate(lines) if line.strip(b'\t ,;"')), None)
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
    sample = [row for row in rows[has_header:] if len(row) == len(names)]
    return Layout(delimiter, names, first + has_header, has_header, sample)


def _split(lines: list[str], delimiter: str, known_names: Collection[str]) -> tuple[str, list[list[str]]]:
    """Split lines at the first delimiter that gives a column with a known name or with DNA, else at the usual one."""
    for one in (delimiter, *_DELIMITERS):
        rows = list(csv.reader(lines, delimiter=one))
        dna = (looks_like_dna(text) and not set(text) & set(_DELIMITERS) for row in rows for text in row)
        if any(name.strip().lower() in known_names for name in rows[0]) or any(dna):
            return one, rows
    return delimiter, list(csv.reader(lines, delimiter=delimiter))


def read_delimited(
    path: Path, compression: str | None, layout: Layout, on_malformed: Callable[[int, str], None]
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yield tables of all columns as text, and the line (rows,) int64 of each row; blank lines are left out.

    `on_malformed` is called with the number and the reason for each line with too few or too many columns. Raises a
    `ValueError` if a field in quotes spans lines, which would shift the numbers of all lines below it.
    """
    malformed: list[int] = []
    broken: list[int] = []

    def skip_line(row: pyarrow.csv.InvalidRow) -> str:
        if "\n" in row.text:
            broken.append(row.number)
        plural = "" if row.actual_columns == 1 else "s"
        text = row.text if len(row.text) <= 40 else row.text[:40] + "..."
        on_malformed(row.number, f"{row.actual_columns} column{plural} instead of {row.expected_columns}: {text!r}")
        malformed.append(row.number)
        return "skip"

    next_line = layout.skip_lines + 1
    with open_bytes(path, compression) as stream:
        for block in _blocks(stream, layout, skip_line, path):
            numbers = np.arange(next_line, next_line + block.num_rows + len(malformed), dtype=np.int64)
            numbers = numbers[~np.isin(numbers, malformed)][: block.num_rows]
            for column in block.columns:
                if b"\n" in bytes(column.buffers()[2] or b""):
                    broken.append(numbers[pc.match_substring(column, "\n").index(True).as_py()])
            if broken:
                break
            if block.num_rows:
                next_line = int(numbers[-1]) + 1
                malformed[:] = [number for number in malformed if number >= next_line]
                filled = np.any([pc.binary_length(column).to_numpy() > 0 for column in block.columns], axis=0)
                yield pa.Table.from_batches([block]).filter(pa.array(filled)), numbers[filled]
    if broken:
        raise ValueError(f"{path}, line {min(broken)}: {_OPEN_QUOTE}")


def _blocks(stream: pa.NativeFile, layout: Layout, on_invalid: Callable, path: Path) -> Iterator[pa.RecordBatch]:
    """Parse a stream block by block, every column as text."""
    # Without threads Arrow knows the line numbers of invalid rows, and it is faster too.
    read = pyarrow.csv.ReadOptions(
        use_threads=False, block_size=_BLOCK_BYTES, column_names=layout.names, skip_rows=layout.skip_lines
    )
    parse = pyarrow.csv.ParseOptions(
        delimiter=layout.delimiter, ignore_empty_lines=False, invalid_row_handler=on_invalid
    )
    types = dict.fromkeys(layout.names, pa.string())
    convert = pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=False)
    try:
        yield from pyarrow.csv.open_csv(stream, read, parse, convert)
    except pa.ArrowInvalid as error:
        for part, reason in _ERRORS.items():
            if part in str(error):
                raise ValueError(f"{path} {reason}") from error
        if not any(part in str(error) for part in _NOTHING_BELOW_THE_HEADER):
            raise
