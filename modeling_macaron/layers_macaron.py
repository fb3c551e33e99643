"""Embeddings, and the Macaron block: gated feed-forward layers, separable convolution, attention."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention_macaron import ATTENTION_CLASSES
from .configuration_macaron import MacaronConfig


class MacaronEmbeddings(nn.Module):
    """Letters (batch, length) to k-mer, position and strand embeddings behind the expression positions."""

    def __init__(self, config: MacaronConfig):
        super().__init__()
        self.vocab_size = config.vocab_size
        self.kmer_size = config.kmer_size
        self.strand_length = config.strand_length
        self.num_pooled_positions = config.num_pooled_positions
        self.kmer_projection = nn.Linear(config.kmer_size * config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.sequence_length, config.hidden_size)
        self.strand_embeddings = nn.Embedding(2, config.hidden_size)
        if self.num_pooled_positions:
            self.expression_projection = nn.Linear(1, config.hidden_size)

    def forward(self, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None) -> torch.Tensor:
        """Embed letters (batch, length), or take their k-mers embedded (batch, length, hidden).

        Gives (batch, expression positions + length, hidden).
        """
        if inputs_embeds is None:
            inputs_embeds = self.embed_one_hot(F.one_hot(input_ids.long(), self.vocab_size))
        positions = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
        hidden_states = (
            inputs_embeds
            + self.position_embeddings(positions)
            + self.strand_embeddings(positions // self.strand_length)
        )
        if not self.num_pooled_positions:
            return hidden_states
        pseudo_expression = inputs_embeds.new_zeros(inputs_embeds.shape[0], self.num_pooled_positions, 1)
        return torch.cat([self.expression_projection(pseudo_expression), hidden_states], dim=1)

    def embed_one_hot(self, one_hot: torch.Tensor) -> torch.Tensor:
        """Embed the k-mers of letters or weights of letters: (batch, length, letters) to (batch, length, hidden)."""
        return self.kmer_projection(self.sliding_kmers(one_hot.to(self.kmer_projection.weight.dtype)))

    def sliding_kmers(self, one_hot: torch.Tensor) -> torch.Tensor:
        """Flatten the k-mer around each position: (batch, length, letters) to (batch, length, k * letters)."""
        left = (self.kmer_size - 1) // 2
        padded = F.pad(one_hot, (0, 0, left, self.kmer_size - 1 - left))
        return padded.unfold(1, self.kmer_size, 1).transpose(2, 3).flatten(2)


class MacaronFeedForward(nn.Module):
    """Gated feed-forward layer on (batch, positions, hidden)."""

    def __init__(self, config: MacaronConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.gate_activation = nn.SiLU() if config.gate_activation == "silu" else nn.Sigmoid()
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Give what is to be added to the stream after dropout, (batch, positions, hidden)."""
        value, gate = self.up_proj(self.layer_norm(hidden_states)).chunk(2, dim=-1)
        return self.down_proj(self.dropout(value * self.gate_activation(gate)))


class MacaronConvolution(nn.Module):
    """Separable convolution over the positions of (batch, positions, hidden)."""

    def __init__(self, config: MacaronConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.depthwise_conv = nn.Conv1d(
            config.hidden_size,
            config.hidden_size,
            config.conv_kernel_size,
            padding="same",
            groups=config.hidden_size,
            bias=False,
        )
        self.pointwise_conv = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.ReLU()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Give what is to be added to the stream after dropout, (batch, positions, hidden)."""
        hidden_states = self.layer_norm(hidden_states).transpose(1, 2)
        hidden_states = self.depthwise_conv(hidden_states).transpose(1, 2)
        return self.activation(self.pointwise_conv(hidden_states))


class OmittedBranch(nn.Module):
    """Branch that an ablation leaves out: it adds nothing to the stream."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Give a zero ()."""
        return hidden_states.new_zeros(())


class MacaronLayer(GradientCheckpointingLayer):
    """Macaron block: convolution and attention between two half-step feed-forward layers.

    With `feed_forward="single"` it has one full-step feed-forward layer, after attention.
    """

    def __init__(self, config: MacaronConfig):
        super().__init__()
        is_macaron = config.feed_forward == "half_steps"
        self.feed_forward_step = 0.5 if is_macaron else 1.0
        self.feed_forward1 = MacaronFeedForward(config) if is_macaron else OmittedBranch()
        self.convolution = MacaronConvolution(config) if config.use_convolution else OmittedBranch()
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ATTENTION_CLASSES[config.attention_projections](config)
        self.feed_forward2 = MacaronFeedForward(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        num_queries: int | None = None,
        further_queries: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Give (batch, queries, hidden) at the first `num_queries` positions, by default at all of them.

        `further_queries` (batch, n) names positions of each row that follow these.
        """
        hidden_states = self.add(hidden_states, self.feed_forward1(hidden_states), self.feed_forward_step)
        hidden_states = self.add(hidden_states, self.convolution(hidden_states))
        hidden_states = self.layer_norm(hidden_states)
        query_states = hidden_states[:, :num_queries]
        if further_queries is not None:
            index = further_queries.unsqueeze(-1).expand(-1, -1, hidden_states.shape[-1])
            query_states = torch.cat([query_states, hidden_states.gather(1, index)], dim=1)
        attn_output, _ = self.self_attn(query_states, hidden_states, **kwargs)
        hidden_states = query_states + attn_output
        return self.add(hidden_states, self.feed_forward2(hidden_states), self.feed_forward_step)

    def add(self, stream: torch.Tensor, branch: torch.Tensor, step: float = 1.0) -> torch.Tensor:
        """Add a branch to the stream, after dropout."""
        return torch.add(stream, self.dropout(branch), alpha=step)
