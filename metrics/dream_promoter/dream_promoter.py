"""Official score of the Random Promoter DREAM Challenge 2022, as a module of `evaluate`.

The file stands on its own: `evaluate.load` copies it, and `dream_score` may be called without `evaluate.load`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import datasets
import evaluate
import numpy as np
from scipy import stats

SUBSETS = ("high", "low", "yeast", "random", "challenging")
PAIR_KINDS = ("SNVs", "motif_perturbation", "motif_tiling")
CATEGORIES = ("all", *SUBSETS, *PAIR_KINDS)
WEIGHTS = dict(zip(CATEGORIES, (1.0, 0.3, 0.3, 0.3, 0.3, 0.5, 1.25, 0.3, 0.4), strict=True))

_DESCRIPTION = """\
Official score of the Random Promoter DREAM Challenge 2022. Predicted and measured expression of promoters are compared
on nine categories: all rows, five subsets of rows (high, low, yeast, random, challenging) and three kinds of pairs of
rows (SNVs, motif_perturbation, motif_tiling), where the difference of the two ends is compared. With the weights w of
the categories (sum 4.65), Pearson Score = sum(w * r^2) / 4.65 and Spearman Score = sum(w * rho) / 4.65.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `float`): predicted expression of each row, on any scale.
    references (`list` of `float`): measured expression of each row.
    subsets (`dict` of `str` to `list` of `bool`): flag of each row for the subsets `high`, `low`, `yeast`, `random`
        and `challenging`. Subsets that are not there are left out.
    pairs (`dict` of columns): one entry per pair in each of `kind` (`SNVs`, `motif_perturbation` or `motif_tiling`),
        `alt` and `ref` (positions of the two ends in `predictions`, from 0) and, optionally, `public` (`bool`).
    public (`list` of `bool`): rows of the challenge's public leaderboard. With it there is a part `private` too.
Returns:
    all, private (`dict`): for each category `n`, `pearson_r`, `pearson_r2`, `spearman_rho`; then `pearson_score` and
        `spearman_score`, only where all nine categories are there. `private` drops public rows and public pairs (a
        private pair may have public ends).
    note (`str`): what was left out or is undefined, and why; only where there is something to say.
Examples:
    >>> metric = evaluate.load("metrics/dream_promoter")
    >>> results = metric.compute(
    ...     predictions=[11.0, 12.5, 9.0, 14.0],
    ...     references=[0.1, 0.4, -0.9, 1.0],
    ...     subsets={"random": [True, True, True, False]},
    ...     pairs={"kind": ["SNVs", "SNVs", "SNVs"], "alt": [0, 1, 2], "ref": [1, 3, 3]},
    ... )
    >>> list(results["all"]), results["all"]["SNVs"]["n"]
    (['all', 'random', 'SNVs'], 3)
"""

_CITATION = """\
@article{rafi2024random,
  title   = {A community effort to optimize sequence-based deep learning models of gene regulation},
  author  = {Rafi, Abdul Muntakim and Nogina, Daria and Penzar, Dmitry and others},
  journal = {Nature Biotechnology},
  year    = {2024},
  doi     = {10.1038/s41587-024-02414-w}
}
"""


class Category(NamedTuple):
    """What one category compares.

    Attributes
    ----------
    measured, predicted : numpy.ndarray
        (n,) float64 expression of rows, or differences `alt - ref` of pairs.
    public : numpy.ndarray or None
        (n,) bool: part of the public leaderboard; None where that is unknown.
    """

    measured: np.ndarray
    predicted: np.ndarray
    public: np.ndarray | None


def _finite(values: Sequence[float], name: str) -> np.ndarray:
    """Check values (n,) and return them as float64."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"`{name}` must be a flat list of numbers, got shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"`{name}` holds {bad.size} of {values.size} rows that are NaN, missing or infinite (the first is row "
            f"{bad[0]}, from 0): every row needs a finite number"
        )
    return values


def _flags(values: Sequence[bool], name: str, size: int) -> np.ndarray:
    """Check flags (size,), given as bool or as 0 and 1, and return them as bool."""
    flags = np.asarray(values)
    if flags.shape != (size,):
        raise ValueError(f"{name} must hold one flag for each of {size}, got shape {flags.shape}")
    if flags.dtype != bool and not all(value in (0, 1) for value in flags.tolist()):
        raise ValueError(f"{name} must hold True and False (or 1 and 0) only")
    return flags.astype(bool)


def _known(names: Sequence[str], known: tuple[str, ...], what: str) -> None:
    unknown = sorted({str(name) for name in names} - set(known))
    if unknown:
        raise ValueError(f"unknown {what} {', '.join(unknown)}: the challenge has {', '.join(known)}")


def _ends(positions: Sequence[int], name: str, num_rows: int) -> np.ndarray:
    """Check positions of rows and return them as int64."""
    ends = np.asarray(positions)
    if ends.size and (not np.issubdtype(ends.dtype, np.integer) or ends.min() < 0 or ends.max() >= num_rows):
        raise ValueError(f"`pairs['{name}']` must hold positions of rows, whole numbers from 0 to {num_rows - 1}")
    return ends.astype(np.int64)


def _pair_categories(predicted: np.ndarray, measured: np.ndarray, pairs: Mapping) -> dict[str, Category]:
    """Differences of the two ends, for each kind of pair that occurs."""
    missing = [name for name in ("kind", "alt", "ref") if name not in pairs]
    if missing:
        raise ValueError(f"`pairs` lacks {', '.join(missing)}: it needs the columns kind, alt and ref")
    kinds = np.asarray(pairs["kind"], dtype=object)
    _known(set(kinds), PAIR_KINDS, "kind of pair")
    alt, ref = (_ends(pairs[name], name, predicted.size) for name in ("alt", "ref"))
    if not kinds.shape == alt.shape == ref.shape:
        raise ValueError(f"the columns of `pairs` differ in length: {kinds.size} kind, {alt.size} alt, {ref.size} ref")
    public = _flags(pairs["public"], "`pairs['public']`", kinds.size) if "public" in pairs else None
    categories = {}
    for kind in PAIR_KINDS:
        chosen = kinds == kind
        categories[kind] = Category(
            measured[alt[chosen]] - measured[ref[chosen]],
            predicted[alt[chosen]] - predicted[ref[chosen]],
            None if public is None else public[chosen],
        )
    return categories


def split_categories(
    predictions: Sequence[float],
    references: Sequence[float],
    *,
    subsets: Mapping[str, Sequence[bool]] | None = None,
    pairs: Mapping[str, Sequence] | None = None,
    public: Sequence[bool] | None = None,
) -> dict[str, Category]:
    """Give the values that each category compares.

    Parameters
    ----------
    predictions, references : sequence of float
        (rows,) predicted and measured expression.
    subsets, pairs, public
        As in `dream_score`.

    Returns
    -------
    dict of str to Category
        In the order of `CATEGORIES`; a category without any row or pair is not in it.

    Raises
    ------
    ValueError
        On values that are not finite, flags or positions that do not fit the rows, and unknown names.
    """
    predicted, measured = _finite(predictions, "predictions"), _finite(references, "references")
    if predicted.size != measured.size:
        raise ValueError(f"there are {predicted.size} predictions and {measured.size} references")
    _known(subsets or (), SUBSETS, "subset")
    row_public = None if public is None else _flags(public, "`public`", predicted.size)
    categories = {"all": Category(measured, predicted, row_public)}
    for name in SUBSETS:
        if subsets is not None and name in subsets:
            rows = _flags(subsets[name], f"subset `{name}`", predicted.size)
            categories[name] = Category(
                measured[rows], predicted[rows], None if row_public is None else row_public[rows]
            )
    if pairs is not None:
        categories |= _pair_categories(predicted, measured, pairs)
    return {name: category for name, category in categories.items() if category.measured.size}


def correlate(measured: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Correlate (n,) measured with (n,) predicted values.

    Returns
    -------
    dict
        `n`, `pearson_r`, `pearson_r2`, `spearman_rho`. The correlations are NaN where they are undefined: below two
        values, or where one side is constant.
    """
    r = rho = float("nan")
    if measured.size > 1 and np.ptp(measured) > 0 and np.ptp(predicted) > 0:
        r = float(stats.pearsonr(predicted, measured).statistic)
        rho = float(stats.spearmanr(predicted, measured).statistic)
    return {"n": int(measured.size), "pearson_r": r, "pearson_r2": r * r, "spearman_rho": rho}


def _score_part(categories: Mapping[str, Category], part: str, notes: list[str]) -> dict:
    """Correlations of every category, and the official scores where all nine are there."""
    figures = {name: correlate(category.measured, category.predicted) for name, category in categories.items()}
    undefined = [name for name in figures if np.isnan(figures[name]["pearson_r"])]
    if undefined:
        notes.append(
            f"{part}: the correlation of {', '.join(undefined)} is undefined (constant values, or fewer than two)."
        )
    missing = [name for name in CATEGORIES if name not in figures]
    if missing:
        notes.append(f"{part}: no official score is claimed, because there is no {', '.join(missing)}.")
        return figures
    total = sum(WEIGHTS.values())
    scores = {
        f"{score}_score": sum(WEIGHTS[name] * figures[name][key] for name in CATEGORIES) / total
        for score, key in (("pearson", "pearson_r2"), ("spearman", "spearman_rho"))
    }
    return figures | scores


def _private(categories: Mapping[str, Category]) -> dict[str, Category]:
    """Drop what is public; a category in which that is unknown, or which is all public, is left out."""
    private = {}
    for name, (measured, predicted, public) in categories.items():
        if public is not None and not public.all():
            private[name] = Category(measured[~public], predicted[~public], public[~public])
    return private


def dream_score(
    predictions: Sequence[float],
    references: Sequence[float],
    *,
    subsets: Mapping[str, Sequence[bool]] | None = None,
    pairs: Mapping[str, Sequence] | None = None,
    public: Sequence[bool] | None = None,
) -> dict:
    """Score predictions as the Random Promoter DREAM Challenge 2022 does.

    Parameters
    ----------
    predictions, references : sequence of float
        (rows,) predicted expression on any scale, and measured expression.
    subsets : mapping of str to sequence of bool, optional
        (rows,) flags of the subsets in `SUBSETS`.
    pairs : mapping of columns, optional
        Columns `kind` (one of `PAIR_KINDS`), `alt` and `ref` (positions in `predictions`, from 0), each (pairs,), and
        optionally `public` (bool). A data frame will do.
    public : sequence of bool, optional
        (rows,) rows of the public leaderboard.

    Returns
    -------
    dict
        `all`, and `private` where `public` is given: for each category the figures of `correlate`, then
        `pearson_score` and `spearman_score` where all nine categories are there; `note` (str) where something was left
        out or is undefined.

    Raises
    ------
    ValueError
        As `split_categories`.
    """
    categories = split_categories(predictions, references, subsets=subsets, pairs=pairs, public=public)
    if not categories:
        raise ValueError("there is nothing to score: `predictions` and `references` are empty")
    notes: list[str] = []
    result: dict = {"all": _score_part(categories, "all", notes)}
    if public is None:
        notes.append("private: left out, because it is not known which rows are public.")
    else:
        result["private"] = _score_part(_private(categories), "private", notes)
    return result | ({"note": " ".join(notes)} if notes else {})


class DreamPromoter(evaluate.Metric):
    """Module of `evaluate` around `dream_score`; its README.md tells how to use it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
            reference_urls=["https://github.com/de-Boer-Lab/random-promoter-dream-challenge-2022"],
        )

    def _compute(self, predictions, references, subsets=None, pairs=None, public=None) -> dict:
        return dream_score(predictions, references, subsets=subsets, pairs=pairs, public=public)
