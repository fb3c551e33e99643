"""Plots of variant effects along a sequence; needs the extra `analysis`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from modeling_macaron.dna import BASES
from modeling_macaron.plots import GREY

from .sequence_plots import BASE_COLORS, POSITIONS_PER_LINE, lines_of_axes, style_value_axis

_OFFSETS = dict(zip(BASES, (-0.27, -0.09, 0.09, 0.27), strict=True))  # for bases that share a position
_MARKERS = {"base": "o", "other": "D", "deletion": "v", "insertion": "^"}


class _Mark(NamedTuple):
    """How a variant is drawn: kind, x of its marker, span of removed positions, and color."""

    kind: str
    x: float
    span: tuple[float, float]
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
    ylabel: str = "Change of expression\n(assay units)",
    positions_per_line: int = POSITIONS_PER_LINE,
) -> Figure:
    """Plot the effects of variants along a sequence, broken into lines.

    Single-base substitutions are discs in the color of the new base. Deletions point down, insertions point up, and
    other variants are diamonds. A horizontal line spans removed bases if there are several.

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
    title, ylabel : str
        Texts.
    positions_per_line : int
        See `sequence_logo`.

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
    measured = np.full(len(deltas), np.nan) if measured is None else np.asarray(measured, np.float64)
    removed = [None] * len(alternatives) if references is None else list(references)
    _check(sequence, positions, alternatives, removed, deltas, measured)
    marks = _marks(positions, removed, alternatives)
    values = np.r_[0.0, deltas, measured[np.isfinite(measured)]]
    margin = 0.08 * float(np.ptp(values)) or 0.5
    figure, panels = lines_of_axes(len(sequence), 0.85, positions_per_line, title)
    lines = np.minimum(positions, len(sequence) - 1) // positions_per_line
    for number, (start, axes) in enumerate(panels):
        here = np.flatnonzero(lines == number)
        axes.axhline(0, color=GREY, linewidth=0.5, zorder=0)
        _draw_marks(axes, [marks[index] for index in here], deltas[here], measured[here])
        _write_letters(axes, sequence[start : start + positions_per_line], start)
        axes.set_ylim(values.min() - 2 * margin, values.max() + margin)
        style_value_axis(axes)
    _add_legend(figure, marks, bool(np.isfinite(measured).any()), alternatives)
    figure.supylabel(ylabel, size=7)
    return figure


def _check(
    sequence: str,
    positions: np.ndarray,
    alternatives: Sequence[str],
    removed: Sequence[str | None],
    deltas: np.ndarray,
    measured: np.ndarray,
) -> None:
    """Raise if the arrays differ in length or a variant lies outside the sequence."""
    if not len(positions) or not len(positions) == len(alternatives) == len(removed) == len(deltas) == len(measured):
        raise ValueError(
            f"an effect and alleles are needed for each variant, got {len(positions)} positions, {len(removed)} "
            f"reference and {len(alternatives)} alternative alleles, {len(deltas)} effects and {len(measured)} measured"
        )
    ends = positions + [0 if text == "" else len(text or "N") - 1 for text in removed]
    limit = len(sequence) - 1 + np.array([text == "" for text in removed])  # an insertion may follow the last base
    if positions.min() < 0 or (ends > limit).any():
        raise ValueError(f"positions {positions.min()} to {ends.max()} do not lie in {len(sequence)} nucleotides")


def _marks(positions: np.ndarray, removed: Sequence[str | None], alternatives: Sequence[str]) -> list[_Mark]:
    alleles = list(zip(positions.tolist(), removed, alternatives, strict=True))
    at_position = Counter((at, new) for at, old, new in alleles if _is_base(old, new))
    bases_at = Counter(at for at, _ in at_position)
    marks = []
    for at, old, new in alleles:
        if _is_base(old, new):
            x = at + (_OFFSETS[new] if bases_at[at] > 1 else 0.0)
            marks.append(_Mark("base", x, (x, x), BASE_COLORS[new]))
        elif old == "":
            marks.append(_Mark("insertion", at - 0.5, (at - 0.5, at - 0.5), GREY))
        else:
            last = at + len(old or "N") - 1
            kind = "deletion" if old is not None and len(new) < len(old) else "other"
            marks.append(_Mark(kind, (at + last) / 2, (at, last), GREY))
    return marks


def _is_base(old: str | None, new: str) -> bool:
    return (old is None or len(old) == 1) and new in BASE_COLORS


def _draw_marks(axes: Axes, marks: Sequence[_Mark], deltas: np.ndarray, measured: np.ndarray) -> None:
    """Draw the variants of one line."""
    x, colors = np.array([mark.x for mark in marks]), [mark.color for mark in marks]
    axes.vlines(x, 0, deltas, color=colors, linewidth=0.6)
    for mark, delta in zip(marks, deltas, strict=True):
        if mark.span[1] > mark.span[0]:
            axes.plot(mark.span, (delta, delta), color=mark.color, linewidth=1.2, solid_capstyle="butt")
    for kind, marker in _MARKERS.items():
        some = [index for index, mark in enumerate(marks) if mark.kind == kind]
        if some:
            axes.scatter(
                x[some], deltas[some], c=[colors[index] for index in some], s=9, marker=marker, linewidths=0, zorder=3,
                clip_on=False,
            )  # fmt: skip
    known = np.flatnonzero(np.isfinite(measured))
    if known.size:
        edges = [colors[index] for index in known]
        axes.scatter(x[known], measured[known], s=14, facecolors="none", edgecolors=edges, linewidths=0.7, zorder=2)


def _write_letters(axes: Axes, letters: str, start: int) -> None:
    """Write the bases of a line along its lower edge."""
    for position, letter in enumerate(letters, start=start):
        axes.annotate(
            letter, (position, 0), xycoords=("data", "axes fraction"), xytext=(0, 1), textcoords="offset points",
            size=4.5, ha="center", va="bottom", color=BASE_COLORS.get(letter, GREY),
        )  # fmt: skip


def _add_legend(figure: Figure, marks: Sequence[_Mark], has_measured: bool, alternatives: Sequence[str]) -> None:
    """Add a legend of colors and markers above the panels."""
    bases = {new for mark, new in zip(marks, alternatives, strict=True) if mark.kind == "base"}
    kinds = {mark.kind for mark in marks}
    entries = [
        Line2D([], [], color=BASE_COLORS[base], marker="o", markersize=3, linewidth=0.6, label=base)
        for base in BASES
        if base in bases
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
