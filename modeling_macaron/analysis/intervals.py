"""Confidence intervals of the correlations, by a bootstrap over clusters of rows.

Related rows (a promoter and its mutants) are not independent. Resampling them one by one gives intervals that are too
narrow, so whole clusters are resampled.
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
    """Values (n,) of one category, their ranks among the distinct values, and their clusters."""

    measured: np.ndarray
    predicted: np.ndarray
    measured_groups: np.ndarray
    predicted_groups: np.ndarray
    clusters: np.ndarray


def cluster_codes(measurements: Measurements, cluster_column: str = "cluster") -> np.ndarray:
    """Return the number of each row's cluster, (rows,) int64. Raises a `ValueError` if a pair spans two clusters."""
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
    """Ranks (n,) from 1 of repeated values, ties as their mean, as by `scipy.stats.rankdata`.

    `groups` (n,) are the inverse indices of `numpy.unique`, `weights` (n,) the repeats of each value.
    """
    totals = np.bincount(groups, weights)
    return (np.cumsum(totals) - (totals - 1) / 2)[groups]


def weighted_pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Pearson correlation of x and y (n,), repeated `weights` (n,) times; NaN if undefined."""
    if x.size == 0 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    total = weights.sum()
    x, y = x - weights @ x / total, y - weights @ y / total
    weighted = weights * x
    norm = math.sqrt(weighted @ x) * math.sqrt((weights * y) @ y)
    return min(1.0, max(-1.0, float(weighted @ y) / norm)) if norm > 0 else math.nan


def _correlate(sample: _Sample, multiplicity: np.ndarray) -> tuple[float, float]:
    """Pearson r and Spearman rho of a category whose clusters are repeated `multiplicity` (clusters,) times."""
    weights = multiplicity[sample.clusters]
    drawn = np.flatnonzero(weights)
    weights = weights[drawn]
    measured, predicted, *groups = (values[drawn] for values in sample[:4])
    ranks = (weighted_ranks(values, weights) for values in groups)
    return weighted_pearson(predicted, measured, weights), weighted_pearson(*ranks, weights)


def _samples(predictions: np.ndarray, measurements: Measurements, codes: np.ndarray) -> Iterator[tuple[str, _Sample]]:
    """Yield each category with the clusters of its rows; for pairs, of their `alt` rows."""
    metric = load_metric()
    inputs = metric_inputs(measurements)
    # For rows the metric selects codes as it selects values; for pairs it would subtract them.
    by_row = metric.split_categories(codes, **inputs | {"references": codes, "pairs": None})
    clusters = {name: category.measured.astype(np.int64) for name, category in by_row.items()}
    if measurements.pairs is not None:
        kinds, alt = (measurements.pairs[name].to_numpy() for name in ("kind", "alt"))
        clusters |= {kind: codes[alt[kinds == kind]] for kind in metric.PAIR_KINDS}
    for name, (measured, predicted, _) in metric.split_categories(predictions, **inputs).items():
        groups = (np.unique(values, return_inverse=True)[1] for values in (measured, predicted))
        yield name, _Sample(measured, predicted, *groups, clusters[name])


def _percentiles(values: np.ndarray, level: float) -> list[float]:
    """Interval [low, high] of the resampled values (num_resamples,) that are defined."""
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
    """Percentile intervals of the correlations of each category (Efron & Tibshirani 1993, chapter 13).

    Each resample draws as many clusters as there are, with replacement, and serves all categories. A pair belongs to
    the cluster of its ends. Values are [low, high]; NaN if a category has fewer than two clusters or is never defined.
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
