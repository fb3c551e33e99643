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

from modeling_macaron.io.atomic import new_file
from modeling_macaron.io.tables import DELIMITERS


def check_output(output: str | Path) -> None:
    """Raise if the suffix of an output is not `.parquet`, `.csv`, `.tsv` or `.txt`, in any case."""
    if Path(output).suffix.lower() not in (".parquet", *DELIMITERS):
        raise ValueError(f"{output}: unknown kind of output; .parquet, .csv and .tsv are known")


def check_columns(output: str | Path, schema: pa.Schema) -> None:
    """Raise if an output in delimited text cannot hold the columns, such as lists."""
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
    """Yield `write(table)`, which appends rows to a `.parquet`, `.csv` or `.tsv` file; all tables have one schema.

    The file appears only if the block succeeds; an existing one is replaced.

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
    """Write delimited text; a table is quoted only if one of its fields needs it."""

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
