"""Official score of the Random Promoter DREAM Challenge 2022, as a module of `evaluate`.

Predicted and measured expression are compared on nine categories: all rows, five subsets of rows, and three kinds of
pairs of rows, for which the difference of the two ends is compared. With the weights w of the categories (sum 4.65),
Pearson Score = sum(w * r^2) / 4.65 and Spearman Score = sum(w * rho) / 4.65.

`evaluate.load` copies this file, so it does not import the package.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import datasets
import evaluate
import numpy as np
import pandas as pd
from scipy import stats

SUBSETS = ("high", "low", "yeast", "random", "challenging")
PAIR_KINDS = ("SNVs", "motif_perturbation", "motif_tiling")
CATEGORIES = ("all", *SUBSETS, *PAIR_KINDS)
WEIGHTS = dict(zip(CATEGORIES, (1.0, 0.3, 0.3, 0.3, 0.3, 0.5, 1.25, 0.3, 0.4), strict=True))


class Category(NamedTuple):
    """Values (n,) that a category compares, of rows or of differences `alt - ref` of pairs."""

    measured: np.ndarray
    predicted: np.ndarray
    rows: np.ndarray  # positions of the rows, or of the `alt` ends
    public: np.ndarray  # bool, part of the public leaderboard; all true if unknown


def _check_finite(values: Sequence[float], name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if values.ndim != 1 or bad.size:
        raise ValueError(
            f"`{name}` must be a flat list of finite numbers, got shape {values.shape} with {bad.size} that are not "
            f"finite (positions {bad[:3].tolist()})"
        )
    return values


def _check_flags(values: Sequence[bool] | None, name: str, size: int) -> np.ndarray:
    """Return flags (size,) as bool, also from 0 and 1; all true without values."""
    flags = np.asarray(np.ones(size, bool) if values is None else values)
    if flags.shape != (size,) or not all(value in (0, 1) for value in flags.tolist()):
        raise ValueError(f"`{name}` must hold True or False (or 1 or 0) for each of {size}, got shape {flags.shape}")
    return flags.astype(bool)


def _check_names(names: Iterable[str], known: tuple[str, ...], what: str) -> None:
    if unknown := sorted({str(name) for name in names} - set(known)):
        raise ValueError(f"unknown {what} {', '.join(unknown)}: the challenge has {', '.join(known)}")


def split_categories(
    predictions: Sequence[float],
    references: Sequence[float],
    *,
    subsets: Mapping[str, Sequence[bool]] | None = None,
    pairs: Mapping[str, Sequence] | None = None,
    public: Sequence[bool] | None = None,
) -> dict[str, Category]:
    """Values that each category compares, in the order of `CATEGORIES`, without empty categories; see `dream_score`."""
    predicted, measured = _check_finite(predictions, "predictions"), _check_finite(references, "references")
    size = measured.size
    if predicted.size != size:
        raise ValueError(f"there are {predicted.size} predictions and {size} references")
    subsets = subsets or {}
    _check_names(subsets, SUBSETS, "subset")
    public = _check_flags(public, "public", size)
    categories = {}
    for name, flags in {"all": None, **{name: subsets[name] for name in SUBSETS if name in subsets}}.items():
        rows = np.flatnonzero(_check_flags(flags, name, size))
        categories[name] = Category(measured[rows], predicted[rows], rows, public[rows])
    if pairs is not None:
        pairs = pd.DataFrame(pairs)
        kinds, alt, ref = (pairs[name].to_numpy() for name in ("kind", "alt", "ref"))
        _check_names(kinds, PAIR_KINDS, "kind of pair")
        ends = np.concatenate([alt, ref])
        if len(pairs) and (ends.dtype.kind not in "iu" or ends.min() < 0 or ends.max() >= size):
            raise ValueError(f"`alt` and `ref` of `pairs` must be positions of rows, integers from 0 to {size - 1}")
        public = _check_flags(pairs.get("public"), "public", len(pairs))
        for kind in PAIR_KINDS:
            chosen = kinds == kind
            a, b = alt[chosen], ref[chosen]
            categories[kind] = Category(measured[a] - measured[b], predicted[a] - predicted[b], a, public[chosen])
    return {name: category for name, category in categories.items() if category.measured.size}


def correlate(measured: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """`n`, `pearson_r`, `pearson_r2` and `spearman_rho` of values (n,); NaN for a constant or fewer than two values."""
    r = rho = float("nan")
    if measured.size > 1 and np.ptp(measured) > 0 and np.ptp(predicted) > 0:
        r = float(stats.pearsonr(predicted, measured).statistic)
        rho = float(stats.spearmanr(predicted, measured).statistic)
    return {"n": int(measured.size), "pearson_r": r, "pearson_r2": r * r, "spearman_rho": rho}


def _score_part(categories: Mapping[str, Category], part: str, notes: list[str]) -> dict:
    """Correlations of every category, and the official scores if all nine are present."""
    figures = {name: correlate(category.measured, category.predicted) for name, category in categories.items()}
    if undefined := [name for name in figures if np.isnan(figures[name]["pearson_r"])]:
        notes.append(
            f"{part}: the correlation of {', '.join(undefined)} is undefined (constant, or fewer than two values)."
        )
    if missing := [name for name in CATEGORIES if name not in figures]:
        notes.append(f"{part}: no official score, because there is no {', '.join(missing)}.")
        return figures
    for score, key in (("pearson_score", "pearson_r2"), ("spearman_score", "spearman_rho")):
        total = sum(WEIGHTS[name] * figures[name][key] for name in CATEGORIES)
        figures[score] = total / sum(WEIGHTS.values())
    return figures


def dream_score(
    predictions: Sequence[float],
    references: Sequence[float],
    *,
    subsets: Mapping[str, Sequence[bool]] | None = None,
    pairs: Mapping[str, Sequence] | None = None,
    public: Sequence[bool] | None = None,
) -> dict:
    """Score predictions like the Random Promoter DREAM Challenge 2022.

    Parameters
    ----------
    predictions, references : sequence of float
        (rows,) predicted expression on any scale, and measured expression.
    subsets : mapping of str to sequence of bool, optional
        (rows,) flags of the subsets in `SUBSETS`.
    pairs : mapping of columns or pandas.DataFrame, optional
        `kind` (one of `PAIR_KINDS`), `alt` and `ref` (positions in `predictions`, from 0), and optionally `public`
        (bool), each (pairs,).
    public : sequence of bool, optional
        (rows,) rows of the public leaderboard.

    Returns
    -------
    dict
        `all`, and `private` if `public` is given: `n`, `pearson_r`, `pearson_r2` and `spearman_rho` of each category,
        then `pearson_score` and `spearman_score` if all nine categories are present. `private` excludes public rows and
        pairs; pairs without `public` are left out. `note` (str), if present, lists missing or undefined scores.

    Raises
    ------
    ValueError
        If values are not finite, flags or positions do not fit the rows, or names are unknown.
    """
    categories = split_categories(predictions, references, subsets=subsets, pairs=pairs, public=public)
    if not categories:
        raise ValueError("there is nothing to score: `predictions` and `references` are empty")
    notes: list[str] = []
    result: dict = {"all": _score_part(categories, "all", notes)}
    if public is None:
        notes.append("private: left out, because the public rows are unknown.")
    else:
        private = {name: Category(*(field[~one.public] for field in one)) for name, one in categories.items()}
        private = {name: one for name, one in private.items() if one.measured.size}
        result["private"] = _score_part(private, "private", notes)
    return result | ({"note": " ".join(notes)} if notes else {})


class DreamPromoter(evaluate.Metric):
    """`dream_score` as a module of `evaluate`; see its README.md."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Rafi et al., Nature Biotechnology 2024, doi:10.1038/s41587-024-02414-w",
            inputs_description=dream_score.__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
            reference_urls=["https://github.com/de-Boer-Lab/random-promoter-dream-challenge-2022"],
        )

    def _compute(self, predictions, references, subsets=None, pairs=None, public=None) -> dict:
        return dream_score(predictions, references, subsets=subsets, pairs=pairs, public=public)
