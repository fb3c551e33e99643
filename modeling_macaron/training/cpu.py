"""Faster training on a CPU: cheap dropout masks, a faster depthwise convolution, compiled blocks."""

from __future__ import annotations

import logging
import os
import shutil

import torch
import torch.nn.functional as F
from torch import nn

from modeling_macaron.modeling_macaron import MacaronLayer

logger = logging.getLogger(__name__)

_COMPILERS = ("c++", "g++", "clang++", "cl")


def train_on_cpu(model: nn.Module, *, compile_blocks: bool = False) -> None:
    """Make a Macaron model train faster on a CPU, in place; its function, weights and saved files stay the same.

    `compile_blocks` compiles the blocks at the first training step, if there is a C++ compiler.
    """
    if compile_blocks and not any(map(shutil.which, (os.environ.get("CXX", "c++"), *_COMPILERS))):
        logger.warning("torch_compile: no C++ compiler was found, so nothing is compiled and training is slower")
        compile_blocks = False
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = _Dropout
        elif type(module) is nn.Conv1d and module.kernel_size[0] % 2:
            module.__class__ = _DepthwiseConv
        elif type(module) is nn.ReLU:
            module.__class__ = _ReLU
        elif type(module) is MacaronLayer and compile_blocks:
            module.__class__ = _CompiledLayer


def draw_mask(like: torch.Tensor, rate: float) -> torch.Tensor:
    """Draw a dropout mask of int8 zeros and ones; a random word of 64 bits serves four or eight elements."""
    bits, dropped = _threshold(rate)
    words = torch.empty(-(-like.numel() * bits // 64), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int8 if bits == 8 else torch.int16)[: like.numel()].view(like.shape)
    return draws.ge_(dropped - 2 ** (bits - 1)).to(torch.int8)


def _threshold(rate: float) -> tuple[int, int]:
    """Bits of a draw (16 if 8 would miss the rate by 0.001 or 1 %) and how many of its values drop."""
    is_coarse = abs(round(256 * rate) / 256 - rate) < min(0.1, rate, 1 - rate) / 100
    bits = 8 if is_coarse else 16
    return bits, min(round(2**bits * rate), 2**bits - 1)


def _convolve(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Depthwise convolution (batch, hidden, positions) in oneDNN's channels-last layout.

    It runs in float32 under autocast too: in bfloat16, oneDNN 3 never returns for 16 or 32 channels.
    """
    image = _positions_first(inputs).unsqueeze(2)
    padding = (0, weight.shape[2] // 2)
    with torch.autocast("cpu", enabled=False):
        return F.conv2d(image, weight.unsqueeze(2), padding=padding, groups=len(weight)).squeeze(2)


def _convolve_backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of inputs and weight; `torch.compile` fuses the sums into one loop."""
    inputs, weight = ctx.saved_tensors
    positions, width = inputs.shape[2], weight.shape[2]
    padded = F.pad(inputs, (width // 2, width // 2))
    of_weight = [(gradient * padded[:, :, start : start + positions]).sum((0, 2)) for start in range(width)]
    return torch.ops.macaron.depthwise_conv(gradient, weight.flip(2)), torch.stack(of_weight, dim=-1).unsqueeze(1)


def _positions_first(tensor: torch.Tensor) -> torch.Tensor:
    """Lay (batch, hidden, positions) out as (batch, positions, hidden)."""
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


# Operators, because `torch.compile` leaves them as they are. The tag keeps it from merging two draws of a mask.
_library = torch.library.Library("macaron", "DEF")
_library.define("draw_mask(Tensor like, float rate) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
_library.define("depthwise_conv(Tensor inputs, Tensor weight) -> Tensor")
_library.impl("draw_mask", draw_mask, "CPU")
_library.impl("depthwise_conv", _convolve, "CPU")
torch.library.register_fake(
    "macaron::draw_mask", lambda like, rate: torch.empty_like(like, dtype=torch.int8), lib=_library
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
        if not (self.training and self.p):
            return inputs
        bits, dropped = _threshold(self.p)
        return inputs * torch.ops.macaron.draw_mask(inputs, self.p) * (2**bits / (2**bits - dropped))


class _DepthwiseConv(nn.Conv1d):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return torch.ops.macaron.depthwise_conv(inputs.to(dtype), self.weight.to(dtype)).to(inputs.dtype)


class _ReLU(nn.ReLU):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(inputs)
        # Compiled comparisons are slow on a CPU; this is 0 or 1 except for subnormal numbers.
        is_positive = (inputs.detach() * torch.finfo(inputs.dtype).max).clamp(0, 1)
        return inputs * is_positive


class _CompiledLayer(MacaronLayer):
    def forward(self, *args, **kwargs) -> torch.Tensor:
        compiled = self.training and torch.is_grad_enabled()
        return (_compiled_forward if compiled else MacaronLayer.forward)(self, *args, **kwargs)


_compiled_forward = torch.compile(MacaronLayer.forward, dynamic=False)
