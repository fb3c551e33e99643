"""`Predictor`: a model with its tokenizer, ready to predict."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_macaron.configuration_macaron import MacaronConfig
from modeling_macaron.dna import both_strands, encode_sequences
from modeling_macaron.loading import default_device, load_checkpoint
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import KmerTokenizer
from tokenization.tokenization_kmer import N_ID

_WIDEST_FLASH_HEAD = 256


class PredictedIntervals(NamedTuple):
    """Predicted expression and the bounds of its intervals, each (sequences,) float64 in assay units."""

    expression: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Predictor:
    """A model with its tokenizer, ready to predict; every analysis takes one.

    Attributes
    ----------
    model : MacaronForExpressionPrediction
        In evaluation mode, on its device.
    tokenizer : KmerTokenizer
        The tokenizer of the model.
    batch_size : int
        Sequences per forward pass.

    Examples
    --------
    >>> from modeling_macaron import MacaronConfig
    >>> config = MacaronConfig(hidden_size=32, head_dim=32, intermediate_size=64, num_hidden_layers=1)
    >>> predictor = Predictor.from_pretrained(MacaronForExpressionPrediction(config))
    >>> predictor.predict(["TTTATATAAGGC", "ACGTACGT"]).shape
    (2,)
    """

    model: MacaronForExpressionPrediction
    tokenizer: KmerTokenizer
    batch_size: int = 256

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.tokenizer.strand_length != self.config.strand_length:
            raise ValueError(
                f"the tokenizer pads to {self.tokenizer.strand_length} nt, the model reads {self.config.strand_length}"
            )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | MacaronForExpressionPrediction,
        *,
        tokenizer: KmerTokenizer | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        merged: bool = False,
        compile: bool = False,
        batch_size: int = 256,
    ) -> Predictor:
        """Load a checkpoint, or prepare a loaded model.

        A loaded model is changed in place, as by `model.to`. With `merged` the model is a new one.

        Parameters
        ----------
        model : str, Path or MacaronForExpressionPrediction
            Checkpoint folder, name on the Hub, or a model.
        tokenizer : KmerTokenizer, optional
            Default: the checkpoint's. A model that was never saved gets the challenge's tokenizer, with the model's
            strand and k-mer length.
        device : str or torch.device, optional
            Default: a GPU if there is one for a checkpoint; unchanged for a loaded model.
        dtype : str or torch.dtype, optional
            Convert the weights, for example to `"bfloat16"`. Default: unchanged.
        merged : bool
            Merge the attention's projections: the same predictions with less arithmetic, see `to_merged`.
        compile : bool
            Compile the model for this machine (`torch.compile`). The start is slower, the rest faster.
        batch_size : int
            Sequences per forward pass.

        Returns
        -------
        Predictor

        Raises
        ------
        OSError
            If there is no such checkpoint.
        ValueError
            If an option is invalid, the device cannot be used, or the checkpoint is damaged: see `load_checkpoint`.
        """
        dtype = _floating_point(dtype)
        _check_device(device)
        if isinstance(model, (str, Path)):
            model, tokenizer = load_checkpoint(model, tokenizer)
            device = default_device() if device is None else device
        elif tokenizer is None and model.name_or_path:
            tokenizer = KmerTokenizer.from_pretrained(model.name_or_path)
        elif tokenizer is None:
            tokenizer = KmerTokenizer(kmer_size=model.config.kmer_size, strand_length=model.config.strand_length)
        if merged:
            model = model.to_merged()
        model = model.to(device=model.device if device is None else device, dtype=dtype or model.dtype)
        _choose_attention(model)
        if compile:
            model.compile()
        return cls(model.eval(), tokenizer, batch_size)

    @property
    def config(self) -> MacaronConfig:
        """Configuration of the model."""
        return self.model.config

    def predict(self, sequences: Sequence[str], *, verbose: bool = False) -> np.ndarray:
        """Predict the expression of sequences.

        Parameters
        ----------
        sequences : sequence of str
            DNA, with or without the constant flanks.
        verbose : bool
            Show a progress bar.

        Returns
        -------
        numpy.ndarray
            (sequences,) float64 expression in assay units.

        Raises
        ------
        ValueError
            If a sequence is not DNA, empty or too long. The message names it.
        """
        return self._predict(sequences, None, verbose)[:, 0]

    def predict_intervals(
        self, sequences: Sequence[str], *, coverage: int = 90, verbose: bool = False
    ) -> PredictedIntervals:
        """Predict the expression of sequences, with prediction intervals.

        Parameters
        ----------
        sequences, verbose
            See `predict`.
        coverage : int
            Coverage in percent, for promoters like those of the validation split.

        Returns
        -------
        PredictedIntervals

        Raises
        ------
        ValueError
            As `predict`, and if the model has no interval of this coverage.
        """
        return PredictedIntervals(*self._predict(sequences, coverage, verbose).T)

    def _predict(self, sequences: Sequence[str], coverage: int | None, verbose: bool) -> np.ndarray:
        strands = encode_sequences(self.tokenizer, sequences).ids
        with tqdm(total=len(strands), unit=" sequences", unit_scale=True, disable=not verbose) as progress:
            return self.predict_strands(strands, coverage, progress)

    def predict_strands(self, strands: np.ndarray, coverage: int | None = None, progress=None) -> np.ndarray:
        """Predict padded strands; see `predict_batches`. `progress.update` gets the size of each batch."""
        batches = [np.empty((0, 1 if self.config.interval_quantile(coverage) is None else 3))]
        for batch in self.predict_batches(strands, coverage):
            batches.append(batch)
            if progress is not None:
                progress.update(len(batch))
        return np.concatenate(batches)

    @torch.inference_mode()
    def predict_batches(self, strands: np.ndarray, coverage: int | None = None) -> Iterator[np.ndarray]:
        """Predict padded forward strands in batches; a GPU computes the next batch while one is used.

        A compiled model gets batches of one size only, since each size is compiled anew.

        Parameters
        ----------
        strands : numpy.ndarray
            (sequences, strand_length) uint8 token ids, or an object that is sliced like one.
        coverage : int, optional
            See `MacaronConfig.interval_quantile`.

        Yields
        ------
        numpy.ndarray
            (batch, 3) float64 in assay units: expression, lower and upper bound of the interval; (batch, 1) if the
            model has no intervals.

        Raises
        ------
        MemoryError
            If a batch is too large for the GPU.
        ValueError
            If a prediction is not finite, for example because weights overflow in half precision.
        """
        started: deque[tuple] = deque()
        with self.explain_lack_of_memory():
            for start in range(0, len(strands), self.batch_size):
                started.append(self._start(strands[start : start + self.batch_size]))
                if len(started) > 1:
                    yield self._finish(*started.popleft(), coverage)
            while started:
                yield self._finish(*started.popleft(), coverage)

    def _start(self, forward: np.ndarray) -> tuple[int, torch.Tensor, torch.cuda.Event | None]:
        """Start a batch. On a GPU, the copy to the host is complete once the event fires."""
        rows, on_gpu = len(forward), self.model.device.type == "cuda"
        if self.model._compiled_call_impl is not None and rows < self.batch_size:
            forward = np.pad(forward, ((0, self.batch_size - rows), (0, 0)), constant_values=N_ID)
        both = torch.from_numpy(both_strands(forward))
        both = both.pin_memory() if on_gpu else both
        outputs = self.model(both.to(self.model.device, non_blocking=on_gpu), output_nucleotide_logits=False)
        found = outputs.logits if outputs.variance is None else torch.cat([outputs.logits, outputs.variance], dim=1)
        found = found.to("cpu", non_blocking=on_gpu)
        if not on_gpu:
            return rows, found, None
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self.model.device))  # it need not be the current device
        return rows, found, copied

    def _finish(
        self, rows: int, found: torch.Tensor, copied: torch.cuda.Event | None, coverage: int | None
    ) -> np.ndarray:
        if copied is not None:
            copied.synchronize()
        found = found[:rows].double().numpy().T
        interval = self.config.expression_interval(*found, coverage=coverage) or ()
        values = np.column_stack([found[0] * self.config.expression_std + self.config.expression_mean, *interval])
        if not np.isfinite(values).all():
            raise ValueError(f"a prediction is not finite: the model's weights overflow in {self.model.dtype}")
        return values

    @contextmanager
    def explain_lack_of_memory(self) -> Iterator[None]:
        """Raise a `MemoryError` with advice if a GPU has too little memory."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"the GPU has too little memory for {self.batch_size} sequences at once: pass a smaller --batch_size"
            ) from error


PredictorLike = Predictor | str | Path | MacaronForExpressionPrediction


def as_predictor(model: PredictorLike) -> Predictor:
    """Return a predictor unchanged, and make one from a checkpoint or a model."""
    return model if isinstance(model, Predictor) else Predictor.from_pretrained(model)


def _choose_attention(model: MacaronForExpressionPrediction) -> None:
    """Use batched products for merged heads that are too wide for flash attention on a GPU.

    They are faster than PyTorch's other kernels: 16,500 against 14,200 sequences/s of the paper's model on an
    H200 (`benchmarks/results/nvidia-h200.json`).
    """
    is_wide = model.config.attention_projections == "merged" and model.config.hidden_size > _WIDEST_FLASH_HEAD
    if is_wide and model.device.type == "cuda" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")


def _check_device(device: str | torch.device | None) -> None:
    """Reject an unusable device before anything is loaded."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device} cannot be used: {str(error).splitlines()[0]}") from error


def _floating_point(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Find a floating-point dtype by its name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype {dtype!r} is not a floating-point type such as float32, bfloat16 or float16")
    return found
