"""Attribution of every row of a file in a stream; for sequences in memory see `attribution`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from modeling_macaron.io.tables import open_table
from modeling_macaron.loading import load_model
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import KmerTokenizer, StrandBatch

from .attribution import (
    OneHotExpression,
    as_one_hot_module,
    check_steps,
    encode_inputs,
    local_gradients,
    path_gradients,
)
from .predict import check_request
from .row_figures import RowFigures
from .row_lines import FileLines, LineWriter, write_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("integrated_gradients", "gradient_x_input")
BASELINES = ("n", "uniform")
_FIELDS = pa.schema([
    ("position", pa.int64()), ("base", pa.string()), ("attribution", pa.float64()),
    ("predicted_expression", pa.float64()), ("predicted_baseline", pa.float64()),
])  # fmt: skip


class RowAttribution(NamedTuple):
    """What each base of one sequence contributes to its predicted expression.

    Attributes
    ----------
    sequence : str
        The variable part, of A, C, G, T and N.
    per_base : numpy.ndarray
        (length,) float64, in assay units.
    expression, baseline_expression : float
        Predictions in assay units.
    """

    sequence: str
    per_base: np.ndarray
    expression: float
    baseline_expression: float


def attribution_file(
    model: str | Path | MacaronForExpressionPrediction,
    source: str | Path,
    output: str | Path,
    *,
    method: str = "integrated_gradients",
    steps: int = 64,
    baseline: str = "n",
    plots: str | Path | None = None,
    num_plots: int = 10,
    plot_format: str = "png",
    same_scale: bool = False,
    tokenizer: KmerTokenizer | None = None,
    sequence_column: str | None = None,
    name_column: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    verbose: bool = False,
) -> FileLines:
    """Attribute the expression of every row of a file to its bases and write one line for each base.

    As many rows as a batch has sequences are read and written at a time, so memory does not grow with the file.

    Parameters
    ----------
    model, tokenizer, device
        See `load_model`.
    source : str or Path
        TSV, CSV, FASTA or Parquet; see `modeling_macaron.io.tables.open_table`.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`, with the columns `row` (from 1), `name` (where rows have one), `position` (from 1
        in the variable part), `base`, `attribution`, `predicted_expression`, `predicted_baseline` (all in assay units)
        and `problem`: a row without a prediction has one line that says why. It appears when it is complete.
    method : str
        `"integrated_gradients"` or `"gradient_x_input"`, see the functions of that name.
    steps, baseline
        See `integrated_gradients`; `"n"` or `"uniform"`. Gradient x input has neither.
    plots : str or Path, optional
        Folder for logos of the first `num_plots` rows that have a prediction, drawn at the end.
    num_plots, plot_format
        See `RowFigures`.
    same_scale : bool
        Draw all logos to one scale, to compare the rows.
    name_column, strict
        See `write_lines`.
    sequence_column, overwrite
        See `predict_file`.
    batch_size : int
        Points that go through the model at once, and rows that are read at once.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    FileLines

    Raises
    ------
    ValueError
        If the source, the kind of output or an option is not understood, or with `strict`.
    OSError
        If a file cannot be read or written, or there is no such checkpoint.
    """
    check_request(output, overwrite, batch_size, (model, source))
    for name, value, known in (("method", method, METHODS), ("baseline", baseline, BASELINES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    check_steps(steps)
    figures = None
    if plots is not None:
        figures = RowFigures(plots, num_plots, plot_format=plot_format, overwrite=overwrite)
    table = open_table(source, sequence_column=sequence_column, batch_rows=batch_size)
    model, tokenizer = load_model(model, tokenizer, device)
    attribute = local_gradients
    if method == "integrated_gradients":
        attribute = partial(path_gradients, steps=steps, baseline=baseline)
    module = as_one_hot_module(model, tokenizer)
    writer = LineWriter(_FIELDS, lambda strands: _rows(module, strands, attribute, batch_size), _columns_of)
    result = write_lines(
        table, output, tokenizer, writer, name_column=name_column, strict=strict, figures=figures, verbose=verbose
    )
    if figures is not None:
        largest = max((float(np.abs(row.per_base).max()) for row in figures.results()), default=0.0)
        figures.draw(partial(_figures_of, limit=largest if same_scale and largest > 0 else None))
    return result


def _rows(module: OneHotExpression, strands: StrandBatch, attribute: Any, batch_size: int) -> Iterator[RowAttribution]:
    """Give the attribution of each row that has no problem."""
    result = attribute(encode_inputs(module, strands), batch_size=batch_size)
    rows = zip(result.sequences, result.per_base, result.expression, result.baseline_expression, strict=True)
    for sequence, per_base, expression, baseline in rows:
        yield RowAttribution(sequence, per_base, float(expression), float(baseline))


def _columns_of(row: RowAttribution) -> Mapping[str, Any]:
    """One line for each base."""
    return {
        "position": np.arange(1, len(row.sequence) + 1),
        "base": list(row.sequence),
        "attribution": row.per_base,
        "predicted_expression": row.expression,
        "predicted_baseline": row.baseline_expression,
    }


def _figures_of(row: RowAttribution, title: str, limit: float | None) -> dict[str, Figure]:
    """Draw one row."""
    from .sequence_plots import attribution_logo

    return {"attribution": attribution_logo(row.sequence, row.per_base, title=title, limit=limit)}
