"""Collect the variants of the first promoters of a stream, and draw them along their sequences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np

from modeling_macaron.analysis.mutagenesis import check_plots

MAX_VARIANTS = 5_000  # of one promoter; more cannot be told apart in a figure


class VariantPlots:
    """Figures of the first promoters, one each, `promoter_1.png` and so on in the order in which they come.

    Parameters
    ----------
    folder : str or Path
        Where the figures go.
    num_plots : int
        Most promoters that are drawn.
    overwrite : bool
        Replace figures that are there.

    Raises
    ------
    ValueError
        If the extra `analysis` is missing.
    FileExistsError
        If the folder is a file, or holds such figures and may not lose them.
    """

    def __init__(self, folder: str | Path, num_plots: int, overwrite: bool) -> None:
        check_plots(folder, overwrite, "promoter_*.png")
        self.folder, self.num_plots = Path(folder), num_plots
        self._effects: dict[str, list[tuple[int, str, float]]] = {}

    def add(self, references: Sequence[str], alternatives: Sequence[str], deltas: np.ndarray) -> None:
        """Take the variants of promoters that are drawn.

        Parameters
        ----------
        references, alternatives : sequence of str
            (variants,) variable parts.
        deltas : numpy.ndarray
            (variants,) predicted effects.
        """
        for reference, alternative, delta in zip(references, alternatives, deltas.tolist(), strict=True):
            if reference in self._effects or len(self._effects) < self.num_plots:
                effects = self._effects.setdefault(reference, [])
                if len(effects) < MAX_VARIANTS:
                    effects.append((*where_they_differ(reference, alternative), delta))

    def draw(self) -> None:
        """Save the figures."""
        from modeling_macaron.analysis.plots import save_figure
        from modeling_macaron.analysis.sequence_plots import variant_effect_plot

        for number, (sequence, effects) in enumerate(self._effects.items(), start=1):
            positions, alleles, deltas = zip(*effects, strict=True)
            figure = variant_effect_plot(sequence, positions, alleles, deltas, title=f"Promoter {number}")
            save_figure(figure, self.folder / f"promoter_{number}.png")


def where_they_differ(reference: str, alternative: str) -> tuple[int, str]:
    """Find what is another in the alternative, less the ends that both share.

    Parameters
    ----------
    reference, alternative : str
        Sequences; the reference is not empty.

    Returns
    -------
    position : int
        First position of the reference, counted from 0, that is changed, or before which letters are inserted; its last
        position where they are inserted behind it, or where nothing is changed.
    allele : str
        Letters that stand there in the alternative, or `"indel"` where the lengths differ.

    Examples
    --------
    >>> where_they_differ("ACGT", "ATGT")
    (1, 'T')
    >>> where_they_differ("ACGT", "ACT")
    (2, 'indel')
    """
    start = _num_shared(reference, alternative)
    end = _num_shared(reference[start:][::-1], alternative[start:][::-1])
    allele = alternative[start : len(alternative) - end] if len(reference) == len(alternative) else "indel"
    return min(start, len(reference) - 1), allele


def _num_shared(first: str, second: str) -> int:
    """Count the letters from the left that two texts share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
