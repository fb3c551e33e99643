"""Confidence intervals of the correlations, by a bootstrap over clusters of rows.

Related rows (a promoter and its mutants) are not independent. Resampling single rows gives intervals that are too
narrow, so whole clusters are resampled.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats

from tokenization import is_missing

from .dream_promoter.dream_promoter import split_categories
from .measurements import Measurements, metric_inputs


def cluster_codes(measurements: Measurements, cluster_column: str = "cluster") -> np.ndarray:
    """Return the number of each row's cluster, (rows,). Raises if clusters are missing or a pair spans two."""
    rows, pairs, _ = measurements
    if cluster_column not in rows.columns:
        raise ValueError(
            f"no column {cluster_column} with clusters; the table has {', '.join(map(str, rows.columns))}: name one "
            "with --cluster_column, or row_id if the rows are independent"
        )
    names = rows[cluster_column]
    missing = names.isna() | names.map(lambda name: is_missing(str(name)) or not str(name))
    if missing.any():
        raise ValueError(f"{int(missing.sum())} rows have no cluster in column {cluster_column}")
    codes = pd.factorize(names, sort=True)[0].astype(np.int64)
    if pairs is not None:
        split = codes[pairs["alt"]] != codes[pairs["ref"]]
        if split.any():
            raise ValueError(
                f"{split.sum()} of {len(pairs)} pairs have ends in different clusters of column {cluster_column}: "
                "choose clusters that hold both ends, or no pairs"
            )
    return codes


def _correlate(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Pearson r and Spearman rho of values (n,), without p-values for speed; NaN if undefined."""
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, math.nan
    return np.corrcoef(x, y)[0, 1], np.corrcoef(stats.rankdata([x, y], axis=1))[0, 1]


def bootstrap_intervals(
    predictions: np.ndarray,
    measurements: Measurements,
    *,
    cluster_column: str = "cluster",
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, list[float]]]:
    """95 % percentile intervals of the correlations of each category (Efron & Tibshirani 1993, chapter 13).

    Each resample draws as many clusters as there are, with replacement. A pair belongs to the cluster of its ends.

    Parameters
    ----------
    predictions : numpy.ndarray
        (rows,) predicted expression.
    measurements : Measurements
        Measured rows and pairs.
    cluster_column : str
        Column with the cluster of each row.
    num_resamples, seed : int
        Number and seed of the random draws.

    Returns
    -------
    dict of str to dict
        `pearson_r_interval` and `spearman_rho_interval` of each category, [low, high]. NaN if the category has fewer
        than two clusters or the correlation is never defined.

    Raises
    ------
    ValueError
        If clusters are missing or a pair spans two.
    """
    codes = cluster_codes(measurements, cluster_column)
    categories = split_categories(predictions, **metric_inputs(measurements))
    several = {name: one for name, one in categories.items() if np.ptp(codes[one.rows]) > 0}
    random, num_clusters = np.random.default_rng(seed), codes.max() + 1
    figures = {name: [] for name in several}
    for _ in range(num_resamples):
        draws = random.integers(num_clusters, size=num_clusters)
        multiplicity = np.bincount(draws, minlength=num_clusters)
        for name, (measured, predicted, rows, _) in several.items():
            repeats = multiplicity[codes[rows]]
            figures[name].append(_correlate(np.repeat(measured, repeats), np.repeat(predicted, repeats)))
    intervals = {}
    for name in categories:
        values = np.array(figures.get(name, [])).reshape(-1, 2)
        defined = values[~np.isnan(values[:, 0])]
        bounds = np.quantile(defined, [0.025, 0.975], axis=0).T if len(defined) else np.full((2, 2), math.nan)
        intervals[name] = dict(zip(("pearson_r_interval", "spearman_rho_interval"), bounds.tolist(), strict=True))
    return intervals
