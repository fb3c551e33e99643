"""Write a table in a stream, completely or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

_DELIMITERS = {".tsv": "\t", ".txt": "\t", ".csv": ","}


def check_output(output: str | Path) -> None:
    """Refuse an output that cannot be written, before any work is done for it.

    Parameters
    ----------
    output : str or Path
        File to be written.

    Raises
    ------
    ValueError
        If its suffix is not `.parquet`, `.csv`, `.tsv` or `.txt`.
    IsADirectoryError
        If it is a folder.
    """
    if Path(output).suffix not in (".parquet", *_DELIMITERS):
        raise ValueError(f"{output}: unknown kind of output; .parquet, .csv and .tsv are known")
    if Path(output).is_dir():
        raise IsADirectoryError(f"{output} is a folder: name the file to write")


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
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
    os.close(handle)
    writer = None

    def write(table: pa.Table) -> None:
        nonlocal writer
        if writer is None and output.suffix == ".parquet":
            writer = pyarrow.parquet.ParquetWriter(partial, table.schema)
        elif writer is None:
            options = pyarrow.csv.WriteOptions(delimiter=_DELIMITERS[output.suffix], quoting_style="needed")
            writer = pyarrow.csv.CSVWriter(partial, table.schema, write_options=options)
        writer.write_table(table)

    try:
        yield write
        if writer is not None:
            writer.close()
        _give_usual_permissions(partial)
        os.replace(partial, output)
    finally:
        Path(partial).unlink(missing_ok=True)


def _give_usual_permissions(path: str) -> None:
    """Undo the privacy of a temporary file."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)
