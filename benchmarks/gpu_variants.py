"""Part of the GPU benchmark that times changes to the training step that the library does not have, or not yet.

What pays on a GPU belongs in the library; until it was measured it stays here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gpu_setup import (
    LABELS,
    Run,
    TrainingStep,
    attention_kernels,
    make_model,
    random_batch,
    release,
    seconds_per_step,
)
from modeling_macaron import MacaronForExpressionPrediction

_WARM_UP = 3
_SMALL_BATCH = 64  # an eighth of the recipe's batch, where the launches of kernels take longest


def convolve_by_shifts(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Convolve each feature with zeros beyond the ends, as a sum of shifted products that a compiler can fuse.

    Parameters
    ----------
    inputs : torch.Tensor
        (batch, positions, hidden).
    weight : torch.Tensor
        (hidden, 1, width), as of `torch.nn.Conv1d` with `padding="same"`.

    Returns
    -------
    torch.Tensor
        (batch, positions, hidden).
    """
    positions, width = inputs.shape[1], weight.shape[2]
    left = (width - 1) // 2
    padded = F.pad(inputs, (0, 0, left, width - 1 - left))
    return sum(padded[:, shift : shift + positions] * weight[:, 0, shift] for shift in range(width))


class _ShiftedConv(nn.Module):
    """Stands in for a depthwise convolution, with its weight."""

    def __init__(self, convolution: nn.Conv1d):
        super().__init__()
        self.weight = convolution.weight

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return convolve_by_shifts(hidden_states.transpose(1, 2), self.weight).transpose(1, 2)


def shift_convolutions(model: MacaronForExpressionPrediction) -> None:
    """Replace the depthwise convolutions of a model by sums of shifted products."""
    for layer in model.macaron.layers:
        layer.convolution.depthwise_conv = _ShiftedConv(layer.convolution.depthwise_conv)


def keep_stream_in_bfloat16(model: MacaronForExpressionPrediction) -> None:
    """Let embeddings and layer norms give bfloat16, so that the residual stream is bfloat16 too."""
    for module in model.modules():
        if module is model.macaron.embeddings or isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda _, __, output: output.to(torch.bfloat16))


def _both(model: MacaronForExpressionPrediction) -> None:
    shift_convolutions(model)
    keep_stream_in_bfloat16(model)


VARIANTS: dict[str, Callable[[MacaronForExpressionPrediction], None]] = {
    "as it is": lambda model: None,
    "convolution by shifts": shift_convolutions,
    "stream in bfloat16": keep_stream_in_bfloat16,
    "both": _both,
}


def measure_variants(run: Run) -> None:
    """Time training steps with each of `VARIANTS`, and small batches with and without CUDA graphs."""
    size = run.sizes.batch_size
    plans = [(name, size, None) for name in VARIANTS]
    small = min(_SMALL_BATCH, size)
    plans += [("as it is", small, mode) for mode in (None, "reduce-overhead")]
    for projections in run.projections:
        for name, batch_size, mode in plans:
            if run.is_late:
                continue
            seconds, note = None, ""
            try:
                seconds = _time_variant(run, projections, name, batch_size, mode)
            except RuntimeError as error:
                note = str(error).strip().splitlines()[0][:200]
            run.results.row(
                "variants", projections=LABELS[projections], variant=name, batch_size=batch_size,
                compile_mode=mode or "default", ms=seconds and 1e3 * seconds,
                sequences_per_s=seconds and batch_size / seconds, note=note,
            )  # fmt: skip
            run.save()


def _time_variant(run: Run, projections: str, name: str, batch_size: int, mode: str | None) -> float:
    """Seconds of a training step, compiled where the run compiles."""
    release(run.device)
    torch.manual_seed(0)
    attention = run.attentions[0]
    model = make_model(run.size, projections, attention, run.device)
    VARIANTS[name](model)
    backend = run.backend if "compiled" in run.modes else None
    step = TrainingStep(model, backend)
    if mode is not None and backend == "inductor":
        step.call = torch.compile(model, mode=mode, dynamic=False)
    batch = random_batch(model, batch_size)
    with attention_kernels(attention):
        for _ in range(_WARM_UP):
            step(batch)
        return seconds_per_step(lambda: step(batch), run.steps, run.device)
