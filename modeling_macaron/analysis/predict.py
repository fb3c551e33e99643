"""Predict expression for sequences in memory, and what all verbs need for it; for files see `predict_file`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import NamedTuple

import numpy as np
import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from tqdm.auto import tqdm

from modeling_macaron.atomic import check_free, is_full_disk
from modeling_macaron.configuration_macaron import MacaronConfig
from modeling_macaron.hub import reading_from_hub
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.progress import progress_bar
from modeling_macaron.table_writer import check_output
from tokenization import KmerTokenizer, reverse_complement
from tokenization.tokenization_kmer import N_ID

_OF_DAMAGED_FILES = (SafetensorError, StrictDataclassError, ValueError)
_OF_WRONG_SETTINGS = (AttributeError, LookupError, OverflowError, RecursionError, TypeError)
_WIDEST_FLASH_HEAD = 256
TOKENIZER_SETTINGS = ("kmer_size", "strand_length", "flank5", "flank3", "trimming")  # what decides how it reads


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


def load_model(
    model: str | Path | MacaronForExpressionPrediction,
    tokenizer: KmerTokenizer | None = None,
    device: str | torch.device | None = None,
    *,
    merged: bool = False,
    dtype: str | torch.dtype | None = None,
    compile_model: bool = False,
) -> tuple[MacaronForExpressionPrediction, KmerTokenizer]:
    """Load a checkpoint, or take a loaded model, ready to predict.

    A loaded model is changed in place as `model.to` does; a merged one is new.

    Parameters
    ----------
    model : str, Path or MacaronForExpressionPrediction
        Checkpoint folder, name on the Hub, or a model.
    tokenizer : KmerTokenizer, optional
        Default: the checkpoint's; for a model that was never saved, the challenge's with its strand and k-mer length.
    device : str or torch.device, optional
        Default: the GPU where there is one for a checkpoint; where it is for a loaded model.
    merged : bool
        Merge the attention's projections: the same numbers for less arithmetic, see `to_merged`. Wide heads on a GPU
        are then computed by batched products (`attn_implementation="eager"`) instead of `"sdpa"`; any other attention
        of a loaded model stays.
    dtype : str or torch.dtype, optional
        Convert the weights, for example `"bfloat16"`. Default: what they are.
    compile_model : bool
        Compile the model for this machine (`torch.compile`): it begins later and goes on faster.

    Returns
    -------
    MacaronForExpressionPrediction, KmerTokenizer
        The model in evaluation mode.

    Raises
    ------
    OSError
        If there is no such checkpoint.
    ValueError
        If the dtype is none of floating point, the device cannot be used, or the checkpoint is damaged: see
        `load_checkpoint`.
    """
    dtype = _floating_point(dtype)
    _check_device(device)
    if isinstance(model, (str, Path)):
        model, tokenizer = load_checkpoint(model, tokenizer)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    elif tokenizer is None and model.name_or_path:
        tokenizer = KmerTokenizer.from_pretrained(model.name_or_path)
    elif tokenizer is None:
        tokenizer = KmerTokenizer(kmer_size=model.config.kmer_size, strand_length=model.config.strand_length)
    if merged:
        model = model.to_merged()
    changes = {name: value for name, value in (("device", device), ("dtype", dtype)) if value is not None}
    model = model.to(**changes) if changes else model
    is_merged, is_default = model.config.attention_projections == "merged", model.config._attn_implementation == "sdpa"
    if is_merged and is_default and _has_no_flash_kernel(model.config, model.device):
        model.set_attn_implementation("eager")
    if compile_model:
        model.compile()
    return model.eval(), tokenizer


def _has_no_flash_kernel(config: MacaronConfig, device: torch.device) -> bool:
    """Tell whether merged heads, as wide as the stream, are too wide for flash attention on a GPU.

    Batched products are then faster than what PyTorch has instead: 16,500 against 14,200 sequences/s of the paper's
    model on an H200 (`benchmarks/results/nvidia-h200.json`).
    """
    return device.type == "cuda" and config.hidden_size > _WIDEST_FLASH_HEAD


def load_checkpoint(
    name: str | Path, tokenizer: KmerTokenizer | None = None, dtype: str | torch.dtype = "auto", **changes
) -> tuple[MacaronForExpressionPrediction, KmerTokenizer]:
    """Load weights and tokenizer. Raises if weights are missing or unexpected.

    Parameters
    ----------
    name : str or Path
        Checkpoint folder, or name on the Hub.
    tokenizer : KmerTokenizer, optional
        Default: the checkpoint's.
    dtype : str or torch.dtype
        Of the weights. Default: what they are.
    **changes
        Fields of the config in place of the checkpoint's.

    Returns
    -------
    MacaronForExpressionPrediction, KmerTokenizer
        On the CPU.

    Raises
    ------
    OSError
        If there is no such checkpoint, or the Hub cannot be reached.
    ValueError
        If it is damaged (its weights must be finite numbers, and just those of its config's model), or a change is not
        possible.
    """
    config, tokenizer = load_settings(name, tokenizer)
    config.update(changes)
    config.validate_architecture()
    with _explain_failure(name), reading_from_hub():
        model, report = MacaronForExpressionPrediction.from_pretrained(
            name, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    if others := sorted(report["mismatched_keys"]):
        raise ValueError(f"the checkpoint {name} has weights of other shapes than its config: {others[0][0]}")
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"the checkpoint {name} lacks {len(missing)} of the model's weights, {missing[0]} among them")
    if unused := sorted(report["unexpected_keys"]):
        raise ValueError(
            f"the checkpoint {name} has weights that its config gives no place: {len(unused)}, {unused[0]} among them"
        )
    for weight, values in model.state_dict().items():
        if not values.isfinite().all():
            raise ValueError(f"the checkpoint {name} has weights that are not finite: {weight}")
    return model, tokenizer


def load_settings(name: str | Path, tokenizer: KmerTokenizer | None = None) -> tuple[MacaronConfig, KmerTokenizer]:
    """Load the config and the tokenizer of a checkpoint, without its weights.

    Parameters
    ----------
    name, tokenizer
        See `load_checkpoint`, also for the errors.

    Returns
    -------
    MacaronConfig, KmerTokenizer
    """
    check_checkpoint_name(name)
    with _explain_failure(name, settings=True), reading_from_hub():
        fields = MacaronConfig.get_config_dict(name)[0]
        if not isinstance(fields, dict):
            raise ValueError(f"config.json must hold an object, got {type(fields).__name__}")
        kind = fields.get("model_type")
        if kind == MacaronConfig.model_type:
            config = MacaronConfig.from_pretrained(name)
            return config, KmerTokenizer.from_pretrained(name) if tokenizer is None else tokenizer
    raise ValueError(f"the checkpoint {name} is a model of type {kind!r}, not {MacaronConfig.model_type!r}")


@contextmanager
def _explain_failure(name: str | Path, settings: bool = False) -> Iterator[None]:
    """Report a damaged or missing checkpoint in one line; other errors keep their type.

    With `settings`, the block reads the JSON files of config and tokenizer; transformers does not validate these files.
    """
    try:
        yield
    except OSError as error:
        if Path(name).is_dir() or is_full_disk(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise FileNotFoundError(
            f"there is no checkpoint folder {name}, and no repository of this name on the Hub can be read: {reason}"
        ) from error
    except (*_OF_DAMAGED_FILES, *_OF_WRONG_SETTINGS) as error:
        if isinstance(error, _OF_WRONG_SETTINGS) and not (settings and _is_of_reader(error)):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"the checkpoint {name} cannot be loaded ({type(error).__name__}): {reason[:300]}") from error


def _is_of_reader(error: BaseException) -> bool:
    """Whether an error was raised by code of the standard library or transformers, not by ours."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].partition(".")[0] in ("json", "transformers")


def _check_device(device: str | torch.device | None) -> None:
    """Refuse a device that is not there, before anything is loaded."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device} cannot be used: {str(error).splitlines()[0]}") from error


def _floating_point(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Find a dtype by its name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype {dtype!r} is no floating-point type; float32, bfloat16 and float16 are")
    return found


def check_checkpoint_name(name: str | Path) -> None:
    """Reject a name that is neither a folder nor a valid Hub name.

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
        raise FileNotFoundError(f"{name} is not a checkpoint folder{hint}")
    if not path.is_dir():
        try:
            validate_repo_id(str(name))
            is_name = "/" in str(name)
        except HFValidationError:
            is_name = False
        if not is_name:
            raise FileNotFoundError(f"there is no checkpoint folder {name}, and a name on the Hub is OWNER/NAME")


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
