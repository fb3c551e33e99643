"""Design from every row of a file in a stream; for sequences in memory see `design`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm

from modeling_macaron.io.atomic import check_free, new_file
from modeling_macaron.io.table_writer import check_output, write_table
from modeling_macaron.io.tables import PromoterTable, open_table, string_buffers
from modeling_macaron.loading import load_model
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import KmerTokenizer

from .constraints import Constraints
from .design import STARTS_AT_ONCE, Design, Designer, SearchOptions
from .encoding import explain_rows, spell_letters, variable_parts
from .predict import check_batch_size
from .row_lines import names_of

_FIELDS = (
    ("rank", pa.int64()), ("start", pa.string()), ("sequence", pa.string()),
    ("start_expression", pa.float64()), ("expression", pa.float64()), ("num_edits", pa.int64()),
    ("edits", pa.string()), ("nearest_training_distance", pa.int64()), ("out_of_range", pa.bool_()),
    ("problem", pa.string()),
)  # fmt: skip
_BOUNDS = (("expression_low", pa.float64()), ("expression_high", pa.float64()))


class FileDesign(NamedTuple):
    """What was written.

    Attributes
    ----------
    num_starts, num_designs : int
        Starts, and designs written for them.
    num_problems : int
        Starts among them that nothing could be designed from; the column `problem` of their line says why.
    num_unchanged : int
        Designs that are their start: nothing better was found.
    num_out_of_range : int
        Designs that are `out_of_range`.
    median_change : float
        Median of the predicted changes of expression, in assay units; NaN where there is no design.
    num_malformed : int
        Lines of the file of starts that are no row and were left out.
    malformed : tuple of (int, str)
        Number and reason of the first five of them.
    num_reached : int
        Designs within 0.05 standard deviations (of expression in training) of a target that is a number.
    nearest : float
        Expression of the design that is nearest to such a target; NaN where there is none.
    """

    num_starts: int
    num_designs: int
    num_problems: int
    num_unchanged: int
    num_out_of_range: int
    median_change: float
    num_malformed: int
    malformed: tuple[tuple[int, str], ...] = ()
    num_reached: int = 0
    nearest: float = float("nan")


class _Starts(NamedTuple):
    """Some starts: names (None where they have none), letters of the good ones, and why the others are none."""

    names: Sequence[str | None]
    texts: Sequence[str]
    letters: list[np.ndarray]
    problems: list[str]


def design_file(
    model: str | Path | MacaronForExpressionPrediction,
    output: str | Path,
    *,
    starts: str | Path | None = None,
    sequence_column: str | None = None,
    name_column: str | None = None,
    fasta: str | Path | None = None,
    strict: bool = False,
    overwrite: bool = False,
    options: SearchOptions | None = None,
    constraints: Constraints | None = None,
    training_sequences: Sequence[str] | str | Path | None = None,
    num_starts: int = 1,
    length: int | None = None,
    gc: float | None = None,
    tokenizer: KmerTokenizer | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    merged: bool = False,
    verbose: bool = False,
) -> FileDesign:
    """Design promoters for every row of a file, or for random starts, in a stream.

    Parameters
    ----------
    model, tokenizer, device, merged
        See `load_model`.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`, with the columns `row` (of the starts, from 1), `name` (where they have one),
        `rank` (from 1), `start`, `sequence` (variable parts), `start_expression`, `expression` (assay units),
        `expression_low` and `expression_high` (where the model has prediction intervals), `num_edits`, `edits` (such as
        `A12G C40T`, positions from 1), `nearest_training_distance`, `out_of_range` (see `Design`) and `problem`. A
        start that nothing can be designed from has one line that says why. The file appears when it is complete.
    starts : str or Path, optional
        TSV, CSV, FASTA or Parquet; see `modeling_macaron.io.tables.open_table`. Default: random promoters.
    sequence_column : str, optional
        Name of the column with the DNA, or its position in a file without header.
    name_column, strict
        See `write_lines`.
    fasta : str or Path, optional
        The designs as FASTA too.
    overwrite : bool
        Replace outputs that are there.
    options : SearchOptions, optional
        How to search; default: greedy, ten edits, higher.
    constraints, training_sequences, num_starts, length, gc
        See `design`.
    batch_size : int
        Sequences that go through the model at once.
    verbose : bool
        Show progress bars.

    Returns
    -------
    FileDesign

    Raises
    ------
    ValueError
        On options that make no search, a file of starts or a kind of output that is not understood, or with `strict`.
    OSError
        If a file cannot be read or written, or there is no such checkpoint.
    """
    options = SearchOptions() if options is None else options
    options.check()
    check_batch_size(batch_size)
    check_output(output)
    _check_free(output, fasta, overwrite, (model, starts, training_sequences))
    table = None
    if starts is not None:
        table = open_table(starts, sequence_column=sequence_column, batch_rows=STARTS_AT_ONCE)
    if isinstance(training_sequences, (str, Path)):
        open_table(training_sequences)
    model, tokenizer = load_model(model, tokenizer, device, merged=merged)
    designer = Designer(
        model, tokenizer, options, constraints, training_sequences, batch_size=batch_size, verbose=verbose
    )
    if table is None:
        drawn = list(_random_batches(designer, num_starts, length, gc))

    def batches() -> Iterable[_Starts]:
        return drawn if table is None else _read_batches(designer, table, name_column, strict)

    letters = (part for starts in batches() for part in starts.letters)  # a file is read twice: to count, to design
    with designer.progress(letters, verbose=verbose) as progress:
        return _write(designer, batches(), table, output, fasta, progress)


def _check_free(output: str | Path, fasta: str | Path | None, overwrite: bool, inputs: Sequence[object]) -> None:
    """Reject outputs that exist or are inputs, before any work is done."""
    if fasta is not None and Path(fasta).resolve() == Path(output).resolve():
        raise ValueError(f"{output} cannot be both the table and the FASTA file")
    for path in (output, fasta):
        if path is not None:
            check_free(path, overwrite, inputs)


def _random_batches(designer: Designer, num_starts: int, length: int | None, gc: float | None) -> Iterator[_Starts]:
    """Draw random starts, and give some at a time."""
    letters = designer.random_starts(num_starts, length, gc)
    for first in range(0, num_starts, STARTS_AT_ONCE):
        some = letters[first : first + STARTS_AT_ONCE]
        yield _Starts([None] * len(some), [spell_letters(part) for part in some], some, [""] * len(some))


def _read_batches(designer: Designer, table: PromoterTable, name_column: str | None, strict: bool) -> Iterator[_Starts]:
    """Read the starts of a file, some at a time."""
    for batch in table:
        column = batch.table.column(table.columns.sequence)
        strands = designer.tokenizer.encode_strands(*string_buffers(column))
        parts = iter(variable_parts(strands))
        letters, problems = [], explain_rows(designer.tokenizer, column, strands)
        for row in np.flatnonzero(strands.problem == 0):
            part = next(parts)
            problems[row] = designer.explain(part)
            if not problems[row]:
                letters.append(part)
        if strict:
            table.refuse_problems(batch.numbers, problems)
        texts = [text or "" for text in column.cast(pa.large_string()).to_pylist()]
        yield _Starts(names_of(table, batch, name_column), texts, letters, problems)
    if strict:
        table.refuse_malformed()


def _write(
    designer: Designer,
    batches: Iterable[_Starts],
    table: PromoterTable | None,
    output: str | Path,
    fasta: str | Path | None,
    progress: tqdm,
) -> FileDesign:
    """Design from all starts and write table and FASTA."""
    num_starts = num_problems = num_unchanged = num_out_of_range = 0
    changes: list[float] = []
    expressions: list[float] = []
    with ExitStack() as stack:
        write = stack.enter_context(write_table(output))
        records = None
        if fasta is not None:
            records = stack.enter_context(stack.enter_context(new_file(fasta)).open("w", encoding="ascii"))
        for starts in batches:
            designs = designer.design_next(starts.letters, 0, progress)
            lines = _lines(starts, designs, num_starts + 1, designer.has_intervals)
            write(lines)
            if records is not None:
                _write_fasta(lines, records)
            bad = sum(problem != "" for problem in starts.problems)
            num_starts, num_problems = num_starts + len(starts.problems), num_problems + bad
            num_unchanged += sum(not found.edits for found in designs)
            num_out_of_range += sum(found.out_of_range for found in designs)
            changes += [found.expression - found.start_expression for found in designs]
            expressions += [found.expression for found in designs]
        if not num_starts:
            raise table.no_rows()
    median = float(np.median(changes)) if changes else float("nan")
    malformed = (0, ()) if table is None else (table.num_malformed, table.first_malformed)
    reached = designer.reached(expressions)
    return FileDesign(
        num_starts, len(changes), num_problems, num_unchanged, num_out_of_range, median, *malformed, *reached
    )


def _lines(starts: _Starts, designs: Sequence[Design], first_row: int, has_intervals: bool) -> pa.Table:
    """Lines of some starts: one for each design, or one with the problem."""
    found = groupby(designs, key=lambda one: one.start_index)
    rows = []
    for offset, (name, text, problem) in enumerate(zip(starts.names, starts.texts, starts.problems, strict=True)):
        row = {"row": first_row + offset, "name": name, "problem": problem}
        if problem:
            rows.append({**row, "start": text})
            continue
        for rank, one in enumerate(next(found)[1], start=1):
            edits = " ".join(f"{ref}{position + 1}{alt}" for position, ref, alt in one.edits)
            rows.append({**one._asdict(), **row, "rank": rank, "num_edits": len(one.edits), "edits": edits})
    named = [("name", pa.string())] if starts.names[0] is not None else []
    fields = (*_FIELDS[:5], *_BOUNDS, *_FIELDS[5:]) if has_intervals else _FIELDS
    schema = pa.schema([("row", pa.int64()), *named, *fields])
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)


def _write_fasta(lines: pa.Table, records: IO[str]) -> None:
    """Write designs as FASTA records, with their prediction as `open_table` reads it."""
    for row in lines.to_pylist():
        if not row["problem"]:
            name = "_".join((row.get("name") or "design").split())
            records.write(f">{name}_{row['row']}_{row['rank']} expression={row['expression']:.6g}\n{row['sequence']}\n")
