"""Plots of variant effects along a sequence; needs the extra `analysis`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from modeling_macaron.plots import GREY

from .sequence_plots import BASE_COLORS, POSITIONS_PER_LINE, lines_of_axes, style_value_axis

_OFFSETS = dict(zip("ACGT", (-0.27, -0.09, 0.09, 0.27), strict=True))  # for bases that share a position
_MARKERS = {"base": "o", "other": "D", "deletion": "v", "insertion": "^"}


class _Mark(NamedTuple):
    """How a variant is drawn; from `start` to `end` are the removed bases."""

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
    figure, panels = lines_of_axes(len(sequence), 0.85, POSITIONS_PER_LINE, title)
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
