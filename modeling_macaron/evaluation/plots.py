"""Scatter plots of predicted against measured expression; needs the extra `analysis`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import gaussian_filter

from modeling_macaron.plots import COLUMN_WIDTH, GREY, format_correlation, save_figure, style_axes

from .dream_promoter.dream_promoter import PAIR_KINDS, split_categories
from .measurements import Measurements, metric_inputs
from .report import TITLES


def point_density(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Density (points,) around each point: smoothed counts per cell of a grid over their range."""
    counts, *edges = np.histogram2d(x, y, bins=96)
    width = np.clip(8.0 * len(x) ** (-1 / 6), 1.2, 6.0)  # Scott's exponent for two dimensions, in cells
    smooth = gaussian_filter(counts, width, mode="constant")
    centers = [(edge[:-1] + edge[1:]) / 2 for edge in edges]
    grid = RegularGridInterpolator(centers, smooth, bounds_error=False, fill_value=None)
    return np.maximum(grid(np.column_stack([x, y])), 0.0)


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
    """Plot predicted against measured values (points,), colored by density; correlations may be NaN."""
    measured, predicted = np.asarray(measured, np.float64), np.asarray(predicted, np.float64)
    figure = Figure(figsize=(COLUMN_WIDTH, 3.1), layout="constrained")
    axes = figure.add_subplot()
    if zero_lines:
        axes.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        axes.axvline(0, color=GREY, linewidth=0.6, zorder=0)
    density = point_density(measured, predicted)
    order = np.argsort(density)
    points = axes.scatter(
        measured[order], predicted[order], c=density[order] / density.max(), cmap="viridis", norm=PowerNorm(0.5, 0, 1),
        s=float(np.clip(1500 / measured.size**0.65, 1.2, 12)), linewidths=0, rasterized=True,
    )  # fmt: skip
    bar = figure.colorbar(points, ax=axes, fraction=0.035, pad=0.02)
    bar.set_ticks([0, 1], labels=["low", "high"], fontsize=6)
    bar.ax.tick_params(length=0)
    bar.set_label("Density of points", size=7, labelpad=-8)
    bar.outline.set_visible(False)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, size=9, loc="left", weight="bold")
    r, rho = format_correlation(pearson_r), format_correlation(spearman_rho)
    axes.text(
        0.03, 0.97, f"$r$ = {r}\n$\\rho$ = {rho}\n$n$ = {measured.size:,}",
        transform=axes.transAxes, va="top", size=8, linespacing=1.35,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "boxstyle": "round,pad=0.25"},
    )  # fmt: skip
    style_axes(axes)
    return figure


def plot_categories(
    predictions: np.ndarray, measurements: Measurements, result: dict, folder: str | Path
) -> list[Path]:
    """Save a scatter plot `CATEGORY.png` of each category of a `score` into a folder; returns the files."""
    files = []
    for name, category in split_categories(predictions, **metric_inputs(measurements)).items():
        what = "difference" if name in PAIR_KINDS else "expression"
        figure = scatter_with_density(
            category.measured,
            category.predicted,
            pearson_r=result["all"][name]["pearson_r"],
            spearman_rho=result["all"][name]["spearman_rho"],
            title=TITLES[name],
            xlabel=f"Measured {what}",
            ylabel=f"Predicted {what}",
            zero_lines=name in PAIR_KINDS,
        )
        files.append(save_figure(figure, Path(folder, f"{name}.png")))
    return files
