"""What the parts of the GPU benchmark share: settings, models, batches, arithmetic and time."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter

import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import Results
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.training.clipping import clip_gradients

RECIPE = Path(__file__).parents[1] / "configs" / "one_gpu.yaml"
ATTENTIONS = {
    "eager": None,  # the two batched products
    "sdpa": None,  # what PyTorch chooses itself
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
LABELS = {"separate": "plain", "merged": "merged"}
TASKS = {
    "train": "training step",
    "whole": "inference, whole output",
    "expression": "inference, expression only",
}
_WINDOWS = 3
_LONGEST_WINDOW_S = 2.0


@dataclass(frozen=True)
class Size:
    """How large the benchmark is.

    Attributes
    ----------
    fields : dict
        Fields of `MacaronConfig` that differ from its defaults.
    batch_size : int
        Sequences of a training step, and of the forms that are compared.
    batch_sizes : tuple of int
        For the best form.
    steps : int
        Steps of a timed window.
    check_layers : int
        Blocks of the model that is checked against float64.
    matrix : int
        Rows of the square matrices whose product is the peak.
    trainer_steps : tuple of int
        Optimizer steps of the Trainer before the window and in it.
    rows : int
        Sequences to train on.
    bulk_rows, bulk_batch_size : int
        Sequences of the file to predict, and how many go through the model at once.
    """

    fields: dict
    batch_size: int
    batch_sizes: tuple[int, ...]
    steps: int
    check_layers: int
    matrix: int
    trainer_steps: tuple[int, int]
    rows: int
    bulk_rows: int
    bulk_batch_size: int


_TINY_FIELDS = {
    "hidden_size": 32,
    "head_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_expression_positions": 4,
}
SIZES = {
    "paper": Size({}, 512, (128, 256, 512, 1024, 2048, 4096), 10, 2, 8192, (20, 90), 60_000, 1_000_000, 2048),
    "tiny": Size(_TINY_FIELDS, 4, (2, 4), 2, 1, 64, (1, 3), 100, 200, 64),
}


@dataclass
class Run:
    """One run of the benchmark.

    Attributes
    ----------
    results : Results
        What was found so far.
    output : Path
        Where it is saved.
    device : torch.device
        What is measured.
    size : str
        Key of `SIZES`.
    batch_sizes : tuple of int
        For the best form.
    steps : int
        Steps of a timed window.
    projections, modes, attentions : tuple of str
        Forms to compare: `separate` and `merged`; `eager` and `compiled`; keys of `ATTENTIONS`.
    backend : str
        Backend of `torch.compile`.
    bulk_rows : int
        Sequences of the file to predict.
    deadline : float
        Value of the monotonic clock after which no form is begun.
    peak : float or None
        Measured matrix product in TFLOP/s.
    """

    results: Results
    output: Path
    device: torch.device
    size: str
    batch_sizes: tuple[int, ...]
    steps: int
    projections: tuple[str, ...]
    modes: tuple[str, ...]
    attentions: tuple[str, ...]
    backend: str
    bulk_rows: int
    deadline: float = math.inf
    peak: float | None = None

    @property
    def sizes(self) -> Size:
        """All that depends on the size."""
        return SIZES[self.size]

    @property
    def is_late(self) -> bool:
        """Whether the time is up."""
        return monotonic() > self.deadline

    def bar(self, value: float | None) -> float | None:
        """Bar of a figure; only a GPU and the paper's model have any."""
        return value if self.device.type == "cuda" and self.size == "paper" else None

    def utilization(self, projections: str, task: str, sequences_per_s: float) -> float | None:
        """Model-FLOP utilization: arithmetic that the form needs over what a matrix product reaches."""
        if self.peak is None:
            return None
        return count_flops(self.size, projections, task) * sequences_per_s / (self.peak * 1e12)

    def save(self) -> None:
        """Write what was found so far."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.results.save(self.output)


def make_model(
    size: str, projections: str, attention: str, device: torch.device | str, **fields
) -> MacaronForExpressionPrediction:
    """Make a model with new float32 weights on a device.

    Parameters
    ----------
    size : str
        Key of `SIZES`.
    projections : str
        `attention_projections` of the config.
    attention : str
        Key of `ATTENTIONS`; the model runs inside `attention_kernels` of the same.
    device : torch.device or str
        Where the weights are made.
    **fields
        More fields of the config.

    Returns
    -------
    MacaronForExpressionPrediction
    """
    config = MacaronConfig(**{**SIZES[size].fields, "attention_projections": projections, **fields})
    with torch.device(device):
        model = MacaronForExpressionPrediction(config)
    model.set_attn_implementation("eager" if attention == "eager" else "sdpa")
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


@contextmanager
def attention_kernels(attention: str) -> Iterator[None]:
    """Let scaled-dot-product attention use one backend only; compiling and running both belong inside."""
    backend = ATTENTIONS[attention]
    if backend is None:
        yield
        return
    with sdpa_kernel(backend):
        yield


@cache
def count_flops(size: str, projections: str, task: str) -> float:
    """Count the floating-point operations of matrix products and convolutions for one sequence.

    Parameters
    ----------
    size : str
        Key of `SIZES`.
    projections : str
        `separate` or `merged`.
    task : str
        `train` (forward and backward), `whole` or `expression` (forward).

    Returns
    -------
    float
        Operations; a multiplication with its addition counts two.
    """
    rows = 2
    # With batched products: the counter knows them on every device, and fused kernels do the same arithmetic.
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
    """As much as the forward for each gradient that is wanted; PyTorch's own takes a depthwise one for dense."""
    output_mask = args[-1]
    return 2 * math.prod(grad_shape) * math.prod(weight_shape[1:]) * sum(map(bool, output_mask[:2]))


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished; other devices have."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release(device: torch.device) -> None:
    """Forget compiled code and free memory, so that one form does not see what another left."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_gb(device: torch.device) -> float | None:
    """Largest memory that tensors took since `release`; None where it is not a GPU's."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def seconds_per_step(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Time steps that are warm.

    Parameters
    ----------
    step : callable
        Starts one step.
    steps : int
        Steps of a window, between whose ends nothing waits for the device; slow steps have shorter windows.
    device : torch.device
        Where it runs.

    Returns
    -------
    float
        Seconds of a step, the median of three windows.
    """

    def window(length: int) -> float:
        synchronize(device)
        started = perf_counter()
        for _ in range(length):
            step()
        synchronize(device)
        return (perf_counter() - started) / length

    length = max(1, min(steps, int(_LONGEST_WINDOW_S / window(1))))
    return median(window(length) for _ in range(_WINDOWS))


class TrainingStep:
    """One optimizer step with the recipe's settings and nothing else: what a Trainer can at best reach.

    bf16 autocast from float32 weights, clipping, fused Adam.

    Parameters
    ----------
    model : MacaronForExpressionPrediction
        On the device that is measured.
    backend : str or None
        Backend of `torch.compile`; None runs the model as it is.
    """

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
