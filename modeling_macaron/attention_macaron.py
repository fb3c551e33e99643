"""Attention of the Macaron block, with its four projections apart or merged into two."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_macaron import MacaronConfig


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend by two batched products: (batch, heads, queries, head_dim) in, (batch, queries, heads, head_dim) out."""
    attn_weights = torch.matmul(query * scaling, key.transpose(2, 3))
    attn_weights = F.softmax(attn_weights, dim=-1)
    attn_output = torch.matmul(attn_weights, value).transpose(1, 2)
    return attn_output, attn_weights


class MacaronAttentionBase(nn.Module):
    """Unmasked multi-head attention of (batch, queries, hidden) on (batch, positions, hidden).

    N positions are attended like any other.
    """

    def __init__(self, config: MacaronConfig):
        super().__init__()
        self.config = config
        self.scaling = config.head_dim**-0.5
        self.is_causal = False

    def implementation(self, query: torch.Tensor) -> str:
        """Give the attention implementation for a query (batch, heads, queries, head_dim)."""
        return self.config._attn_implementation

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend with the implementation that the config names; shapes as in `eager_attention_forward`."""
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.implementation(query), eager_attention_forward
        )
        return attention_interface(self, query, key, value, None, scaling=self.scaling, dropout=0.0, **kwargs)


class MacaronAttention(MacaronAttentionBase):
    """Attention with four projections, as in the original."""

    def __init__(self, config: MacaronConfig):
        super().__init__(config)
        self.head_dim = config.head_dim
        projection_size = config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, projection_size)
        self.k_proj = nn.Linear(config.hidden_size, projection_size)
        self.v_proj = nn.Linear(config.hidden_size, projection_size)
        self.o_proj = nn.Linear(projection_size, config.hidden_size)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            projection.glorot_fans = _input_fans(config)
        self.o_proj.glorot_fans = _output_fans(config)

    def forward(
        self, query_states: torch.Tensor, hidden_states: torch.Tensor, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the output (batch, queries, hidden) and, with eager attention, (batch, heads, queries, positions)."""
        attn_output, attn_weights = self.attend(
            self._split_heads(self.q_proj(query_states)),
            self._split_heads(self.k_proj(hidden_states)),
            self._split_heads(self.v_proj(hidden_states)),
            **kwargs,
        )
        return self.o_proj(attn_output.flatten(2)), attn_weights

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    @torch.no_grad()
    def merged_state(self) -> dict[str, torch.Tensor]:
        """Weights of the `MacaronMergedAttention` that is the same function, computed in float64 on the CPU.

        With `x` a query and `y` a key position, a head scores `(x Wq + bq)(y Wk + bk)^T`. Terms that do not depend on
        `y` drop out of the softmax, which leaves `(x Wq Wk^T + bq Wk^T) y^T`. The softmax sums to one, so the bias of
        the values adds the constant `bv Wo` to the output, and `Wv Wo` is one matrix.
        """
        hidden_size, head_dim = self.config.hidden_size, self.head_dim
        # Some GPUs know no float64.
        exact = {name: weights.cpu().double() for name, weights in self.state_dict().items()}
        query, key, value = (
            exact[f"{name}.weight"].view(-1, head_dim, hidden_size) for name in ("q_proj", "k_proj", "v_proj")
        )
        query_bias = exact["q_proj.bias"].view(-1, 1, head_dim)
        output = exact["o_proj.weight"]
        output_by_head = output.view(hidden_size, -1, head_dim).transpose(0, 1)
        state = {
            "qk_proj.weight": torch.matmul(key.transpose(1, 2), query).flatten(0, 1),
            "qk_proj.bias": torch.matmul(query_bias, key).flatten(),
            "vo_proj.weight": torch.matmul(output_by_head, value).transpose(0, 1).flatten(1),
            "vo_proj.bias": exact["o_proj.bias"] + output @ exact["v_proj.bias"],
        }
        return {name: values.to(self.o_proj.weight) for name, values in state.items()}


class MacaronMergedAttention(MacaronAttentionBase):
    """The functions of `MacaronAttention` with two projections: keys and values are the stream itself.

    `qk_proj` holds `Wq Wk^T` and the query bias times `Wk^T` of each head, `vo_proj` holds `Wv Wo`: other names than
    those of `MacaronAttention`, whose shapes can be the same. All heads share their keys and values, so they are the
    rows of one product.
    """

    def __init__(self, config: MacaronConfig):
        super().__init__(config)
        projection_size = config.num_attention_heads * config.hidden_size
        self.qk_proj = nn.Linear(config.hidden_size, projection_size)
        self.vo_proj = nn.Linear(projection_size, config.hidden_size)
        # The spread that products of the initial weights of `MacaronAttention` have.
        input_variance, output_variance = (2 / sum(fans(config)) for fans in (_input_fans, _output_fans))
        self.qk_proj.initial_std = math.sqrt(config.head_dim) * input_variance
        self.vo_proj.initial_std = math.sqrt(config.head_dim * input_variance * output_variance)

    def implementation(self, query: torch.Tensor) -> str:
        """Give the implementation of the config, but "eager" in place of "sdpa" where PyTorch has no kernel.

        Compiled under bfloat16 autocast, a GPU's scaled-dot-product attention rejects heads wider than 256 that share
        their keys ("no kernel found to launch" on Hopper).
        """
        named = super().implementation(query)
        is_too_wide = query.is_cuda and query.shape[-1] > 256 and torch.compiler.is_compiling()
        return "eager" if named == "sdpa" and is_too_wide else named

    def forward(
        self, query_states: torch.Tensor, hidden_states: torch.Tensor, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the output (batch, queries, hidden) and, with eager attention, (batch, heads, queries, positions)."""
        batch_size, num_queries, hidden_size = query_states.shape
        queries = self.qk_proj(query_states).view(batch_size, 1, -1, hidden_size)  # a row for each position and head
        keys = hidden_states.unsqueeze(1)
        attn_output, attn_weights = self.attend(queries, keys, keys, **kwargs)
        if attn_weights is not None:
            attn_weights = attn_weights.view(batch_size, num_queries, -1, keys.shape[2]).transpose(1, 2)
        return self.vo_proj(attn_output.reshape(batch_size, num_queries, -1)), attn_weights


ATTENTION_CLASSES = {"separate": MacaronAttention, "merged": MacaronMergedAttention}


def _input_fans(config: MacaronConfig) -> tuple[int, int]:
    """Fans of the query, key and value kernels as Keras counts them."""
    return config.num_attention_heads * config.hidden_size, config.head_dim * config.hidden_size


def _output_fans(config: MacaronConfig) -> tuple[int, int]:
    """Fans of the output kernel as Keras counts them."""
    return config.num_attention_heads * config.head_dim, config.num_attention_heads * config.hidden_size


def merge_projections(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copy the state of a model with each `MacaronAttention` in it turned into a `MacaronMergedAttention`."""
    state = {name: weights.clone() for name, weights in model.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, MacaronAttention):
            for own in module.state_dict():
                del state[f"{name}.{own}"]
            state |= {f"{name}.{own}": weights for own, weights in module.merged_state().items()}
    return state


def cost_of_merging(config: MacaronConfig) -> str:
    """Say in which respect merged projections cost more than separate ones; empty where they pay.

    A head has four matrices of hidden_size x head_dim, or two of hidden_size x hidden_size; its scores and its sums
    over the positions have the width of a head, or that of the stream.
    """
    hidden_size, head_dim = config.hidden_size, config.head_dim
    positions = config.sequence_length + config.num_pooled_positions
    costs = {
        "parameters": (2 * hidden_size**2, 4 * hidden_size * head_dim),
        "arithmetic": (2 * hidden_size * (hidden_size + positions), 2 * head_dim * (2 * hidden_size + positions)),
    }
    return " and ".join(
        f"{merged / separate:.2f} times the {name} of attention"
        for name, (merged, separate) in costs.items()
        if merged > separate
    )
