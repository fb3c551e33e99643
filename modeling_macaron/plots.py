"""Learning curves, and the style of all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modeling_macaron.atomic import new_file

COLUMN_WIDTH = 3.35  # inches, of a journal

# Okabe and Ito's colorblind-safe palette.
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6E6E6E"


def style_axes(axes: Axes) -> None:
    """Use small type and hide the unused spines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.7)
    axes.tick_params(labelsize=7, width=0.7, length=3)
    axes.xaxis.label.set_size(8)
    axes.yaxis.label.set_size(8)


def format_correlation(value: float) -> str:
    """Format a correlation with three decimals and a typographic minus sign."""
    return "undefined" if np.isnan(value) else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _draw_curves(axes: Axes, log_history: Sequence[Mapping], curves: Sequence[tuple[str, str, str]]) -> None:
    """Draw (key, label, color) curves, with markers if there are few points."""
    for key, label, color in curves:
        points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry and "epoch" in entry]
        if points:
            marker = "o" if len(points) <= 30 else None
            axes.plot(*zip(*points, strict=True), color=color, label=label, linewidth=1.2, marker=marker, markersize=3)
    axes.legend(fontsize=7, frameon=False)
    style_axes(axes)


def learning_curves(log_history: Sequence[Mapping], *, title: str = "") -> Figure:
    """Plot the losses and, if logged, the validation correlations of `trainer.state.log_history`."""
    losses = [("loss", "Training", BLUE), ("eval_loss", "Validation", VERMILLION)]
    correlations = [("eval_pearson_r", "Pearson $r$", VERMILLION), ("eval_spearman_rho", r"Spearman $\rho$", GREEN)]
    if not any("loss" in entry or "eval_loss" in entry for entry in log_history):
        raise ValueError("no loss in this log history: there is nothing to plot before the first logged step")
    scored = [entry for entry in log_history if np.isfinite(entry.get("eval_pearson_r", np.nan))]
    figure = Figure(figsize=(COLUMN_WIDTH, 3.9 if scored else 2.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(2 if scored else 1, 1, sharex=True))
    _draw_curves(panels[0], log_history, losses)
    panels[0].set_ylabel("Loss")
    if scored:
        _draw_curves(panels[1], log_history, correlations)
        best = max(scored, key=lambda entry: entry["eval_pearson_r"])
        text = f"best $r$ {format_correlation(best['eval_pearson_r'])} at epoch {best['epoch']:.3g}"
        panels[1].axvline(best["epoch"], color=GREY, linewidth=0.7, linestyle="--", zorder=0)
        panels[1].set_ylabel("Validation correlation")
        panels[1].set_title(text, size=7, loc="right", color=GREY)
    panels[-1].set_xlabel("Epoch")
    panels[0].set_title(title, size=9, loc="left", weight="bold")
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Save a figure as PNG (200 dpi), PDF, SVG and so on, by the suffix of `path`; parent folders are created."""
    path = Path(path)
    with new_file(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=200)
    return path
