"""Figures along a sequence: heat maps, logos, profiles of windows, effects of variants; needs the extra `analysis`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import logomaker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from modeling_macaron.analysis.mutagenesis import Mutagenesis, WindowScan, base_importance
from modeling_macaron.dna import BASES
from modeling_macaron.plots import BLUE, COLUMN_WIDTH, GREEN, GREY, VERMILLION

POSITIONS_PER_LINE = 40  # bases of 5 points fit into a journal column

# Okabe and Ito's colors; G is orange, as is usual in logos.
BASE_COLORS = {"A": GREEN, "C": BLUE, "G": "#E69F00", "T": VERMILLION}
_DIVERGING = "RdBu_r"  # readable for the color-blind


def lines_of_axes(
    length: int, line_height: float, title: str, per_line: int = POSITIONS_PER_LINE
) -> tuple[Figure, list[tuple[int, Axes]]]:
    """Make a figure of axes for a sequence broken into lines; return it with the start and axes of each line."""
    starts = range(0, length, per_line)
    height = 0.35 + 0.2 * bool(title) + (line_height + 0.22) * len(starts)
    figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.02, hspace=0.02)
    panels = figure.subplots(len(starts), 1, squeeze=False)[:, 0]
    for start, axes in zip(starts, panels, strict=True):
        axes.set_xlim(start - 0.5, start + min(per_line, length) - 0.5)
        last = min(start + per_line, length)
        ticks = [at for at in range(start, last) if at == 0 or (at + 1) % 10 == 0]
        axes.set_xticks(ticks, labels=[str(at + 1) for at in ticks])
        axes.tick_params(labelsize=6, width=0.5, length=2, pad=1.5)
    panels[0].set_title(title, size=8, loc="left", weight="bold")
    panels[-1].set_xlabel("Position in the variable part (from 1)", size=7, labelpad=2)
    return figure, list(zip(starts, panels, strict=True))


def _check_limit(limit: float | None) -> None:
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be more than 0, got {limit}")


def mutagenesis_heatmap(result: Mutagenesis, *, title: str = "", limit: float | None = None) -> Figure:
    """Plot the delta of every substitution as a heat map, broken into lines.

    Parameters
    ----------
    result : Mutagenesis
        Result for one sequence.
    title : str
        Title above the figure.
    limit : float, optional
        End of the color scale on both sides of 0, in assay units. Default: the largest delta.

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
    largest = float(np.abs(result.deltas).max()) or 1.0
    norm = CenteredNorm(0, largest if limit is None else limit)
    figure, panels = lines_of_axes(len(result.sequence), 0.36, title)
    halo = [withStroke(linewidth=0.8, foreground="white")]  # N is drawn on colored cells
    for start, axes in panels:
        part = slice(start, start + POSITIONS_PER_LINE)
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
    bar.set_label("Change of predicted expression (assay units)", size=7)
    return figure


def sequence_logo(
    sequence: str,
    heights: np.ndarray,
    *,
    title: str = "",
    ylabel: str = "",
    limit: float | None = None,
) -> Figure:
    """Draw the bases of a sequence with given heights; negative ones hang below the axis.

    Parameters
    ----------
    sequence : str
        A, C, G, T and N; N is not drawn.
    heights : numpy.ndarray
        (length,) height of each base.
    title, ylabel : str
        Title above the figure, and label of the y axis.
    limit : float, optional
        End of the axis on both sides of 0. Default: from the heights.

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
        raise ValueError(f"a logo needs a finite height for each base, got {heights.shape} for {len(sequence)}")
    matrix = np.where(np.array(list(sequence))[:, None] == np.array(list(BASES)), heights[:, None], 0.0)
    low, high = min(matrix.min(), 0.0), max(matrix.max(), 0.0)
    margin = 0.05 * (high - low) or 0.5
    span = (low - margin, high + margin) if limit is None else (-limit, limit)
    figure, panels = lines_of_axes(len(sequence), 0.75, title)
    for start, axes in panels:
        limits = axes.get_xlim()
        rows = pd.DataFrame(matrix[start : start + POSITIONS_PER_LINE], columns=list(BASES))
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


def attribution_logo(sequence: str, per_base: np.ndarray, *, title: str = "", limit: float | None = None) -> Figure:
    """Draw the bases of a sequence as high as their attributions (length,), see `Attribution` and `sequence_logo`."""
    return sequence_logo(sequence, per_base, title=title, ylabel="Attribution\n(assay units)", limit=limit)


def mutagenesis_logo(result: Mutagenesis, *, title: str = "", limit: float | None = None) -> Figure:
    """Draw the bases of a sequence as high as their `base_importance`; see `sequence_logo`."""
    heights, ylabel = base_importance(result), "Minus mean change\n(assay units)"
    return sequence_logo(result.sequence, heights, title=title, ylabel=ylabel, limit=limit)


def window_profile(scan: WindowScan, *, title: str = "", limit: float | None = None) -> Figure:
    """Plot the delta of each window over its middle.

    Parameters
    ----------
    scan : WindowScan
        Result for one sequence.
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
    figure, ((_, axes),) = lines_of_axes(len(scan.sequence), 1.4, title, per_line=len(scan.sequence))
    middles = scan.starts + (scan.window - 1) / 2
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.fill_between(middles, scan.deltas, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(middles, scan.deltas, color=BLUE, linewidth=1.2, marker="o", markersize=2)
    axes.set_ylabel(f"Change without {scan.window} nt\n(assay units)", size=7)
    if limit is not None:
        axes.set_ylim(-limit, limit)
    style_value_axis(axes)
    return figure


_OFFSETS = dict(zip("ACGT", (-0.27, -0.09, 0.09, 0.27), strict=True))  # for bases that share a position
_MARKERS = {"base": "o", "other": "D", "deletion": "v", "insertion": "^"}


class _Mark(NamedTuple):
    """Mark of a variant; the removed bases extend from `start` to `end`."""

    kind: str
    start: float
    end: float
    color: str


def variant_effect_plot(
    sequence: str,
    positions: np.ndarray,
    alternatives: Sequence[str],
    deltas: np.ndarray,
    *,
    references: Sequence[str] | None = None,
    measured: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Plot the effects of variants along a sequence, broken into lines.

    Single-base substitutions are discs in the color of the new base. Deletions point down, insertions point up, and
    other variants are diamonds. A horizontal line spans several removed bases.

    Parameters
    ----------
    sequence : str
        Reference, written below each line.
    positions : numpy.ndarray
        (variants,) first changed positions from 0 (the axis counts from 1). For an insertion, the position after it.
    alternatives : sequence of str
        (variants,) alternative alleles.
    deltas : numpy.ndarray
        (variants,) predicted effects, in assay units.
    references : sequence of str, optional
        (variants,) reference alleles. Default: one base each.
    measured : numpy.ndarray, optional
        (variants,) measured effects or NaN, drawn as open circles.
    title : str
        Title.

    Returns
    -------
    matplotlib.figure.Figure
        One journal column wide, with one scale for all lines.

    Raises
    ------
    ValueError
        If there are no variants, the arrays differ in length, or a variant lies outside the sequence.
    """
    positions, deltas = np.asarray(positions, np.int64), np.asarray(deltas, np.float64)
    removed = ["N"] * len(positions) if references is None else list(references)
    measured = np.full(len(positions), np.nan) if measured is None else np.asarray(measured, np.float64)
    if not 0 < len(positions) == len(alternatives) == len(removed) == len(deltas) == len(measured):
        raise ValueError("a position, alleles and an effect are needed for each variant")
    lengths = np.array([len(allele) for allele in removed])
    if positions.min() < 0 or (positions + lengths > len(sequence)).any():
        raise ValueError(f"positions {positions.min()} to {positions.max()} do not lie in {len(sequence)} nucleotides")
    marks = _marks(positions.tolist(), removed, alternatives)
    values = np.r_[0.0, deltas, measured[np.isfinite(measured)]]
    margin = 0.08 * float(np.ptp(values)) or 0.5
    figure, panels = lines_of_axes(len(sequence), 0.85, title)
    lines = np.minimum(positions, len(sequence) - 1) // POSITIONS_PER_LINE
    for number, (start, axes) in enumerate(panels):
        here = np.flatnonzero(lines == number)
        axes.axhline(0, color=GREY, linewidth=0.5, zorder=0)
        _draw_marks(axes, [marks[index] for index in here], deltas[here], measured[here])
        for position, base in enumerate(sequence[start : start + POSITIONS_PER_LINE], start=start):
            axes.annotate(
                base, (position, 0), xycoords=("data", "axes fraction"), xytext=(0, 1), textcoords="offset points",
                size=4.5, ha="center", va="bottom", color=BASE_COLORS.get(base, GREY),
            )  # fmt: skip
        axes.set_ylim(values.min() - 2 * margin, values.max() + margin)
        style_value_axis(axes)
    _add_legend(figure, marks, bool(np.isfinite(measured).any()))
    figure.supylabel("Change of expression\n(assay units)", size=7)
    return figure


def _marks(positions: Sequence[int], removed: Sequence[str], alternatives: Sequence[str]) -> list[_Mark]:
    alleles = list(zip(positions, removed, alternatives, strict=True))
    is_base = [len(old) == 1 and new in BASE_COLORS for _, old, new in alleles]
    bases_at = Counter(at for at, _ in {(at, new) for (at, _, new), one in zip(alleles, is_base, strict=True) if one})
    marks = []
    for (at, old, new), one_base in zip(alleles, is_base, strict=True):
        if one_base:
            x = at + (_OFFSETS[new] if bases_at[at] > 1 else 0.0)
            marks.append(_Mark("base", x, x, BASE_COLORS[new]))
        elif not old:
            marks.append(_Mark("insertion", at - 0.5, at - 0.5, GREY))
        else:
            kind = "deletion" if len(new) < len(old) else "other"
            marks.append(_Mark(kind, at, at + len(old) - 1, GREY))
    return marks


def _draw_marks(axes: Axes, marks: Sequence[_Mark], deltas: np.ndarray, measured: np.ndarray) -> None:
    """Draw the variants of one line."""
    starts, ends = np.array([(mark.start, mark.end) for mark in marks]).reshape(-1, 2).T
    x, colors = (starts + ends) / 2, np.array([mark.color for mark in marks])
    axes.vlines(x, 0, deltas, color=colors, linewidth=0.6)
    axes.hlines(deltas, starts, ends, color=colors, linewidth=1.2)
    for kind, marker in _MARKERS.items():
        some = np.array([mark.kind == kind for mark in marks], bool)
        axes.scatter(
            x[some], deltas[some], c=colors[some], s=9, marker=marker, linewidths=0, zorder=3, clip_on=False
        )  # fmt: skip
    known = np.isfinite(measured)
    axes.scatter(x[known], measured[known], s=14, facecolors="none", edgecolors=colors[known], linewidths=0.7, zorder=2)


def _add_legend(figure: Figure, marks: Sequence[_Mark], has_measured: bool) -> None:
    """Add a legend of colors and markers above the panels."""
    colors, kinds = {mark.color for mark in marks}, {mark.kind for mark in marks}
    entries = [
        Line2D([], [], color=color, marker="o", markersize=3, linewidth=0.6, label=base)
        for base, color in BASE_COLORS.items()
        if color in colors
    ]
    entries += [
        Line2D([], [], color=GREY, marker=marker, markersize=3, linewidth=0.6, label=kind)
        for kind, marker in _MARKERS.items()
        if kind in kinds - {"base"}
    ]
    if has_measured:
        entries.append(Line2D([], [], color=GREY, marker="o", markersize=4, mfc="none", linewidth=0, label="measured"))
    figure.legend(
        handles=entries, loc="outside upper right", ncols=len(entries), fontsize=6, frameon=False, handlelength=1.2,
        columnspacing=1.0, handletextpad=0.4, borderpad=0,
    )  # fmt: skip
