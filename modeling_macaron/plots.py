"""Figures: measured against predicted expression, and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import gaussian_filter

from modeling_macaron.io.atomic import new_file

COLUMN_WIDTH = 3.35  # inches, of a journal

# Okabe and Ito's colour-blind safe palette.
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6E6E6E"

_GRID_CELLS = 96


def _new_figure(height: float, **layout) -> Figure:
    return Figure(figsize=(COLUMN_WIDTH, height), layout="constrained", **layout)


def _style(axes: Axes) -> None:
    """Use small type and hide the unused spines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.7)
    axes.tick_params(labelsize=7, width=0.7, length=3)
    axes.xaxis.label.set_size(8)
    axes.yaxis.label.set_size(8)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Range of the values with a margin, also if they are constant."""
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def point_density(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Density (points,) around each point: smoothed counts per cell of a grid over their range."""
    edges = [np.linspace(*_limits(values), _GRID_CELLS + 1) for values in (x, y)]
    counts, *_ = np.histogram2d(x, y, bins=edges)
    width = np.clip(8.0 * len(x) ** (-1 / 6), 1.2, 6.0)  # Scott's exponent for two dimensions, in cells
    smooth = gaussian_filter(counts, width, mode="constant")
    centers = [(edge[:-1] + edge[1:]) / 2 for edge in edges]
    grid = RegularGridInterpolator(centers, smooth, bounds_error=False, fill_value=None)
    return np.maximum(grid(np.column_stack([x, y])), 0.0)


def _number(value: float) -> str:
    """Format a correlation with three decimals and a typographic minus sign."""
    return "undefined" if np.isnan(value) else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def scatter_with_density(
    measured: np.ndarray,
    predicted: np.ndarray,
    *,
    pearson_r: float,
    spearman_rho: float,
    title: str = "",
    xlabel: str = "Measured expression",
    ylabel: str = "Predicted expression",
    zero_lines: bool = False,
) -> Figure:
    """Plot predicted against measured values (points,), coloured by density; correlations may be NaN."""
    measured, predicted = np.asarray(measured, np.float64), np.asarray(predicted, np.float64)
    if measured.size == 0 or measured.shape != predicted.shape:
        raise ValueError(f"a scatter plot needs as many measured as predicted values, got {measured.size} and "
                         f"{predicted.size}")  # fmt: skip
    figure = _new_figure(3.1)
    axes = figure.add_subplot()
    if zero_lines:
        axes.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        axes.axvline(0, color=GREY, linewidth=0.6, zorder=0)
    density = point_density(measured, predicted)
    order = np.argsort(density)
    size = float(np.clip(1500 / measured.size**0.65, 1.2, 12))
    points = axes.scatter(
        measured[order], predicted[order], c=density[order] / density.max(), s=size, cmap="viridis",
        norm=PowerNorm(0.5, 0, 1), linewidths=0,
        rasterized=True,
    )  # fmt: skip
    bar = figure.colorbar(points, ax=axes, fraction=0.035, pad=0.02)
    bar.set_ticks([0, 1], labels=["low", "high"], fontsize=6)
    bar.ax.tick_params(length=0)
    bar.set_label("Density of points", size=7, labelpad=-8)
    bar.outline.set_visible(False)
    axes.set(xlim=_limits(measured), ylim=_limits(predicted), xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, size=9, loc="left", weight="bold")
    axes.text(
        0.03, 0.97, f"$r$ = {_number(pearson_r)}\n$\\rho$ = {_number(spearman_rho)}\n$n$ = {measured.size:,}",
        transform=axes.transAxes, va="top", size=8, linespacing=1.35,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "boxstyle": "round,pad=0.25"},
    )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=4))
    _style(axes)
    return figure


def _series(log_history: Sequence[Mapping], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values (points,) logged under a key."""
    entries = [(entry["epoch"], entry[key]) for entry in log_history if key in entry and "epoch" in entry]
    epochs, values = np.array(entries, dtype=np.float64).reshape(-1, 2).T
    return epochs, values


def _draw_curves(axes: Axes, log_history: Sequence[Mapping], curves: Sequence[tuple[str, str, str]]) -> None:
    """Draw (key, label, colour) curves, with markers if there are few points."""
    for key, label, color in curves:
        epochs, values = _series(log_history, key)
        if epochs.size:
            marker = "o" if epochs.size <= 30 else None
            axes.plot(epochs, values, color=color, label=label, linewidth=1.2, marker=marker, markersize=3)


def learning_curves(log_history: Sequence[Mapping], *, title: str = "") -> Figure:
    """Plot the losses and, if logged, the validation correlations of `trainer.state.log_history`."""
    losses = [("loss", "Training", BLUE), ("eval_loss", "Validation", VERMILLION)]
    correlations = [("eval_pearson_r", "Pearson $r$", VERMILLION), ("eval_spearman_rho", r"Spearman $\rho$", GREEN)]
    if not any(_series(log_history, key)[0].size for key, *_ in losses):
        raise ValueError("no loss in this log history: there is nothing to plot before the first logged step")
    epochs, pearson = _series(log_history, "eval_pearson_r")
    has_pearson = bool(np.isfinite(pearson).any())
    figure = _new_figure(3.9 if has_pearson else 2.2)
    panels = np.atleast_1d(figure.subplots(2 if has_pearson else 1, 1, sharex=True))
    _draw_curves(panels[0], log_history, losses)
    panels[0].set_ylabel("Loss")
    if has_pearson:
        _draw_curves(panels[1], log_history, correlations)
        best = int(np.nanargmax(pearson))
        panels[1].axvline(epochs[best], color=GREY, linewidth=0.7, linestyle="--", zorder=0)
        panels[1].set_ylabel("Validation correlation")
        panels[1].set_title(
            f"best $r$ {_number(pearson[best])} at epoch {epochs[best]:.3g}", size=7, loc="right", color=GREY
        )
    panels[-1].set_xlabel("Epoch")
    panels[0].set_title(title, size=9, loc="left", weight="bold")
    for axes in panels:
        axes.legend(fontsize=7, frameon=False)
        _style(axes)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Save a figure as PNG (200 dpi), PDF or SVG, by the suffix of `path`; parent folders are created."""
    path = Path(path)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{path}: a figure is saved as .png, .pdf or .svg")
    with new_file(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=200)
    return path
