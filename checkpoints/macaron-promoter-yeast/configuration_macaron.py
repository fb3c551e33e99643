"""Configuration of the Macaron promoter model."""

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

if TYPE_CHECKING:
    # Never executed. Transformers finds the relative imports in the text and identifies a folder's code by these files.
    # Without them, two folders with equal configuration files share one model class, even if their models differ.
    from .modeling_macaron import MacaronModel  # noqa: F401
    from .pipeline_macaron import PromoterExpressionPipeline  # noqa: F401

_AUTO_MAP = {
    "AutoConfig": "configuration_macaron.MacaronConfig",
    "AutoModel": "modeling_macaron.MacaronForExpressionPrediction",
    "AutoModelForSequenceClassification": "modeling_macaron.MacaronForExpressionPrediction",
    "AutoModelForMaskedLM": "modeling_macaron.MacaronForMaskedLM",
    "AutoTokenizer": ["tokenization_kmer.KmerTokenizer", None],
}
_CUSTOM_PIPELINES = {
    "promoter-expression": {
        "impl": "pipeline_macaron.PromoterExpressionPipeline",
        "pt": ["AutoModelForSequenceClassification"],
        "type": "text",
    }
}


# Far above any promoter model. Limits the memory that a config can request.
_LARGEST_SIZES = {
    "kmer_size": 1_000,
    "strand_length": 10_000,
    "hidden_size": 16_384,
    "num_hidden_layers": 256,
    "num_attention_heads": 256,
    "head_dim": 16_384,
    "intermediate_size": 131_072,
    "conv_kernel_size": 1_001,
    "num_expression_positions": 1_024,
}
_MOST_WEIGHTS = 1_000_000_000
_LARGEST = 1e30  # keeps float32 from overflowing
_TRIMERS = 32  # a 3-mer and its reverse complement count as one


@strict
class MacaronConfig(PreTrainedConfig):
    """Configuration of `MacaronModel` and its heads; the defaults are the paper's model of 47,425,543 parameters.

    Parameters
    ----------
    vocab_size : int
        Token ids: A 0, C 1, G 2, T 3, N 4, mask 5.
    kmer_size : int
        Length of the k-mer embedded at each position, in nucleotides.
    strand_length : int
        Nucleotides of one strand after padding. The model takes both strands, `2 * strand_length` token ids.
    reverse_complement : bool
        If False, only the forward strand is read (an ablation).
    hidden_size, num_hidden_layers, num_attention_heads : int
        Width of the stream, Macaron blocks, and heads of a block.
    head_dim : int
        Size of one head. In the original, each head is as wide as the stream.
    attention_projections : str
        `"separate"`: query, key, value and output, as in the original. `"merged"`: the same functions with two
        projections, see `MacaronPreTrainedModel.to_merged`; `head_dim` then only scales the scores.
    intermediate_size : int
        Width of the feed-forward layers after the gate.
    feed_forward : str
        `"half_steps"`: a half-step feed-forward layer before the convolution and one after attention (Macaron), or
        `"single"`: one full step after attention, as in the plain Transformer (an ablation).
    use_convolution : bool
        If False, blocks have no separable convolution (an ablation).
    conv_kernel_size : int
        Width of the depthwise convolution, in positions.
    num_expression_positions : int
        Pseudo-expression positions in front of the sequence. Their predictions are averaged.
    hidden_dropout : float
        Dropout of the feed-forward layers, the convolution and the heads. The team's report gives 0.01; its released
        code never applied dropout.
    layer_norm_eps : float
        Epsilon of every layer norm.
    gate_activation : str
        `"silu"` (SwiGLU) or `"sigmoid"` (GLU, an ablation).
    pooling : str
        `"expression_positions"`, or `"mean"`: average over the sequence, without expression positions (an ablation).
    reconstruction_weight : float
        Weight of the reconstruction loss of masked nucleotides.
    expression_bins : tuple of float, optional
        Centres of 2 to 1,000 equally spaced bins on the standardized scale. With bins, the expression head predicts the
        probability of each bin, the expression is the mean over the bins, and the loss is a Kullback-Leibler
        divergence. Default: the head predicts the expression, and the loss is its squared error.
    both_orientations : bool
        In evaluation mode, average the prediction over the sequence and its reverse complement. Takes twice the time.
    expression_mean, expression_std : float
        Mean and standard deviation of the training expression in assay units. Predictions in assay units are
        `logits * expression_std + expression_mean`.
    interval_quantiles : dict of str to float, optional
        Half widths of prediction intervals by coverage in percent, such as `"90"`. The unit is the predicted standard
        deviation with `expression_bins`, else `expression_std`; see `expression_interval`.
    trimer_shares : tuple of float, optional
        Shares of the 32 3-mers (a 3-mer and its reverse complement count as one) in the training rows; see
        `unlike_training`.
    trimer_limit : float, optional
        99.5th percentile of the chi-square of the validation rows.

    Raises
    ------
    huggingface_hub.errors.StrictDataclassError
        If a value is impossible or of the wrong type. The message names the field.

    References
    ----------
    Rafi et al., "A community effort to optimize sequence-based deep learning models of gene regulation", Nature
    Biotechnology 2024 (team Unlock_DNA); Kwak et al., "Proformer: a hybrid macaron transformer model predicts
    expression values from promoter sequences", BMC Bioinformatics 2024; Penzar et al., "LegNet: a best-in-class deep
    learning model for short DNA regulatory regions", Bioinformatics 2023 (soft bins, both orientations).

    Examples
    --------
    >>> config = MacaronConfig(hidden_size=64, head_dim=64, intermediate_size=128, num_hidden_layers=2)
    >>> config.sequence_length
    200
    """

    model_type = "macaron"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "nucleotide_logits", "expression_loss", "reconstruction_loss", "hidden_states", "attentions", "variance",
        "row_losses",
    ]  # fmt: skip
    _auto_class: ClassVar[str] = "AutoConfig"

    vocab_size: int = 6
    kmer_size: int = 10
    strand_length: int = 100
    reverse_complement: bool = True
    hidden_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    head_dim: int = 512
    attention_projections: Literal["separate", "merged"] = "separate"
    intermediate_size: int = 1024
    feed_forward: Literal["half_steps", "single"] = "half_steps"
    use_convolution: bool = True
    conv_kernel_size: int = 15
    num_expression_positions: int = 32
    hidden_dropout: int | float = 0.01
    layer_norm_eps: float = 1e-6
    gate_activation: Literal["silu", "sigmoid"] = "silu"
    pooling: Literal["expression_positions", "mean"] = "expression_positions"
    reconstruction_weight: int | float = 1.0
    expression_bins: tuple[int | float, ...] | list[int | float] | None = None
    both_orientations: bool = False
    expression_mean: int | float = 0.0
    expression_std: int | float = 1.0
    interval_quantiles: dict[str, int | float] | None = None
    trimer_shares: tuple[int | float, ...] | list[int | float] | None = None
    trimer_limit: int | float | None = None
    problem_type: Literal["regression"] = "regression"
    pad_token_id: int | None = 4
    mask_token_id: int | None = 5

    def __post_init__(self, **kwargs):
        if (num_labels := kwargs.get("num_labels", 1)) != 1:  # checked before the labels are created
            raise ValueError(f"`num_labels` must be 1, the expression, got {num_labels}")
        if self.expression_bins is not None:  # a list in a config.json
            self.expression_bins = tuple(self.expression_bins)
        if self.trimer_shares is not None:
            self.trimer_shares = tuple(self.trimer_shares)
        if self.id2label is None:
            self.id2label, self.label2id = {0: "expression"}, {"expression": 0}
        kwargs.setdefault("auto_map", copy.deepcopy(_AUTO_MAP))
        kwargs.setdefault("custom_pipelines", copy.deepcopy(_CUSTOM_PIPELINES))
        super().__post_init__(**kwargs)

    @property
    def sequence_length(self) -> int:
        """Bases that the model reads, on both strands or on the forward strand."""
        return (2 if self.reverse_complement else 1) * self.strand_length

    @property
    def num_pooled_positions(self) -> int:
        """Positions in front of the sequence, whose predictions are averaged. 0 with `pooling="mean"`."""
        return self.num_expression_positions if self.pooling == "expression_positions" else 0

    def interval_quantile(self, coverage: int | None = None) -> float | None:
        """Half width of the interval of `coverage` percent (default: 90, None if the model has no such interval)."""
        known = self.interval_quantiles or {}
        if coverage is not None and str(coverage) not in known:
            possible = f"it has {', '.join(known)} %" if known else "it has none: evaluate.py --calibrate adds them"
            raise ValueError(f"the model has no interval of {coverage} %; {possible}")
        return known.get(str(coverage or 90))

    def expression_interval(self, logits: Any, variance: Any = None, coverage: int | None = None) -> tuple | None:
        """Prediction interval (split conformal), valid for sequences like the validation rows.

        Parameters
        ----------
        logits, variance : float, numpy.ndarray or torch.Tensor
            Outputs of the model. Without `expression_bins` there is no variance.
        coverage : int, optional
            Coverage in percent. Default: 90. Raises a ValueError if the model has no interval of the given coverage.

        Returns
        -------
        tuple or None
            Lower and upper bound in assay units, of the type and shape of `logits`. None if no coverage was given and
            the model has no 90 % interval.

        References
        ----------
        Lei et al., "Distribution-free predictive inference for regression", Journal of the American Statistical
        Association 2018.
        """
        quantile = self.interval_quantile(coverage)
        if quantile is None:
            return None
        half_width = quantile if variance is None else quantile * variance**0.5
        return tuple((logits + side * half_width) * self.expression_std + self.expression_mean for side in (-1, 1))

    def unlike_training(self, strands: np.ndarray) -> np.ndarray | None:
        """Find sequences whose composition differs from that of the training rows.

        The measure is Pearson's chi-square of the 3-mers on both strands against `trimer_shares`. For 0.5 % of the
        validation rows it exceeds `trimer_limit`. It finds repeats and sequences of unusual GC content, but not
        shuffles of training rows (`python -m benchmarks.novelty` measures the flagged shares). `strands` are token ids
        (sequences, length) of one strand; the result is bool (sequences,), or None if the model has no shares.
        """
        if self.trimer_shares is None:
            return None
        return trimer_chi_square(strands, np.array(self.trimer_shares)) > self.trimer_limit

    def validate_architecture(self):
        """Raise a ValueError that names the field if a value is impossible. Every validation calls this."""
        shares, limit = self.trimer_shares, self.trimer_limit
        if (shares is None) != (limit is None):
            raise ValueError("`trimer_shares` and `trimer_limit` must be given together")
        if self.both_orientations and not self.reverse_complement:
            raise ValueError("`both_orientations` needs `reverse_complement`: the model must read both strands")
        checks = [
            (name, 1 <= getattr(self, name) <= most, f"an integer from 1 to {most:,}")
            for name, most in _LARGEST_SIZES.items()
        ]
        checks += [
            ("vocab_size", self.vocab_size == 6, "6 (A, C, G, T, N and the mask)"),
            ("kmer_size", self.kmer_size <= self.sequence_length, "at most the number of bases that are read"),
            ("hidden_dropout", 0 <= self.hidden_dropout < 1, "in [0, 1)"),
            ("layer_norm_eps", 0 < self.layer_norm_eps <= 1, "in (0, 1]"),
            ("reconstruction_weight", 0 <= self.reconstruction_weight <= _LARGEST, f"in [0, {_LARGEST}]"),
            ("expression_std", 0 < self.expression_std <= _LARGEST, f"in (0, {_LARGEST}]"),
            ("expression_mean", abs(self.expression_mean) <= _LARGEST, f"in [-{_LARGEST}, {_LARGEST}]"),
            ("expression_bins", _are_bins(self.expression_bins), "2 to 1,000 ascending, equally spaced centres"),
            ("interval_quantiles", _are_quantiles(self.interval_quantiles), "numbers from 0 by integer percentages"),
            ("trimer_shares", _are_shares(shares), f"{_TRIMERS} positive numbers that add up to 1"),
            ("trimer_limit", limit is None or 0 <= limit <= _LARGEST, f"in [0, {_LARGEST}]"),
            ("num_labels", self.num_labels == 1, "1, the expression"),
        ]
        for name, is_possible, possible in checks:
            if not is_possible:
                raise ValueError(f"`{name}` must be {possible}, got {getattr(self, name)!r:.100}")
        if self._num_weights() > _MOST_WEIGHTS:
            raise ValueError(
                f"`hidden_size` {self.hidden_size}, `intermediate_size` {self.intermediate_size}, `num_hidden_layers` "
                f"{self.num_hidden_layers}, `num_attention_heads` {self.num_attention_heads} and `head_dim` "
                f"{self.head_dim} give a model of more than {_MOST_WEIGHTS:,} weights"
            )

    def _num_weights(self) -> int:
        """Count the weights of the large matrices, a lower bound of the parameters."""
        attention = 4 * self.num_attention_heads * self.head_dim
        if self.attention_projections == "merged":
            attention = 2 * self.num_attention_heads * self.hidden_size
        feed_forward = 3 * self.intermediate_size * (2 if self.feed_forward == "half_steps" else 1)
        convolution = self.hidden_size + self.conv_kernel_size if self.use_convolution else 0
        embeddings = self.sequence_length + self.kmer_size * self.vocab_size
        return self.hidden_size * (embeddings + self.num_hidden_layers * (attention + feed_forward + convolution))


def _are_bins(centers: tuple[float, ...] | None) -> bool:
    if centers is None:
        return True
    if not 2 <= len(centers) <= 1_000 or not all(abs(center) <= _LARGEST for center in centers):
        return False
    centers = np.array(centers, dtype=np.float64)
    expected, width = np.linspace(centers[0], centers[-1], len(centers), retstep=True)
    return bool(width > 0 and np.allclose(centers, expected, rtol=0, atol=1e-3 * width))


def _are_quantiles(quantiles: dict[str, float] | None) -> bool:
    return all(
        coverage.isdecimal() and 0 < int(coverage) < 100 and 0 <= quantile <= _LARGEST
        for coverage, quantile in (quantiles or {}).items()
    )


def _are_shares(shares: tuple[float, ...] | None) -> bool:
    return shares is None or (
        len(shares) == _TRIMERS and all(0 < share < 1 for share in shares) and abs(sum(shares) - 1) < 1e-3
    )


def count_trimers(strands: np.ndarray) -> np.ndarray:
    """Count the 3-mers of A, C, G and T in token ids (sequences, length): (sequences, 32) int64.

    A 3-mer and its reverse complement share a column.
    """
    codes = np.arange(64)
    turned = 63 - (16 * (codes % 4) + 4 * (codes // 4 % 4) + codes // 16)
    columns = np.unique(np.minimum(codes, turned), return_inverse=True)[1]
    bases = [strands[:, start : strands.shape[1] - 2 + start].astype(np.int64) for start in range(3)]
    found = columns[sum(4**power * (ids % 4) for power, ids in enumerate(reversed(bases)))]
    cells = (np.arange(len(strands))[:, None] * _TRIMERS + found)[np.maximum.reduce(bases) < 4]
    return np.bincount(cells, minlength=len(strands) * _TRIMERS).reshape(-1, _TRIMERS)


def trimer_chi_square(strands: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Compare the 3-mers of token ids (sequences, length) with shares (32,): Pearson's chi-square (sequences,)."""
    counts = count_trimers(strands)
    expected = counts.sum(axis=1, keepdims=True) * shares
    return ((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum(axis=1)
