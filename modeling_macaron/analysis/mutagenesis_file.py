"""Mutagenesis of every row of a file, in a stream."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from modeling_macaron.io.tables import open_table
from modeling_macaron.loading import load_model
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import KmerTokenizer

from .encoding import variable_parts
from .mutagenesis import Mutagenesis, WindowScan, base_importance, mutate
from .mutants import BASES, Substitutions, WindowEdits
from .predict import check_request
from .row_figures import RowFigures
from .row_lines import FileLines, LineWriter, write_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUBSTITUTION_FIELDS = pa.schema([
    ("position", pa.int64()), ("ref", pa.string()), ("alt", pa.string()),
    ("predicted_reference", pa.float64()), ("delta", pa.float64()),
])  # fmt: skip
_WINDOW_FIELDS = pa.schema([
    ("start", pa.int64()), ("end", pa.int64()), ("letters", pa.string()),
    ("predicted_reference", pa.float64()), ("delta", pa.float64()),
])  # fmt: skip


def mutagenesis_file(
    model: str | Path | MacaronForExpressionPrediction,
    source: str | Path,
    output: str | Path,
    *,
    window: int | None = None,
    step: int = 1,
    method: str = "shuffle",
    num_shuffles: int = 10,
    seed: int = 0,
    plots: str | Path | None = None,
    num_plots: int = 10,
    plot_format: str = "png",
    same_scale: bool = False,
    tokenizer: KmerTokenizer | None = None,
    sequence_column: str | None = None,
    name_column: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    merged: bool = False,
    dtype: str | torch.dtype | None = None,
    compile_model: bool = False,
    verbose: bool = False,
) -> FileLines:
    """Mutate every row of a file, with one output line per mutant.

    Rows are read and written in batches, so memory does not grow with the file.

    Parameters
    ----------
    model, tokenizer, device, merged, dtype, compile_model
        See `load_model`.
    source : str or Path
        TSV, CSV, FASTA or Parquet; see `modeling_macaron.io.tables.open_table`.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`, with the columns `row` (from 1), `name` (if rows have names), `position` (from 1
        in the variable part), `ref`, `alt`, `predicted_reference`, `delta` (mutant minus original, in assay units) and
        `problem`. With `window`, the columns `start`, `end` (first and last position, from 1) and `letters` replace
        `position`, `ref` and `alt`. A row without a prediction has one line with the reason. The file appears when it
        is complete.
    window, step, method, num_shuffles, seed
        See `window_scan`. Default: all single substitutions.
    plots : str or Path, optional
        Folder for figures of the first `num_plots` rows with a prediction.
    num_plots, plot_format
        See `RowFigures`.
    same_scale : bool
        Draw all figures to one scale.
    name_column, strict
        See `write_lines`.
    sequence_column, overwrite
        See `predict_file`.
    batch_size : int
        Mutants per forward pass.
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
    edits = Substitutions() if window is None else WindowEdits(window, step, method, num_shuffles, seed)
    figures = None if plots is None else RowFigures(plots, num_plots, plot_format=plot_format, overwrite=overwrite)
    table = open_table(source, sequence_column=sequence_column, batch_rows=batch_size)
    model, tokenizer = load_model(model, tokenizer, device, merged=merged, dtype=dtype, compile_model=compile_model)
    writer = LineWriter(
        _SUBSTITUTION_FIELDS if window is None else _WINDOW_FIELDS,
        lambda strands: mutate(model, variable_parts(strands), edits, batch_size=batch_size),
        _columns_of_substitutions if window is None else _columns_of_windows,
        edits.min_length,
    )
    result = write_lines(
        table, output, tokenizer, writer, name_column=name_column, strict=strict, figures=figures, verbose=verbose
    )
    if figures is not None:
        figures.draw(partial(_figures_of, limits=_limits(figures.results()) if same_scale else {}))
    return result


def _columns_of_substitutions(result: Mutagenesis) -> Mapping[str, Any]:
    letters, bases = np.array(list(result.sequence)), np.array(list(BASES))
    positions, alternatives = np.nonzero(letters[:, None] != bases)
    return {
        "position": positions + 1,
        "ref": letters[positions],
        "alt": bases[alternatives],
        "predicted_reference": result.reference,
        "delta": result.deltas[positions, alternatives],
    }


def _columns_of_windows(result: WindowScan) -> Mapping[str, Any]:
    ends = result.starts + result.window
    return {
        "start": result.starts + 1,
        "end": ends,
        "letters": [result.sequence[start:end] for start, end in zip(result.starts, ends, strict=True)],
        "predicted_reference": result.reference,
        "delta": result.deltas,
    }


def _limits(results: list[Mutagenesis | WindowScan]) -> dict[str, float]:
    """Largest absolute effects of all rows, by figure."""
    limits = {"effect": max((float(np.abs(result.deltas).max()) for result in results), default=0.0)}
    if any(isinstance(result, Mutagenesis) for result in results):
        limits["importance"] = max(float(np.abs(base_importance(result)).max()) for result in results)
    return {kind: limit for kind, limit in limits.items() if limit > 0}


def _figures_of(result: Mutagenesis | WindowScan, title: str, limits: dict[str, float]) -> dict[str, Figure]:
    from .sequence_plots import mutagenesis_heatmap, mutagenesis_logo, window_profile

    if isinstance(result, WindowScan):
        return {"windows": window_profile(result, title=title, limit=limits.get("effect"))}
    return {
        "heatmap": mutagenesis_heatmap(result, title=title, limit=limits.get("effect")),
        "logo": mutagenesis_logo(result, title=title, limit=limits.get("importance")),
    }
