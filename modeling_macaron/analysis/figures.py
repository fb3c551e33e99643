"""Folders of figures of the first rows of a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling_macaron.dna import Difference, where_they_differ

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_FORMATS = ("png", "svg", "pdf")
MAX_VARIANTS = 5_000  # per promoter; more are indistinguishable in a figure


class RowFigures:
    """Folder for figures of the first rows with a result, named `PREFIX_NUMBER_KIND.FORMAT`.

    Parameters
    ----------
    folder : str or Path
        Folder of the figures.
    num_plots : int
        Number of rows to draw.
    plot_format : str
        `"png"`, `"svg"` or `"pdf"`.
    overwrite : bool
        Replace all figures of an earlier run.
    prefix : str
        First word of the file names.
    same_scale : bool
        Draw all figures to one scale.

    Raises
    ------
    FileExistsError
        If the folder is a file, or has figures and `overwrite` is not set.
    ValueError
        If the format is unknown, `num_plots` is below 1, or the extra `analysis` is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        num_plots: int = 10,
        *,
        plot_format: str = "png",
        overwrite: bool = False,
        prefix: str = "row",
        same_scale: bool = False,
    ):
        if plot_format not in FIGURE_FORMATS:
            raise ValueError(f"plot_format must be one of {', '.join(FIGURE_FORMATS)}, got {plot_format!r}")
        if num_plots < 1:
            raise ValueError(f"num_plots must be at least 1, got {num_plots}")
        self.folder, self.num_plots, self.prefix, self.same_scale = Path(folder), num_plots, prefix, same_scale
        self._suffix = f".{plot_format}"
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{folder} is not a folder: give one for the figures")
        if not overwrite and self._earlier():
            raise FileExistsError(f"{folder} holds figures already; choose another folder or pass --overwrite")
        try:
            from modeling_macaron.analysis import plots  # noqa: F401
        except ImportError as error:
            raise ValueError(f"figures need the extra `analysis` of this package ({error})") from error
        self._kept: list[tuple[int, str, Any]] = []

    @property
    def is_full(self) -> bool:
        """Whether all rows to draw are kept."""
        return len(self._kept) >= self.num_plots

    def keep(self, number: int, name: str, result: Any) -> None:
        """Keep the result of a row (`number` from 1, `name` may be empty), unless the folder is full."""
        if not self.is_full:
            self._kept.append((number, name, result))

    def results(self) -> list[Any]:
        """Return the kept results."""
        return [result for _, _, result in self._kept]

    def draw(self, figures_of: Callable[[Any, str], Mapping[str, Any]]) -> None:
        """Save the figures, given as `figures_of(result, title)` by kind, and remove those of an earlier run."""
        from modeling_macaron.plots import save_figure

        drawn = set()
        for number, name, result in self._kept:
            title = name or f"{self.prefix.capitalize()} {number}"
            for kind, figure in figures_of(result, title).items():
                drawn.add(save_figure(figure, self.folder / f"{self.prefix}_{number}_{kind}{self._suffix}"))
        for path in self._earlier():
            if path not in drawn:
                path.unlink()

    def _earlier(self) -> list[Path]:
        """Figures in the folder, by file name."""
        pattern = re.compile(rf"{self.prefix}_\d+_[a-z]+\.({'|'.join(FIGURE_FORMATS)})")
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if pattern.fullmatch(path.name)]


class VariantFigures:
    """Figures of the first promoters, `promoter_1_variants.png` and so on; see `RowFigures` for the parameters."""

    is_full = False  # a promoter's variants may be anywhere in the file

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
    from modeling_macaron.analysis.plots import variant_effect_plot

    sequence, effects = result
    differences, deltas = zip(*effects, strict=True)
    positions, removed, inserted = zip(*differences, strict=True)
    return {"variants": variant_effect_plot(sequence, positions, inserted, deltas, references=removed, title=title)}
