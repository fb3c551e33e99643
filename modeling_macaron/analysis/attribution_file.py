"""Attribution for every row of a file, in a stream."""

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
    """Contributions (length,) of the bases of one sequence to its predicted expression, in assay units."""

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
    """Attribute the expression of every row of a file to its bases, with one output line per base.

    Rows are read and written in batches, so memory does not grow with the file.

    Parameters
    ----------
    model, tokenizer, device
        See `load_model`.
    source : str or Path
        TSV, CSV, FASTA or Parquet; see `modeling_macaron.io.tables.open_table`.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`, with the columns `row` (from 1), `name` (if rows have names), `position` (from 1
        in the variable part), `base`, `attribution`, `predicted_expression`, `predicted_baseline` (all in assay units)
        and `problem`. A row without a prediction has one line with the reason. The file appears when it is complete.
    method : str
        `"integrated_gradients"` or `"gradient_x_input"`.
    steps, baseline
        See `integrated_gradients`. The baseline is `"n"` or `"uniform"`. Gradient x input ignores both.
    plots : str or Path, optional
        Folder for logos of the first `num_plots` rows with a prediction.
    num_plots, plot_format
        See `RowFigures`.
    same_scale : bool
        Draw all logos to one scale.
    name_column, strict
        See `write_lines`.
    sequence_column, overwrite
        See `predict_file`.
    batch_size : int
        Points per forward pass, and rows that are read at once.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    FileLines

    Raises
    ------
    ValueError
        If the source, the type of output or an option is invalid, or a row has a problem and `strict` is set.
    OSError
        If a file cannot be read or written, or the checkpoint does not exist.
    """
    check_request(output, overwrite, batch_size, (model, source))
    for name, value, known in (("method", method, METHODS), ("baseline", baseline, BASELINES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    check_steps(steps)
    figures = None if plots is None else RowFigures(plots, num_plots, plot_format=plot_format, overwrite=overwrite)
    table = open_table(source, sequence_column=sequence_column, batch_rows=batch_size)
    model, tokenizer = load_model(model, tokenizer, device)
    is_integrated = method == "integrated_gradients"
    attribute = partial(path_gradients, steps=steps, baseline=baseline) if is_integrated else local_gradients
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
    """Yield the attribution of each row without a problem."""
    result = attribute(encode_inputs(module, strands), batch_size=batch_size)
    rows = zip(result.sequences, result.per_base, result.expression, result.baseline_expression, strict=True)
    for sequence, per_base, expression, baseline in rows:
        yield RowAttribution(sequence, per_base, float(expression), float(baseline))


def _columns_of(row: RowAttribution) -> Mapping[str, Any]:
    return {
        "position": np.arange(1, len(row.sequence) + 1),
        "base": list(row.sequence),
        "attribution": row.per_base,
        "predicted_expression": row.expression,
        "predicted_baseline": row.baseline_expression,
    }


def _figures_of(row: RowAttribution, title: str, limit: float | None) -> dict[str, Figure]:
    from .sequence_plots import attribution_logo

    return {"attribution": attribution_logo(row.sequence, row.per_base, title=title, limit=limit)}
