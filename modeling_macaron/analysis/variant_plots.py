"""Collect the variants of the first promoters of a stream, and plot them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from modeling_macaron.analysis.row_figures import RowFigures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_VARIANTS = 5_000  # per promoter; more are indistinguishable in a figure


class Difference(NamedTuple):
    """Difference of two sequences without their common ends.

    Attributes
    ----------
    position : int
        First position of the reference that changes, or before which bases are inserted, from 0.
    removed, inserted : str
        Bases of the reference, and those of the alternative that replace them.
    """

    position: int
    removed: str
    inserted: str


class VariantFigures:
    """Figures of the first promoters, `promoter_1_variants.png` and so on; see `RowFigures` for the parameters."""

    def __init__(
        self, folder: str | Path, num_plots: int = 10, *, plot_format: str = "png", overwrite: bool = False
    ) -> None:
        self._figures = RowFigures(folder, num_plots, plot_format=plot_format, overwrite=overwrite, prefix="promoter")
        self._names: dict[str, str] = {}
        self._effects: dict[str, list[tuple[Difference, float]]] = {}

    def add(
        self, references: Sequence[str], alternatives: Sequence[str], deltas: np.ndarray, names: Sequence[str]
    ) -> None:
        """Add variants (variants,) of promoters, given as variable parts; names may be empty."""
        rows = zip(references, alternatives, deltas.tolist(), names, strict=True)
        for reference, alternative, delta, name in rows:
            if reference in self._effects or len(self._effects) < self._figures.num_plots:
                self._names.setdefault(reference, name)
                effects = self._effects.setdefault(reference, [])
                difference = where_they_differ(reference, alternative)
                if len(effects) < MAX_VARIANTS and (difference.removed or difference.inserted):
                    effects.append((difference, delta))

    def draw(self) -> None:
        """Save the figures."""
        for number, (sequence, effects) in enumerate(self._effects.items(), start=1):
            if effects:
                self._figures.keep(number, self._names[sequence], (sequence, effects))
        self._figures.draw(_figures_of)


def _figures_of(result: tuple[str, list[tuple[Difference, float]]], title: str) -> dict[str, Figure]:
    from modeling_macaron.analysis.effect_plots import variant_effect_plot

    sequence, effects = result
    differences, deltas = zip(*effects, strict=True)
    positions, removed, inserted = zip(*differences, strict=True)
    return {"variants": variant_effect_plot(sequence, positions, inserted, deltas, references=removed, title=title)}


def where_they_differ(reference: str, alternative: str) -> Difference:
    """Find the difference of two sequences without their common ends.

    Parameters
    ----------
    reference, alternative : str
        Sequences.

    Returns
    -------
    Difference
        Aligned to the right. Empty, at the end, if the sequences are equal.

    Examples
    --------
    >>> where_they_differ("ACGT", "ATGT")
    Difference(position=1, removed='C', inserted='T')
    >>> where_they_differ("ACGT", "ACT")
    Difference(position=2, removed='G', inserted='')
    """
    start = _num_shared(reference, alternative)
    end = _num_shared(reference[start:][::-1], alternative[start:][::-1])
    return Difference(start, reference[start : len(reference) - end], alternative[start : len(alternative) - end])


def _num_shared(first: str, second: str) -> int:
    """Length of the common prefix of two texts."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
