"""Configuration of the Macaron promoter model."""

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers.configuration_utils import PreTrainedConfig

if TYPE_CHECKING:
    # Never executed. Transformers finds relative imports in the text, and a folder's code is identified by these files.
    # Without them two folders with equal configuration files share one model class, whatever their modeling files say.
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


# Far beyond any promoter model. Keeps a foreign config from allocating all memory.
_LIMITS = {
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
_MOST_BINS = 1_000
_USUAL_COVERAGE = 90
_TRIMERS = 32  # a 3-mer and its reverse complement are one
_LARGEST = 1e30  # keeps float32 from overflowing


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
        Size of ONE head. In the original, each head is as wide as the stream.
    attention_projections : str
        `"separate"`: query, key, value and output, as in the original. `"merged"`: the same functions with two
        projections, which pays where `head_dim` is more than about half of `hidden_size`. `model.to_merged()` converts
        the first into the second. (With merged projections, `head_dim` only sets the scale of the scores.)
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
        `"expression_positions"`, or `"mean"`: global average pooling over the sequence, without expression positions
        (an ablation).
    reconstruction_weight : float
        Weight of the reconstruction loss of masked nucleotides.
    expression_bins : tuple of float, optional
        Centres of bins on the standardized scale, equally spaced, 2 to 1,000. The expression head then gives the
        probability of each bin, the expression is the mean over the bins, and the loss is a Kullback-Leibler
        divergence (see `soft_bin_targets`). Default: the head gives the expression, and the loss is its squared error.
    both_orientations : bool
        In evaluation mode, average the prediction over the sequence as given and its reverse complement. This takes
        twice the time.
    expression_mean, expression_std : float
        Mean and standard deviation of the training expression in assay units. Predictions in assay units are
        `logits * expression_std + expression_mean`.
    interval_quantiles : dict of str to float, optional
        Half widths of prediction intervals by their coverage in percent, such as `"90"`, in predicted standard
        deviations with `expression_bins`, else in `expression_std`; see `expression_interval`.
    trimer_shares : tuple of float, optional
        Shares of the 32 3-mers (a 3-mer and its reverse complement are one) in the training rows; see
        `unlike_training`.
    trimer_limit : float, optional
        Chi-square that 99.5 % of the validation rows do not exceed.

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
        "nucleotide_logits",
        "expression_loss",
        "reconstruction_loss",
        "hidden_states",
        "attentions",
        "variance",
        "row_losses",
    ]
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
        if (num_labels := kwargs.get("num_labels", 1)) != 1:  # before so many labels are made
            at_fault = ValueError(f"`num_labels` must be 1, the expression, got {num_labels}")
            raise StrictDataclassClassValidationError("validate_architecture", at_fault)
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
        """Bases that the model reads: both strands, or the forward one."""
        return (2 if self.reverse_complement else 1) * self.strand_length

    @property
    def num_pooled_positions(self) -> int:
        """Positions in front of the sequence, whose predictions are averaged. 0 with `pooling="mean"`."""
        return self.num_expression_positions if self.pooling == "expression_positions" else 0

    def interval_quantile(self, coverage: int | None = None) -> float | None:
        """Half width of an interval, see `interval_quantiles`.

        Parameters
        ----------
        coverage : int, optional
            Percent of the measurements that the interval holds. Default: 90.

        Returns
        -------
        float or None
            None if no coverage was given and the model has no 90 % interval.

        Raises
        ------
        ValueError
            If the model has no interval of the given coverage.
        """
        known = self.interval_quantiles or {}
        if coverage is not None and str(coverage) not in known:
            possible = f"it has {', '.join(known)} %" if known else "it has none: evaluate.py --calibrate adds them"
            raise ValueError(f"the model has no interval of {coverage} %; {possible}")
        return known.get(str(coverage or _USUAL_COVERAGE))

    def expression_interval(self, logits: Any, variance: Any = None, coverage: int | None = None) -> tuple | None:
        """Prediction interval (split conformal), valid for sequences like the validation rows.

        Parameters
        ----------
        logits, variance : float, numpy.ndarray or torch.Tensor
            Outputs of the model. Without `expression_bins` there is no variance.
        coverage : int, optional
            See `interval_quantile`.

        Returns
        -------
        tuple or None
            Lower and upper bound in assay units, of the type and shape of `logits`. None without a quantile.

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
        """Find sequences of another composition than the rows that the model was trained on.

        The measure is Pearson's chi-square of the 3-mers on both strands against `trimer_shares`; the limit is
        `trimer_limit`, which 0.5 % of the validation rows exceed. It says nothing about the order of the 3-mers:
        shuffles of training rows are not found.

        Parameters
        ----------
        strands : numpy.ndarray
            (sequences, length) letter ids of one strand.

        Returns
        -------
        numpy.ndarray or None
            (sequences,) bool; None if the model has no shares.

        Notes
        -----
        Flagged sequences of 80 nt, by the composition of 67,000 rows of yeast promoters (native and random) and of the
        challenge's designed library (`python -m benchmarks.novelty`):

        =============================  =====  =======
        sequences                      yeast  library
        =============================  =====  =======
        validation rows                0.5 %    0.5 %
        their dinucleotide shuffles    0.4 %    1.0 %
        human promoters                 35 %     18 %
        random, 15 % GC                 22 %     86 %
        random, 30 % GC                0.1 %    2.6 %
        random, 50 % GC                0.5 %    0.0 %
        random, 70 % GC                 74 %     34 %
        random, 85 % GC                100 %    100 %
        repeats of 1 to 3 nt           100 %    100 %
        =============================  =====  =======
        """
        if self.trimer_shares is None:
            return None
        return trimer_chi_square(strands, np.array(self.trimer_shares)) > self.trimer_limit

    def validate_architecture(self):
        """Raise if a value is impossible. Called by every validation of the config.

        Raises
        ------
        ValueError
            The message names the field, its value and the possible values.
        """
        for name, most in _LIMITS.items():
            if not 1 <= getattr(self, name) <= most:
                at_fault = f"at least 1, got {getattr(self, name)}"
                if getattr(self, name) > most:
                    at_fault = f"at most {most:,}, got {getattr(self, name):,}"
                raise ValueError(f"`{name}` must be {at_fault}")
        if self.vocab_size != 6:
            raise ValueError(f"`vocab_size` must be 6 (A, C, G, T, N and the mask), got {self.vocab_size}")
        if self.kmer_size > self.sequence_length:
            raise ValueError(f"`kmer_size` {self.kmer_size} exceeds the number of bases read ({self.sequence_length})")
        if not 0 <= self.hidden_dropout < 1:
            raise ValueError(f"`hidden_dropout` must be in [0, 1), got {self.hidden_dropout}")
        if not 0 < self.layer_norm_eps <= 1:
            raise ValueError(f"`layer_norm_eps` must be in (0, 1], got {self.layer_norm_eps}")
        if not 0 <= self.reconstruction_weight <= _LARGEST:
            raise ValueError(f"`reconstruction_weight` must be in [0, {_LARGEST}], got {self.reconstruction_weight}")
        if not 0 < self.expression_std <= _LARGEST:
            raise ValueError(f"`expression_std` must be in (0, {_LARGEST}], got {self.expression_std}")
        if not abs(self.expression_mean) <= _LARGEST:
            raise ValueError(f"`expression_mean` must be in [-{_LARGEST}, {_LARGEST}], got {self.expression_mean}")
        if self.expression_bins is not None:
            _check_bins(self.expression_bins)
        for coverage, quantile in (self.interval_quantiles or {}).items():
            if not (coverage.isdecimal() and 0 < int(coverage) < 100 and 0 <= quantile <= _LARGEST):
                raise ValueError(
                    f"`interval_quantiles` must map percentages to numbers in [0, {_LARGEST}], got {coverage!r}: "
                    f"{quantile}"
                )
        if (self.trimer_shares is None) != (self.trimer_limit is None):
            raise ValueError("`trimer_shares` and `trimer_limit` must be given together")
        if self.trimer_shares is not None:
            _check_shares(self.trimer_shares, self.trimer_limit)
        if self.both_orientations and not self.reverse_complement:
            raise ValueError("`both_orientations` needs `reverse_complement`: the model must read both strands")
        if self.num_labels != 1:
            raise ValueError(f"`num_labels` must be 1, the expression, got {self.num_labels}")
        if self._num_weights() > _MOST_WEIGHTS:
            raise ValueError(
                f"a model of these sizes would have {self._num_weights():,} weights in its large matrices, more than "
                f"{_MOST_WEIGHTS:,}: `hidden_size` {self.hidden_size}, `num_hidden_layers` {self.num_hidden_layers}, "
                f"`num_attention_heads` {self.num_attention_heads}, `head_dim` {self.head_dim}, `intermediate_size` "
                f"{self.intermediate_size}"
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


def _check_bins(centers: tuple[float, ...]) -> None:
    """Raise unless the centres of the bins are ascending and equally spaced."""
    if not 2 <= len(centers) <= _MOST_BINS:
        raise ValueError(f"`expression_bins` must be 2 to {_MOST_BINS:,} centres, got {len(centers):,}")
    if not all(abs(center) <= _LARGEST for center in centers):
        raise ValueError(f"`expression_bins` must be in [-{_LARGEST}, {_LARGEST}]")
    width = (centers[-1] - centers[0]) / (len(centers) - 1)
    deviations = (abs(centers[0] + index * width - center) for index, center in enumerate(centers))
    if width <= 0 or max(deviations) > 1e-3 * width:
        raise ValueError("`expression_bins` must be ascending and equally spaced")


def _check_shares(shares: tuple[float, ...], limit: float) -> None:
    """Raise unless the shares of the 3-mers are positive and add up to one, and the limit is a number."""
    if len(shares) != _TRIMERS or not all(0 < share < 1 for share in shares) or not abs(sum(shares) - 1) < 1e-3:
        raise ValueError(f"`trimer_shares` must be {_TRIMERS} positive numbers that add up to 1")
    if not 0 <= limit <= _LARGEST:
        raise ValueError(f"`trimer_limit` must be in [0, {_LARGEST}], got {limit}")


def count_trimers(strands: np.ndarray) -> np.ndarray:
    """Count the 3-mers of A, C, G and T in letter ids (sequences, length): (sequences, 32) int64.

    A 3-mer and its reverse complement are one column.
    """
    codes = np.arange(64)
    turned = 63 - (16 * (codes % 4) + 4 * (codes // 4 % 4) + codes // 16)
    columns = np.unique(np.minimum(codes, turned), return_inverse=True)[1]
    letters = [strands[:, start : strands.shape[1] - 2 + start].astype(np.int64) for start in range(3)]
    found = columns[sum(4**power * (ids % 4) for power, ids in enumerate(reversed(letters)))]
    cells = (np.arange(len(strands))[:, None] * _TRIMERS + found)[np.maximum.reduce(letters) < 4]
    return np.bincount(cells, minlength=len(strands) * _TRIMERS).reshape(-1, _TRIMERS)


def trimer_chi_square(strands: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Compare the 3-mers of letter ids (sequences, length) with shares (32,): Pearson's chi-square (sequences,)."""
    counts = count_trimers(strands)
    expected = counts.sum(axis=1, keepdims=True) * shares
    return ((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum(axis=1)


__all__ = ["MacaronConfig"]
