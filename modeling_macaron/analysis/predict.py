"""Predict expression for sequences in memory and for files of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm

from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.table_writer import check_output, write_table
from modeling_macaron.tables import PromoterTable, TableBatch, open_table, string_buffers
from tokenization import PROBLEMS, KmerTokenizer, reverse_complement

PREDICTION, PROBLEM = "predicted_expression", "problem"


class FilePrediction(NamedTuple):
    """What became of a file.

    Attributes
    ----------
    num_rows : int
        Rows written.
    num_problems : int
        Rows among them without a prediction; their column `problem` says why.
    num_malformed : int
        Lines of the input that are no row and were left out.
    """

    num_rows: int
    num_problems: int
    num_malformed: int


def load_model(
    model: str | Path | MacaronForExpressionPrediction,
    tokenizer: KmerTokenizer | None = None,
    device: str | torch.device | None = None,
) -> tuple[MacaronForExpressionPrediction, KmerTokenizer]:
    """Load a checkpoint, or take a loaded model, ready to predict.

    Parameters
    ----------
    model : str, Path or MacaronForExpressionPrediction
        Checkpoint folder, name on the Hub, or a model.
    tokenizer : KmerTokenizer, optional
        Default: the checkpoint's; for a model that was never saved, the challenge's with its strand and k-mer length.
    device : str or torch.device, optional
        Default: the GPU where there is one for a checkpoint; where it is for a loaded model.

    Returns
    -------
    MacaronForExpressionPrediction, KmerTokenizer
        The model in evaluation mode.

    Raises
    ------
    OSError
        If there is no such checkpoint.
    """
    if isinstance(model, (str, Path)):
        check_checkpoint_name(model)
        tokenizer = KmerTokenizer.from_pretrained(model) if tokenizer is None else tokenizer
        model = MacaronForExpressionPrediction.from_pretrained(model)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    elif tokenizer is None and model.name_or_path:
        tokenizer = KmerTokenizer.from_pretrained(model.name_or_path)
    elif tokenizer is None:
        tokenizer = KmerTokenizer(kmer_size=model.config.kmer_size, strand_length=model.config.strand_length)
    return (model if device is None else model.to(device)).eval(), tokenizer


def check_checkpoint_name(name: str | Path) -> None:
    """Refuse a checkpoint that is plainly no folder and no name on the Hub, before the Hub is asked for it.

    Parameters
    ----------
    name : str or Path
        Folder, or `OWNER/NAME`.

    Raises
    ------
    FileNotFoundError
        If it can only be a folder, and there is none or it holds no model.
    """
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        hint = f": did you mean {path / 'final'}?" if (path / "final").is_dir() else " (config.json is missing)"
        raise FileNotFoundError(f"{name} is no checkpoint folder{hint}")
    if not path.is_dir() and (str(name).count("/") != 1 or path.is_absolute() or path.parent.is_dir()):
        raise FileNotFoundError(f"there is no checkpoint folder {name}, and a name on the Hub is OWNER/NAME")


@torch.inference_mode()
def predict_strands(
    model: MacaronForExpressionPrediction, strands: np.ndarray, *, batch_size: int = 256
) -> Iterator[np.ndarray]:
    """Predict padded forward strands, one batch after another.

    Parameters
    ----------
    model : MacaronForExpressionPrediction
        A model in evaluation mode.
    strands : numpy.ndarray
        (sequences, strand_length) uint8 letter ids.
    batch_size : int
        Sequences that go through the model at once.

    Yields
    ------
    numpy.ndarray
        (batch,) float64 expression in assay units.
    """
    for start in range(0, len(strands), batch_size):
        forward = strands[start : start + batch_size]
        both = np.concatenate([forward, reverse_complement(forward)], axis=1)
        logits = model(torch.from_numpy(both).to(model.device), output_nucleotide_logits=False).logits
        standardized = logits.double().flatten().cpu().numpy()
        yield standardized * model.config.expression_std + model.config.expression_mean


def predict(
    model: str | Path | MacaronForExpressionPrediction,
    sequences: Sequence[str],
    *,
    tokenizer: KmerTokenizer | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    verbose: bool = False,
) -> np.ndarray:
    """Predict the expression of sequences.

    Parameters
    ----------
    model, tokenizer, device
        See `load_model`.
    sequences : sequence of str
        DNA, with or without the constant flanks.
    batch_size : int
        Sequences that go through the model at once.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    numpy.ndarray
        (sequences,) float64 expression in assay units.

    Raises
    ------
    ValueError
        On a sequence that is no DNA, empty or too long; the message tells which.
    """
    model, tokenizer = load_model(model, tokenizer, device)
    if not len(sequences):
        return np.empty(0)
    input_ids = tokenizer(list(sequences), return_tensors="np")["input_ids"]
    strands = input_ids[:, : tokenizer.strand_length].astype(np.uint8)
    predictions = []
    with tqdm(total=len(strands), unit=" sequences", unit_scale=True, disable=not verbose) as progress:
        for batch in predict_strands(model, strands, batch_size=batch_size):
            predictions.append(batch)
            progress.update(len(batch))
    return np.concatenate(predictions)


def predict_file(
    model: str | Path | MacaronForExpressionPrediction,
    source: str | Path,
    output: str | Path,
    *,
    tokenizer: KmerTokenizer | None = None,
    sequence_column: str | None = None,
    overwrite: bool = False,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    verbose: bool = False,
) -> FilePrediction:
    """Predict every row of a file in a stream, in its order and with its other columns.

    Parameters
    ----------
    model, tokenizer, device
        See `load_model`.
    source : str or Path
        TSV, CSV, FASTA or Parquet; see `modeling_macaron.tables.open_table`.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`; it gets all columns of the source, then `predicted_expression` (assay units) and
        `problem`, which says why a row has no prediction. It appears under its name when it is complete.
    sequence_column : str, optional
        Name of the column with the DNA, or its position in a file without header.
    overwrite : bool
        Replace an output that is there.
    batch_size : int
        Sequences that go through the model at once.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    FilePrediction

    Raises
    ------
    ValueError
        If the source or the kind of output is not understood.
    OSError
        If a file cannot be read or written, or there is no such checkpoint.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    check_output(output)
    if Path(output).exists() and not overwrite:
        raise FileExistsError(f"{output} exists already; choose another name or pass --overwrite")
    table = open_table(source, sequence_column=sequence_column, batch_rows=16 * batch_size)
    model, tokenizer = load_model(model, tokenizer, device)
    num_rows = num_problems = 0
    with (
        write_table(output) as write,
        tqdm(total=table.num_rows, unit=" sequences", unit_scale=True, disable=not verbose) as progress,
    ):
        for batch in table:
            predicted, rows_with_problem = _predict_batch(model, tokenizer, table, batch, batch_size, progress)
            write(predicted)
            num_rows += predicted.num_rows
            num_problems += rows_with_problem
        if not num_rows:
            raise ValueError(f"{source} has no rows")
    return FilePrediction(num_rows, num_problems, table.num_malformed)


def _predict_batch(
    model: MacaronForExpressionPrediction,
    tokenizer: KmerTokenizer,
    table: PromoterTable,
    batch: TableBatch,
    batch_size: int,
    progress: tqdm,
) -> tuple[pa.Table, int]:
    """Add the columns of the prediction to a batch, and count its rows without one."""
    strands = tokenizer.encode_strands(*string_buffers(batch.table.column(table.columns.sequence)))
    fine = np.flatnonzero(strands.problem == 0)
    predicted = np.full(len(strands.problem), np.nan)
    done = 0
    for values in predict_strands(model, strands.ids[fine], batch_size=batch_size):
        predicted[fine[done : done + len(values)]] = values
        done += len(values)
        progress.update(len(values))
    num_problems = len(predicted) - len(fine)
    progress.update(num_problems)
    taken = {PREDICTION, PROBLEM} & set(batch.table.column_names)
    if taken:
        raise ValueError(f"{table.path} already has the column {', '.join(sorted(taken))}: rename it first")
    problems = pa.DictionaryArray.from_arrays(pa.array(strands.problem), pa.array(PROBLEMS)).cast(pa.string())
    predictions = pa.array(predicted, mask=strands.problem != 0)
    return batch.table.append_column(PREDICTION, predictions).append_column(PROBLEM, problems), num_problems
