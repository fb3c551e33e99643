"""Read promoter tables (TSV, CSV, XLSX, Parquet, FASTA) as a stream of Arrow tables with line numbers."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from modeling_macaron.io.delimited import are_mostly, find_layout, is_number, looks_like_dna, read_delimited, read_head

SEQUENCE_NAMES = ("sequence", "seq", "promoter", "promoter_sequence", "dna", "dna_sequence", "nucleotide_sequence")
VALUE_NAMES = ("expression", "mean_expression", "expression_level", "measured_expression")
VALUE_NAMES += ("activity", "value", "label", "labels", "target", "measurement")

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
_RECORD_LENGTH = 4 << 20  # maximum of a FASTA record, as of a line of a table; longer ones raise
_BATCH_LENGTH = 64 << 20
_SAMPLE_ROWS = 100
_KINDS = {"sequence": looks_like_dna, "value": is_number}

_LOGGER = logging.getLogger(__name__)

TextsOf = Callable[[str], list[str]]  # from the name of a column to some of its fields


class Columns(NamedTuple):
    """Names of the columns to read; `None` if the table has none."""

    sequence: str
    value: str | None = None
    split: str | None = None


class TableBatch(NamedTuple):
    """Some rows of a promoter table."""

    table: pa.Table  # all columns of the source; strings if it is a text file
    numbers: np.ndarray  # (batch,) int64 line, record or row of the source of each row, counted from 1


@dataclass
class PromoterTable:
    """A promoter table that is read batch by batch; iterating a second time reads it again."""

    path: str  # the source, as messages name it
    columns: Columns
    columns_found_by: str  # the columns as text, for reports
    unit: str  # of `TableBatch.numbers`: line, record or row
    read_batches: Callable[[PromoterTable], Iterator[TableBatch]] = field(repr=False)
    num_rows: int | None = None  # if known
    details: dict = field(default_factory=dict)  # further facts, for reports
    malformed: list[tuple[int, str]] = field(default_factory=list, repr=False)  # number and reason of the first 1,000
    num_malformed: int = 0  # lines so far
    extra_columns: tuple[str, ...] = ()  # further columns to keep, such as the ground truth of a simulation
    replicates: tuple[str, ...] = ()  # additional value columns; missing replicates are skipped when averaging
    decimal_comma: tuple[str, ...] = ()  # columns whose numbers have a decimal comma

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
            raise _unreadable(self.path, error) from error

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
        if self.malformed:
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
        """Make the error for a source without readable rows."""
        if not self.malformed:
            return ValueError(f"{self.path} has no rows")
        number, reason = self.malformed[0]
        return ValueError(f"{self.path} has no row that can be read; {self.unit} {number}: {reason}")

    def error_at(self, number: int, reason: str) -> ValueError:
        """Make the error that names a line, record or row of this source."""
        return ValueError(f"{self.path}, {self.unit} {number}: {reason}")

    def refuse_columns(self, present: Sequence[str], added: Sequence[str]) -> None:
        """Raise if the source already has a column that the output adds."""
        if taken := [name for name in added if name in present]:
            names = ", ".join(taken)
            raise ValueError(
                f"{self.path} already has the column {names}, which the output adds: rename it in the input"
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
    """Open a table of promoters and find its columns.

    Parameters
    ----------
    source : str or Path
        `.tsv`, `.txt` (tab-separated), `.csv` (also with semicolons), `.fa`, `.fasta`, `.fna`, each also with `.gz` or
        `.zst`, or `.parquet`, or `.xlsx` (its first sheet). The header is optional. Decimal commas are detected by
        column, except in comma-separated text. A FASTA record may carry its value as `>name expression=1.25`,
        `>name 1.25` or `>name|1.25`.
    sequence_column, value_column, split_column : str, optional
        Column names, or positions counted from 0 (`"0"`) in a file without header. By default, the first two are found
        by the usual names (`SEQUENCE_NAMES`, `VALUE_NAMES`), or by their contents if several columns fit or there is no
        header. In FASTA, `value_column` is the key before the `=`.
    batch_rows : int
        Maximum rows per batch.
    require_value : bool
        Raise if the table has no value column.

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
    if not path.name.lower().endswith(TABLE_SUFFIXES):
        raise ValueError(
            f"{source}: unknown kind of file; expected .tsv, .txt, .csv, .fa, .fasta or .fna (each also with .gz or "
            ".zst), .parquet or .xlsx"
        )
    compression = _COMPRESSIONS.get(path.suffix.lower())
    suffix = (Path(path.stem) if compression else path).suffix.lower()
    given = Columns(sequence_column, value_column, split_column)
    try:
        if suffix in _FASTA:
            return _open_fasta(path, compression, given, batch_rows)
        if suffix == ".parquet":
            return _open_parquet(path, given, batch_rows, require_value)
        return _open_text(path, compression, READ_DELIMITERS[suffix], given, batch_rows, require_value)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


class Role(NamedTuple):
    """A column to find: the given name, usual or possible names, what it holds, and whether it is needed."""

    given: str | None
    names: Sequence[str]
    kind: str | None = None  # "sequence" or "value": decides among several
    is_needed: bool = True


def find_columns(
    names: Sequence[str],
    given: Columns,
    where: str,
    require_value: bool,
    texts_of: TextsOf,
    candidates: dict[str, list[str]] | None = None,
) -> tuple[Columns, str]:
    """Find the columns of a table of promoters; see `choose_columns`.

    `candidates` are the columns that a role may have in a file without header. Returns the columns, and a text that
    lists them.
    """
    usual = candidates or {"sequence": SEQUENCE_NAMES, "value": VALUE_NAMES}
    roles = {
        "sequence": Role(given.sequence, usual["sequence"], "sequence"),
        "value": Role(given.value, usual["value"], "value", require_value),
        "split": Role(given.split, (), is_needed=False),
    }
    chosen = choose_columns(names, roles, where, texts_of, has_header=candidates is None)
    return Columns(**chosen), ", ".join(f"{role} {name!r}" for role, name in chosen.items())


def choose_columns(
    names: Sequence[str],
    roles: dict[str, Role],
    where: str,
    texts_of: TextsOf,
    hint: str = "",
    has_header: bool = True,
) -> dict[str, str]:
    """Find the column of each role by the given or its usual names, and among several by their contents.

    `where` names the source in messages, and `texts_of` gives some fields of a column as text. Raises a `ValueError` if
    a given name is missing, or if a needed column is missing or ambiguous.
    """
    if repeated := [name for name in names if list(names).count(name) > 1]:
        raise ValueError(f"{where}: more than one column is called {repeated[0]!r}; rename all but one")
    listed = "its columns are " + ", ".join(repr(name) for name in names)
    chosen = {}
    for role, (given, usual, kind, is_needed) in roles.items():
        if given is not None and given not in names:
            raise ValueError(f"{where} has no column {given!r}: {listed}")
        found = [name for name in names if name.strip().lower() in usual and name not in chosen.values()]
        fitting = found if given is None else [given]
        if kind and len(fitting) > 1:
            fitting = [name for name in found if are_mostly(_KINDS[kind], texts_of(name))]
        if len(fitting) == 1:
            chosen[role] = fitting[0]
            among = found if has_header else names
            if given is None and is_needed and len(among) > 1:
                among = ", ".join(map(repr, among))
                _LOGGER.info("%s: the %s is column %r, chosen among %s by its contents", where, role, *fitting, among)
        elif is_needed:
            what = f"more than one column may be the {role}" if found else f"no column is known to be the {role}"
            raise ValueError(f"{where}: {what}{hint}; {listed}. Pass --{role}_column")
    if len(set(chosen.values())) < len(chosen):
        raise ValueError(f"{where}: one column cannot have two roles: {chosen}")
    return chosen


def parquet_texts(file: pyarrow.parquet.ParquetFile, name: str) -> list[str]:
    """Return the first fields of a column as text, without nulls."""
    batches = file.iter_batches(_SAMPLE_ROWS, columns=[name])
    return [str(value) for batch in islice(batches, 1) for value in batch.column(0).to_pylist() if value is not None]


def number_batches(tables: Iterator[pa.Table]) -> Iterator[TableBatch]:
    """Add row numbers, from 1, to a stream of tables."""
    first = 1
    for table in tables:
        yield TableBatch(table, np.arange(first, first + table.num_rows, dtype=np.int64))
        first += table.num_rows


def _unreadable(path: str | Path, error: BaseException) -> ValueError:
    return ValueError(f"{path} cannot be read: {' '.join(str(error).split())}")


def _open_text(
    path: Path, compression: str | None, delimiter: str, given: Columns, batch_rows: int, require_value: bool
) -> PromoterTable:
    known_names = {*SEQUENCE_NAMES, *VALUE_NAMES, *(name.lower() for name in given if name and not name.isdigit())}
    layout = find_layout(path, compression, delimiter, known_names)
    where, kinds = str(path), None
    if not layout.has_header:
        where += " (without header)"
        kinds = {
            role: [name for name in layout.names if are_mostly(kind, layout.texts_of(name))]
            for role, kind in _KINDS.items()
        }
    columns, found_by = find_columns(layout.names, given, where, require_value, layout.texts_of, kinds)

    def read_batches(table: PromoterTable) -> Iterator[TableBatch]:
        for rows, numbers in read_delimited(path, compression, layout, table.add_malformed):
            for start in range(0, rows.num_rows, batch_rows):
                yield TableBatch(rows.slice(start, batch_rows), numbers[start : start + batch_rows])

    commas = tuple(layout.decimal_comma_columns(is_sheet=path.suffix.lower() == ".xlsx"))
    found_by += " (no header)" * (not layout.has_header) + " with decimal commas" * (columns.value in commas)
    return PromoterTable(str(path), columns, found_by, "line", read_batches, decimal_comma=commas)


def _open_parquet(path: Path, given: Columns, batch_rows: int, require_value: bool) -> PromoterTable:
    with pyarrow.parquet.ParquetFile(path) as file:
        names, num_rows = file.schema_arrow.names, file.metadata.num_rows
        columns, found_by = find_columns(names, given, str(path), require_value, partial(parquet_texts, file))

    def read_batches(_: PromoterTable) -> Iterator[TableBatch]:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from number_batches(pa.Table.from_batches([batch]) for batch in file.iter_batches(batch_rows))

    return PromoterTable(str(path), columns, found_by, "row", read_batches, num_rows)


def _open_fasta(path: Path, compression: str | None, given: Columns, batch_rows: int) -> PromoterTable:
    if given.split is not None or given.sequence not in (None, "sequence"):
        raise ValueError(f"{path}: FASTA has no columns to choose, only a value key (--value_column)")
    keys = VALUE_NAMES if given.value is None else (given.value,)
    pair = re.compile(rf"[\s|;]+(?:{'|'.join(map(re.escape, keys))})\s*[=:]\s*([^\s|;]*)", re.IGNORECASE)

    def read_batches(_: PromoterTable) -> Iterator[TableBatch]:
        read_head(path, compression)  # raises if the file is binary
        with pa.input_stream(str(path), compression=compression) as stream:
            records = _fasta_records(io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace"), path)
            rows = ((*_split_header(header, pair, given.value is None), text) for header, text in records)
            yield from number_batches(_fasta_tables(rows, batch_rows))

    found_by = f"value by {given.value or 'key or number'} in the header"
    return PromoterTable(str(path), Columns("sequence", "value"), found_by, "record", read_batches)


def _split_header(header: str, pair: re.Pattern, takes_number: bool) -> tuple[str, str]:
    """Split a FASTA header into name and value (after a key, or the only number); empty if unclear."""
    value = ""
    pairs = [found for found in pair.finditer(header) if ":" not in found[0] or is_number(found[1])]
    if len(pairs) == 1:
        value, (start, end) = pairs[0][1], pairs[0].span()
        header = header[:start] + header[end:]
    words = re.split(r"[|;]*\s+[\s|;]*", header.strip())
    if takes_number and not pairs:
        fields = words if len(words) > 1 else re.split("[|;]", words[0])
        if len(fields) == 2 and is_number(fields[1]):
            return fields[0], fields[1]
    return words[0], value


def _fasta_tables(rows: Iterator[tuple[str, str, str]], batch_rows: int) -> Iterator[pa.Table]:
    """Collect rows of name, value and sequence in tables of limited size."""
    found: list[tuple[str, str, str]] = []
    length = 0
    for row in chain(rows, [None]):
        if row is None or len(found) == batch_rows or length > _BATCH_LENGTH:
            names, values, sequences = zip(*found, strict=True)
            yield pa.table({"name": names, "sequence": sequences, "value": values})
            found, length = [], 0
        if row is not None:
            found.append(row)
            length += sum(map(len, row))


def _fasta_records(lines: io.TextIOWrapper, path: Path) -> Iterator[tuple[str, str]]:
    """Header (without `>`) and joined sequence of each record."""
    header, pieces, length = None, [], 0
    for number, line in enumerate(iter(partial(lines.readline, _RECORD_LENGTH + 1), ""), start=1):
        line = line.strip()
        length = 0 if line.startswith(">") else length + len(line)
        if max(length, len(line)) > _RECORD_LENGTH:
            raise ValueError(f"{path}, line {number}: a record has more than {_RECORD_LENGTH:,} characters")
        if line.startswith(">"):
            if header is not None:
                yield header, "".join(pieces)
            header, pieces = line[1:], []
        elif header is not None:
            pieces.append(line)
        elif line:
            raise ValueError(f"{path}, line {number}: a FASTA record begins with '>', got {line[:40]!r}")
    if header is None:
        raise ValueError(f"{path} is empty")
    yield header, "".join(pieces)
