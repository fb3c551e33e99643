"""Gradient attributions of predicted expression, and the model as a module on one-hot DNA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import nn

from modeling_macaron.analysis.figures import RowFigures
from modeling_macaron.analysis.files import ROWS_AT_ONCE, FileOptions, FileResult, LineTask, check_files, run_task
from modeling_macaron.dna import BASES, encode_sequences, pad_centered, spell, variable_parts
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.io.tables import open_table
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.predictor import Predictor, PredictorLike, as_predictor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("integrated_gradients", "gradient_x_input")
BASELINES = ("n", "uniform")
GRADIENT_SHARE = 4  # batches of backward passes are this many times smaller, to save memory


class Attribution(NamedTuple):
    """Contributions of bases to the predicted expression, in assay units.

    Attributes
    ----------
    sequences : list[str]
        Variable parts of A, C, G, T and N.
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
        return [bases.sum(axis=1) for bases in self.attributions]

    @property
    def completeness_error(self) -> np.ndarray:
        """Sum of the attributions minus (expression - baseline expression), (sequences,)."""
        totals = np.array([bases.sum() for bases in self.attributions], dtype=np.float64)
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
        bases = torch.cat([known, 1 - known.sum(2, keepdim=True), torch.zeros_like(known[:, :, :1])], dim=2)
        readings = [bases, bases.roll(config.strand_length, 1)] if config.both_orientations else [bases]
        embedded = embeddings.embed_one_hot(torch.cat(readings))
        logits = self.model(inputs_embeds=embedded, output_nucleotide_logits=False).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).view(len(readings), -1, 1).mean(dim=0)
        return logits * config.expression_std + config.expression_mean


def as_one_hot_module(predictor: PredictorLike) -> OneHotExpression:
    """Wrap a model for packages that read one-hot DNA, such as tangermeme and captum.

    The module pads the sequence, appends the reverse complement and predicts as `Predictor.predict` does. The weight of
    N is one minus the sum of A, C, G and T, so a column of zeros is N. The gradient for a base is the effect of
    replacing N by that base.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts. The model is not copied.

    Returns
    -------
    OneHotExpression
        Maps one-hot variable parts without flanks, (batch, 4, length) floats with channels A, C, G, T, to expression
        (batch, 1) in assay units. The length is at most `strand_length`.

    Examples
    --------
    >>> from modeling_macaron import MacaronConfig
    >>> config = MacaronConfig(hidden_size=32, head_dim=32, intermediate_size=64, num_hidden_layers=1)
    >>> module = as_one_hot_module(MacaronForExpressionPrediction(config))
    >>> module(torch.eye(4).repeat(1, 1, 20)).shape  # ACGT twenty times
    torch.Size([1, 1])
    """
    return OneHotExpression(as_predictor(predictor).model).eval()


def gradient_x_input(
    predictor: PredictorLike,
    sequences: Sequence[str],
    *,
    gradient_correction: bool = True,
    verbose: bool = False,
) -> Attribution:
    """Attribute expression to bases by gradient times input (Shrikumar et al. 2016, arXiv:1605.01713).

    This takes one backward pass per sequence. The attributions do not add up to a difference in expression.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts. Use float32 or float64 weights, since
        gradients in half precision are coarse. Backward passes use a quarter of its batch size.
    sequences : sequence of str
        DNA, with or without the constant flanks.
    gradient_correction : bool
        Subtract the mean over A, C, G and T from the gradient at each position. One-hot sequences cannot move in that
        direction, so training does not constrain it (Majdandzic et al. 2023, Genome Biology 24:109).
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
    predictor = as_predictor(predictor)
    parts = variable_parts(encode_sequences(predictor.tokenizer, sequences))
    return _attribute(predictor, parts, None, "n", gradient_correction, verbose)


def integrated_gradients(
    predictor: PredictorLike,
    sequences: Sequence[str],
    *,
    steps: int = 64,
    baseline: str | np.ndarray = "n",
    gradient_correction: bool = False,
    verbose: bool = False,
) -> Attribution:
    """Attribute the difference in expression from a baseline by integrated gradients (Sundararajan et al. 2017, ICML).

    Parameters
    ----------
    predictor, sequences, verbose
        See `gradient_x_input`.
    steps : int
        Nodes of the Gauss-Legendre quadrature. The ReLU of the convolution makes gradients jump along the path, so the
        error falls only as 1 / steps. Check it with `completeness_error`.
    baseline : str or numpy.ndarray
        `"n"`: N at every position. `"uniform"`: a quarter of each base. An array: weights of A, C, G and T, for example
        of shuffled sequences, with shape (4,), (length, 4) or (sequences, length, 4). N gets the remaining weight.
    gradient_correction : bool
        As in `gradient_x_input`. The attributions then sum to the difference only if sequence and baseline have no N.

    Returns
    -------
    Attribution
        Sums to `expression - baseline_expression`, up to `completeness_error`.

    Raises
    ------
    ValueError
        As `gradient_x_input`, or if `steps` is below 1 or the baseline is invalid.

    Examples
    --------
    >>> from modeling_macaron import MacaronConfig
    >>> config = MacaronConfig(hidden_size=32, head_dim=32, intermediate_size=64, num_hidden_layers=1)
    >>> result = integrated_gradients(MacaronForExpressionPrediction(config), ["ACGTACGTAC", "TTTATATAAGGC"])
    >>> [bases.shape for bases in result.per_base]
    [(10,), (12,)]
    """
    predictor = as_predictor(predictor)
    parts = variable_parts(encode_sequences(predictor.tokenizer, sequences))
    return _attribute(predictor, parts, steps, baseline, gradient_correction, verbose)


def _spread_baseline(baseline: str | np.ndarray, spans: Sequence[slice], strand_length: int) -> np.ndarray:
    """Put the baseline on every variable part, (sequences, 4, strand_length). The padding stays N."""
    if isinstance(baseline, str):
        if baseline not in BASELINES:
            raise ValueError(f'baseline must be "n", "uniform" or an array, got {baseline!r}')
        baseline = np.full(len(BASES), 0.0 if baseline == "n" else 1 / len(BASES))
    weights = np.asarray(baseline, dtype=np.float32)
    if weights.ndim not in (1, 2, 3) or weights.shape[-1] != len(BASES):
        raise ValueError(f"baseline must be (4,), (length, 4) or (sequences, length, 4), got {weights.shape}")
    if weights.ndim == 3 and len(weights) != len(spans):
        raise ValueError(f"baseline has {len(weights)} sequences, but {len(spans)} were given")
    if not ((weights >= 0).all() and (weights.sum(axis=-1) <= 1 + 1e-5).all()):
        raise ValueError("baseline must be weights of A, C, G and T: 0 or more, with a sum of at most 1")
    spread = np.zeros((len(spans), len(BASES), strand_length), np.float32)
    for row, span in enumerate(spans):
        own = weights[row] if weights.ndim == 3 else weights
        if own.ndim == 2 and len(own) != span.stop - span.start:
            raise ValueError(f"baseline has {len(own)} bases, sequence {row} of the batch has {span.stop - span.start}")
        spread[row, :, span] = own.T if own.ndim == 2 else own[:, None]
    return spread


def _attribute(
    predictor: Predictor,
    parts: Sequence[np.ndarray],
    steps: int | None,
    baseline: str | np.ndarray = "n",
    gradient_correction: bool = False,
    verbose: bool = False,
) -> Attribution:
    """Multiply the weighted sum of gradients along each path by the difference between sequence and baseline.

    Without `steps`, only the gradient at the sequence is used.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    module, length = as_one_hot_module(predictor), predictor.config.strand_length
    strands = np.concatenate([np.empty((0, length), np.uint8), *(pad_centered(part[None], length) for part in parts)])
    starts = [(length - len(part)) // 2 for part in parts]
    spans = [slice(start, start + len(part)) for start, part in zip(starts, parts, strict=True)]
    one_hot = np.eye(len(BASES) + 1, len(BASES), dtype=np.float32)[strands].transpose(0, 2, 1)
    baselines = _spread_baseline(baseline, spans, length)
    nodes, weights = np.polynomial.legendre.leggauss(steps or 1)
    nodes, weights = ((nodes + 1) / 2, weights / 2) if steps else (np.ones(1), np.ones(1))
    way, num_nodes = one_hot - baselines, len(nodes)
    gradients, total = np.zeros(way.shape), len(way) * num_nodes
    batch_size = max(predictor.batch_size // GRADIENT_SHARE, 1)
    with progress_bar("gradients", total, verbose=verbose) as progress, predictor.explain_lack_of_memory():
        for start in range(0, total, batch_size):
            row, step = np.divmod(np.arange(start, min(start + batch_size, total)), num_nodes)
            points = baselines[row] + nodes[step, None, None] * way[row]
            np.add.at(gradients, row, weights[step, None, None] * gradients_at(module, points))
            progress.update(len(row))
    if gradient_correction:
        gradients -= gradients.mean(axis=1, keepdims=True)
    if not np.isfinite(gradients).all():
        raise ValueError(f"a gradient is not finite: the model's weights overflow in {predictor.model.dtype}")
    attributions = way * gradients
    distinct, places = np.unique(baselines, axis=0, return_inverse=True)
    return Attribution(
        [spell(part) for part in parts],
        [bases[:, span].T.copy() for bases, span in zip(attributions, spans, strict=True)],
        _expression(module, one_hot, batch_size),
        _expression(module, distinct, batch_size)[places.ravel()],
    )


def _to_tensor(module: OneHotExpression, points: np.ndarray) -> torch.Tensor:
    """Points (batch, 4, length) on the model's device, in its precision but at least float32."""
    dtype = torch.promote_types(module.model.dtype, torch.float32)
    return torch.from_numpy(points).to(dtype).to(module.model.device)


@torch.enable_grad()
def gradients_at(module: OneHotExpression, points: np.ndarray) -> np.ndarray:
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


class RowAttribution(NamedTuple):
    """Contributions (length,) of the bases of one sequence to its predicted expression, in assay units."""

    sequence: str
    per_base: np.ndarray
    expression: float
    baseline_expression: float


def attribution_file(
    predictor: PredictorLike,
    source: str | Path,
    output: str | Path,
    *,
    method: str = "integrated_gradients",
    steps: int = 64,
    baseline: str = "n",
    figures: RowFigures | None = None,
    options: FileOptions | None = None,
) -> FileResult:
    """Attribute the expression of every row of a file to its bases, with one output line per base.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts.
    source : str or Path
        TSV, CSV, XLSX, FASTA or Parquet; see `open_table`.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`, with the columns `row` (from 1), `name` (if rows have names), `position` (from 1
        in the variable part), `base`, `attribution`, `predicted_expression`, `predicted_baseline` (all in assay units)
        and `problem`. A row without a prediction has one line with the reason.
    method : str
        `"integrated_gradients"` or `"gradient_x_input"`.
    steps, baseline
        See `integrated_gradients`. The baseline is `"n"` or `"uniform"`. Gradient x input ignores both.
    figures : RowFigures, optional
        Folder for logos of the first rows with a prediction.
    options : FileOptions, optional
        Columns, strictness, overwriting, resuming, progress.

    Returns
    -------
    FileResult

    Raises
    ------
    ValueError, OSError
        As `predict_file`.
    """
    options = options or FileOptions()
    check_files(output, options, (predictor, source))
    for name, value, known in (("method", method, METHODS), ("baseline", baseline, BASELINES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    predictor = as_predictor(predictor)
    table = open_table(source, sequence_column=options.sequence_column, batch_rows=ROWS_AT_ONCE)
    task = _AttributionTask(table, predictor.tokenizer, options.name_column)
    task.predictor, task.figures = predictor, figures
    task.settings = {
        "columns": [table.columns.sequence, options.name_column], "method": method, "steps": steps, "baseline": baseline
    }  # fmt: skip
    return run_task(task, predictor, table, output, options, [source])


class _AttributionTask(LineTask):
    """One line per base."""

    fields = pa.schema([
        ("position", pa.int64()), ("base", pa.string()), ("attribution", pa.float64()),
        ("predicted_expression", pa.float64()), ("predicted_baseline", pa.float64()),
    ])  # fmt: skip
    predictor: Predictor
    limit: float | None = None

    def results(self, ids: list[np.ndarray]) -> Iterator[RowAttribution]:
        if self.settings["method"] == "integrated_gradients":
            result = _attribute(self.predictor, ids, self.settings["steps"], self.settings["baseline"])
        else:
            result = _attribute(self.predictor, ids, None, gradient_correction=True)
        rows = zip(result.sequences, result.per_base, result.expression, result.baseline_expression, strict=True)
        for sequence, per_base, expression, baseline in rows:
            yield RowAttribution(sequence, per_base, float(expression), float(baseline))

    def columns_of(self, result: RowAttribution) -> Mapping[str, Any]:
        return {
            "position": np.arange(1, len(result.sequence) + 1),
            "base": list(result.sequence),
            "attribution": result.per_base,
            "predicted_expression": result.expression,
            "predicted_baseline": result.baseline_expression,
        }

    def result_from(self, ids: np.ndarray, lines: pa.Table) -> RowAttribution:
        values = (lines[name][0].as_py() for name in ("predicted_expression", "predicted_baseline"))
        return RowAttribution(spell(ids), lines["attribution"].to_numpy(), *values)

    def draw(self) -> None:
        if self.figures.same_scale:
            largest = max((float(np.abs(row.per_base).max()) for row in self.figures.results()), default=0.0)
            self.limit = largest or None
        super().draw()

    def figures_of(self, result: RowAttribution, title: str) -> dict[str, Figure]:
        from modeling_macaron.analysis.plots import attribution_logo

        return {"attribution": attribution_logo(result.sequence, result.per_base, title=title, limit=self.limit)}
