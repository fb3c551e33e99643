"""Write a table in a stream, completely or not at all."""

from __future__ import annotations

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
        If its suffix is not `.parquet`, `.csv`, `.tsv` or `.txt`.
    """
    if Path(output).suffix not in (".parquet", *DELIMITERS):
        raise ValueError(f"{output}: unknown kind of output; .parquet, .csv and .tsv are known")


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
    suffix = Path(output).suffix
    with new_file(output) as partial, ExitStack() as stack:
        writer = None

        def write(table: pa.Table) -> None:
            nonlocal writer
            if writer is None and suffix == ".parquet":
                writer = stack.enter_context(pyarrow.parquet.ParquetWriter(partial, table.schema))
            elif writer is None:
                options = pyarrow.csv.WriteOptions(delimiter=DELIMITERS[suffix], quoting_style="needed")
                writer = stack.enter_context(pyarrow.csv.CSVWriter(partial, table.schema, write_options=options))
            writer.write_table(table)

        yield write
