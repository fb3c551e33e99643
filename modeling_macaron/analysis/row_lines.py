"""From each row of a file to several lines of another, in a stream: what verbs share that look at single bases."""

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
    """What became of a file.

    Attributes
    ----------
    num_rows : int
        Rows of the source.
    num_lines : int
        Lines of the output.
    num_problems : int
        Rows among them without a result; the column `problem` of their one line says why.
    num_malformed : int
        Lines of the source that are no row and were left out.
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
    """What a verb makes of a row.

    Attributes
    ----------
    fields : pyarrow.Schema
        Columns of a line between the row's number and `problem`.
    results : callable
        `results(strands)` gives the result of each row of a `StrandBatch` that has no problem, in order.
    columns : callable
        `columns(result)` gives the columns of the lines of one row: arrays (lines,), or one value for all of them.
    min_length : int
        Nucleotides that a row must have.
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
    """Write the lines of every row, as many rows at a time as a batch of the table has.

    Parameters
    ----------
    table : PromoterTable
        The source.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`; it appears under its name when it is complete. `row` counts from 1; `name` is
        there where the rows have names.
    tokenizer : KmerTokenizer
        The model's.
    writer : LineWriter
        What is written.
    name_column : str, optional
        Column with the names of the rows; default: the records' names in FASTA, else none.
    strict : bool
        Stop at the first row that has a problem, or line that is no row.
    figures : RowFigures, optional
        Keeps the results of the first rows.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    FileLines

    Raises
    ------
    ValueError
        If the source has no row or no such column, or with `strict`; nothing is written then.
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
    """Rows of a table with their strands and what is wrong with each, an empty text where nothing is."""
    for batch in table:
        column = batch.table.column(table.columns.sequence)
        strands = tokenizer.encode_strands(*string_buffers(column))
        problems = explain_rows(tokenizer, column, strands)
        for row in np.flatnonzero((strands.problem == 0) & (strands.lengths < min_length)):
            problems[row] = f"{strands.lengths[row]} nt are fewer than the {min_length} that a window needs"
            strands.problem[row] = TOO_SHORT
        yield batch, strands, problems


def names_of(table: PromoterTable, batch: TableBatch, column: str | None) -> Sequence[str | None]:
    """Find the name of each row of a batch.

    Parameters
    ----------
    table, batch
        The source and some of its rows.
    column : str, optional
        See `write_lines`.

    Returns
    -------
    sequence of (str or None)
        (batch,), None where rows have no names.

    Raises
    ------
    ValueError
        If there is no such column.
    """
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
