"""From each row of a file to several lines of another, in a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from modeling_macaron.io.streams import progress_bar, read_ahead, write_behind
from modeling_macaron.io.table_writer import write_table
from modeling_macaron.io.tables import PromoterTable, TableBatch, string_buffers
from tokenization import KmerTokenizer, StrandBatch
from tokenization.tokenization_kmer import TOO_SHORT

from .encoding import explain_rows
from .row_figures import RowFigures

_ROW, _NAME, _PROBLEM = pa.field("row", pa.int64()), pa.field("name", pa.string()), pa.field("problem", pa.string())


class FileLines(NamedTuple):
    """Summary of a written file.

    Attributes
    ----------
    num_rows : int
        Rows of the source.
    num_lines : int
        Lines of the output.
    num_problems : int
        Rows without a result; each has one line with the reason in `problem`.
    num_malformed : int
        Malformed lines of the source, which were left out.
    malformed : tuple of (int, str)
        Number and reason of the first five of them.
    """

    num_rows: int
    num_lines: int
    num_problems: int
    num_malformed: int
    malformed: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class LineWriter:
    """How the lines of a row are computed.

    Attributes
    ----------
    fields : pyarrow.Schema
        Columns between `name` and `problem`.
    results : callable
        Maps a `StrandBatch` to the results of its rows without a problem, in order.
    columns : callable
        Maps a result to columns: arrays (lines,), or one value for all lines.
    min_length : int
        Fewest nucleotides of a row.
    """

    fields: pa.Schema
    results: Callable[[StrandBatch], Iterator[Any]]
    columns: Callable[[Any], Mapping[str, Any]]
    min_length: int = 1


def write_lines(
    table: PromoterTable,
    output: str | Path,
    tokenizer: KmerTokenizer,
    writer: LineWriter,
    *,
    name_column: str | None = None,
    strict: bool = False,
    figures: RowFigures | None = None,
    verbose: bool = False,
) -> FileLines:
    """Write the lines of every row of a table, a batch at a time.

    Parameters
    ----------
    table, output, tokenizer, writer
        Source, output file, the model's tokenizer, and the lines to write.
    name_column : str, optional
        Column with the names of the rows. Default: the records' names in FASTA, else none.
    strict : bool
        Raise at the first malformed line or row with a problem; nothing is written then.
    figures : RowFigures, optional
        Keeps the results of the first rows.
    verbose : bool
        Show a progress bar.
    """
    num_rows = num_lines = num_problems = 0
    with (
        write_table(output) as write,
        write_behind(write) as put,
        progress_bar("sequences", table.num_rows, verbose=verbose) as progress,
    ):
        for batch, strands, problems in read_ahead(_encode_batches(table, tokenizer, writer.min_length)):
            if strict:
                table.refuse_problems(batch.numbers, problems)
            names = names_of(table, batch, name_column)
            lines, results = [], writer.results(strands)
            for number, (name, problem) in enumerate(zip(names, problems, strict=True), start=num_rows + 1):
                result = None if problem else next(results)
                lines.append(_lines(number, name, result, writer, problem))
                if figures is not None and result is not None:
                    figures.keep(number, name or "", result)
                progress.update()
            put(pa.concat_tables(lines).combine_chunks())
            num_rows += len(names)
            num_lines += sum(map(len, lines))
            num_problems += int((strands.problem != 0).sum())
        if not num_rows:
            raise table.no_rows()
        if strict:
            table.refuse_malformed()
    return FileLines(num_rows, num_lines, num_problems, table.num_malformed, table.first_malformed)


def _encode_batches(
    table: PromoterTable, tokenizer: KmerTokenizer, min_length: int
) -> Iterator[tuple[TableBatch, StrandBatch, list[str]]]:
    """Yield rows of a table with their strands and problems (empty if none)."""
    for batch in table:
        column = batch.table.column(table.columns.sequence)
        strands = tokenizer.encode_strands(*string_buffers(column))
        problems = explain_rows(tokenizer, column, strands)
        for row in np.flatnonzero((strands.problem == 0) & (strands.lengths < min_length)):
            problems[row] = f"{strands.lengths[row]} nt are fewer than the {min_length} that a window needs"
            strands.problem[row] = TOO_SHORT
        yield batch, strands, problems


def names_of(table: PromoterTable, batch: TableBatch, column: str | None) -> Sequence[str | None]:
    """Name of each row of a batch (batch,), None if rows have no names."""
    column = "name" if column is None and table.unit == "record" else column
    if column is None:
        return [None] * batch.table.num_rows
    if column not in batch.table.column_names:
        listed = ", ".join(repr(name) for name in batch.table.column_names)
        raise ValueError(f"{table.path} has no column {column!r} of names: its columns are {listed}")
    return ["" if name is None else str(name) for name in batch.table.column(column).to_pylist()]


def _lines(number: int, name: str | None, result: Any, writer: LineWriter, problem: str) -> pa.Table:
    """Lines of one row: those of its result, or one with the problem."""
    schema = pa.schema([_ROW, *([] if name is None else [_NAME]), *writer.fields, _PROBLEM])
    columns = {} if result is None else dict(writer.columns(result))
    num_lines = next((len(values) for values in columns.values() if np.ndim(values)), 1)
    columns |= {"row": number, "name": name, "problem": problem}
    return pa.table(
        {
            field.name: pa.array(values, field.type)
            if np.ndim(values := columns.get(field.name))
            else pa.repeat(pa.scalar(values, field.type), num_lines)
            for field in schema
        },
        schema=schema,
    )
