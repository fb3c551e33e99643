"""Attribution of a prediction to the bases of a sequence by gradients; the model as a module that takes one-hot DNA."""

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
    """What each base of each sequence contributes to its predicted expression.

    Attributes
    ----------
    sequences : list[str]
        The variable parts, of A, C, G, T and N, that the attributions belong to.
    attributions : list[numpy.ndarray]
        (length, 4) float64 of each sequence, in assay units: a row for each base of its variable part, a column for
        each of A, C, G and T.
    expression : numpy.ndarray
        (sequences,) float64 predicted expression in assay units.
    baseline_expression : numpy.ndarray
        (sequences,) float64 predicted expression of the baselines in assay units.
    """

    sequences: list[str]
    attributions: list[np.ndarray]
    expression: np.ndarray
    baseline_expression: np.ndarray

    @property
    def per_base(self) -> list[np.ndarray]:
        """Sum over the letters, (length,) of each sequence."""
        return [letters.sum(axis=1) for letters in self.attributions]

    @property
    def completeness_error(self) -> np.ndarray:
        """Sum of the attributions minus the difference of expression and baseline, (sequences,) in assay units."""
        totals = np.array([letters.sum() for letters in self.attributions], dtype=np.float64)
        return totals - (self.expression - self.baseline_expression)


class OneHotExpression(nn.Module):
    """Differentiable map of one-hot DNA (batch, 4, length) to expression (batch, 1); see `as_one_hot_module`."""

    def __init__(self, model: MacaronForExpressionPrediction):
        super().__init__()
        self.model = model

    def forward(self, one_hot: torch.Tensor) -> torch.Tensor:
        """Predict the expression.

        Parameters
        ----------
        one_hot : torch.Tensor
            (batch, 4, length) weights of A, C, G and T along the variable part; what they lack to 1 is N.

        Returns
        -------
        torch.Tensor
            (batch, 1) expression in assay units, at least float32.

        Raises
        ------
        ValueError
            If the shape is another, or the sequence is longer than a strand.
        """
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

    The module pads to a strand as the tokenizer does, appends the reverse complement and embeds the k-mers by the
    model's linear map, so it predicts what `predict` does for the same letters. The weight of N is what A, C, G and T
    lack to 1: a column of zeros is N, and a gradient with respect to a letter is that of putting it in the place of N.

    Parameters
    ----------
    model : str, Path or MacaronForExpressionPrediction
        See `load_model`. It is not copied, and put into evaluation mode.
    tokenizer : KmerTokenizer, optional
        See `load_model`. Flanks are not cut off one-hot DNA: it is the variable part, of up to `strand_length` nt.

    Returns
    -------
    OneHotExpression
        (batch, 4, length) floats, letters in the order A, C, G, T, to (batch, 1) expression in assay units.

    Raises
    ------
    ValueError
        If the tokenizer pads to another length than the model reads.

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
    """Attribute expression by the gradient times the input: one backward pass a sequence, local and not complete.

    Parameters
    ----------
    model, tokenizer, device
        See `load_model`. Take float32 or float64 weights: gradients in half precision are coarse.
    sequences : sequence of str
        DNA, with or without the constant flanks.
    gradient_correction : bool
        Subtract the mean over the letters from the gradient of each base. No sequence can move in that direction, so
        training does not constrain it (Majdandzic et al. 2023, Genome Biology 24:109). Without it this is the effect
        of putting the letter in the place of N, to first order.
    batch_size : int
        Sequences that go through the model at once.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    Attribution
        Zero for letters that are not there, and for N. The baseline expression is that of N at every base; the sum is
        not the difference from it.

    Raises
    ------
    ValueError
        On a sequence that is no DNA, empty, too long or holds a mask; the message tells which.

    References
    ----------
    Shrikumar et al., "Not just a black box: learning important features through propagating activation differences",
    arXiv:1605.01713, 2016.
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
    """Attribute the difference in expression from a baseline by gradients integrated on the line between the two.

    Parameters
    ----------
    model, sequences, tokenizer, device, verbose
        See `gradient_x_input`.
    steps : int
        Nodes of the Gauss-Legendre quadrature. The ReLUs of the convolution make gradients jump along the path, so
        the error falls only as 1 / steps; `completeness_error` of the result tells whether they are enough.
    baseline : str or numpy.ndarray
        `"n"`: N at every base. `"uniform"`: a quarter of each letter. Or weights of A, C, G and T, (4,) for every base,
        (length, 4) for every sequence or (sequences, length, 4), for example a shuffled sequence; what they lack to 1
        is N.
    gradient_correction : bool
        As in `gradient_x_input`. The sum is then complete only where sequence and baseline are free of N: there it
        changes nothing per base.
    batch_size : int
        Points of the paths that go through the model at once.

    Returns
    -------
    Attribution
        Its sum is `expression - baseline_expression`, up to `completeness_error`.

    Raises
    ------
    ValueError
        As in `gradient_x_input`, if there is no step, or if the baseline is no such weights.

    References
    ----------
    Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017.

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
    """Refuse a number of steps below 1 with a `ValueError`."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


class Inputs(NamedTuple):
    """Padded one-hot sequences (sequences, 4, strand_length) float32, and where each variable part lies in them."""

    module: OneHotExpression
    one_hot: np.ndarray
    spans: list[slice]
    sequences: list[str]


class _Path(NamedTuple):
    """Lines from the baselines (sequences, 4, strand_length) to the sequences: nodes in 0 to 1, and their weights."""

    baseline: np.ndarray
    nodes: np.ndarray
    weights: np.ndarray


def encode_inputs(module: OneHotExpression, strands: StrandBatch) -> Inputs:
    """Turn strands into padded one-hot DNA.

    Parameters
    ----------
    module : OneHotExpression
        The model.
    strands : StrandBatch
        Of any rows; those with a problem are left out.

    Returns
    -------
    Inputs
    """
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
    """Put the baseline on every variable part, (sequences, 4, strand_length); the padding stays N."""
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
    """Sum up the weighted gradients along each path, times the way from its baseline to its sequence."""
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
    """Gradients (batch, 4, length) of the expression at points of that shape, float64."""
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
