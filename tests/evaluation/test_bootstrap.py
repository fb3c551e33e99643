"""Confidence intervals by a bootstrap over clusters."""

import inspect
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modeling_macaron.analysis.evaluation import evaluate_files, format_table, score
from modeling_macaron.analysis.intervals import bootstrap_intervals, cluster_codes, weighted_pearson, weighted_ranks
from modeling_macaron.analysis.measurements import Measurements

KEYS = ("pearson_r_interval", "spearman_rho_interval")

RNG = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"  # of older scipy


def made(clusters, seed=0, pairs=None, **flags):
    """Measurements and predictions that correlate, with ties."""
    random = np.random.default_rng(seed)
    predictions = random.normal(size=len(clusters)).round(1)
    activity = (predictions + random.normal(size=len(clusters))).round(1)
    rows = pd.DataFrame({"row_id": np.arange(len(clusters)) * 10, "activity": activity, "cluster": clusters} | flags)
    return predictions, Measurements(rows, pairs, None)


def made_pairs(ends, kind="SNVs"):
    return pd.DataFrame({"kind": kind, "alt": [alt for alt, _ in ends], "ref": [ref for _, ref in ends]})


def slow_intervals(predictions, measurements, num_resamples, seed):
    """Intervals by the obvious way: repeat the rows and pairs of the clusters drawn, and score what comes out."""
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
        # The ends of the pairs follow the rows, where any copy will do: copies are equal.
        place = {row: position for position, row in enumerate(taken)}
        drawn = drawn.assign(**{name: drawn[name].map(place).astype(int) for name in ("alt", "ref")})
        part = Measurements(rows.iloc[taken].reset_index(drop=True), drawn, None)
        for name, figures in score(predictions[taken], part)["all"].items():
            found.setdefault(name, []).append((figures["pearson_r"], figures["spearman_rho"]))
    return {name: np.nanquantile(values, [0.025, 0.975], axis=0).T for name, values in found.items()}


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5), st.integers(1, 4)), min_size=2, max_size=40),
    scale=st.sampled_from([1.0, 0.1, 1e6]),
)
def test_weights_equal_repeats(values, scale):
    x, y, weights = np.array(values, dtype=float).T
    x, y = x * scale, y / scale
    repeated = [np.repeat(side, weights.astype(int)) for side in (x, y)]
    ranks = [weighted_ranks(np.unique(side, return_inverse=True)[1], weights) for side in (x, y)]
    for found, side in zip(ranks, repeated, strict=True):
        np.testing.assert_array_equal(np.repeat(found, weights.astype(int)), stats.rankdata(side))
    r, rho = weighted_pearson(x, y, weights), weighted_pearson(*ranks, weights)
    if min(map(np.ptp, repeated)) == 0:
        assert math.isnan(r)
        assert math.isnan(rho)
    else:
        assert r == pytest.approx(stats.pearsonr(*repeated).statistic, abs=1e-12)
        assert rho == pytest.approx(stats.spearmanr(*repeated).statistic, abs=1e-12)


def test_values_of_weight_zero_do_not_count():
    groups, weights = np.array([3, 0, 1, 2, 1]), np.array([1.0, 0.0, 2.0, 0.0, 1.0])
    np.testing.assert_array_equal(weighted_ranks(groups, weights)[weights > 0], [4, 2, 2])


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_obvious_way(seed):
    """Of every category: rows, a subset, and pairs, with clusters of unlike size and names that are no numbers."""
    random = np.random.default_rng(seed)
    clusters = np.array(list("ABCDEFGHIJ"))[random.integers(0, 10, 80)]
    ends = [(a, b) for a, b in random.integers(0, 80, (900, 2)) if a != b and clusters[a] == clusters[b]]
    pairs = pd.concat([made_pairs(ends[::2]), made_pairs(ends[1::2], "motif_tiling")])
    pairs = pairs.sample(frac=1, random_state=seed)
    predictions, measurements = made(clusters, seed, pairs, random=random.random(80) < 0.5)
    found = bootstrap_intervals(predictions, measurements, num_resamples=60, seed=seed)
    expected = slow_intervals(predictions, measurements, 60, seed)
    assert list(found) == ["all", "random", "SNVs", "motif_tiling"]
    for name, figures in found.items():
        np.testing.assert_allclose([figures[key] for key in KEYS], expected[name], rtol=0, atol=1e-12)


def test_single_rows_agree_with_scipy():
    predictions, measurements = made(np.arange(150))
    found = bootstrap_intervals(predictions, measurements, num_resamples=3000)["all"]
    activity = measurements.rows["activity"].to_numpy()
    for key, correlation in zip(KEYS, (stats.pearsonr, stats.spearmanr), strict=True):
        expected = stats.bootstrap(
            (predictions, activity), lambda x, y, f=correlation: f(x, y).statistic, paired=True, vectorized=False,
            n_resamples=1500, method="percentile", **{RNG: np.random.default_rng(1)},
        ).confidence_interval  # fmt: skip
        np.testing.assert_allclose(found[key], expected, rtol=0, atol=0.03)


def test_copies_in_a_cluster_do_not_narrow_the_interval():
    predictions, single = made(np.arange(40))
    rows = single.rows.loc[np.repeat(np.arange(40), 10)].reset_index(drop=True)
    copied = Measurements(rows.assign(row_id=np.arange(400)), None, None)
    expected = bootstrap_intervals(predictions, single, seed=3)["all"]
    found = bootstrap_intervals(np.repeat(predictions, 10), copied, seed=3)["all"]
    alone = bootstrap_intervals(np.repeat(predictions, 10), copied, seed=3, cluster_column="row_id")["all"]
    for key in KEYS:
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-12)
        assert np.ptp(alone[key]) < 0.5 * np.ptp(found[key])


def test_seed_order_and_level():
    predictions, measurements = made(np.repeat(np.arange(20), 3))
    found = bootstrap_intervals(predictions, measurements, num_resamples=100)
    assert bootstrap_intervals(predictions, measurements, num_resamples=100, seed=0) == found
    assert bootstrap_intervals(predictions, measurements, num_resamples=100, seed=1) != found
    order = np.random.default_rng(0).permutation(60)
    mixed = Measurements(measurements.rows.iloc[order].reset_index(drop=True), None, None)
    shuffled = bootstrap_intervals(predictions[order], mixed, num_resamples=100)
    narrow = bootstrap_intervals(predictions, measurements, num_resamples=100, level=0.5)
    for key in KEYS:
        assert shuffled["all"][key] == pytest.approx(found["all"][key], abs=1e-12)
        (low, high), (inner_low, inner_high) = found["all"][key], narrow["all"][key]
        assert -1 <= low < inner_low < inner_high < high <= 1


def test_coverage():
    """Rows of a cluster are nearly copies: only the bootstrap over clusters covers the true correlation."""
    random, true_r, covered = np.random.default_rng(0), 0.6, {"cluster": 0, "row_id": 0}
    for _ in range(100):
        x = np.repeat(random.normal(size=50), 6)
        y = true_r * x + 0.8 * np.repeat(random.normal(size=50), 6)
        predictions, measurements = x, made(np.repeat(np.arange(50), 6))[1]
        measurements.rows["activity"] = y
        for column in covered:
            low, high = bootstrap_intervals(
                predictions, measurements, num_resamples=150, cluster_column=column
            )["all"]["pearson_r_interval"]  # fmt: skip
            covered[column] += low < true_r < high
    assert covered["cluster"] >= 85
    assert covered["row_id"] <= 75


def test_undefined_intervals():
    clusters = np.repeat(["a", "b", "c"], 4)
    predictions, measurements = made(clusters, pairs=made_pairs([(0, 1), (1, 2)]), random=clusters == "a")
    found = bootstrap_intervals(predictions, measurements, num_resamples=50)
    assert all(np.isfinite(found["all"][key]).all() for key in KEYS)
    assert all(np.isnan(found[name][key]).all() for name in ("random", "SNVs") for key in KEYS)
    constant = bootstrap_intervals(np.ones(12), measurements, num_resamples=50)["all"]
    assert all(np.isnan(constant[key]).all() for key in KEYS)


def test_undefined_resamples_are_left_out():
    """Of two clusters of one row each half of the resamples hold one row: undefined. The others give 1."""
    predictions, measurements = made(["a", "b"])
    assert bootstrap_intervals(predictions, measurements, num_resamples=50)["all"] == {
        key: pytest.approx([np.sign(np.diff(predictions)[0] * measurements.rows["activity"].diff()[1])] * 2)
        for key in KEYS
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_resamples": 1}, "at least 2, got 1"),
        ({"level": 1.0}, "between 0 and 1"),
        ({"cluster_column": "family"}, "no column family .*row_id, activity, cluster: name one with --cluster_column"),
        ({"cluster_column": "row_id"}, r"1 of 2 pairs have their ends in different clusters .*\(alt_row_id 20\)"),
        ({"cluster_column": "holes"}, "1 rows have no cluster in column holes"),
        ({"cluster_column": "words"}, "2 rows have no cluster in column words"),
    ],
)
def test_refuses(options, message):
    predictions, measurements = made(["a", "b", "a"], pairs=made_pairs([(1, 1), (2, 0)]))
    if "holes" in options.values():
        measurements.rows["holes"] = ["a", None, "b"]
    if "words" in options.values():
        measurements.rows["words"] = ["-", "n.d.", "b"]
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(predictions, measurements, **options)


def test_codes_follow_the_names():
    assert cluster_codes(made([30, 10, 30, 20])[1]).tolist() == [2, 0, 2, 1]
    assert cluster_codes(made(list("cacb"))[1]).tolist() == [2, 0, 2, 1]


@pytest.fixture
def files(tmp_path):
    """Write a table with clusters, pairs within them, and predictions."""
    random = np.random.default_rng(0)
    activity = random.normal(size=60)
    table = pd.DataFrame({
        "row_id": np.arange(60), "sequence": ["".join(random.choice(list("ACGT"), 80)) for _ in range(60)],
        "activity": activity, "family": np.repeat(np.arange(20), 3), "leaderboard_public": np.arange(60) % 3 == 0,
        "high": np.arange(60) == 5,
    })  # fmt: skip
    table.to_parquet(tmp_path / "table.parquet")
    pairs = pd.DataFrame({"kind": "SNVs", "alt_row_id": np.arange(0, 60, 3), "ref_row_id": np.arange(1, 60, 3)})
    pairs.to_parquet(tmp_path / "pairs.parquet")
    predictions = pd.DataFrame({"row_id": np.arange(60), "prediction": activity + random.normal(size=60)})
    predictions.to_parquet(tmp_path / "predictions.parquet")
    return tmp_path


def evaluate(folder, **options):
    inputs = {"predictions": folder / "predictions.parquet", "pairs": folder / "pairs.parquet", "overwrite": True}
    return evaluate_files(folder / "table.parquet", folder / "score.json", **inputs | options)


def columns(result):
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in format_table(result).splitlines() if "|" in line
    ]


def test_result_and_table(files):
    plain = evaluate(files)
    assert "95 % interval" not in format_table(plain)
    assert "seed" not in plain["run"]
    private = json.loads((files / "score.json").read_text())["private"]
    result = evaluate(files, intervals=50, cluster_column="family", baseline_train=files / "table.parquet")
    stored = json.loads((files / "score.json").read_text())
    about = {"intervals": 50, "cluster_column": "family", "clusters": 20, "seed": 0}
    assert stored["run"].items() >= about.items()
    assert stored["private"] == private
    assert list(stored["all"]["all"]) == ["n", "pearson_r", "pearson_r2", "spearman_rho", *KEYS]
    assert stored["all"]["high"]["pearson_r_interval"] == [None, None]
    for figures in (stored["all"]["all"], stored["all"]["SNVs"]):
        for key in ("pearson_r", "spearman_rho"):
            assert figures[f"{key}_interval"][0] < figures[key] < figures[f"{key}_interval"][1]
    header, _, row, ridge, high, *_ = columns(result)
    assert header[2:8] == ["n", "Pearson r", "95 % interval", "Spearman rho", "95 % interval", "n private"]
    low, upper = stored["all"]["all"]["pearson_r_interval"]
    assert row[4] == f"{low:.3f} to {upper:.3f}"
    assert row[7:] == columns(plain)[2][5:]
    assert [ridge[column] for column in (4, 6)] == [high[column] for column in (4, 6)] == ["-", "-"]
    assert len({len(line) for line in format_table(result).splitlines() if "|" in line}) == 1
    assert columns(stored) == columns(result | {"all": stored["all"]})


def test_table_with_official_scores():
    figures = {"n": 3, "pearson_r": 0.9123, "spearman_rho": 0.5, "pearson_r_interval": [0.897, 0.925]}
    found = columns({"all": {"all": figures, "pearson_score": 0.7, "spearman_score": 0.6}})
    assert found[2] == ["all", "model", "3", "0.9123", "0.897 to 0.925", "0.5000", "-"]
    assert found[3] == ["official score", "model", "", "0.7000", "-", "0.6000", "-"]


def test_clusters_are_checked_before_a_model_predicts(files, monkeypatch):
    monkeypatch.setattr("modeling_macaron.analysis.evaluation.predict_rows", lambda *_, **__: pytest.fail("predicted"))
    for options in ({"intervals": 1}, {"intervals": 50}, {"intervals": 50, "cluster_column": "row_id"}):
        with pytest.raises(ValueError, match=r"at least 2|no column cluster|different clusters"):
            evaluate(files, predictions=None, model="some/model", **options)
    assert not (files / "score.json").exists()


def test_command_line(files, capsys):
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    spec = spec_from_file_location("evaluate_script", Path(__file__).parents[2] / "scripts" / "evaluate.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    inputs = {"table": "table.parquet", "predictions": "predictions.parquet", "output": "score.json"}
    options = [text for name, value in inputs.items() for text in (f"--{name}", str(files / value))]
    with pytest.raises(SystemExit) as caught:
        script.main([*options, "--intervals", "50"])
    assert str(caught.value).startswith("error: no column cluster")
    assert "--cluster_column, or row_id where every row stands alone" in str(caught.value)
    script.main([*options, "--intervals", "50", "--cluster_column", "row_id"])
    low, high = json.loads((files / "score.json").read_text())["all"]["all"]["pearson_r_interval"]
    assert f"| {low:.3f} to {high:.3f} |" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        script.main(["--help"])
    assert caught.value.code == 0
    assert "bootstrap resamples of clusters" in " ".join(capsys.readouterr().out.split())
