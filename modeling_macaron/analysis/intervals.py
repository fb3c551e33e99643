"""Confidence intervals of the correlations, by a bootstrap over clusters of rows.

Rows that derive from one another (a promoter and its mutants) are no independent measurements: drawn one by one they
give intervals that are too narrow. Whole clusters are drawn instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from tokenization import is_missing

from .evaluation import load_metric, metric_inputs
from .measurements import Measurements, first_values


class _Sample(NamedTuple):
    """Values (n,) of one category, their positions among the sorted distinct values, and their clusters."""

    measured: np.ndarray
    predicted: np.ndarray
    measured_groups: np.ndarray
    predicted_groups: np.ndarray
    clusters: np.ndarray


def cluster_codes(measurements: Measurements, cluster_column: str = "cluster") -> np.ndarray:
    """Give the number of each row's cluster: (rows,) int64 from 0, in the order of the clusters' names.

    Parameters
    ----------
    measurements : Measurements
        Rows, and pairs where there are any.
    cluster_column : str
        Column of the rows that names their cluster.

    Raises
    ------
    ValueError
        If there is no such column, a row has no cluster, or the two ends of a pair lie in different clusters.
    """
    rows, pairs, _ = measurements
    if cluster_column not in rows.columns:
        raise ValueError(
            f"no column {cluster_column} to draw clusters by; the table has {', '.join(map(str, rows.columns))}: name "
            "one with --cluster_column, or row_id where every row stands alone"
        )
    missing = rows[cluster_column].isna() | rows[cluster_column].map(lambda name: is_missing(str(name)))
    if missing.any():
        raise ValueError(f"{int(missing.sum())} rows have no cluster in column {cluster_column}")
    codes = pd.factorize(rows[cluster_column], sort=True)[0].astype(np.int64)
    if pairs is not None:
        split = codes[pairs["alt"]] != codes[pairs["ref"]]
        if split.any():
            alt = rows["row_id"].to_numpy()[pairs["alt"][split]]
            raise ValueError(
                f"{split.sum()} of {len(pairs)} pairs have their ends in different clusters of column {cluster_column} "
                f"(alt_row_id {first_values(alt)}): give clusters that hold both ends, or no pairs"
            )
    return codes


def weighted_ranks(groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rank values (n,) of which each occurs as often as its weight says.

    Parameters
    ----------
    groups : numpy.ndarray
        (n,) positions of the values among their sorted distinct values, as `numpy.unique` gives them.
    weights : numpy.ndarray
        (n,) how often each value occurs, whole numbers from 0.

    Returns
    -------
    numpy.ndarray
        (n,) ranks from 1, ties as their mean: those of `scipy.stats.rankdata` on the repeated values.
    """
    totals = np.bincount(groups, weights)
    return (np.cumsum(totals) - (totals - 1) / 2)[groups]


def weighted_pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Correlate values (n,) with values (n,) of which each pair occurs as often as its positive weight (n,) says.

    NaN where the correlation is undefined: nothing is left, or one side is constant.
    """
    if x.size == 0 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    total = weights.sum()
    x, y = x - weights @ x / total, y - weights @ y / total
    weighted = weights * x
    norm = math.sqrt(weighted @ x) * math.sqrt((weights * y) @ y)
    return min(1.0, max(-1.0, float(weighted @ y) / norm)) if norm > 0 else math.nan


def _correlate(sample: _Sample, multiplicity: np.ndarray) -> tuple[float, float]:
    """Pearson r and Spearman rho of a category of which each cluster occurs `multiplicity` (clusters,) times."""
    weights = multiplicity[sample.clusters]
    drawn = np.flatnonzero(weights)
    weights = weights[drawn]
    measured, predicted, *groups = (values[drawn] for values in sample[:4])
    ranks = (weighted_ranks(values, weights) for values in groups)
    return weighted_pearson(predicted, measured, weights), weighted_pearson(*ranks, weights)


def _samples(predictions: np.ndarray, measurements: Measurements, codes: np.ndarray) -> Iterator[tuple[str, _Sample]]:
    """Give each category with the clusters of its rows, or of the `alt` rows of its pairs."""
    metric = load_metric()
    inputs = metric_inputs(measurements)
    # Of rows the module picks the codes as it picks the values; of pairs it would give their difference.
    by_row = metric.split_categories(codes, **inputs | {"references": codes, "pairs": None})
    clusters = {name: category.measured.astype(np.int64) for name, category in by_row.items()}
    if measurements.pairs is not None:
        kinds, alt = (measurements.pairs[name].to_numpy() for name in ("kind", "alt"))
        clusters |= {kind: codes[alt[kinds == kind]] for kind in metric.PAIR_KINDS}
    for name, (measured, predicted, _) in metric.split_categories(predictions, **inputs).items():
        groups = (np.unique(values, return_inverse=True)[1] for values in (measured, predicted))
        yield name, _Sample(measured, predicted, *groups, clusters[name])


def _percentiles(values: np.ndarray, level: float) -> list[float]:
    """Interval [low, high] of resampled figures (num_resamples,), without those that are undefined."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return [math.nan, math.nan]
    return np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]).tolist()


def bootstrap_intervals(
    predictions: np.ndarray,
    measurements: Measurements,
    *,
    cluster_column: str = "cluster",
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, list[float]]]:
    """Estimate confidence intervals of the correlations of each category.

    The percentile bootstrap of Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13, over clusters:
    each resample draws as many clusters as there are, with replacement and with all of their rows, and serves all
    categories. A pair belongs to the cluster of its ends.

    Parameters
    ----------
    predictions : numpy.ndarray
        (rows,) predicted expression.
    measurements : Measurements
        What they are scored on.
    cluster_column : str
        Column of the rows that names their cluster; `row_id` where every row stands alone.
    num_resamples : int
        Number of resamples, at least 2.
    level : float
        Share of resamples inside the interval, between 0 and 1.
    seed : int
        Seed of the draws.

    Returns
    -------
    dict
        For each category `pearson_r_interval` and `spearman_rho_interval`, lists [low, high]. Resamples in which a
        correlation is undefined are left out; NaN where a category has fewer than two clusters or nothing is defined.

    Raises
    ------
    ValueError
        As `cluster_codes`, and on a number of resamples or a level out of range.
    """
    if num_resamples < 2:
        raise ValueError(f"num_resamples must be at least 2, got {num_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    codes = cluster_codes(measurements, cluster_column)
    samples = dict(_samples(predictions, measurements, codes))
    figures = {name: np.full((num_resamples, 2), math.nan) for name in samples}
    several = [name for name, sample in samples.items() if np.ptp(sample.clusters) > 0]
    random, num_clusters = np.random.default_rng(seed), codes.max() + 1
    for index in range(num_resamples):
        draws = random.integers(num_clusters, size=num_clusters)
        multiplicity = np.bincount(draws, minlength=num_clusters).astype(np.float64)
        for name in several:
            figures[name][index] = _correlate(samples[name], multiplicity)
    keys = ("pearson_r_interval", "spearman_rho_interval")
    return {
        name: {key: _percentiles(values, level) for key, values in zip(keys, resampled.T, strict=True)}
        for name, resampled in figures.items()
    }
