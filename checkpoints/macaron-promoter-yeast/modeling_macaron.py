"""Macaron Transformer that predicts expression from promoter DNA (team Unlock_DNA, Proformer)."""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import ModelOutput, logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_macaron import MacaronConfig
from .pipeline_macaron import PromoterExpressionPipeline  # noqa: F401  saves the pipeline with the weights

logger = logging.get_logger(__name__)


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

    N is attended to like any base. `forward` returns the output (batch, queries, hidden) and, with eager attention, the
    weights (batch, heads, queries, positions).
    """

    def __init__(self, config: MacaronConfig):
        super().__init__()
        self.config = config
        self.scaling = config.head_dim**-0.5
        self.is_causal = False

    def implementation(self, query: torch.Tensor) -> str:
        """Attention implementation for a query (batch, heads, queries, head_dim)."""
        return self.config._attn_implementation

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend with the implementation of the config; shapes as in `eager_attention_forward`."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.implementation(query), eager_attention_forward)
        return attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0, **kwargs)


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
        """Return outputs and weights, see `MacaronAttentionBase`."""
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
        """Weights of the equivalent `MacaronMergedAttention`, computed in float64 on the CPU.

        With `x` a query and `y` a key position, a head scores `(x Wq + bq)(y Wk + bk)^T`. Terms that do not depend on
        `y` drop out of the softmax, which leaves `(x Wq Wk^T + bq Wk^T) y^T`. The softmax sums to one, so the bias of
        the values adds the constant `bv Wo` to the output, and `Wv Wo` is one matrix.
        """
        hidden_size, head_dim = self.config.hidden_size, self.head_dim
        exact = {name: weights.cpu().double() for name, weights in self.state_dict().items()}
        query, key, value = (exact[f"{name}_proj.weight"].view(-1, head_dim, hidden_size) for name in "qkv")
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
    """Attention equivalent to `MacaronAttention` with two projections: keys and values are the stream itself.

    `qk_proj` holds `Wq Wk^T` and the query bias times `Wk^T` of each head, `vo_proj` holds `Wv Wo`. All heads share
    keys and values, so the heads are rows of one product.
    """

    def __init__(self, config: MacaronConfig):
        super().__init__(config)
        projection_size = config.num_attention_heads * config.hidden_size
        self.qk_proj = nn.Linear(config.hidden_size, projection_size)
        self.vo_proj = nn.Linear(projection_size, config.hidden_size)
        # Standard deviations of products of the initial weights of `MacaronAttention`.
        input_variance, output_variance = (2 / sum(fans(config)) for fans in (_input_fans, _output_fans))
        self.qk_proj.initial_std = math.sqrt(config.head_dim) * input_variance
        self.vo_proj.initial_std = math.sqrt(config.head_dim * input_variance * output_variance)

    def implementation(self, query: torch.Tensor) -> str:
        """Return the config's implementation, or "eager" where compiled "sdpa" has no kernel (wide heads on Hopper)."""
        named = super().implementation(query)
        is_too_wide = query.is_cuda and query.shape[-1] > 256 and torch.compiler.is_compiling()
        return "eager" if named == "sdpa" and is_too_wide else named

    def forward(
        self, query_states: torch.Tensor, hidden_states: torch.Tensor, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return outputs and weights, see `MacaronAttentionBase`."""
        batch_size, num_queries, hidden_size = query_states.shape
        queries = self.qk_proj(query_states).view(batch_size, 1, -1, hidden_size)  # one row per position and head
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


def merging_saves(config: MacaronConfig) -> bool:
    """Whether merged projections need no more parameters and no more arithmetic than separate ones.

    A head has four matrices of hidden_size x head_dim if separate, or two of hidden_size x hidden_size if merged. Its
    scores and weighted sums have the width head_dim or hidden_size.
    """
    hidden_size, head_dim = config.hidden_size, config.head_dim
    positions = config.sequence_length + config.num_pooled_positions
    merged, separate = hidden_size * (hidden_size + positions), head_dim * (2 * hidden_size + positions)
    return hidden_size <= 2 * head_dim and merged <= separate


class MacaronEmbeddings(nn.Module):
    """Expression positions, followed by k-mer, position and strand embeddings of the bases."""

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
        """Embed ids (batch, length) or k-mers (batch, length, hidden): (batch, pooled positions + length, hidden)."""
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
        """Embed the k-mers of one-hot or weighted bases: (batch, length, vocab_size) to (batch, length, hidden)."""
        return self.kmer_projection(self.sliding_kmers(one_hot.to(self.kmer_projection.weight.dtype)))

    def sliding_kmers(self, one_hot: torch.Tensor) -> torch.Tensor:
        """Flatten the k-mer around each position: (batch, length, vocab_size) to (batch, length, k * vocab_size)."""
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
        """Update of the residual stream, (batch, positions, hidden)."""
        value, gate = self.up_proj(self.layer_norm(hidden_states)).chunk(2, dim=-1)
        return self.down_proj(self.dropout(value * self.gate_activation(gate)))


class MacaronConvolution(nn.Module):
    """Separable convolution over the positions of (batch, positions, hidden)."""

    def __init__(self, config: MacaronConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        size = config.hidden_size
        self.depthwise_conv = nn.Conv1d(size, size, config.conv_kernel_size, padding="same", groups=size, bias=False)
        self.pointwise_conv = nn.Linear(size, size)
        self.activation = nn.ReLU()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Update of the residual stream, (batch, positions, hidden)."""
        hidden_states = self.layer_norm(hidden_states).transpose(1, 2)
        hidden_states = self.depthwise_conv(hidden_states).transpose(1, 2)
        return self.activation(self.pointwise_conv(hidden_states))


class MacaronLayer(GradientCheckpointingLayer):
    """Macaron block: convolution and attention between two half-step feed-forward layers.

    With `feed_forward="single"`, one full-step feed-forward layer after attention.
    """

    def __init__(self, config: MacaronConfig):
        super().__init__()
        is_macaron = config.feed_forward == "half_steps"
        self.feed_forward_step = 0.5 if is_macaron else 1.0
        self.feed_forward1 = MacaronFeedForward(config) if is_macaron else None
        self.convolution = MacaronConvolution(config) if config.use_convolution else None
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
        """Return (batch, queries, hidden) at the first `num_queries` positions (default: all).

        `further_queries` (batch, n) adds positions of each row.
        """
        if self.feed_forward1 is not None:
            hidden_states = self.add(hidden_states, self.feed_forward1(hidden_states), self.feed_forward_step)
        if self.convolution is not None:
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
        """Add a branch to the residual stream, after dropout."""
        return torch.add(stream, self.dropout(branch), alpha=step)


@dataclass
class MacaronOutput(ModelOutput):
    """Output of `MacaronForExpressionPrediction`.

    Attributes
    ----------
    loss : torch.Tensor, optional
        () expression loss plus `reconstruction_weight` times reconstruction loss, for the labels given.
    logits : torch.Tensor
        (batch, 1) standardized expression; assay units are `logits * config.expression_std + config.expression_mean`.
    nucleotide_logits : torch.Tensor, optional
        (batch, sequence_length, vocab_size) logits of the base at each position. None if not requested.
    expression_loss : torch.Tensor, optional
        () mean of `row_losses`, weighted by `row_weights` if given.
    reconstruction_loss : torch.Tensor, optional
        () sum of the cross-entropies (nats) of the masked bases / (their number + 1).
    hidden_states, attentions : tuple[torch.Tensor, ...], optional
        (batch, positions, hidden) before the first and after each block; (batch, heads, positions, positions). Without
        nucleotide logits, those of the last block cover the expression positions only (attentions: as queries).
    variance : torch.Tensor, optional
        (batch, 1) variance of the standardized expression over the bins; None without `config.expression_bins`.
    row_losses : torch.Tensor, optional
        (batch,) squared errors of the standardized expression or, with `config.expression_bins`, Kullback-Leibler
        divergences (nats) from `soft_bin_targets`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    nucleotide_logits: torch.FloatTensor | None = None
    expression_loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    variance: torch.FloatTensor | None = None
    row_losses: torch.FloatTensor | None = None


class MacaronPreTrainedModel(PreTrainedModel):
    """Base class: initial weights as in the original, and saving with the code."""

    config: MacaronConfig
    config_class = MacaronConfig
    base_model_prefix = "macaron"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_attention_backend = True
    _input_embed_layer = "kmer_projection"
    _no_split_modules = ["MacaronLayer"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": MacaronLayer, "attentions": MacaronAttentionBase}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize as Keras does: Glorot-uniform kernels with Keras' fans, embeddings uniform in +-0.05."""
        if hasattr(module, "initial_std"):
            init.normal_(module.weight, std=module.initial_std)
        elif isinstance(module, (nn.Linear, nn.Conv1d)):
            fans = module.weight.shape[1], module.weight.shape[0]
            if isinstance(module, nn.Conv1d):
                fans = module.in_channels * module.kernel_size[0], module.kernel_size[0]
            limit = math.sqrt(6 / sum(getattr(module, "glorot_fans", fans)))
            init.uniform_(module.weight, -limit, limit)
        elif isinstance(module, nn.Embedding):
            init.uniform_(module.weight, -0.05, 0.05)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
        if getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Load weights from safetensors only; see `PreTrainedModel.from_pretrained`."""
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise ValueError("weights are read from safetensors only: a pickle (.bin) can run code when it is read")
        return super().from_pretrained(*args, **kwargs)

    def save_pretrained(self, save_directory, **kwargs):
        """Save weights, config and the code that loads them; see `PreTrainedModel.save_pretrained`."""
        self.config.auto_map = dict(type(self.config)().auto_map)
        super().save_pretrained(save_directory, **kwargs)

    @torch.no_grad()
    def to_merged(self) -> "MacaronPreTrainedModel":
        """Return an equivalent model whose attention has two projections instead of four.

        The query and key projections of a head act as one matrix, and so do its value and output projections. At the
        default size, 30,615,559 parameters replace 47,425,543. Merging saves parameters if `head_dim` is more than half
        of `hidden_size`, and arithmetic from about 0.6 on. Otherwise a warning is logged. Merge float32 weights, then
        convert to a lower precision. The result has the same class, dtype, device and mode, and its own weights.

        Examples
        --------
        >>> config = MacaronConfig(hidden_size=32, head_dim=32, intermediate_size=64, num_hidden_layers=1)
        >>> model, ids = MacaronForExpressionPrediction(config).eval(), torch.zeros(2, 200, dtype=torch.long)
        >>> torch.testing.assert_close(model.to_merged()(ids).logits, model(ids).logits)
        """
        if self.config.attention_projections == "merged":
            return copy.deepcopy(self)
        config = copy.deepcopy(self.config)
        config.attention_projections = "merged"
        state = {name: weights.clone() for name, weights in self.state_dict().items() if ".self_attn." not in name}
        for name, module in self.named_modules():
            if isinstance(module, MacaronAttention):
                state |= {f"{name}.{own}": weights for own, weights in module.merged_state().items()}
        with torch.device("meta"):
            merged = type(self)(config)
        merged.load_state_dict(state, assign=True)
        if not merging_saves(config):
            logger.warning(
                f"merging does not pay at head_dim {config.head_dim} and hidden_size {config.hidden_size}: more "
                f"arithmetic, {merged.num_parameters():,} parameters instead of {self.num_parameters():,}"
            )
        return merged.train(self.training)


class MacaronModel(MacaronPreTrainedModel):
    """Encoder without heads.

    Examples
    --------
    >>> config = MacaronConfig(hidden_size=32, head_dim=32, intermediate_size=64, num_hidden_layers=1)
    >>> encoder = MacaronModel(config)
    >>> encoder(torch.zeros(2, 200, dtype=torch.long)).last_hidden_state.shape
    torch.Size([2, 232, 32])
    """

    _auto_class = "AutoModel"

    def __init__(self, config: MacaronConfig):
        super().__init__(config)
        self.embeddings = MacaronEmbeddings(config)
        self.layers = nn.ModuleList([MacaronLayer(config) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        expression_positions_only: bool = False,
        base_positions: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Encode token ids (batch, 2 * strand_length), or `inputs_embeds` (batch, sequence_length, hidden).

        Parameters
        ----------
        input_ids, inputs_embeds : torch.Tensor, optional
            Token ids of both strands, or embedded k-mers from `embeddings.embed_one_hot`.
        attention_mask : torch.Tensor, optional
            Ignored; generic tools pass one.
        expression_positions_only : bool
            Return only the expression positions. The last block then computes its queries, attention output and second
            feed-forward layer only there. No effect with `pooling="mean"`.
        base_positions : torch.Tensor, optional
            (batch, n) int64 positions of the sequence to return as well, with `expression_positions_only`.
        **kwargs
            `output_hidden_states`, `output_attentions` (eager attention only) and `return_dict`.

        Returns
        -------
        BaseModelOutput
            `last_hidden_state` (batch, expression positions + sequence_length, hidden), or the positions requested.
        """
        self._check_inputs(input_ids, inputs_embeds)
        if input_ids is not None:
            input_ids = input_ids[:, : self.config.sequence_length]
        hidden_states = self.embeddings(input_ids, inputs_embeds)
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, **kwargs)
        num_queries = self.config.num_pooled_positions if expression_positions_only else 0
        if num_queries and base_positions is not None:
            base_positions = base_positions + num_queries
            hidden_states = self.layers[-1](hidden_states, num_queries, base_positions, **kwargs)
        else:
            hidden_states = self.layers[-1](hidden_states, num_queries or None, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)

    def _check_inputs(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> None:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given")
        if input_ids is not None:
            name, inputs, expected = "input_ids", input_ids, (2 * self.config.strand_length,)
        else:
            expected = (self.config.sequence_length, self.config.hidden_size)
            name, inputs = "inputs_embeds", inputs_embeds
        if tuple(inputs.shape[1:]) != expected:
            wanted = ", ".join(map(str, expected))
            raise ValueError(f"{name} must be (batch, {wanted}) for this config, got {tuple(inputs.shape)}")


def _full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32: a loss in half precision overflows."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def reconstruction_loss(nucleotide_logits: torch.Tensor, masked_nucleotides: torch.Tensor) -> torch.Tensor:
    """Cross-entropy () of masked bases: their sum / (their number + 1), in nats.

    `nucleotide_logits` are (batch, length, vocab_size), `masked_nucleotides` (batch, length or more) true ids, -100
    where nothing was masked.
    """
    masked_nucleotides = masked_nucleotides[:, : nucleotide_logits.shape[1]]
    logits = _full_precision(nucleotide_logits.transpose(1, 2))
    total = F.cross_entropy(logits, masked_nucleotides.long(), reduction="sum")
    return total / ((masked_nucleotides != -100).sum() + 1)


def soft_bin_targets(labels: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Probability (batch, bins) of each bin under a normal distribution around each label, as in LegNet.

    `centers` (bins,) are ascending and equally spaced, on the scale of `labels` (batch,). The standard deviation is
    half the width of a bin. The outer bins are open-ended.
    """
    edges = (centers[1:] + centers[:-1]) / 2
    deviation = (centers[-1] - centers[0]) / (2 * (len(centers) - 1))
    below = torch.special.ndtr((edges - labels[:, None]) / deviation)
    return F.pad(F.pad(below, (1, 0)), (0, 1), value=1.0).diff(dim=1).clamp(min=0)


class MacaronForExpressionPrediction(MacaronPreTrainedModel):
    """Encoder with the expression head and the nucleotide head.

    Examples
    --------
    >>> from tokenization import KmerTokenizer
    >>> config = MacaronConfig(hidden_size=32, head_dim=32, intermediate_size=64, num_hidden_layers=1)
    >>> model = MacaronForExpressionPrediction(config).eval()
    >>> inputs = KmerTokenizer()(["ACGTACGT", "TTTATATAAGG"], return_tensors="pt")
    >>> model(**inputs).logits.shape
    torch.Size([2, 1])
    """

    _auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: MacaronConfig):
        super().__init__(config)
        self.macaron = MacaronModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.expression_head = nn.Linear(config.hidden_size, len(config.expression_bins or [1]))
        self.nucleotide_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        masked_nucleotides: torch.Tensor | None = None,
        output_nucleotide_logits: bool = True,
        most_masked: int | None = None,
        row_weights: torch.Tensor | None = None,
        **kwargs,
    ) -> MacaronOutput:
        """Predict the standardized expression, and the base at each position.

        Parameters
        ----------
        input_ids : torch.Tensor, optional
            (batch, 2 * strand_length) token ids of both strands.
        labels : torch.Tensor, optional
            (batch,) or (batch, 1) standardized expression.
        masked_nucleotides : torch.Tensor, optional
            (batch, 2 * strand_length) true ids of the masked bases, -100 elsewhere.
        output_nucleotide_logits : bool
            If False, the last block computes the expression positions and the masked bases only, with the same
            expression and losses.
        most_masked : int, optional
            Upper bound on the masked bases of a row. Default: count them, which synchronizes with a GPU.
        row_weights : torch.Tensor, optional
            (batch,) positive weights of the row losses in `expression_loss`. The reconstruction loss is not weighted.
        **kwargs
            See `MacaronModel.forward`.

        Returns
        -------
        MacaronOutput
            With `config.both_orientations` in evaluation mode, expression and variance are averaged over both
            orientations (not for `inputs_embeds`); other outputs are those of the given orientation.
        """
        positions = None
        if masked_nucleotides is not None and not output_nucleotide_logits:
            positions = self._bases_to_reconstruct(masked_nucleotides, most_masked)
        only = not output_nucleotide_logits and (masked_nucleotides is None or positions is not None)
        outputs = self.macaron(
            input_ids, expression_positions_only=only, base_positions=positions, return_dict=True, **kwargs
        )
        hidden_states = self.dropout(outputs.last_hidden_state)
        expression = self._read_expression(hidden_states)
        if self.config.both_orientations and not self.training and input_ids is not None:
            expression = self._average_orientations(expression, input_ids)
        logits, variance = self._mean_and_variance(expression)
        nucleotide_logits = None
        if output_nucleotide_logits or masked_nucleotides is not None:
            nucleotide_logits = self.nucleotide_head(hidden_states[:, self.config.num_pooled_positions :])

        loss = expression_loss = row_losses = nucleotide_loss = None
        if labels is not None:
            row_losses = self._row_losses(expression, labels)
            loss = row_losses.mean() if row_weights is None else (row_losses * row_weights).sum() / row_weights.sum()
            expression_loss = loss
            if self.training and nucleotide_logits is None:
                # Distributed training needs a gradient for every parameter, so the other head gets zeros.
                loss = loss + 0.0 * self.nucleotide_head(hidden_states[:, :1]).sum()
        if masked_nucleotides is not None:
            read = masked_nucleotides if positions is None else masked_nucleotides.gather(1, positions)
            nucleotide_loss = reconstruction_loss(nucleotide_logits, read)
            weighted = self.config.reconstruction_weight * nucleotide_loss
            loss = weighted if loss is None else loss + weighted
        return MacaronOutput(
            loss=loss,
            logits=logits,
            nucleotide_logits=nucleotide_logits if output_nucleotide_logits else None,
            expression_loss=expression_loss,
            reconstruction_loss=nucleotide_loss,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            variance=variance,
            row_losses=row_losses,
        )

    def _read_expression(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Standardized expression (batch, 1), or log probabilities of the bins (batch, bins)."""
        outputs = self.expression_head(hidden_states[:, : self.config.num_pooled_positions or None])
        if self.config.expression_bins is None:
            return outputs.mean(dim=1)
        return _full_precision(outputs).mean(dim=1).log_softmax(dim=1)

    def _average_orientations(self, expression: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """Average `expression` (see `_read_expression`) with that of the strands in reverse order."""
        turned = torch.cat(input_ids.chunk(2, dim=1)[::-1], dim=1)
        outputs = self.macaron(turned, expression_positions_only=True, return_dict=True)
        other = self._read_expression(outputs.last_hidden_state)
        if self.config.expression_bins is None:
            return (_full_precision(expression) + other) / 2
        return torch.logaddexp(expression, other) - math.log(2)

    def _bin_centers(self, like: torch.Tensor) -> torch.Tensor:
        """Centres of the bins (bins,); `linspace` copies nothing to a GPU."""
        bins = self.config.expression_bins
        return torch.linspace(bins[0], bins[-1], len(bins), dtype=like.dtype, device=like.device)

    def _mean_and_variance(self, expression: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and variance, each (batch, 1), of the output of `_read_expression`."""
        if self.config.expression_bins is None:
            return expression, None
        centers, probabilities = self._bin_centers(expression), expression.exp()
        mean = (probabilities * centers).sum(dim=1, keepdim=True)
        return mean, (probabilities * (centers - mean) ** 2).sum(dim=1, keepdim=True)

    def _row_losses(self, expression: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Losses (batch,) of the output of `_read_expression` for labels (batch,) or (batch, 1)."""
        if labels.numel() != len(expression):
            raise ValueError(f"labels must hold one value per sequence ({len(expression)}), got {labels.numel()}")
        expression = _full_precision(expression)
        measured = labels.flatten().to(expression.dtype)
        if self.config.expression_bins is None:
            return F.mse_loss(expression.flatten(), measured, reduction="none")
        targets = soft_bin_targets(measured, self._bin_centers(expression))
        return F.kl_div(expression, targets, reduction="none").sum(dim=1)

    def _bases_to_reconstruct(self, masked_nucleotides: torch.Tensor, most: int | None) -> torch.Tensor | None:
        """Positions (batch, n) that include all masked bases. None if n would be the whole sequence.

        n is a multiple of 16, which limits the shapes that a compiled model sees.
        """
        length = self.config.sequence_length
        is_wanted = masked_nucleotides[:, :length] != -100
        most = int(is_wanted.sum(dim=1).max()) if most is None else most
        width = max(-(-most // 16), 1) * 16
        if not self.config.num_pooled_positions or width >= length:
            return None
        return is_wanted.to(torch.uint8).topk(width, dim=1).indices


class MacaronForMaskedLM(MacaronPreTrainedModel):
    """Encoder with the nucleotide head only; loads the same checkpoints.

    Examples
    --------
    >>> config = MacaronConfig(hidden_size=32, head_dim=32, intermediate_size=64, num_hidden_layers=1)
    >>> model = MacaronForMaskedLM(config).eval()
    >>> model(torch.full((1, 200), 5)).logits.shape
    torch.Size([1, 200, 6])
    """

    _auto_class = "AutoModelForMaskedLM"
    _keys_to_ignore_on_load_unexpected = [r"^expression_head\."]  # noqa: RUF012

    def __init__(self, config: MacaronConfig):
        super().__init__(config)
        self.macaron = MacaronModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.nucleotide_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor | None = None, labels: torch.Tensor | None = None, **kwargs
    ) -> MaskedLMOutput:
        """Predict the base at each position: `loss` () and `logits` (batch, sequence_length, vocab_size).

        `input_ids` are (batch, 2 * strand_length) with masks, `labels` the ids of the masked bases and -100 elsewhere.
        """
        outputs = self.macaron(input_ids, expression_positions_only=False, return_dict=True, **kwargs)
        sequence_states = outputs.last_hidden_state[:, self.config.num_pooled_positions :]
        logits = self.nucleotide_head(self.dropout(sequence_states))
        return MaskedLMOutput(
            loss=None if labels is None else reconstruction_loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
