"""Predict files of any size in a stream that goes on after a crash and that several processes share."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from modeling_macaron.analysis.encoding import explain_rows
from modeling_macaron.analysis.predict import (
    FilePrediction,
    check_request,
    predict_all,
    without_trimming,
)
from modeling_macaron.configuration_macaron import MacaronConfig
from modeling_macaron.io.parts import TableParts, check_parts, parts_folder
from modeling_macaron.io.streams import progress_bar, read_ahead, write_behind
from modeling_macaron.io.table_writer import check_columns, write_table
from modeling_macaron.io.tables import PromoterTable, TableBatch, open_table, string_buffers
from modeling_macaron.loading import load_model
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import PROBLEMS, TOKENIZER_SETTINGS, KmerTokenizer, StrandBatch

PREDICTION, PROBLEM = "predicted_expression", "problem"
BOUNDS = ("expression_low", "expression_high")
UNLIKE = "unlike_training"
JOINED_ROWS = 65_536
_NUMBER = re.compile(r"\d[\d,]*")


def predict_file(
    model: str | Path | MacaronForExpressionPrediction,
    source: str | Path,
    output: str | Path,
    *,
    tokenizer: KmerTokenizer | None = None,
    sequence_column: str | None = None,
    genome: str | Path | None = None,
    resume: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    merged: bool = False,
    dtype: str | torch.dtype | None = None,
    compile_model: bool = False,
    coverage: int | None = None,
    deduplicate: bool = False,
    verbose: bool = False,
) -> FilePrediction:
    """Predict every row of a file in a stream, in its order and with its other columns.

    Threads read and encode the next rows, and write the last ones, while the model computes. Under `accelerate launch`
    each process predicts a share of the rows (all must call this), and the first joins them; end the processes with
    `modeling_macaron.machine.run_command`.

    Parameters
    ----------
    model, tokenizer, device, merged, dtype, compile_model
        See `load_model`. The default device of one of several processes is the GPU of its own.
    source : str or Path
        TSV, CSV, FASTA or Parquet; see `modeling_macaron.io.tables.open_table`. With `genome`, a BED of six columns or
        more: the genomic intervals of the variable parts, with strand.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`; it gets all columns of the source, then `predicted_expression` (assay units),
        `expression_low` and `expression_high` where the model has prediction intervals, `unlike_training` where it
        knows the composition of its training rows (see `MacaronConfig.unlike_training`), and `problem`, which says why
        a row has no prediction. The output appears under its name when it is complete; until then, finished rows are
        kept in a folder beside it, `OUTPUT.parts`.
    sequence_column : str, optional
        Name of the column with the DNA, or its position in a file without header.
    genome : str or Path, optional
        FASTA of the genome that the intervals lie in, plain or compressed by bgzip. The output has the columns of
        `open_intervals`.
    resume : bool
        Go on with what an interrupted run has left in `OUTPUT.parts`, if it has; the output is that of a run that was
        never interrupted. Model, source, batch size and the like must be the same.
    strict : bool
        Raise at a row that cannot be predicted.
    overwrite : bool
        Replace an output that is there, and without `resume` what an interrupted run has left of one.
    batch_size : int
        Sequences that go through the model at once.
    coverage : int, optional
        Percent of the measurements that an interval holds. Default: 90.
    deduplicate : bool
        Compute sequences that are equal (after trimming) once in each process. About 0.3 GB of memory for a million
        different ones, 0.4 GB with intervals.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    FilePrediction

    Raises
    ------
    ValueError
        If the source or the kind of output is not understood, if parts to go on with are of another request, if the
        model has no interval of the coverage, or with `strict`.
    OSError
        If a file cannot be read or written, or there is no such checkpoint.
    """
    goes_on = resume and parts_folder(output).is_dir()  # whatever stands there may be replaced: that run was to do so
    check_request(output, overwrite or goes_on, batch_size, (model, source, genome))
    rows = _open_rows(source, sequence_column, genome, 16 * batch_size)
    table = rows.table
    process, processes, device = _place_among_processes(device)
    if process == 0:
        check_parts(parts_folder(output), resume=resume, overwrite=overwrite)
    model, tokenizer = load_model(model, tokenizer, device, merged=merged, dtype=dtype, compile_model=compile_model)
    tokenizer = tokenizer if genome is None else without_trimming(tokenizer)
    model.config.interval_quantile(coverage)
    request = _request(rows, model, tokenizer, batch_size, deduplicate) | {"coverage": coverage} if process == 0 else {}
    parts = TableParts(output, request)
    if process == 0:
        parts.begin(resume=resume, overwrite=overwrite)
    _wait_for_others(processes)
    with (
        parts,
        progress_bar(
            "sequences", table.num_rows and table.num_rows // processes, verbose=verbose and process == 0
        ) as progress,
    ):
        counts = _predict_parts(
            model, tokenizer, rows, parts, lambda number: number % processes == process,
            strict=strict, batch_size=batch_size, coverage=coverage, known={} if deduplicate else None,
            progress=progress,
        )  # fmt: skip
        of_all = _from_all(counts, processes)
        num_parts, num_rows, num_unlike = (
            sum(getattr(one, name) for one in of_all) for name in ("num_parts", "num_rows", "num_unlike")
        )
        reasons = sum((one.reasons for one in of_all), Counter())
        if not num_rows:
            raise table.no_rows()
        if process == 0:
            with write_table(output) as write:
                for some in _join(parts, num_parts):
                    write(some)
            parts.remove()
    _wait_for_others(processes)
    return FilePrediction(
        num_rows, reasons.total(), table.num_malformed, table.first_malformed, tuple(reasons.most_common()), num_unlike
    )


class _Counts(NamedTuple):
    """What a process did with its share: parts, rows, rows with a problem by its kind, rows unlike the training."""

    num_parts: int
    num_rows: int
    reasons: Counter[str]
    num_unlike: int


class _Rows(NamedTuple):
    """A source, and a function returning sequences and known problems."""

    table: PromoterTable
    sequences: Callable[[pa.Table], tuple[pa.ChunkedArray | pa.Array, Sequence[str]]]
    genome: str | Path | None = None


def _open_rows(source: str | Path, sequence_column: str | None, genome: str | Path | None, batch_rows: int) -> _Rows:
    """Open a table with sequences, or a BED of intervals in a genome."""
    if genome is None:
        if str(source).lower().endswith((".bed", ".bed.gz")):
            raise ValueError(f"{source} holds intervals, not sequences: pass --genome, the FASTA that they lie in")
        table = open_table(source, sequence_column=sequence_column, batch_rows=batch_rows)
        return _Rows(table, lambda rows: (rows.column(table.columns.sequence), [""] * rows.num_rows))
    if sequence_column is not None:
        raise ValueError("--sequence_column is for a table of sequences, not for the intervals of a --genome")
    try:
        from modeling_macaron.analysis.fasta_index import open_fasta
        from modeling_macaron.analysis.genome import interval_sequences, open_intervals
    except ImportError as error:
        raise ValueError(f"--genome needs the extra `analysis` of this package ({error})") from error
    table = open_intervals(source, batch_rows=batch_rows)
    return _Rows(table, partial(interval_sequences, open_fasta(genome)), genome)


def _place_among_processes(device: str | torch.device | None) -> tuple[int, int, str | torch.device | None]:
    """Index of this process, number of processes that `accelerate launch` has started, and the device to use."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1, device
    on_cpu = not torch.cuda.is_available() or torch.device(device or "cuda").type == "cpu"
    state = PartialState(cpu=on_cpu, timeout=timedelta(days=7))  # the fastest waits for the slowest
    return state.process_index, state.num_processes, state.device if device is None else device


def _join(parts: TableParts, num_parts: int) -> Iterator[pa.Table]:
    """Give the rows of all parts in order, some parts at a time."""
    waiting: list[pa.Table] = []
    for number in range(num_parts):
        waiting.append(parts.read(number))
        if sum(map(len, waiting)) >= JOINED_ROWS or number == num_parts - 1:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []


def _wait_for_others(processes: int) -> None:
    if processes > 1:
        PartialState().wait_for_everyone()


def _from_all(counts: _Counts, processes: int) -> list[_Counts]:
    """Gather the counts of all processes."""
    return gather_object([counts]) if processes > 1 else [counts]


def _request(
    rows: _Rows,
    model: MacaronForExpressionPrediction,
    tokenizer: KmerTokenizer,
    batch_size: int,
    deduplicate: bool,
) -> dict:
    """All that decides what the parts of an output hold."""
    table, weights = rows.table, hashlib.sha256()
    for name, tensor in model.state_dict().items():
        weights.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {
        "source": [Path(table.path).name, _digest_file(table.path)],
        "genome": rows.genome and _digest_sequences(rows),
        "sequence_column": table.columns.sequence,
        "config": {name: getattr(model.config, name) for name in MacaronConfig.__annotations__},
        "weights": weights.hexdigest(),
        "tokenizer": {name: getattr(tokenizer, name) for name in TOKENIZER_SETTINGS},
        "batch_size": batch_size,
        "deduplicate": deduplicate,
    }


def _digest_file(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(partial(file.read, 1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def _digest_sequences(rows: _Rows) -> str:
    digest = hashlib.sha256()
    for batch in rows.table:
        letters, offsets = string_buffers(rows.sequences(batch.table)[0])
        digest.update(letters.tobytes() + offsets.tobytes())
    return digest.hexdigest()


def _predict_parts(
    model: MacaronForExpressionPrediction,
    tokenizer: KmerTokenizer,
    rows: _Rows,
    parts: TableParts,
    is_mine: Callable[[int], bool],
    *,
    strict: bool,
    batch_size: int,
    coverage: int | None,
    known: dict[bytes, list[float]] | None,
    progress: tqdm,
) -> _Counts:
    """Write the missing parts of this process; count its parts, its rows and their problems."""
    num_parts, num_rows, reasons, num_unlike = 0, 0, Counter(), 0
    table = rows.table
    names = (PREDICTION,) if model.config.interval_quantile(coverage) is None else (PREDICTION, *BOUNDS)
    unlike_names = () if model.config.trimer_shares is None else (UNLIKE,)
    batches = _encode_batches(rows, tokenizer, is_mine, (*names, *unlike_names, PROBLEM))
    with write_behind(lambda part: parts.write(*part)) as put:
        for number, batch, strands, problems, known_reasons in read_ahead(batches):
            fine = strands.problem == 0
            num_parts, num_rows, reasons = num_parts + 1, num_rows + len(fine), reasons + known_reasons
            if num_parts == 1:
                check_columns(parts.output, batch.table.schema)
            if strict:
                table.refuse_problems(batch.numbers, problems)
            unlike = model.config.unlike_training(strands.ids)
            num_unlike += 0 if unlike is None else int(unlike[fine].sum())
            if parts.is_finished(number):
                progress.update(len(fine))
                if known is not None:
                    part = parts.read(number)
                    done = np.column_stack([part.column(name).to_numpy()[fine] for name in names])
                    known.update(zip(_keys(strands.ids[fine]), done.tolist(), strict=True))
                continue
            predicted = np.full((len(fine), len(names)), np.nan)
            predicted[fine] = _predict_new(model, strands.ids[fine], known, batch_size, coverage, progress)
            columns = dict(zip(names, predicted.T, strict=True)) | dict.fromkeys(unlike_names, unlike)
            put((number, _with_prediction(batch.table, columns, problems)))
        if strict:
            table.refuse_malformed()
    return _Counts(num_parts, num_rows, reasons, num_unlike)


def _encode_batches(
    rows: _Rows, tokenizer: KmerTokenizer, is_mine: Callable[[int], bool], new_columns: Sequence[str]
) -> Iterator[tuple[int, TableBatch, StrandBatch, list[str], Counter]]:
    """Give number, rows, strands, problems and counts of their kinds, of this process's batches of a table."""
    for number, batch in enumerate(rows.table):
        rows.table.refuse_columns(batch.table.column_names, new_columns)
        if is_mine(number):
            column, known = rows.sequences(batch.table)
            strands = tokenizer.encode_strands(*string_buffers(column))
            problems = explain_rows(tokenizer, column, strands)
            codes = zip(known, strands.problem.tolist(), strict=True)
            reasons = Counter(_NUMBER.sub("...", first) or PROBLEMS[code] for first, code in codes if code)
            problems = [first or other for first, other in zip(known, problems, strict=True)]
            yield number, batch, strands, problems, reasons


def _keys(strands: np.ndarray) -> list[bytes]:
    """Strands (rows, strand_length) as dictionary keys."""
    return np.ascontiguousarray(strands).view(f"V{strands.shape[1]}").ravel().tolist()


def _predict_new(
    model: MacaronForExpressionPrediction,
    strands: np.ndarray,
    known: dict[bytes, list[float]] | None,
    batch_size: int,
    coverage: int | None,
    progress: tqdm,
) -> np.ndarray:
    """Predict strands (rows, strand_length); with `known`, those that it does not hold, and remember them there."""
    if known is None:
        return predict_all(model, strands, batch_size, progress, coverage)
    keys = _keys(strands)
    new = {key: row for row, key in enumerate(keys) if key not in known}
    progress.update(len(keys) - len(new))
    values = predict_all(model, strands[list(new.values())], batch_size, progress, coverage)
    known.update(zip(new, values.tolist(), strict=True))
    return np.array([known[key] for key in keys]).reshape(len(keys), values.shape[1])


def _with_prediction(rows: pa.Table, columns: dict[str, np.ndarray], problems: list[str]) -> pa.Table:
    """Append columns (rows,) and the problems; a value is missing where there is a problem."""
    missing = np.array([text != "" for text in problems], bool)
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(np.ascontiguousarray(values), mask=missing))
    return rows.append_column(PROBLEM, pa.array(problems, pa.string()))
