"""Read promoter tables (TSV, CSV, XLSX, Parquet, FASTA) as a stream of Arrow tables with line numbers."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from modeling_macaron.io.delimited import (
    are_mostly,
    find_layout,
    is_number,
    looks_like_dna,
    read_delimited,
    read_head,
    refuse_binary,
)

SEQUENCE_NAMES = ("sequence", "seq", "promoter", "promoter_sequence", "dna", "dna_sequence", "nucleotide_sequence")
VALUE_NAMES = (
    "expression",
    "mean_expression",
    "expression_level",
    "measured_expression",
    "activity",
    "value",
    "label",
    "labels",
    "target",
    "measurement",
)

DELIMITERS = {".tsv": "\t", ".txt": "\t", ".csv": ","}
READ_DELIMITERS = {**DELIMITERS, ".xlsx": ","}  # a sheet is read as comma-separated text
_FASTA = (".fa", ".fasta", ".fna")
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
TABLE_SUFFIXES = (
    ".parquet",
    ".xlsx",
    *(suffix + compression for suffix in (*DELIMITERS, *_FASTA) for compression in ("", *_COMPRESSIONS)),
)
_MAX_MALFORMED = 1000  # remembered one by one; all are counted
_RECORD_LETTERS = 4 << 20  # of a FASTA record, as of a line of a table: what is longer ends the reading
_BATCH_LETTERS = 64 << 20
_SAMPLE_ROWS = 100
_KINDS = {"sequence": looks_like_dna, "value": is_number}

_LOGGER = logging.getLogger(__name__)

TextsOf = Callable[[str], list[str]]  # from the name of a column to some of its fields


class Columns(NamedTuple):
    """Names of the columns that matter; `None` where the table has none."""

    sequence: str
    value: str | None = None
    split: str | None = None


class TableBatch(NamedTuple):
    """Some rows of a promoter table.

    Attributes
    ----------
    table : pyarrow.Table
        (batch rows) with all columns of the source; of text files every column is a string.
    numbers : numpy.ndarray
        (batch,) int64 line, record or row of the source of each row, counted from 1.
    """

    table: pa.Table
    numbers: np.ndarray


@dataclass
class PromoterTable:
    """A promoter table that is read batch by batch; iterating a second time reads it again.

    Attributes
    ----------
    path : str
        The source, as messages name it.
    columns : Columns
        Columns of the sequence, the value and the split.
    columns_found_by : str
        How these columns were found.
    unit : str
        What `TableBatch.numbers` counts: `"line"`, `"record"` or `"row"`.
    read_batches : callable
        `read_batches(table)` starts reading and gives an iterator of `TableBatch`.
    num_rows : int or None
        Rows of the source, if known.
    details : dict
        Further facts about the source, for reports.
    malformed : list of (int, str)
        Number and reason of malformed lines, in order; grows while iterating. The first 1,000 are kept.
    num_malformed : int
        Number of all such lines so far.
    extra_columns : tuple of str
        Further columns to keep, such as the ground truth of a simulation.
    replicates : tuple of str
        Additional value columns; missing replicates are skipped when averaging.
    decimal_comma : tuple of str
        Columns whose numbers have a decimal comma, see `Layout.decimal_comma_columns`.
    """

    path: str
    columns: Columns
    columns_found_by: str
    unit: str
    read_batches: Callable[[PromoterTable], Iterator[TableBatch]] = field(repr=False)
    num_rows: int | None = None
    details: dict = field(default_factory=dict)
    malformed: list[tuple[int, str]] = field(default_factory=list, repr=False)
    num_malformed: int = 0
    extra_columns: tuple[str, ...] = ()
    replicates: tuple[str, ...] = ()
    decimal_comma: tuple[str, ...] = ()

    def values_of(self, rows: pa.Table, name: str | None = None) -> pa.ChunkedArray:
        """Values of some rows, of the value column or of a replicate by name, with decimal points."""
        name = name or self.columns.value
        has_comma = name in self.decimal_comma
        return pc.replace_substring(rows[name], ",", ".", max_replacements=1) if has_comma else rows[name]

    def __iter__(self) -> Iterator[TableBatch]:
        """Read the source; raises a `ValueError` if it cannot be read to its end."""
        self.malformed.clear()
        self.num_malformed = 0
        try:
            yield from self.read_batches(self)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.path} cannot be read: {_one_line(error)}") from error

    def add_malformed(self, number: int, reason: str) -> None:
        """Count a malformed line."""
        self.num_malformed += 1
        if len(self.malformed) < _MAX_MALFORMED:
            self.malformed.append((number, reason))

    @property
    def first_malformed(self) -> tuple[tuple[int, str], ...]:
        """Numbers and reasons of the first five malformed lines."""
        return tuple(self.malformed[:5])

    def refuse_malformed(self) -> None:
        """Raise for the first malformed line that was read."""
        if self.num_malformed:
            raise self.error_at(*self.malformed[0])

    def refuse_problems(self, numbers: np.ndarray, problems: Sequence[str]) -> None:
        """Raise for the first row of a batch with a problem, or for a malformed line before it."""
        first = next((row for row, problem in enumerate(problems) if problem), None)
        # A thread reads ahead: malformed lines below this batch may be known before the problems of rows above them.
        if self.malformed and self.malformed[0][0] < numbers[-1 if first is None else first]:
            self.refuse_malformed()
        if first is not None:
            raise self.error_at(int(numbers[first]), problems[first])

    def no_rows(self) -> ValueError:
        """Make the error of a source in which no row was read."""
        if not self.num_malformed:
            return ValueError(f"{self.path} has no rows")
        number, reason = self.malformed[0]
        others = f" (and {self.num_malformed - 1:,} more)" if self.num_malformed > 1 else ""
        return ValueError(f"{self.path} has no row that can be read; {self.unit} {number}: {reason}{others}")

    def error_at(self, number: int, reason: str) -> ValueError:
        """Make the error that names a line, record or row of this source."""
        return ValueError(f"{self.path}, {self.unit} {number}: {reason}")

    def refuse_columns(self, present: Sequence[str], added: Sequence[str]) -> None:
        """Raise if the source has a column with the name of one that the output adds."""
        taken = [name for name in added if name in present]
        if taken:
            columns, they = ("columns", "them") if len(taken) > 1 else ("column", "it")
            raise ValueError(
                f"{self.path} already has the {columns} {', '.join(taken)}, which the output adds: "
                f"rename {they} in the input"
            )


def open_table(
    source: str | Path,
    *,
    sequence_column: str | None = None,
    value_column: str | None = None,
    split_column: str | None = None,
    batch_rows: int = 65_536,
    require_value: bool = False,
) -> PromoterTable:
    """Open a table of promoters, whatever its format, and find its columns.

    Parameters
    ----------
    source : str or Path
        `.tsv`, `.txt` (tab-separated), `.csv` (also with semicolons), `.fa`, `.fasta`, `.fna`, each
        also with `.gz` or `.zst`, or `.parquet`, or `.xlsx` (its first sheet). Tables may have a header or none.
        Numbers may have decimal commas, which are found by column, except in text between commas. A FASTA record may
        carry its value as `>name expression=1.25`, `>name 1.25` or `>name|1.25`.
    sequence_column, value_column, split_column : str, optional
        Column names, or positions counted from 0 (`"0"`) in a file without header. The first two are found by the
        usual names (`SEQUENCE_NAMES`, `VALUE_NAMES`) and, where several have one or there is no header, by what the
        columns hold. In FASTA, `value_column` is the key before the `=`.
    batch_rows : int
        Most rows of a batch.
    require_value : bool
        Whether a table without a value column is rejected.

    Returns
    -------
    PromoterTable
        An iterable of `TableBatch`; no more than a few batches are held in memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the format is unknown, the file is empty or damaged, or a column is missing or ambiguous.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {source}")
    if not path.is_file():
        raise ValueError(f"{source} is a folder; expected a table of promoters")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = _COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    suffix = (suffixes[:-1] if compression else suffixes)[-1:] or [""]
    given = Columns(sequence_column, value_column, split_column)
    if suffix[0] in DELIMITERS or (suffix[0] == ".xlsx" and compression is None):
        return _open_text(path, compression, READ_DELIMITERS[suffix[0]], given, batch_rows, require_value)
    if suffix[0] in _FASTA:
        return _open_fasta(path, compression, given, batch_rows)
    if suffix[0] == ".parquet" and compression is None:
        return _open_parquet(path, given, batch_rows, require_value)
    raise ValueError(
        f"{source}: unknown kind of file; expected .tsv, .txt, .csv, .fa, .fasta or .fna (each also with .gz or .zst), "
        ".parquet or .xlsx"
    )


def string_buffers(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Bytes (uint8) and offsets (batch + 1,) int64 of a text column, without a Python object per row; null is ""."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        array = array.cast(pa.large_string())
    if array.null_count:
        array = pc.fill_null(array, "")
    if len(array) == 0:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, letters = array.buffers()
    width = np.int64 if pa.types.is_large_string(array.type) else np.int32
    offsets = np.frombuffer(offsets, width, len(array) + 1, array.offset * np.dtype(width).itemsize).astype(np.int64)
    start, end = int(offsets[0]), int(offsets[-1])
    letters = np.frombuffer(letters, np.uint8, end - start, start) if end > start else np.zeros(0, np.uint8)
    return letters, offsets - start


def find_columns(
    names: Sequence[str], given: Columns, where: str, require_value: bool, texts_of: TextsOf
) -> tuple[Columns, str]:
    """Find the columns by the given or the usual names, and among several by what they hold.

    `where` names the source in messages, and `texts_of` gives some fields of a column as text. Returns the columns and
    how they were found. Raises a `ValueError` if a given name is missing, or if a column is missing or ambiguous.
    """
    _refuse_repeated(names, where)
    usual = {
        "sequence": [name for name in names if name.strip().lower() in SEQUENCE_NAMES],
        "value": [name for name in names if name.strip().lower() in VALUE_NAMES],
    }
    return _choose_columns(names, given, usual, "by its name", where, require_value, texts_of)


def choose_by_content(role: str, names: list[str], texts_of: TextsOf) -> list[str]:
    """Of several columns that may be the `"sequence"` or the `"value"`, name those that hold DNA or numbers."""
    return [name for name in names if are_mostly(_KINDS[role], texts_of(name))] if len(names) > 1 else names


def log_choice(where: str, role: str, name: str, among: Sequence[str]) -> None:
    """Log the column of a role if it was chosen among several by what it holds."""
    if len(among) > 1:
        listed = ", ".join(map(repr, among))
        _LOGGER.info("%s: the %s is column %r, chosen among %s by what it holds", where, role, name, listed)


def parquet_texts(file: pyarrow.parquet.ParquetFile, name: str) -> list[str]:
    """Give the first fields of a column as text, without nulls."""
    batches = file.iter_batches(_SAMPLE_ROWS, columns=[name])
    return [str(value) for batch in islice(batches, 1) for value in batch.column(0).to_pylist() if value is not None]


def _choose_columns(
    names: Sequence[str],
    given: Columns,
    candidates: dict[str, list[str]],
    how: str,
    where: str,
    require_value: bool,
    texts_of: TextsOf,
    among: Sequence[str] = (),
) -> tuple[Columns, str]:
    """Take the columns given, then a unique candidate by name, then by content."""
    listed = "its columns are " + ", ".join(repr(name) for name in names)
    chosen, found_by = {}, {}
    for role, name in given._asdict().items():
        if name is not None:
            if name not in names:
                raise ValueError(f"{where} has no column {name!r}: {listed}")
            chosen[role], found_by[role] = name, "given"
        elif role != "split":
            found = [candidate for candidate in candidates[role] if candidate not in chosen.values()]
            fitting = choose_by_content(role, found, texts_of)
            if len(fitting) == 1:
                also = "" if fitting == found else ", and among several by what it holds"
                chosen[role], found_by[role] = fitting[0], how + also
                if role == "sequence" or require_value:
                    log_choice(where, role, fitting[0], among or found)
            elif role == "sequence" or require_value:
                what = f"more than one column may be the {role}" if found else f"no column is known to be the {role}"
                raise ValueError(f"{where}: {what}; {listed}. Pass --{role}_column")
    if len(set(chosen.values())) < len(chosen):
        raise ValueError(f"{where}: one column cannot be two things: {chosen}")
    return Columns(**chosen), ", ".join(f"{role} {chosen[role]!r} ({found_by[role]})" for role in chosen)


def _refuse_repeated(names: Sequence[str], where: str) -> None:
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated and not repeated[0].strip():
        raise ValueError(f"{where}: more than one column has no name; name them in the header, or delete them")
    if repeated:
        raise ValueError(f"{where}: more than one column is called {repeated[0]!r}; rename all but one")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _excerpt(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[:length] + "..."


def _open_text(
    path: Path, compression: str | None, delimiter: str, given: Columns, batch_rows: int, require_value: bool
) -> PromoterTable:
    known_names = {*SEQUENCE_NAMES, *VALUE_NAMES, *(name.lower() for name in given if name and not name.isdigit())}
    try:
        layout = find_layout(path, compression, delimiter, known_names)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read: {_one_line(error)}") from error
    if layout.has_header:
        columns, found_by = find_columns(layout.names, given, str(path), require_value, layout.texts_of)
    else:
        kinds = {role: layout.columns_that_are(kind) for role, kind in _KINDS.items()}
        where, how = f"{path} (without header)", "by what it holds, no header"
        columns, found_by = _choose_columns(
            layout.names, given, kinds, how, where, require_value, layout.texts_of, among=layout.names
        )

    def read_batches(table: PromoterTable) -> Iterator[TableBatch]:
        for rows, numbers in read_delimited(path, compression, layout, table.add_malformed):
            for start in range(0, rows.num_rows, batch_rows):
                yield TableBatch(rows.slice(start, batch_rows), numbers[start : start + batch_rows])

    commas = tuple(layout.decimal_comma_columns(is_sheet=path.suffix.lower() == ".xlsx"))
    found_by += ", with decimal commas" * (columns.value in commas)
    return PromoterTable(str(path), columns, found_by, "line", read_batches, decimal_comma=commas)


def _open_parquet(path: Path, given: Columns, batch_rows: int, require_value: bool) -> PromoterTable:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names, num_rows = file.schema_arrow.names, file.metadata.num_rows
            columns, found_by = find_columns(names, given, str(path), require_value, partial(parquet_texts, file))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read: {_one_line(error)}") from error

    def read_batches(_: PromoterTable) -> Iterator[TableBatch]:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from number_batches(pa.Table.from_batches([batch]) for batch in file.iter_batches(batch_rows))

    return PromoterTable(str(path), columns, found_by, "row", read_batches, num_rows)


def number_batches(tables: Iterator[pa.Table]) -> Iterator[TableBatch]:
    """Give the rows of a stream of tables their numbers, from 1."""
    first = 1
    for table in tables:
        yield TableBatch(table, np.arange(first, first + table.num_rows, dtype=np.int64))
        first += table.num_rows


def _open_fasta(path: Path, compression: str | None, given: Columns, batch_rows: int) -> PromoterTable:
    if given.split is not None or given.sequence not in (None, "sequence"):
        raise ValueError(
            f"{path}: a FASTA file has no columns to choose; only a value key (--value_column) can be given"
        )
    keys = (given.value,) if given.value is not None else VALUE_NAMES
    how = f"key {given.value!r} in the header" if given.value is not None else "key or number in the header"

    def read_batches(_: PromoterTable) -> Iterator[TableBatch]:
        refuse_binary(read_head(path, compression), path)
        with pa.input_stream(str(path), compression=compression) as stream:
            lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace")
            yield from number_batches(_fasta_tables(lines, path, keys, given.value is None, batch_rows))

    return PromoterTable(str(path), Columns("sequence", "value"), f"FASTA, value by {how}", "record", read_batches)


def _fasta_tables(
    lines: io.TextIOWrapper, path: Path, keys: Sequence[str], bare: bool, batch_rows: int
) -> Iterator[pa.Table]:
    """Tables of `name`, `sequence` and `value` (text, empty if the header has none)."""
    records: list[tuple[str, str, str]] = []
    letters = 0
    for header, sequence in _fasta_records(lines, path):
        value = _header_value(header, keys, bare)
        name, *parts = re.split(r"(?=[|;])", (header.split() or [""])[0])
        name += "".join(part for part in parts if part[1:] != value)
        records.append((name.rstrip(";"), sequence, re.split("[=:]", value)[-1].strip()))
        letters += len(header) + len(sequence)
        if len(records) == batch_rows or letters > _BATCH_LETTERS:
            yield _fasta_table(records)
            records, letters = [], 0
    if records:
        yield _fasta_table(records)


def _fasta_table(records: list[tuple[str, str, str]]) -> pa.Table:
    arrays = [pa.array(texts, pa.string()) for texts in zip(*records, strict=True)]
    return pa.Table.from_arrays(arrays, names=["name", "sequence", "value"])


def _fasta_records(lines: io.TextIOWrapper, path: Path) -> Iterator[tuple[str, str]]:
    """Header (without `>`) and joined sequence of each record."""
    header, pieces, length = None, [], 0
    for number, line in enumerate(iter(partial(lines.readline, _RECORD_LETTERS + 1), ""), start=1):
        line = line.strip()
        length = 0 if line.startswith(">") else length + len(line)
        if max(length, len(line)) > _RECORD_LETTERS:
            raise ValueError(
                f"{path}, line {number}: a record of more than {_RECORD_LETTERS:,} letters is not a promoter"
            )
        if line.startswith(">"):
            if header is not None:
                yield header, "".join(pieces)
            header, pieces = line[1:], []
        elif header is not None:
            pieces.append(line)
        elif line:
            raise ValueError(f"{path}, line {number}: a FASTA record begins with '>', got {_excerpt(line)!r}")
    if header is None:
        raise ValueError(f"{path} is empty")
    yield header, "".join(pieces)


def _header_value(header: str, keys: Sequence[str], bare: bool) -> str:
    """Field of a FASTA header that holds the value: behind one of the keys, or a number alone; empty if unclear.

    Fields end at white space, `|` or `;`. A number among other words is not taken as the value.
    """
    any_key = "|".join(map(re.escape, keys))
    pairs = re.finditer(rf"(?<=[\s|;])(?:{any_key})\s*([=:])\s*([^\s|;]*)", header, re.IGNORECASE)
    found = [pair[0] for pair in pairs if pair[1] == "=" or is_number(pair[2])]
    if not found and bare:
        name, *rest = header.split(maxsplit=1) or [""]
        fields = re.split(r"[\s|;]+", rest[0]) if rest else re.split(r"[|;]", name)[1:]
        words = [text for text in fields if text and "=" not in text]
        found = words if len(words) == 1 and is_number(words[0]) else []
    return found[0] if len(found) == 1 else ""
