"""Confidence intervals by a bootstrap over clusters."""

import numpy as np
import pandas as pd
import pytest

from modeling_macaron.evaluation.bootstrap import bootstrap_intervals, cluster_codes
from modeling_macaron.evaluation.measurements import Measurements
from modeling_macaron.evaluation.score import score

KEYS = ("pearson_r_interval", "spearman_rho_interval")


def make(clusters, seed=0, pairs=None, **flags):
    """Measurements and predictions that correlate, with ties."""
    random = np.random.default_rng(seed)
    predictions = random.normal(size=len(clusters)).round(1)
    activity = (predictions + random.normal(size=len(clusters))).round(1)
    rows = pd.DataFrame({"row_id": np.arange(len(clusters)) * 10, "activity": activity, "cluster": clusters} | flags)
    return predictions, Measurements(rows, pairs, None)


def make_pairs(ends, kind="SNVs"):
    return pd.DataFrame({"kind": kind, "alt": [alt for alt, _ in ends], "ref": [ref for _, ref in ends]})


def slow_intervals(predictions, measurements, num_resamples, seed):
    """Compute intervals by repeating and scoring the rows and pairs of drawn clusters."""
    rows, pairs, _ = measurements
    names, codes = np.unique(rows["cluster"], return_inverse=True)
    members = [np.flatnonzero(codes == code) for code in range(len(names))]
    own_pairs = [pairs[codes[pairs["alt"]] == code] for code in range(len(names))]
    random = np.random.default_rng(seed)
    found = {}
    for _ in range(num_resamples):
        draws = random.integers(len(names), size=len(names))
        taken = np.concatenate([members[code] for code in draws])
        drawn = pd.concat([own_pairs[code] for code in draws])
        place = {row: position for position, row in enumerate(taken)}  # any copy of the row
        drawn = drawn.assign(**{name: drawn[name].map(place).astype(int) for name in ("alt", "ref")})
        part = Measurements(rows.iloc[taken].reset_index(drop=True), drawn, None)
        for name, figures in score(predictions[taken], part)["all"].items():
            found.setdefault(name, []).append((figures["pearson_r"], figures["spearman_rho"]))
    return {name: np.nanquantile(values, [0.025, 0.975], axis=0).T for name, values in found.items()}


@pytest.mark.parametrize("seed", range(3))
def test_intervals_equal_a_slow_version(seed):
    """For rows, a subset and pairs, with clusters of different sizes."""
    random = np.random.default_rng(seed)
    clusters = np.array(list("ABCDEFGHIJ"))[random.integers(0, 10, 80)]
    ends = [(a, b) for a, b in random.integers(0, 80, (900, 2)) if a != b and clusters[a] == clusters[b]]
    pairs = pd.concat([make_pairs(ends[::2]), make_pairs(ends[1::2], "motif_tiling")])
    pairs = pairs.sample(frac=1, random_state=seed)
    predictions, measurements = make(clusters, seed, pairs, random=random.random(80) < 0.5)
    found = bootstrap_intervals(predictions, measurements, num_resamples=60, seed=seed)
    expected = slow_intervals(predictions, measurements, 60, seed)
    assert list(found) == ["all", "random", "SNVs", "motif_tiling"]
    for name, figures in found.items():
        np.testing.assert_allclose([figures[key] for key in KEYS], expected[name], rtol=0, atol=1e-12)
    assert bootstrap_intervals(predictions, measurements, num_resamples=60, seed=seed) == found
    assert bootstrap_intervals(predictions, measurements, num_resamples=60, seed=seed + 1) != found


def test_copies_in_a_cluster_do_not_narrow_the_interval():
    predictions, single = make(np.arange(40))
    rows = single.rows.loc[np.repeat(np.arange(40), 10)].reset_index(drop=True)
    copied = Measurements(rows.assign(row_id=np.arange(400)), None, None)
    expected = bootstrap_intervals(predictions, single, seed=3, num_resamples=200)["all"]
    found = bootstrap_intervals(np.repeat(predictions, 10), copied, seed=3, num_resamples=200)["all"]
    alone = bootstrap_intervals(np.repeat(predictions, 10), copied, seed=3, num_resamples=200, cluster_column="row_id")[
        "all"
    ]
    for key in KEYS:
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-12)
        assert np.ptp(alone[key]) < 0.5 * np.ptp(found[key])


def test_undefined_intervals():
    clusters = np.repeat(["a", "b", "c"], 4)
    predictions, measurements = make(clusters, pairs=make_pairs([(0, 1), (1, 2)]), random=clusters == "a")
    found = bootstrap_intervals(predictions, measurements, num_resamples=50)
    assert all(np.isfinite(found["all"][key]).all() for key in KEYS)
    assert all(np.isnan(found[name][key]).all() for name in ("random", "SNVs") for key in KEYS)
    constant = bootstrap_intervals(np.ones(12), measurements, num_resamples=50)["all"]
    assert all(np.isnan(constant[key]).all() for key in KEYS)
    # Half of the resamples of two rows have one row twice and are skipped. The others give 1 or -1.
    predictions, measurements = make(["a", "b"])
    sign = np.sign(np.diff(predictions)[0] * measurements.rows["activity"].diff()[1])
    found = bootstrap_intervals(predictions, measurements, num_resamples=50)["all"]
    assert found == {key: pytest.approx([sign, sign]) for key in KEYS}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("family", "no column family .*row_id, activity, cluster.*--cluster_column"),
        ("row_id", "1 of 2 pairs have ends in different clusters of column row_id"),
        ("holes", "1 rows have no cluster in column holes"),
        ("words", "2 rows have no cluster in column words"),
    ],
)
def test_rejected_clusters(column, message):
    columns = {"holes": ["a", None, "b"], "words": ["-", "n.d.", "b"]}
    _, measurements = make(["a", "b", "a"], pairs=make_pairs([(1, 1), (2, 0)]), **columns)
    with pytest.raises(ValueError, match=message):
        cluster_codes(measurements, column)
