"""Figures of some rows of a file: checked before any work, drawn at its end, with nothing stale beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FIGURE_FORMATS = ("png", "svg", "pdf")


class RowFigures:
    """A folder with the figures of the first rows that have a result.

    Parameters
    ----------
    folder : str or Path
        Where the figures go, as `PREFIX_NUMBER_KIND.FORMAT`.
    num_plots : int
        Most rows that are drawn.
    plot_format : str
        `"png"`, `"svg"` or `"pdf"`.
    overwrite : bool
        Replace figures of an earlier run: all of them go, also those that this run does not draw again.
    prefix : str
        First word of the files' names.

    Raises
    ------
    FileExistsError
        If the folder is a file, or holds figures that may not be replaced.
    ValueError
        If the format is unknown, no figure is wanted, or what draws is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        num_plots: int = 10,
        *,
        plot_format: str = "png",
        overwrite: bool = False,
        prefix: str = "row",
    ):
        if plot_format not in FIGURE_FORMATS:
            raise ValueError(f"plot_format must be one of {', '.join(FIGURE_FORMATS)}, got {plot_format!r}")
        if num_plots < 1:
            raise ValueError(f"num_plots must be at least 1, got {num_plots}")
        self.folder, self.num_plots, self.prefix = Path(folder), num_plots, prefix
        self._suffix = f".{plot_format}"
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{folder} is no folder: give one for the figures")
        if not overwrite and self._earlier():
            raise FileExistsError(f"{folder} holds figures already; choose another folder or pass --overwrite")
        try:
            from . import sequence_plots  # noqa: F401
        except ImportError as error:
            raise ValueError(f"figures need the extra `analysis` of this package ({error})") from error
        self._kept: list[tuple[int, str, Any]] = []

    @property
    def is_full(self) -> bool:
        """Whether there are as many rows as are drawn."""
        return len(self._kept) >= self.num_plots

    def keep(self, number: int, name: str, result: Any) -> None:
        """Take the result of a row, unless there are enough.

        Parameters
        ----------
        number : int
            Row of the source, from 1.
        name : str
            What the row is called, or an empty text.
        result : object
            What `draw` gets.
        """
        if not self.is_full:
            self._kept.append((number, name, result))

    def results(self) -> list[Any]:
        """Return what was kept, for scales that all figures share."""
        return [result for _, _, result in self._kept]

    def draw(self, figures_of: Callable[[Any, str], Mapping[str, Any]]) -> None:
        """Draw and save the figures, and remove those of an earlier run.

        Parameters
        ----------
        figures_of : callable
            `figures_of(result, title)` gives the kind of each figure and the figure.
        """
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
        """Files of the folder that have the name of such a figure."""
        pattern = re.compile(rf"{self.prefix}_\d+_[a-z]+\.({'|'.join(FIGURE_FORMATS)})")
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if pattern.fullmatch(path.name)]
