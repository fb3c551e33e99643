"""Clip gradients as the original does: each value, then the norm of each tensor."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback


def clip_gradients(
    parameters: Iterable[torch.nn.Parameter], value: float | None = None, tensor_norm: float | None = None
) -> None:
    """Clip each gradient in place, without waiting for a GPU; the norm of an FSDP shard is that of the whole tensor."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    here = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    if value is not None:
        torch._foreach_clamp_min_(here, -value)
        torch._foreach_clamp_max_(here, value)
    if tensor_norm is not None:
        scales = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in torch._foreach_norm(gradients)]
        torch._foreach_add_(scales, 1e-6)  # as `torch.nn.utils.clip_grad_norm_`
        scales = torch._foreach_reciprocal(scales)
        torch._foreach_mul_(scales, tensor_norm)
        torch._foreach_clamp_max_(scales, 1.0)
        torch._foreach_mul_(here, scales)


class ClipEachGradient(TrainerCallback):
    """Clip gradients before each optimizer step, see `clip_gradients`."""

    def __init__(self, value: float | None, tensor_norm: float | None):
        self.value = value
        self.tensor_norm = tensor_norm

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs) -> None:
        """Clip the gradients of the model."""
        clip_gradients(model.parameters(), self.value, self.tensor_norm)
