"""Stream the rows of a file through a command: resumable, and shared by the processes of `accelerate launch`."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from modeling_macaron.analysis.figures import RowFigures
from modeling_macaron.atomic import check_free
from modeling_macaron.configuration_macaron import MacaronConfig
from modeling_macaron.dna import explain_rows, string_buffers, variable_parts
from modeling_macaron.io.parts import TableParts, parts_folder
from modeling_macaron.io.streams import progress_bar, read_ahead, write_behind
from modeling_macaron.io.table_writer import check_columns, check_output, write_table
from modeling_macaron.io.tables import PromoterTable, TableBatch
from modeling_macaron.predictor import Predictor
from tokenization import TOKENIZER_SETTINGS, KmerTokenizer

PROBLEM = "problem"
ROWS_AT_ONCE = 16  # for commands that write many lines per row
_JOINED_ROWS = 65_536
_DETAILS = re.compile(r"'[^']*'|\d[\d,]*")


@dataclass(frozen=True)
class FileOptions:
    """How a command reads and writes files.

    Attributes
    ----------
    sequence_column, name_column : str, optional
        Columns with the DNA and with the names of the rows; a file without header has the columns 0, 1, 2, ...
    strict : bool
        Raise at the first malformed line or row with a problem.
    overwrite : bool
        Replace an existing output and, without `resume`, the parts of an interrupted run.
    resume : bool
        Continue an interrupted run.
    verbose : bool
        Show a progress bar.
    """

    sequence_column: str | None = None
    name_column: str | None = None
    strict: bool = False
    overwrite: bool = False
    resume: bool = False
    verbose: bool = False


class FileResult(NamedTuple):
    """Summary of a written file.

    Attributes
    ----------
    num_rows : int
        Rows of the source.
    num_lines : int
        Lines of the output.
    num_problems : int
        Rows without a result; the column `problem` gives the reason.
    reasons : tuple of (str, int)
        Problems without their details, and the number of rows with each, the most frequent first.
    num_malformed : int
        Malformed lines of the source, which were left out.
    malformed : tuple of (int, str)
        Number and reason of the first five malformed lines.
    details : dict
        Further statistics of the command.
    """

    num_rows: int
    num_lines: int
    num_problems: int
    reasons: tuple[tuple[str, int], ...] = ()
    num_malformed: int = 0
    malformed: tuple[tuple[int, str], ...] = ()
    details: dict[str, float] = {}  # noqa: RUF012


class Task:
    """Computation of a command on the rows of a file. Every batch of rows becomes one part of the output."""

    new_columns: Sequence[str] = ()  # added to the output; the source must not have them
    settings: Mapping[str, Any] = {}  # options of the command as JSON; a resumed run must have the same
    figures: RowFigures | None = None
    has_parts_of_batches = True  # the number of rows of a part depends on the batch size

    def encode(self, batch: TableBatch) -> tuple[Any, list[str]]:
        """Encode rows, and return the problem of each (empty if none). Called in a thread that reads ahead."""
        raise NotImplementedError

    def compute(self, batch: TableBatch, first_row: int, encoded: Any, problems: list[str], progress: tqdm) -> pa.Table:
        """Compute the output lines of rows; `first_row` is the number of the first row, from 1."""
        raise NotImplementedError

    def keep_for_figures(self, batch: TableBatch, first_row: int, encoded: Any, lines: pa.Table) -> None:
        """Keep the results of rows for the figures. Called in order."""

    def draw(self) -> None:
        """Save the figures."""

    def add_to_summary(self, lines: pa.Table) -> None:
        """Count lines of the output. Called in order."""

    def summary(self) -> dict[str, float]:
        """Return `FileResult.details`."""
        return {}


def check_files(output: str | Path, options: FileOptions, inputs: Iterable[object]) -> None:
    """Raise if an output has an unknown type, exists, or is an input; see `check_free`."""
    check_output(output)
    check_free(output, options.overwrite or (options.resume and parts_folder(output).is_dir()), inputs)


def run_task(
    task: Task,
    predictor: Predictor,
    table: PromoterTable,
    output: str | Path,
    options: FileOptions,
    inputs: Sequence[str | Path] = (),
) -> FileResult:
    """Write the lines of all rows of a table, in order.

    One thread reads and encodes ahead and another writes, while the model computes. Each process computes every n-th
    batch, and the first joins the parts. The output appears when it is complete; until then the finished parts are in
    `OUTPUT.parts`. A resumed run must find the files `inputs` unchanged.
    """
    process, processes = _place_among_processes(predictor)
    request = _request(task, predictor, inputs) if process == 0 else {}
    parts = TableParts(output, request)
    if process == 0:
        parts.begin(resume=options.resume, overwrite=options.overwrite)
    _wait_for_others(processes)
    total = table.num_rows and table.num_rows // processes
    with (
        parts if process == 0 else nullcontext(),
        progress_bar("rows", total, verbose=options.verbose and process == 0) as progress,
    ):
        num_parts = num_rows = 0
        with write_behind(lambda part: parts.write(*part)) as put:
            batches = _encode(task, table, lambda number: number % processes == process)
            for num_parts, (first_row, batch, work) in enumerate(read_ahead(batches), start=1):
                number, num_rows = num_parts - 1, first_row - 1 + len(batch.numbers)
                if work is None:
                    continue
                if options.strict:
                    table.refuse_problems(batch.numbers, work[1])
                if parts.is_finished(number):
                    progress.update(len(batch.numbers))
                    continue
                lines = task.compute(batch, first_row, *work, progress)
                check_columns(output, lines.schema)
                put((number, lines))
        if options.strict:
            table.refuse_malformed()
        if not num_rows:
            raise table.no_rows()
        _wait_for_others(processes)
        results = [_join(task, parts, num_parts, table, num_rows) if process == 0 else None]
    if processes > 1:
        broadcast_object_list(results)
    return results[0]


def _place_among_processes(predictor: Predictor) -> tuple[int, int]:
    """Index of this process, and the number of processes that `accelerate launch` has started."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    state = PartialState(cpu=predictor.model.device.type == "cpu", timeout=timedelta(days=7))  # the fastest waits
    return state.process_index, state.num_processes


def _wait_for_others(processes: int) -> None:
    if processes > 1:
        PartialState().wait_for_everyone()


def _request(task: Task, predictor: Predictor, inputs: Sequence[str | Path]) -> dict:
    """Everything that determines the parts of an output."""
    weights = hashlib.sha256()
    for name, tensor in predictor.model.state_dict().items():
        weights.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    stats = [(path, os.stat(path)) for path in inputs]
    return {
        "inputs": [[Path(path).name, stat.st_size, stat.st_mtime_ns] for path, stat in stats],
        "config": {name: getattr(predictor.config, name) for name in MacaronConfig.__annotations__},
        "weights": weights.hexdigest(),
        "tokenizer": {name: getattr(predictor.tokenizer, name) for name in TOKENIZER_SETTINGS},
        "batch_size": predictor.batch_size if task.has_parts_of_batches else None,
        "settings": dict(task.settings),
    }


def _encode(
    task: Task, table: PromoterTable, is_mine: Callable[[int], bool]
) -> Iterator[tuple[int, TableBatch, tuple[Any, list[str]] | None]]:
    """Yield the batches of a table with the number of their first row, encoded if they belong to this process."""
    first_row = 1
    for number, batch in enumerate(table):
        table.refuse_columns(batch.table.column_names, task.new_columns)
        yield first_row, batch, task.encode(batch) if is_mine(number) else None
        first_row += len(batch.numbers)


def _join(task: Task, parts: TableParts, num_parts: int, table: PromoterTable, num_rows: int) -> FileResult:
    """Write the parts in order, draw the figures, and count."""
    num_lines, reasons, waiting = 0, Counter(), []
    malformed = table.num_malformed, table.first_malformed
    batches = None if task.figures is None else _encode(task, table, lambda _: True)
    with write_table(parts.output) as write:
        for number in range(num_parts):
            lines = parts.read(number)
            if batches is not None and not task.figures.is_full:
                first_row, batch, (encoded, _) = next(batches)
                task.keep_for_figures(batch, first_row, encoded, lines)
            task.add_to_summary(lines)
            num_lines += len(lines)
            problems = (text.replace(" (counted from 1)", "") for text in lines[PROBLEM].to_pylist() if text)
            reasons.update(_DETAILS.sub("...", problem) for problem in problems)
            waiting.append(lines)
            if sum(map(len, waiting)) >= _JOINED_ROWS or number == num_parts - 1:
                write(pa.concat_tables(waiting).combine_chunks())
                waiting = []
    if task.figures is not None:
        task.draw()
    parts.remove()
    return FileResult(
        num_rows, num_lines, reasons.total(), tuple(reasons.most_common()), *malformed, details=task.summary()
    )


class LineTask(Task):
    """Write several lines per row: `row` (from 1), `name` if rows have names, the command's fields, and `problem`.

    A subclass defines `fields`, `results` and `columns_of`. Figures also need `figures_of` and `result_from`, the
    inverse of `columns_of`.
    """

    fields: pa.Schema
    has_parts_of_batches = False

    def __init__(self, table: PromoterTable, tokenizer: KmerTokenizer, name_column: str | None = None):
        self.table, self.tokenizer, self.name_column = table, tokenizer, name_column

    def explain(self, ids: np.ndarray) -> str:
        """Return the problem of a variable part that the tokenizer accepts; empty if none."""
        return ""

    def results(self, ids: list[np.ndarray]) -> Iterator[Any]:
        """Yield the result of each variable part (length,)."""
        raise NotImplementedError

    def columns_of(self, result: Any) -> Mapping[str, Any]:
        """Return the columns of a result: arrays (lines,), or one value for all lines."""
        raise NotImplementedError

    def columns_of_problem(self, batch: TableBatch, row: int) -> Mapping[str, Any]:
        """Return the columns of the line of a row with a problem."""
        return {}

    def result_from(self, ids: np.ndarray, lines: pa.Table) -> Any:
        """Make the result of a variable part from its lines."""
        raise NotImplementedError

    def figures_of(self, result: Any, title: str) -> Mapping[str, Any]:
        """Make the figures of a result, by kind."""
        raise NotImplementedError

    def encode(self, batch: TableBatch) -> tuple[list[np.ndarray], list[str]]:
        """Encode rows as the variable parts of those without a problem."""
        column = batch.table.column(self.table.columns.sequence)
        strands = self.tokenizer.encode_strands(*string_buffers(column))
        problems, accepted = explain_rows(self.tokenizer, column, strands), []
        for row, ids in zip(np.flatnonzero(strands.problem == 0), variable_parts(strands), strict=True):
            problems[row] = self.explain(ids)
            if not problems[row]:
                accepted.append(ids)
        return accepted, problems

    def compute(
        self, batch: TableBatch, first_row: int, encoded: list[np.ndarray], problems: list[str], progress: tqdm
    ) -> pa.Table:
        """Compute the lines of rows; a row with a problem has one line."""
        lines, results = [], self.results(encoded)
        for row, (name, problem) in enumerate(zip(self.names_of(batch), problems, strict=True)):
            columns = dict(self.columns_of_problem(batch, row) if problem else self.columns_of(next(results)))
            lines.append(self._lines(columns | {"row": first_row + row, "name": name, PROBLEM: problem}))
            progress.update()
        return pa.concat_tables(lines).combine_chunks()

    def _lines(self, columns: dict[str, Any]) -> pa.Table:
        ends = [pa.field("row", pa.int64()), pa.field("name", pa.string()), pa.field(PROBLEM, pa.string())]
        schema = pa.schema([ends[0], *([] if columns["name"] is None else [ends[1]]), *self.fields, ends[2]])
        num_lines = next((len(values) for values in columns.values() if np.ndim(values)), 1)
        arrays = []
        for field in schema:
            values = columns.get(field.name)
            several = np.ndim(values) > 0
            arrays.append(
                pa.array(values, field.type) if several else pa.repeat(pa.scalar(values, field.type), num_lines)
            )
        return pa.Table.from_arrays(arrays, schema=schema)

    def names_of(self, batch: TableBatch) -> Sequence[str | None]:
        """Name of each row of a batch (batch,); None if rows have no names."""
        column = "name" if self.name_column is None and self.table.unit == "record" else self.name_column
        if column is None:
            return [None] * batch.table.num_rows
        if column not in batch.table.column_names:
            listed = ", ".join(repr(name) for name in batch.table.column_names)
            raise ValueError(f"{self.table.path} has no column {column!r} of names: its columns are {listed}")
        return ["" if name is None else str(name) for name in batch.table.column(column).to_pylist()]

    def keep_for_figures(self, batch: TableBatch, first_row: int, encoded: list[np.ndarray], lines: pa.Table) -> None:
        """Make the results of the first rows from their lines, and keep them."""
        problems, rows = lines[PROBLEM].to_numpy(), lines["row"].to_numpy()
        accepted, names = iter(encoded), self.names_of(batch)
        for number in dict.fromkeys(rows[problems == ""].tolist()):
            own = lines.filter(rows == number)
            result = self.result_from(next(accepted), own)
            self.figures.keep(number, names[number - first_row] or "", result)

    def draw(self) -> None:
        """Save the figures of the first rows."""
        self.figures.draw(self.figures_of)
