"""Averaged weights and clipped gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

RAW_WEIGHTS = "raw_weights.safetensors"


class WeightAverage(TrainerCallback):
    """Average the parameters over optimizer steps. The model holds the raw weights until training ends.

    Step t (from 0) updates the average to `d * average + (1 - d) * weights` with `d = min(decay, (1 + t) / (10 + t))`,
    so the average soon forgets the initial weights.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.weights = None  # averages in the order of `model.parameters()`, during training

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        """Start from the model's weights. A resumed run keeps the average set by `restore`."""
        if state.global_step == 0:
            self.weights = _copies(model)

    def on_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        """Update the average."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        get_ema_multi_avg_fn(decay)(self.weights, _parameters(model), None)

    def on_train_end(self, args, state, control, model=None, **kwargs) -> None:
        """Load the average into the model, unless the Trainer has loaded the best checkpoint."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint is not None):
            torch._foreach_copy_(_parameters(model), self.weights)
        self.weights = None

    @contextmanager
    def in_use(self, model: torch.nn.Module) -> Iterator[None]:
        """Load the average into the model, in place, within the block. Does nothing outside training."""
        if self.weights is None:
            yield
            return
        raw, parameters = _copies(model), _parameters(model)
        torch._foreach_copy_(parameters, self.weights)
        try:
            yield
        finally:
            torch._foreach_copy_(parameters, raw)

    def save_raw(self, model: torch.nn.Module, folder: str | Path) -> None:
        """Write the raw weights of the unwrapped model to a checkpoint folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model(model, str(Path(folder) / RAW_WEIGHTS), metadata={"format": "pt"})

    def restore(self, model: torch.nn.Module, folder: str | Path) -> None:
        """Take the average from the unwrapped model, then load the checkpoint's raw weights into it."""
        self.weights = _copies(model)
        load_model(model, Path(folder) / RAW_WEIGHTS)


def _parameters(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def _copies(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def clip_gradients(
    parameters: Iterable[torch.nn.Parameter], value: float | None = None, tensor_norm: float | None = None
) -> None:
    """Clip each value, then the norm of each whole tensor, in place, as in the original."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    if value is not None:
        torch._foreach_clamp_min_(local, -value)
        torch._foreach_clamp_max_(local, value)
    if tensor_norm is not None:
        scales = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in torch._foreach_norm(gradients)]
        torch._foreach_add_(scales, 1e-6)  # as `torch.nn.utils.clip_grad_norm_`
        scales = torch._foreach_reciprocal(scales)
        torch._foreach_mul_(scales, tensor_norm)
        torch._foreach_clamp_max_(scales, 1.0)
        torch._foreach_mul_(local, scales)


class ClipEachGradient(TrainerCallback):
    """Clip gradients before each optimizer step with `clip_gradients`."""

    def __init__(self, value: float | None, tensor_norm: float | None):
        self.value, self.tensor_norm = value, tensor_norm

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs) -> None:
        """Clip the gradients of the model."""
        clip_gradients(model.parameters(), self.value, self.tensor_norm)
