"""Predict the rows of a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from modeling_macaron.analysis.files import PROBLEM, FileOptions, FileResult, Task, check_files, run_task
from modeling_macaron.dna import explain_rows, string_buffers, without_trimming
from modeling_macaron.io.tables import PromoterTable, TableBatch, open_table
from modeling_macaron.predictor import Predictor, PredictorLike, as_predictor
from tokenization import KmerTokenizer, StrandBatch

PREDICTION, UNLIKE = "predicted_expression", "unlike_training"
BOUNDS = ("expression_low", "expression_high")


def predict_file(
    predictor: PredictorLike,
    source: str | Path,
    output: str | Path,
    *,
    genome: str | Path | None = None,
    coverage: int | None = None,
    deduplicate: bool = False,
    options: FileOptions | None = None,
) -> FileResult:
    """Predict every row of a file in a stream, keeping its order and its other columns.

    Under `accelerate launch`, all processes must call this. Each predicts a share of the rows, and the first joins
    them. End the processes with `modeling_macaron.machine.run_command`.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts.
    source : str or Path
        TSV, CSV, XLSX, FASTA or Parquet; see `open_table`. With `genome`, a BED of six columns or more: the genomic
        intervals of the variable parts, with strand.
    output : str or Path
        `.parquet`, `.csv` or `.tsv` with all columns of the source, then `predicted_expression` (assay units),
        `expression_low` and `expression_high` if the model has prediction intervals, `unlike_training` if it knows the
        composition of its training rows (see `MacaronConfig.unlike_training`), and `problem`, the reason if a row has
        no prediction. It appears when it is complete; until then, finished rows are in `OUTPUT.parts`.
    genome : str or Path, optional
        FASTA of the genome of the intervals, plain or compressed by bgzip.
    coverage : int, optional
        Coverage of the prediction intervals in percent. Default: 90.
    deduplicate : bool
        Compute equal sequences once in each process. A million different ones take about 0.3 GB of memory, 0.4 GB with
        intervals.
    options : FileOptions, optional
        Columns, strictness, overwriting, resuming, progress.

    Returns
    -------
    FileResult
        `details` has `num_unlike`, the rows that are `unlike_training`.

    Raises
    ------
    ValueError
        If the source, the type of output or an option is invalid, or a row has a problem and `strict` is set.
    OSError
        If a file cannot be read or written, or the checkpoint does not exist.
    """
    options = options or FileOptions()
    check_files(output, options, (predictor, source, genome))
    predictor = as_predictor(predictor)
    rows = _open_rows(source, options.sequence_column, genome, 16 * predictor.batch_size)
    task = _Prediction(predictor, rows, coverage, deduplicate)
    return run_task(task, predictor, rows.table, output, options, [path for path in (source, genome) if path])


class _Rows(NamedTuple):
    """A source, and a function that returns sequences and known problems."""

    table: PromoterTable
    sequences: Callable[[pa.Table], tuple[pa.ChunkedArray | pa.Array, list[str]]]
    is_trimmed: bool


def _open_rows(source: str | Path, sequence_column: str | None, genome: str | Path | None, batch_rows: int) -> _Rows:
    """Open a table of sequences, or a BED of intervals in a genome."""
    if genome is None:
        if str(source).lower().endswith((".bed", ".bed.gz")):
            raise ValueError(f"{source} holds intervals, not sequences: pass --genome, the FASTA of their genome")
        table = open_table(source, sequence_column=sequence_column, batch_rows=batch_rows)
        return _Rows(table, lambda rows: (rows.column(table.columns.sequence), [""] * rows.num_rows), False)
    if sequence_column is not None:
        raise ValueError("--sequence_column is for a table of sequences, not for the intervals of a --genome")
    try:
        from modeling_macaron.analysis.genome import interval_sequences, open_fasta, open_intervals
    except ImportError as error:
        raise ValueError(f"--genome needs the extra `analysis` of this package ({error})") from error
    table = open_intervals(source, batch_rows=batch_rows)
    return _Rows(table, partial(interval_sequences, open_fasta(genome)), True)


class _Prediction(Task):
    """Add predictions to the columns of a table."""

    def __init__(self, predictor: Predictor, rows: _Rows, coverage: int | None, deduplicate: bool):
        self.predictor, self.rows, self.coverage = predictor, rows, coverage
        self.tokenizer: KmerTokenizer = predictor.tokenizer
        if rows.is_trimmed:
            self.tokenizer = without_trimming(predictor.tokenizer)
        self.names = (PREDICTION,) if predictor.config.interval_quantile(coverage) is None else (PREDICTION, *BOUNDS)
        unlike = () if predictor.config.trimer_shares is None else (UNLIKE,)
        self.new_columns = (*self.names, *unlike, PROBLEM)
        self.known: dict[bytes, list[float]] | None = {} if deduplicate else None
        self.settings = {
            "sequence_column": rows.table.columns.sequence, "coverage": coverage, "deduplicate": deduplicate,
        }  # fmt: skip
        self.num_unlike = 0

    def encode(self, batch: TableBatch) -> tuple[StrandBatch, list[str]]:
        column, known = self.rows.sequences(batch.table)
        strands = self.tokenizer.encode_strands(*string_buffers(column))
        problems = explain_rows(self.tokenizer, column, strands)
        return strands, [first or other for first, other in zip(known, problems, strict=True)]

    def compute(
        self, batch: TableBatch, first_row: int, encoded: StrandBatch, problems: list[str], progress: tqdm
    ) -> pa.Table:
        is_bad = np.array([problem != "" for problem in problems], dtype=bool)
        values = np.full((len(is_bad), len(self.names)), np.nan)
        values[~is_bad] = self._predict(encoded.ids[~is_bad], progress)
        progress.update(int(is_bad.sum()))
        lines, unlike = batch.table, self.predictor.config.unlike_training(encoded.ids)
        for name, column in zip(self.names, values.T, strict=True):
            lines = lines.append_column(name, pa.array(np.ascontiguousarray(column), mask=is_bad))
        if unlike is not None:
            lines = lines.append_column(UNLIKE, pa.array(unlike, mask=is_bad))
        return lines.append_column(PROBLEM, pa.array(problems, pa.string()))

    def _predict(self, strands: np.ndarray, progress: tqdm) -> np.ndarray:
        """Predict strands (rows, strand_length), or only those that are not known yet."""
        if self.known is None:
            return self.predictor.predict_strands(strands, self.coverage, progress)
        keys = np.ascontiguousarray(strands).view(f"V{strands.shape[1]}").ravel().tolist()
        new = {key: row for row, key in enumerate(keys) if key not in self.known}
        progress.update(len(keys) - len(new))
        values = self.predictor.predict_strands(strands[list(new.values())], self.coverage, progress)
        self.known.update(zip(new, values.tolist(), strict=True))
        return np.array([self.known[key] for key in keys]).reshape(len(keys), len(self.names))

    def add_to_summary(self, lines: pa.Table) -> None:
        if UNLIKE in self.new_columns:
            self.num_unlike += int(np.sum(lines[UNLIKE].drop_null().to_numpy()))

    def summary(self) -> dict[str, float]:
        return {"num_unlike": self.num_unlike}
