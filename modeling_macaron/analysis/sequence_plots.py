"""Figures along a sequence: heat maps and logos, profiles of windows; needs the extra `analysis`."""

from __future__ import annotations

import logomaker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from modeling_macaron.dna import BASES
from modeling_macaron.plots import BLUE, COLUMN_WIDTH, GREEN, GREY, VERMILLION

from .mutagenesis import Mutagenesis, WindowScan, base_importance

POSITIONS_PER_LINE = 40  # bases of 5 points fit into a journal column

# Okabe and Ito's colors; G is orange, as is usual in logos.
BASE_COLORS = {"A": GREEN, "C": BLUE, "G": "#E69F00", "T": VERMILLION}
_DIVERGING = "RdBu_r"  # readable for the color-blind


def lines_of_axes(length: int, line_height: float, per_line: int, title: str) -> tuple[Figure, list[tuple[int, Axes]]]:
    """Make a figure of axes for a sequence broken into lines; return it with the start and axes of each line."""
    if per_line < 1:
        raise ValueError(f"positions_per_line must be at least 1, got {per_line}")
    starts = range(0, length, per_line)
    height = 0.35 + 0.2 * bool(title) + (line_height + 0.22) * len(starts)
    figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.02, hspace=0.02)
    panels = figure.subplots(len(starts), 1, squeeze=False)[:, 0]
    for start, axes in zip(starts, panels, strict=True):
        axes.set_xlim(start - 0.5, start + min(per_line, length) - 0.5)
        last = min(start + per_line, length)
        ticks = [at for at in range(start, last) if at == 0 or (at + 1) % 10 == 0 or (at == start and per_line < 10)]
        axes.set_xticks(ticks, labels=[str(at + 1) for at in ticks])
        axes.tick_params(labelsize=6, width=0.5, length=2, pad=1.5)
    panels[0].set_title(title, size=8, loc="left", weight="bold")
    panels[-1].set_xlabel("Position in the variable part (from 1)", size=7, labelpad=2)
    return figure, list(zip(starts, panels, strict=True))


def _check_limit(limit: float | None) -> None:
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be more than 0, got {limit}")


def mutagenesis_heatmap(
    result: Mutagenesis,
    *,
    title: str = "",
    label: str = "Change of predicted expression (assay units)",
    limit: float | None = None,
    positions_per_line: int = POSITIONS_PER_LINE,
) -> Figure:
    """Plot the delta of every substitution as a heat map, broken into lines.

    Parameters
    ----------
    result : Mutagenesis
        Of one sequence.
    title, label : str
        Texts; `label` is that of the color bar.
    limit : float, optional
        End of the color scale on both sides of 0, in assay units. Default: the largest delta.
    positions_per_line : int
        Positions per line; 40 are readable in a journal column.

    Returns
    -------
    matplotlib.figure.Figure
        One journal column wide.

    Raises
    ------
    ValueError
        If `limit` or `positions_per_line` is not positive.
    """
    _check_limit(limit)
    largest = float(np.abs(result.deltas).max()) or 1.0
    norm = CenteredNorm(0, largest if limit is None else limit)
    figure, panels = lines_of_axes(len(result.sequence), 0.36, positions_per_line, title)
    halo = [withStroke(linewidth=0.8, foreground="white")]  # N is drawn on colored cells
    for start, axes in panels:
        part = slice(start, start + positions_per_line)
        deltas, letters = result.deltas[part].T, result.sequence[part]
        edges = np.arange(start, start + len(letters) + 1) - 0.5
        mesh = axes.pcolormesh(edges, np.arange(5) - 0.5, deltas, cmap=_DIVERGING, norm=norm)
        for position, letter in enumerate(letters, start=start):
            row = BASES.find(letter) if letter in BASES else 1.5
            axes.text(position, row, letter, size=4.5, ha="center", va="center_baseline", path_effects=halo)
        axes.set_ylim(3.5, -0.5)
        axes.set_yticks(range(4), labels=BASES)
        axes.tick_params(axis="y", length=0)
        axes.spines[:].set_visible(False)
        axes.add_patch(Rectangle((start - 0.5, -0.5), len(letters), 4, fill=False, linewidth=0.5, clip_on=False))
    figure.set_figheight(figure.get_figheight() + 0.4)
    bar = figure.colorbar(
        mesh,
        ax=[axes for _, axes in panels],
        location="bottom",
        pad=0.02,
        aspect=30,
        fraction=0.1 / figure.get_figheight(),
    )
    bar.ax.tick_params(labelsize=6, width=0.5, length=2, pad=1.5)
    bar.outline.set_linewidth(0.4)
    bar.set_label(label, size=7)
    return figure


def sequence_logo(
    sequence: str,
    heights: np.ndarray,
    *,
    title: str = "",
    ylabel: str = "",
    limit: float | None = None,
    positions_per_line: int = POSITIONS_PER_LINE,
) -> Figure:
    """Draw the bases of a sequence with given heights; negative ones hang below the axis.

    Parameters
    ----------
    sequence : str
        A, C, G, T and N; N is not drawn.
    heights : numpy.ndarray
        (length,) height of each base.
    title, ylabel : str
        Texts.
    limit : float, optional
        End of the axis on both sides of 0. Default: from the heights.
    positions_per_line : int
        Positions per line; 40 are readable in a journal column.

    Returns
    -------
    matplotlib.figure.Figure
        One journal column wide, with one scale for all lines.

    Raises
    ------
    ValueError
        If the sequence is empty, a height is missing or not finite, or `limit` is not positive.
    """
    _check_limit(limit)
    heights = np.asarray(heights, np.float64)
    if not sequence or heights.shape != (len(sequence),) or not np.isfinite(heights).all():
        raise ValueError(f"a logo needs a finite height for each letter, got {heights.shape} for {len(sequence)}")
    matrix = np.where(np.array(list(sequence))[:, None] == np.array(list(BASES)), heights[:, None], 0.0)
    low, high = min(matrix.min(), 0.0), max(matrix.max(), 0.0)
    margin = 0.05 * (high - low) or 0.5
    span = (low - margin, high + margin) if limit is None else (-limit, limit)
    figure, panels = lines_of_axes(len(sequence), 0.75, positions_per_line, title)
    for start, axes in panels:
        limits = axes.get_xlim()
        rows = pd.DataFrame(matrix[start : start + positions_per_line], columns=list(BASES))
        rows.index += start
        logomaker.Logo(rows, ax=axes, color_scheme=BASE_COLORS, baseline_width=0, vpad=0.01, show_spines=False)
        axes.axhline(0, color=GREY, linewidth=0.5, zorder=0)
        axes.set(xlim=limits, ylim=span)
        style_value_axis(axes)
    figure.supylabel(ylabel, size=7)
    return figure


def style_value_axis(axes: Axes) -> None:
    """Use few ticks, and no frame to the right and above."""
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
    axes.spines[["left", "bottom"]].set_visible(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.5)


def attribution_logo(
    sequence: str,
    per_base: np.ndarray,
    *,
    title: str = "",
    limit: float | None = None,
    positions_per_line: int = POSITIONS_PER_LINE,
) -> Figure:
    """Draw the bases of a sequence as high as their attributions.

    Parameters
    ----------
    sequence : str
        A, C, G, T and N; N is not drawn.
    per_base : numpy.ndarray
        (length,) attributions in assay units, see `Attribution.per_base`.
    title, limit, positions_per_line
        See `sequence_logo`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    return sequence_logo(
        sequence,
        per_base,
        title=title,
        ylabel="Attribution\n(assay units)",
        limit=limit,
        positions_per_line=positions_per_line,
    )


def mutagenesis_logo(
    result: Mutagenesis,
    *,
    title: str = "",
    limit: float | None = None,
    positions_per_line: int = POSITIONS_PER_LINE,
) -> Figure:
    """Draw the bases of a sequence as high as their importance, see `base_importance`.

    Parameters
    ----------
    result : Mutagenesis
        Of one sequence.
    title, limit, positions_per_line
        See `sequence_logo`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    return sequence_logo(
        result.sequence,
        base_importance(result),
        title=title,
        ylabel="Minus mean change\n(assay units)",
        limit=limit,
        positions_per_line=positions_per_line,
    )


def window_profile(scan: WindowScan, *, title: str = "", limit: float | None = None) -> Figure:
    """Plot the delta of each window over its middle.

    Parameters
    ----------
    scan : WindowScan
        Of one sequence.
    title : str
        Title above the figure.
    limit : float, optional
        End of the axis on both sides of 0, in assay units. Default: from the deltas.

    Returns
    -------
    matplotlib.figure.Figure
        One journal column wide.

    Raises
    ------
    ValueError
        If `limit` is not positive.
    """
    _check_limit(limit)
    figure, ((_, axes),) = lines_of_axes(len(scan.sequence), 1.4, len(scan.sequence), title)
    middles = scan.starts + (scan.window - 1) / 2
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.fill_between(middles, scan.deltas, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(middles, scan.deltas, color=BLUE, linewidth=1.2, marker="o", markersize=2)
    axes.set_ylabel(f"Change without {scan.window} nt\n(assay units)", size=7)
    if limit is not None:
        axes.set_ylim(-limit, limit)
    style_value_axis(axes)
    return figure
