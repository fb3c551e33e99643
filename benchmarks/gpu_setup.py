"""Settings, models, batches, arithmetic and timing of the GPU benchmark."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import ROOT, Results
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.training.callbacks import clip_gradients

RECIPE = ROOT / "configs" / "one_gpu.yaml"
LABELS = {"separate": "plain", "merged": "merged"}
TASKS = {"train": "training", "whole": "inference, all outputs", "expression": "inference, expression only"}
_WINDOWS = 3
_LONGEST_WINDOW_S = 2.0


@dataclass(frozen=True)
class Size:
    """How large the benchmark is."""

    fields: dict  # of `MacaronConfig`, that differ from its defaults
    batch_size: int
    small_batch_size: int  # where launching kernels takes longest
    steps: int  # of a timed window
    check_layers: int  # blocks of the model that is compared with float64
    matrix: int  # rows of the square matrices whose product is the peak
    trainer_steps: tuple[int, int]  # before the timed window, and in it
    rows: int  # to train on


_TINY_FIELDS = {
    "hidden_size": 32, "head_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "num_expression_positions": 4,
}  # fmt: skip
SIZES = {
    "paper": Size({}, 512, 64, 10, 2, 8192, (20, 60), 45_000),
    "tiny": Size(_TINY_FIELDS, 4, 2, 2, 1, 64, (1, 3), 100),
}


@dataclass
class Run:
    """One run of the benchmark; `peak` is the measured rate of a matrix product in TFLOP/s."""

    results: Results
    output: Path | None
    device: torch.device
    size: str
    projections: tuple[str, ...] = tuple(LABELS)
    modes: tuple[str, ...] = ("eager", "compiled")
    batch_sizes: tuple[int, ...] = ()
    backend: str = "inductor"
    deadline: float = math.inf  # of the monotonic clock, after which no measurement begins
    peak: float | None = None

    @property
    def sizes(self) -> Size:
        """Everything that depends on the size."""
        return SIZES[self.size]

    @property
    def is_late(self) -> bool:
        """Whether the time is up."""
        return monotonic() > self.deadline

    def utilization(self, projections: str, task: str, sequences_per_s: float) -> float | None:
        """Model-FLOP utilization: the arithmetic of the form as a share of the rate of a matrix product."""
        if self.peak is None:
            return None
        return count_flops(self.size, projections, task) * sequences_per_s / (self.peak * 1e12)

    def save(self) -> None:
        """Write the results so far, where there is an output."""
        if self.output is not None:
            self.results.save(self.output)


def make_model(
    size: str, projections: str, attention: str, device: torch.device | str, **fields
) -> MacaronForExpressionPrediction:
    """Make a model of a size with new float32 weights on a device."""
    config = MacaronConfig(**{**SIZES[size].fields, "attention_projections": projections, **fields})
    with torch.device(device):
        model = MacaronForExpressionPrediction(config)
    model.set_attn_implementation(attention)
    return model


def random_batch(model: MacaronForExpressionPrediction, rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make a batch as the collator does: ids and nucleotide labels (rows, 2 * strand_length), labels (rows,)."""
    generator = torch.Generator().manual_seed(seed)
    shape = rows, model.config.sequence_length
    true_ids = torch.randint(0, 4, shape, generator=generator)
    masked = torch.rand(shape, generator=generator) < 0.05
    batch = {
        "input_ids": true_ids.masked_fill(masked, model.config.mask_token_id),
        "labels": torch.randn(rows, generator=generator),
        "masked_nucleotides": true_ids.masked_fill(~masked, -100),
    }
    return {name: values.to(model.device) for name, values in batch.items()}


@cache
def count_flops(size: str, projections: str, task: str) -> float:
    """Count the operations of matrix products and convolutions for one sequence; a multiply-add counts two."""
    rows = 2
    # Batched products: the counter knows them on every device, and fused kernels do the same arithmetic.
    model = make_model(size, projections, "eager", "meta")
    ids = torch.zeros(rows, model.config.sequence_length, dtype=torch.long, device="meta")
    mapping = {torch.ops.aten.convolution_backward: _count_convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        if task == "train":
            model.train()(ids, labels=torch.zeros(rows, device="meta"), masked_nucleotides=ids).loss.backward()
        else:
            with torch.no_grad():
                model.eval()(ids, output_nucleotide_logits=task == "whole")
    return counter.get_total_flops() / rows


def _count_convolution_backward(grad_shape, input_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """As much as the forward for each gradient; PyTorch's own count takes a depthwise convolution for dense."""
    output_mask = args[-1]
    return 2 * math.prod(grad_shape) * math.prod(weight_shape[1:]) * sum(map(bool, output_mask[:2]))


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release(device: torch.device) -> None:
    """Discard compiled code and free memory, so that one form does not affect the next."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_gb(device: torch.device) -> float | None:
    """Peak memory of tensors since `release`; None unless on a GPU."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def seconds_per_step(step: Callable[[], object], steps: int, device: torch.device, warm_up: int = 2) -> float:
    """Median seconds of a step over three windows; within a window nothing waits for the device."""

    def window(length: int) -> float:
        synchronize(device)
        started = perf_counter()
        for _ in range(length):
            step()
        synchronize(device)
        return (perf_counter() - started) / length

    for _ in range(warm_up):
        step()
    length = max(1, min(steps, int(_LONGEST_WINDOW_S / window(1))))
    return median(window(length) for _ in range(_WINDOWS))


class TrainingStep:
    """One optimizer step with the recipe's settings: bf16 autocast, clipping and fused Adam on float32 weights."""

    def __init__(self, model: MacaronForExpressionPrediction, backend: str | None = None):
        recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        self.device = model.device
        self.parameters = list(model.parameters())
        self.limits = recipe.get("clip_grad_value"), recipe.get("clip_tensor_norm")
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=float(recipe["learning_rate"]),
            betas=(recipe["adam_beta1"], recipe["adam_beta2"]),
            eps=float(recipe["adam_epsilon"]),
            fused=True,
        )
        model.train()
        self.call = model if backend is None else torch.compile(model, backend=backend, dynamic=False)

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Take the step; returns the loss () without waiting for it."""
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.call(**batch).loss
        loss.backward()
        self.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def update(self) -> None:
        """Clip the gradients and update the weights."""
        clip_gradients(self.parameters, *self.limits)
        self.optimizer.step()
