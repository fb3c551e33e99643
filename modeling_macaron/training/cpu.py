"""Faster training on a CPU: cheap dropout masks, a faster depthwise convolution, compiled blocks."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from modeling_macaron.modeling_macaron import MacaronLayer

logger = logging.getLogger(__name__)


def train_on_cpu(model: nn.Module, *, compile_blocks: bool = False) -> None:
    """Speed up training on a CPU, in place. Weights, saved files and outputs do not change, up to rounding and masks.

    `compile_blocks` compiles the blocks at the first training step, if PyTorch can compile on this machine.
    """
    compile_blocks = compile_blocks and _can_compile()
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = _Dropout
        elif type(module) is nn.Conv1d and module.kernel_size[0] % 2 and module.groups == module.in_channels:
            module.__class__ = _DepthwiseConv
        elif type(module) is nn.ReLU:
            module.__class__ = _ReLU
        elif type(module) is MacaronLayer and compile_blocks:
            module.__class__ = _CompiledLayer


def _can_compile() -> bool:
    """Compile a trivial function. Without a C++ compiler or Python's headers, log a warning and return False."""
    try:
        torch.compile(lambda values: values + 1)(torch.zeros(64))
    except Exception as error:  # noqa: BLE001  anything may be missing
        reason = str(error).strip().splitlines()[0]
        logger.warning("torch_compile: PyTorch cannot compile here, so training is slower (%s)", reason)
        return False
    return True


def draw_mask(like: torch.Tensor, rate: float) -> torch.Tensor:
    """Draw a dropout mask of int8 zeros and ones. A random 64-bit word gives eight 8-bit or four 16-bit draws."""
    bits, dropped = _threshold(rate)
    words = torch.empty(-(-like.numel() * bits // 64), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int8 if bits == 8 else torch.int16)[: like.numel()].view(like.shape)
    return draws.ge_(dropped - 2 ** (bits - 1)).to(torch.int8)


def _threshold(rate: float) -> tuple[int, int]:
    """Return 8 bits per draw if they meet the rate within 0.001 and 1 %, else 16, and the number of dropped values."""
    is_coarse = abs(round(256 * rate) / 256 - rate) < min(0.1, rate, 1 - rate) / 100
    bits = 8 if is_coarse else 16
    return bits, min(round(2**bits * rate), 2**bits - 1)


def _convolve(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Depthwise convolution (batch, hidden, positions) in oneDNN's channels-last layout.

    It runs in float32 under autocast too: in bfloat16, oneDNN 3 hangs for 16 or 32 channels.
    """
    image = _positions_first(inputs).unsqueeze(2)
    padding = (0, weight.shape[2] // 2)
    with torch.autocast("cpu", enabled=False):
        return F.conv2d(image, weight.unsqueeze(2), padding=padding, groups=len(weight)).squeeze(2)


def _convolve_backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of inputs and weight. `torch.compile` fuses the sums into one loop."""
    inputs, weight = ctx.saved_tensors
    positions, width = inputs.shape[2], weight.shape[2]
    padded = F.pad(inputs, (width // 2, width // 2))
    of_weight = [(gradient * padded[:, :, start : start + positions]).sum((0, 2)) for start in range(width)]
    return torch.ops.macaron.depthwise_conv(gradient, weight.flip(2)), torch.stack(of_weight, dim=-1).unsqueeze(1)


def _positions_first(tensor: torch.Tensor) -> torch.Tensor:
    """Lay (batch, hidden, positions) out as (batch, positions, hidden)."""
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


# `torch.compile` treats these operators as opaque. The tag prevents it from merging two draws.
_library = torch.library.Library("macaron", "DEF")
_library.define("draw_mask(Tensor like, float rate) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
_library.define("depthwise_conv(Tensor inputs, Tensor weight) -> Tensor")
_library.impl("draw_mask", draw_mask, "CPU")
_library.impl("depthwise_conv", _convolve, "CPU")
torch.library.register_fake(
    "macaron::draw_mask", lambda like, rate: torch.empty(like.shape, dtype=torch.int8, device=like.device), lib=_library
)
torch.library.register_fake(
    "macaron::depthwise_conv", lambda inputs, weight: _positions_first(torch.empty_like(inputs)), lib=_library
)
torch.library.register_autograd(
    "macaron::depthwise_conv",
    _convolve_backward,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    lib=_library,
)


class _Dropout(nn.Dropout):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not (self.training and self.p and inputs.device.type == "cpu"):
            return super().forward(inputs)
        bits, dropped = _threshold(self.p)
        return inputs * torch.ops.macaron.draw_mask(inputs, self.p) * (2**bits / (2**bits - dropped))


class _DepthwiseConv(nn.Conv1d):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.device.type != "cpu":
            return super().forward(inputs)
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return torch.ops.macaron.depthwise_conv(inputs.to(dtype), self.weight.to(dtype)).to(inputs.dtype)


class _ReLU(nn.ReLU):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(inputs)
        # Compiled comparisons are slow on a CPU. The factor is 0 or 1, except for subnormal inputs.
        is_positive = (inputs.detach() * torch.finfo(inputs.dtype).max).clamp(0, 1)
        return inputs * is_positive


class _CompiledLayer(MacaronLayer):
    def forward(self, *args, **kwargs) -> torch.Tensor:
        compiled = self.training and torch.is_grad_enabled() and not self.gradient_checkpointing
        return (_compiled_forward() if compiled else MacaronLayer.forward)(self, *args, **kwargs)


@functools.cache
def _compiled_forward() -> Callable[..., torch.Tensor]:
    """Compile the block once for all models."""
    return torch.compile(MacaronLayer.forward, dynamic=False)
