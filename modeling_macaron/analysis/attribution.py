"""Gradient attributions of predicted expression, and the model as a module on one-hot DNA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from modeling_macaron.analysis.encoding import encode_sequences, spell_letters, variable_parts, variable_slices
from modeling_macaron.analysis.mutants import BASES
from modeling_macaron.analysis.predict import check_batch_size
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.loading import load_model
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import KmerTokenizer, StrandBatch


class Attribution(NamedTuple):
    """Contributions of bases to the predicted expression, in assay units.

    Attributes
    ----------
    sequences : list[str]
        Variable parts, of A, C, G, T and N.
    attributions : list[numpy.ndarray]
        (length, 4) float64 for each sequence, with columns A, C, G, T.
    expression, baseline_expression : numpy.ndarray
        (sequences,) float64 predictions for the sequences and for their baselines.
    """

    sequences: list[str]
    attributions: list[np.ndarray]
    expression: np.ndarray
    baseline_expression: np.ndarray

    @property
    def per_base(self) -> list[np.ndarray]:
        """Sum over A, C, G and T, (length,) for each sequence."""
        return [letters.sum(axis=1) for letters in self.attributions]

    @property
    def completeness_error(self) -> np.ndarray:
        """Sum of the attributions minus (expression - baseline expression), (sequences,)."""
        totals = np.array([letters.sum() for letters in self.attributions], dtype=np.float64)
        return totals - (self.expression - self.baseline_expression)


class OneHotExpression(nn.Module):
    """Differentiable map of one-hot DNA (batch, 4, length) to expression (batch, 1); see `as_one_hot_module`."""

    def __init__(self, model: MacaronForExpressionPrediction):
        super().__init__()
        self.model = model

    def forward(self, one_hot: torch.Tensor) -> torch.Tensor:
        """Predict expression (batch, 1) in assay units, at least float32, from variable parts (batch, 4, length)."""
        config, embeddings = self.model.config, self.model.macaron.embeddings
        if one_hot.ndim != 3 or one_hot.shape[1] != len(BASES) or not 1 <= one_hot.shape[2] <= config.strand_length:
            raise ValueError(
                f"one-hot DNA must be (batch, 4, length) with a length of 1 to {config.strand_length}, the variable "
                f"part without flanks; got {tuple(one_hot.shape)}"
            )
        padding = config.strand_length - one_hot.shape[2]
        forward_strand = F.pad(one_hot, (padding // 2, padding - padding // 2))
        both_strands = torch.cat([forward_strand, forward_strand.flip(1, 2)], dim=2)
        known = both_strands[:, :, : config.sequence_length].transpose(1, 2)
        letters = torch.cat([known, 1 - known.sum(2, keepdim=True), torch.zeros_like(known[:, :, :1])], dim=2)
        readings = [letters, letters.roll(config.strand_length, 1)] if config.both_orientations else [letters]
        embedded = embeddings.embed_one_hot(torch.cat(readings))
        logits = self.model(inputs_embeds=embedded, output_nucleotide_logits=False).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).view(len(readings), -1, 1).mean(dim=0)
        return logits * config.expression_std + config.expression_mean


def as_one_hot_module(
    model: str | Path | MacaronForExpressionPrediction, tokenizer: KmerTokenizer | None = None
) -> OneHotExpression:
    """Wrap a model for packages that read one-hot DNA, such as tangermeme and captum.

    The module pads the sequence, appends the reverse complement and predicts as `predict` does. The weight of N is one
    minus the sum of A, C, G and T, so a column of zeros is N. The gradient for a base is the effect of replacing N by
    that base.

    Parameters
    ----------
    model, tokenizer
        See `load_model`. The model is not copied; it is set to evaluation mode.

    Returns
    -------
    OneHotExpression
        Maps variable parts without flanks, (batch, 4, length) floats with channels A, C, G, T and a length of up to
        `strand_length`, to expression (batch, 1) in assay units.

    Raises
    ------
    ValueError
        If tokenizer and model differ in strand length.

    Examples
    --------
    >>> from modeling_macaron import MacaronConfig
    >>> config = MacaronConfig(hidden_size=32, head_dim=32, intermediate_size=64, num_hidden_layers=1)
    >>> module = as_one_hot_module(MacaronForExpressionPrediction(config))
    >>> module(torch.eye(4).repeat(1, 1, 20)).shape  # ACGT twenty times
    torch.Size([1, 1])
    """
    model, tokenizer = load_model(model, tokenizer)
    if tokenizer.strand_length != model.config.strand_length:
        raise ValueError(
            f"the tokenizer pads to {tokenizer.strand_length} nt, the model reads {model.config.strand_length} nt"
        )
    return OneHotExpression(model).eval()


def gradient_x_input(
    model: str | Path | MacaronForExpressionPrediction,
    sequences: Sequence[str],
    *,
    gradient_correction: bool = True,
    tokenizer: KmerTokenizer | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    verbose: bool = False,
) -> Attribution:
    """Attribute expression to bases by gradient times input (Shrikumar et al. 2016, arXiv:1605.01713).

    This takes one backward pass per sequence. The attributions do not add up to a difference in expression.

    Parameters
    ----------
    model, tokenizer, device
        See `load_model`. Use float32 or float64 weights, since gradients in half precision are coarse.
    sequences : sequence of str
        DNA, with or without the constant flanks.
    gradient_correction : bool
        Subtract the mean over A, C, G and T from the gradient at each position. One-hot sequences cannot move in that
        direction, so training does not constrain it (Majdandzic et al. 2023, Genome Biology 24:109).
    batch_size : int
        Sequences per forward pass.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    Attribution
        Zero for absent bases and for N. The baseline is N at every position.

    Raises
    ------
    ValueError
        If a sequence is not DNA, is empty, too long or masked. The message names it.
    """
    inputs = _encode(model, sequences, tokenizer, device)
    return local_gradients(inputs, gradient_correction=gradient_correction, batch_size=batch_size, verbose=verbose)


def integrated_gradients(
    model: str | Path | MacaronForExpressionPrediction,
    sequences: Sequence[str],
    *,
    steps: int = 64,
    baseline: str | np.ndarray = "n",
    gradient_correction: bool = False,
    tokenizer: KmerTokenizer | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    verbose: bool = False,
) -> Attribution:
    """Attribute the difference in expression from a baseline by integrated gradients (Sundararajan et al. 2017, ICML).

    Parameters
    ----------
    model, sequences, tokenizer, device, verbose
        See `gradient_x_input`.
    steps : int
        Nodes of the Gauss-Legendre quadrature. The ReLU of the convolution makes gradients jump along the path, so the
        error falls only as 1 / steps. Check it with `completeness_error`.
    baseline : str or numpy.ndarray
        `"n"`: N at every position. `"uniform"`: a quarter of each base. Or weights of A, C, G and T, for example of
        shuffled sequences: (4,), (length, 4) or (sequences, length, 4). The remaining weight is that of N.
    gradient_correction : bool
        As in `gradient_x_input`. The sum is then complete only if sequence and baseline have no N.
    batch_size : int
        Points of the paths per forward pass.

    Returns
    -------
    Attribution
        Sums to `expression - baseline_expression`, up to `completeness_error`.

    Raises
    ------
    ValueError
        As in `gradient_x_input`; if `steps` is below 1; or if the baseline is invalid.

    Examples
    --------
    >>> from modeling_macaron import MacaronConfig
    >>> config = MacaronConfig(hidden_size=32, head_dim=32, intermediate_size=64, num_hidden_layers=1)
    >>> result = integrated_gradients(MacaronForExpressionPrediction(config), ["ACGTACGTAC", "TTTATATAAGGC"])
    >>> [bases.shape for bases in result.per_base]
    [(10,), (12,)]
    """
    check_steps(steps)
    return path_gradients(
        _encode(model, sequences, tokenizer, device),
        steps=steps,
        baseline=baseline,
        gradient_correction=gradient_correction,
        batch_size=batch_size,
        verbose=verbose,
    )


def check_steps(steps: int) -> None:
    """Raise a `ValueError` if `steps` is below 1."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


class Inputs(NamedTuple):
    """One-hot sequences (sequences, 4, strand_length) float32, and the slice of each variable part."""

    module: OneHotExpression
    one_hot: np.ndarray
    spans: list[slice]
    sequences: list[str]


class _Path(NamedTuple):
    """Baselines (sequences, 4, strand_length), and nodes in 0 to 1 with their quadrature weights."""

    baseline: np.ndarray
    nodes: np.ndarray
    weights: np.ndarray


def encode_inputs(module: OneHotExpression, strands: StrandBatch) -> Inputs:
    """Turn the strands without a problem into padded one-hot DNA."""
    fine = strands.problem == 0
    strands = StrandBatch(*(array[fine] for array in strands))
    one_hot = np.eye(len(BASES) + 1, len(BASES), dtype=np.float32)[strands.ids].transpose(0, 2, 1)
    return Inputs(module, one_hot, variable_slices(strands), [spell_letters(part) for part in variable_parts(strands)])


def _encode(
    model: str | Path | MacaronForExpressionPrediction,
    sequences: Sequence[str],
    tokenizer: KmerTokenizer | None,
    device: str | torch.device | None,
) -> Inputs:
    model, tokenizer = load_model(model, tokenizer, device)
    return encode_inputs(as_one_hot_module(model, tokenizer), encode_sequences(tokenizer, sequences))


def local_gradients(
    inputs: Inputs, *, gradient_correction: bool = True, batch_size: int = 64, verbose: bool = False
) -> Attribution:
    """Attribute encoded sequences; see `gradient_x_input`."""
    path = _Path(np.zeros_like(inputs.one_hot), nodes=np.ones(1), weights=np.ones(1))
    return _attribute(inputs, path, gradient_correction, batch_size, verbose)


def path_gradients(
    inputs: Inputs,
    *,
    steps: int = 64,
    baseline: str | np.ndarray = "n",
    gradient_correction: bool = False,
    batch_size: int = 64,
    verbose: bool = False,
) -> Attribution:
    """Attribute encoded sequences; see `integrated_gradients`."""
    check_steps(steps)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    path = _Path(_spread_baseline(baseline, inputs), (nodes + 1) / 2, weights / 2)
    return _attribute(inputs, path, gradient_correction, batch_size, verbose)


def _spread_baseline(baseline: str | np.ndarray, inputs: Inputs) -> np.ndarray:
    """Put the baseline on every variable part, (sequences, 4, strand_length). The padding stays N."""
    if isinstance(baseline, str):
        if baseline not in ("n", "uniform"):
            raise ValueError(f'baseline must be "n", "uniform" or an array, got {baseline!r}')
        baseline = np.full(len(BASES), 0.0 if baseline == "n" else 1 / len(BASES))
    weights = np.asarray(baseline, dtype=np.float32)
    if weights.ndim not in (1, 2, 3) or weights.shape[-1] != len(BASES):
        raise ValueError(f"baseline must be (4,), (length, 4) or (sequences, length, 4), got {weights.shape}")
    if weights.ndim == 3 and len(weights) != len(inputs.spans):
        raise ValueError(f"baseline has {len(weights)} sequences for {len(inputs.spans)}")
    if not ((weights >= 0).all() and (weights.sum(axis=-1) <= 1 + 1e-5).all()):
        raise ValueError("baseline must be weights of A, C, G and T: 0 or more, with a sum of at most 1")
    spread = np.zeros_like(inputs.one_hot)
    for row, span in enumerate(inputs.spans):
        own = weights[row] if weights.ndim == 3 else weights
        if own.ndim == 2 and len(own) != span.stop - span.start:
            raise ValueError(f"baseline has {len(own)} bases, sequence {row} of the batch {span.stop - span.start}")
        spread[row, :, span] = own.T if own.ndim == 2 else own[:, None]
    return spread


def _attribute(inputs: Inputs, path: _Path, gradient_correction: bool, batch_size: int, verbose: bool) -> Attribution:
    """Multiply the weighted sum of gradients along each path by the difference between sequence and baseline."""
    check_batch_size(batch_size)
    way, steps = inputs.one_hot - path.baseline, len(path.nodes)
    gradients = np.zeros(way.shape)
    total = len(way) * steps
    with progress_bar("gradients", total, verbose=verbose) as progress:
        for start in range(0, total, batch_size):
            row, step = np.divmod(np.arange(start, min(start + batch_size, total)), steps)
            points = path.baseline[row] + path.nodes[step, None, None] * way[row]
            np.add.at(gradients, row, path.weights[step, None, None] * _gradients(inputs.module, points))
            progress.update(len(row))
    if gradient_correction:
        gradients -= gradients.mean(axis=1, keepdims=True)
    attributions = way * gradients
    baselines, places = np.unique(path.baseline, axis=0, return_inverse=True)
    return Attribution(
        inputs.sequences,
        [letters[:, span].T.copy() for letters, span in zip(attributions, inputs.spans, strict=True)],
        _expression(inputs.module, inputs.one_hot, batch_size),
        _expression(inputs.module, baselines, batch_size)[places.ravel()],
    )


def _to_tensor(module: OneHotExpression, points: np.ndarray) -> torch.Tensor:
    """Points (batch, 4, length) on the model's device, in its precision but at least float32."""
    dtype = torch.promote_types(module.model.dtype, torch.float32)
    return torch.from_numpy(points).to(dtype).to(module.model.device)


@torch.enable_grad()
def _gradients(module: OneHotExpression, points: np.ndarray) -> np.ndarray:
    """Gradients of the expression at points, both (batch, 4, length), as float64."""
    one_hot = _to_tensor(module, points).requires_grad_()
    return torch.autograd.grad(module(one_hot).sum(), one_hot)[0].cpu().double().numpy()


@torch.inference_mode()
def _expression(module: OneHotExpression, points: np.ndarray, batch_size: int) -> np.ndarray:
    """Expression (rows,) float64 of points (rows, 4, length)."""
    values = [np.empty(0)]
    for start in range(0, len(points), batch_size):
        batch = module(_to_tensor(module, points[start : start + batch_size]))
        values.append(batch.flatten().cpu().double().numpy())
    return np.concatenate(values)
