"""Predict expression for sequences in memory, and what all verbs need for it; for files see `predict_file`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_macaron.io.atomic import check_free
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.io.table_writer import check_output
from modeling_macaron.loading import load_model
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import TOKENIZER_SETTINGS, KmerTokenizer, reverse_complement
from tokenization.tokenization_kmer import N_ID


class PredictedIntervals(NamedTuple):
    """Predicted expression and the bounds of its intervals, each (sequences,) float64 in assay units."""

    expression: np.ndarray
    low: np.ndarray
    high: np.ndarray


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
    malformed : tuple of (int, str)
        Number and reason of the first five of them.
    reasons : tuple of (str, int)
        Problems, and how many rows have each, most first; from `predict_file`.
    num_unlike : int
        Rows that are `unlike_training`; from `predict_file`.
    """

    num_rows: int
    num_problems: int
    num_malformed: int
    malformed: tuple[tuple[int, str], ...] = ()
    reasons: tuple[tuple[str, int], ...] = ()
    num_unlike: int = 0


def without_trimming(tokenizer: KmerTokenizer) -> KmerTokenizer:
    """Return a tokenizer that takes the intervals of a genome for the variable parts that they are.

    Parameters
    ----------
    tokenizer : KmerTokenizer
        The model's.

    Returns
    -------
    KmerTokenizer
    """
    return KmerTokenizer(**{name: getattr(tokenizer, name) for name in TOKENIZER_SETTINGS} | {"trimming": "never"})


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size below 1 with a `ValueError`."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


def check_request(output: str | Path, overwrite: bool, batch_size: int, inputs: Iterable[object]) -> None:
    """Check the output and batch size before loading anything.

    Parameters
    ----------
    output : str or Path
        File to be written.
    overwrite : bool
        Whether it may be replaced.
    batch_size : int
        Sequences that go through the model at once.
    inputs : iterable
        What is read, see `check_not_input`.

    Raises
    ------
    FileExistsError
        If the output is there and may not be replaced, or is an input.
    ValueError
        If it is of unknown kind, or the batch size is below 1.
    """
    check_batch_size(batch_size)
    check_output(output)
    check_free(output, overwrite, inputs)


@contextmanager
def explain_lack_of_memory(batch_size: int) -> Iterator[None]:
    """Turn a GPU's lack of memory into a `MemoryError` that tells what to do.

    Parameters
    ----------
    batch_size : int
        Sequences that go through the model at once.

    Raises
    ------
    MemoryError
        If the block runs out of the GPU's memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"the GPU has too little memory for {batch_size} sequences at once: pass a smaller --batch_size"
        ) from error


def predict_strands(
    model: MacaronForExpressionPrediction, strands: np.ndarray, *, batch_size: int = 256
) -> Iterator[np.ndarray]:
    """Predict the expression alone; see `predict_bounds`.

    Yields
    ------
    numpy.ndarray
        (batch,) float64 expression in assay units.
    """
    for values in predict_bounds(model, strands, batch_size=batch_size):
        yield values[:, 0]


@torch.inference_mode()
def predict_bounds(
    model: MacaronForExpressionPrediction, strands: np.ndarray, *, batch_size: int = 256, coverage: int | None = None
) -> Iterator[np.ndarray]:
    """Predict padded forward strands, one batch after another; a GPU computes the next while one is taken.

    A compiled model gets batches of one size only, the last one filled up, since each size is compiled anew.

    Parameters
    ----------
    model : MacaronForExpressionPrediction
        A model in evaluation mode.
    strands : numpy.ndarray
        (sequences, strand_length) uint8 letter ids.
    batch_size : int
        Sequences that go through the model at once.
    coverage : int, optional
        Percent of the measurements that an interval holds, see `MacaronConfig.interval_quantile`.

    Yields
    ------
    numpy.ndarray
        (batch, 3) float64 in assay units: expression, lower and upper bound of the interval; (batch, 1) where the model
        has no intervals.

    Raises
    ------
    MemoryError
        If a batch is too large for the GPU.
    ValueError
        If a prediction is no finite number, as of weights that overflow in their floating-point type.
    """
    config, on_gpu = model.config, model.device.type == "cuda"

    def start_batch(forward: np.ndarray) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """Start a batch; a GPU's result is on its way to this side when the event has come."""
        if model._compiled_call_impl is not None and len(forward) < batch_size:
            forward = np.pad(forward, ((0, batch_size - len(forward)), (0, 0)), constant_values=N_ID)
        both = torch.from_numpy(np.concatenate([forward, reverse_complement(forward)], axis=1))
        both = both.pin_memory() if on_gpu else both
        outputs = model(both.to(model.device, non_blocking=on_gpu), output_nucleotide_logits=False)
        found = outputs.logits if outputs.variance is None else torch.cat([outputs.logits, outputs.variance], dim=1)
        found = found.to("cpu", non_blocking=on_gpu)
        if not on_gpu:
            return found, None
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(model.device))  # it need not be the current device
        return found, arrived

    def take_batch(rows: int, found: torch.Tensor, arrived: torch.cuda.Event | None) -> np.ndarray:
        if arrived is not None:
            arrived.synchronize()
        found = found[:rows].double().numpy().T
        interval = config.expression_interval(*found, coverage=coverage) or ()
        values = np.column_stack([found[0] * config.expression_std + config.expression_mean, *interval])
        if not np.isfinite(values).all():
            raise ValueError(f"a prediction is no finite number: the model's weights overflow in {model.dtype}")
        return values

    started: deque[tuple] = deque()
    with explain_lack_of_memory(batch_size):
        for start in range(0, len(strands), batch_size):
            forward = strands[start : start + batch_size]
            started.append((len(forward), *start_batch(forward)))
            if len(started) > 1:
                yield take_batch(*started.popleft())
        while started:
            yield take_batch(*started.popleft())


def predict(
    model: str | Path | MacaronForExpressionPrediction,
    sequences: Sequence[str],
    *,
    tokenizer: KmerTokenizer | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    merged: bool = False,
    dtype: str | torch.dtype | None = None,
    compile_model: bool = False,
    verbose: bool = False,
) -> np.ndarray:
    """Predict the expression of sequences.

    Parameters
    ----------
    model, tokenizer, device, merged, dtype, compile_model
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
    options = {"merged": merged, "dtype": dtype, "compile_model": compile_model}
    return _predict_sequences(model, sequences, None, batch_size, verbose, tokenizer, device, **options)[:, 0]


def predict_intervals(
    model: str | Path | MacaronForExpressionPrediction,
    sequences: Sequence[str],
    *,
    coverage: int = 90,
    tokenizer: KmerTokenizer | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    verbose: bool = False,
) -> PredictedIntervals:
    """Predict the expression of sequences, and bounds for what would be measured.

    Parameters
    ----------
    model, sequences, tokenizer, batch_size, device, verbose
        See `predict`.
    coverage : int
        Percent of the measurements that lie within the bounds, for promoters like those of the validation split.

    Returns
    -------
    PredictedIntervals

    Raises
    ------
    ValueError
        As `predict`, and if the model has no interval of this coverage.
    """
    values = _predict_sequences(model, sequences, coverage, batch_size, verbose, tokenizer, device)
    return PredictedIntervals(*values.T)


def _predict_sequences(
    model: str | Path | MacaronForExpressionPrediction,
    sequences: Sequence[str],
    coverage: int | None,
    batch_size: int,
    verbose: bool,
    *load_arguments,
    **load_options,
) -> np.ndarray:
    """Load a model and predict sequences in memory; see `predict_all`."""
    if isinstance(sequences, str):
        raise ValueError("`sequences` must be a list of sequences, got one str")
    model, tokenizer = load_model(model, *load_arguments, **load_options)
    strands = np.empty((0, tokenizer.strand_length), np.uint8)
    if len(sequences):
        input_ids = tokenizer(list(sequences), return_tensors="np")["input_ids"]
        strands = input_ids[:, : tokenizer.strand_length].astype(np.uint8)
    with progress_bar("sequences", len(strands), verbose=verbose) as progress:
        return predict_all(model, strands, batch_size, progress, coverage)


def predict_all(
    model: MacaronForExpressionPrediction,
    strands: np.ndarray,
    batch_size: int,
    progress: tqdm,
    coverage: int | None = None,
) -> np.ndarray:
    """Predict padded forward strands in batches.

    Parameters
    ----------
    model, strands, batch_size, coverage
        See `predict_bounds`.
    progress : tqdm
        Counts the sequences.

    Returns
    -------
    numpy.ndarray
        (sequences, 3) or (sequences, 1), see `predict_bounds`.
    """
    values = [np.empty((0, 1 if model.config.interval_quantile(coverage) is None else 3))]
    for batch in predict_bounds(model, strands, batch_size=batch_size, coverage=coverage):
        values.append(batch)
        progress.update(len(batch))
    return np.concatenate(values)
