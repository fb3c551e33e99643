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
from modeling_macaron.io.tables import DELIMITERS


def check_output(output: str | Path) -> None:
    """Raise if the suffix of an output is not `.parquet`, `.csv`, `.tsv` or `.txt`, in any case."""
    if Path(output).suffix.lower() not in (".parquet", *DELIMITERS):
        raise ValueError(f"{output}: unknown kind of output; expected .parquet, .csv or .tsv")


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

    The file appears only if the block succeeds; an existing one is replaced. Raises a `ValueError` or an `OSError` if
    it cannot be written.
    """
    check_output(output)
    suffix = Path(output).suffix.lower()
    with new_file(output) as partial, ExitStack() as stack:
        append = None

        def write(table: pa.Table) -> None:
            nonlocal append
            if append is None and suffix == ".parquet":
                append = stack.enter_context(pyarrow.parquet.ParquetWriter(partial, table.schema)).write_table
            elif append is None:
                check_columns(output, table.schema)
                append = stack.enter_context(_text_writer(partial, table.schema, DELIMITERS[suffix]))
            append(table)

        yield write


@contextmanager
def _text_writer(path: Path, schema: pa.Schema, delimiter: str) -> Iterator[Callable[[pa.Table], None]]:
    """Write delimited text; a table is quoted only if one of its fields needs it."""
    header = io.StringIO()
    csv.writer(header, delimiter=delimiter, lineterminator="\n").writerow(schema.names)

    def to_text(table: pa.Table, quoting_style: str) -> pa.Buffer:
        rows = pa.BufferOutputStream()
        options = {"include_header": False, "delimiter": delimiter, "quoting_style": quoting_style}
        pyarrow.csv.write_csv(table, rows, pyarrow.csv.WriteOptions(**options))
        return rows.getvalue()

    def append(table: pa.Table) -> None:
        try:
            rows = to_text(table, "none")
        except pa.ArrowInvalid:
            rows = to_text(table, "needed")
        file.write(rows)

    with pa.OSFile(str(path), "wb") as file:
        file.write(header.getvalue().encode())
        yield append
