"""Write a table in a stream, completely or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from modeling_macaron.atomic import new_file
from modeling_macaron.tables import DELIMITERS


def check_output(output: str | Path) -> None:
    """Refuse an output of unknown kind, before any work is done for it.

    Parameters
    ----------
    output : str or Path
        File to be written.

    Raises
    ------
    ValueError
        If its suffix, in capitals or not, is not `.parquet`, `.csv`, `.tsv` or `.txt`.
    """
    if Path(output).suffix.lower() not in (".parquet", *DELIMITERS):
        raise ValueError(f"{output}: unknown kind of output; .parquet, .csv and .tsv are known")


def check_columns(output: str | Path, schema: pa.Schema) -> None:
    """Refuse columns that the kind of output cannot hold, before any work is done for them.

    Parameters
    ----------
    output : str or Path
        File to be written.
    schema : pyarrow.Schema
        Its columns.

    Raises
    ------
    ValueError
        If delimited text is to hold lists or the like.
    """
    if Path(output).suffix.lower() not in DELIMITERS:
        return
    for column in schema:
        try:
            pyarrow.csv.write_csv(pa.schema([column]).empty_table(), pa.BufferOutputStream())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(
                f"{output}: text cannot hold the column {column.name!r} ({column.type}); name a .parquet file"
            ) from error


@contextmanager
def write_table(output: str | Path) -> Iterator[Callable[[pa.Table], None]]:
    """Give a function that writes the next rows to a hidden file, which takes its name once the block has ended well.

    Parameters
    ----------
    output : str or Path
        `.parquet`, `.csv` or `.tsv` file to be written; one that stands there is replaced.

    Yields
    ------
    callable
        `write(table)` for a `pyarrow.Table`; all have one schema.

    Raises
    ------
    ValueError, OSError
        If the file cannot be written; see `check_output`.
    """
    check_output(output)
    suffix = Path(output).suffix.lower()
    with new_file(output) as partial, ExitStack() as stack:
        writer = None

        def write(table: pa.Table) -> None:
            nonlocal writer
            if writer is None and suffix == ".parquet":
                writer = stack.enter_context(pyarrow.parquet.ParquetWriter(partial, table.schema))
            elif writer is None:
                check_columns(output, table.schema)
                writer = stack.enter_context(_TextWriter(partial, table.schema, DELIMITERS[suffix]))
            writer.write_table(table)

        yield write


class _TextWriter:
    """Write delimited text with quotes only in those tables of a stream where a field needs them."""

    def __init__(self, path: Path, schema: pa.Schema, delimiter: str) -> None:
        self._options = {"include_header": False, "delimiter": delimiter}
        self._file = pa.OSFile(str(path), "wb")
        header = io.StringIO()
        csv.writer(header, delimiter=delimiter, lineterminator="\n").writerow(schema.names)
        self._file.write(header.getvalue().encode())

    def write_table(self, table: pa.Table) -> None:
        """Write the next rows."""
        try:
            rows = self._to_text(table, "none")
        except pa.ArrowInvalid:
            rows = self._to_text(table, "needed")
        self._file.write(rows)

    def _to_text(self, table: pa.Table, quoting_style: str) -> pa.Buffer:
        rows = pa.BufferOutputStream()
        pyarrow.csv.write_csv(table, rows, pyarrow.csv.WriteOptions(quoting_style=quoting_style, **self._options))
        return rows.getvalue()

    def __enter__(self) -> _TextWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
