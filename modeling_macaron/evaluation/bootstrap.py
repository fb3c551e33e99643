"""Confidence intervals of the correlations, by a bootstrap over clusters of rows.

Related rows (a promoter and its mutants) are not independent. Resampling single rows gives intervals that are too
narrow, so whole clusters are resampled.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

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


def _ranks(groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Ranks (n,) of values that are repeated `weights` (n,) times, ties as their mean.

    `groups` (n,) are the inverse indices of `numpy.unique`.
    """
    totals = np.bincount(groups, weights)
    return (np.cumsum(totals) - (totals - 1) / 2)[groups]


def _correlate(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Pearson correlation of values (n,) that are repeated `weights` (n,) times; NaN if undefined."""
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    covariance = np.cov(x, y, fweights=weights)
    return float(covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]))


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
    samples = {}
    for name, (measured, predicted, rows, _) in categories.items():
        groups = [np.unique(values, return_inverse=True)[1] for values in (measured, predicted)]
        samples[name] = (codes[rows], measured, predicted, *groups)
    figures = {name: np.full((num_resamples, 2), math.nan) for name in samples}
    random, num_clusters = np.random.default_rng(seed), codes.max() + 1
    for index in range(num_resamples):
        draws = random.integers(num_clusters, size=num_clusters)
        multiplicity = np.bincount(draws, minlength=num_clusters)
        for name, (clusters, *values) in samples.items():
            if np.ptp(clusters) > 0:
                weights = multiplicity[clusters]
                drawn = np.flatnonzero(weights)
                measured, predicted, *groups = (side[drawn] for side in values)
                ranks = (_ranks(side, weights[drawn]) for side in groups)
                figures[name][index, 0] = _correlate(predicted, measured, weights[drawn])
                figures[name][index, 1] = _correlate(*ranks, weights[drawn])
    intervals = {}
    for name, values in figures.items():
        defined = [column[~np.isnan(column)] for column in values.T]
        r, rho = (np.quantile(one, [0.025, 0.975]).tolist() if one.size else [math.nan] * 2 for one in defined)
        intervals[name] = {"pearson_r_interval": r, "spearman_rho_interval": rho}
    return intervals
