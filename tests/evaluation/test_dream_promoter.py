"""The metric: the official figures, what it leaves out, what it refuses."""

import doctest
import json
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modeling_macaron.analysis.evaluation import load_metric

FOLDER = Path(__file__).parents[2] / "metrics" / "dream_promoter"
SUBSETS = ("high", "low", "yeast", "random", "challenging")
KINDS = ("SNVs", "motif_perturbation", "motif_tiling")
WEIGHTS = {"all": 1, "high": 0.3, "low": 0.3, "yeast": 0.3, "random": 0.3, "challenging": 0.5, "SNVs": 1.25,
           "motif_perturbation": 0.3, "motif_tiling": 0.4}  # fmt: skip


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def official(shared):
    """Arguments and expected result of the worked example."""
    table = pd.read_parquet(shared / "data" / "dream2022" / "measured_library.parquet")
    pairs = pd.read_parquet(shared / "data" / "dream2022" / "pairs.parquet")
    folder = shared / "fixtures" / "dream_score"
    predictions = pd.read_parquet(folder / "predictions.parquet").set_index("row_id")["prediction"]
    position = pd.Series(range(len(table)), index=table["row_id"])
    arguments = {
        "predictions": predictions[table["row_id"]].to_numpy(),
        "references": table["activity"].to_numpy(),
        "subsets": {name: table[name].to_numpy() for name in SUBSETS},
        "pairs": {
            "kind": pairs["kind"].tolist(),
            "alt": position[pairs["alt_row_id"]].to_numpy(),
            "ref": position[pairs["ref_row_id"]].to_numpy(),
            "public": pairs["public"].to_numpy(),
        },
        "public": table["leaderboard_public"].to_numpy(),
    }
    return arguments, json.loads((folder / "expected.json").read_text())


def random_arguments(seed, rows=60, pairs=45):
    """Arguments in which every category occurs, public and private."""
    random = np.random.default_rng(seed)
    measured = random.normal(size=rows)
    return {
        "predictions": 3 * measured + random.normal(size=rows),
        "references": measured,
        "subsets": {name: (random.random(rows) < 0.5) for name in SUBSETS},
        "pairs": {
            "kind": [KINDS[i % 3] for i in range(pairs)],
            "alt": random.integers(0, rows, pairs),
            "ref": random.integers(0, rows, pairs),
            "public": random.random(pairs) < 0.2,
        },
        "public": random.random(rows) < 0.2,
    }


def assert_close(found, expected, tolerance=1e-9):
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_close(found[key], value, tolerance)
        else:
            assert found[key] == pytest.approx(value, abs=tolerance), key


def test_official_example(metric, official):
    arguments, expected = official
    assert_close(metric.compute(**arguments), expected)


def test_functions_agree_with_the_module(metric, official):
    arguments, _ = official
    assert_close(load_metric().dream_score(**arguments), metric.compute(**arguments), 1e-12)


def test_loads_offline_in_a_fresh_process(tmp_path):
    code = (
        "import evaluate\nmetric = evaluate.load('metrics/dream_promoter')\n"
        "print(metric.compute(predictions=[1, 2, 4], references=[1, 2, 3])['all']['all']['spearman_rho'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parents[1], capture_output=True, text=True, check=False,
        env={"PATH": "", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(1.0)


def test_examples_of_the_metric_card(monkeypatch):
    monkeypatch.chdir(FOLDER.parents[1])
    results = doctest.testfile(str(FOLDER / "README.md"), module_relative=False)
    assert results.attempted >= 8
    assert results.failed == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_category_against_scipy(seed):
    arguments = random_arguments(seed)
    result = load_metric().dream_score(**arguments)
    predicted, measured, pairs = arguments["predictions"], arguments["references"], arguments["pairs"]
    for part, rows, chosen_pairs in (
        ("all", np.ones(60, bool), np.ones(45, bool)),
        ("private", ~arguments["public"], ~pairs["public"]),
    ):
        scores = [0.0, 0.0]
        for name, weight in WEIGHTS.items():
            if name in KINDS:
                chosen = chosen_pairs & (np.array(pairs["kind"]) == name)
                alt, ref = pairs["alt"][chosen], pairs["ref"][chosen]
                x, y = measured[alt] - measured[ref], predicted[alt] - predicted[ref]
            else:
                chosen = rows & arguments["subsets"].get(name, np.ones(60, bool))
                x, y = measured[chosen], predicted[chosen]
            figures = result[part][name]
            assert figures["n"] == len(x)
            assert figures["pearson_r"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
            ranks = np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1]
            assert figures["spearman_rho"] == pytest.approx(ranks, abs=1e-9)
            scores[0] += weight * figures["pearson_r"] ** 2 / 4.65
            scores[1] += weight * ranks / 4.65
        assert result[part]["pearson_score"] == pytest.approx(scores[0], abs=1e-9)
        assert result[part]["spearman_score"] == pytest.approx(scores[1], abs=1e-9)
    assert "note" not in result


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_order_of_rows_and_scale_do_not_matter(seed, scale, offset):
    arguments = random_arguments(seed)
    random = np.random.default_rng(seed)
    order, pair_order = random.permutation(60), random.permutation(45)
    where = np.argsort(order)
    pairs = {name: np.array(column)[pair_order] for name, column in arguments["pairs"].items()}
    shuffled = {
        "predictions": scale * arguments["predictions"][order] + offset,
        "references": arguments["references"][order],
        "subsets": {name: flags[order] for name, flags in arguments["subsets"].items()},
        "pairs": pairs | {"alt": where[pairs["alt"]], "ref": where[pairs["ref"]]},
        "public": arguments["public"][order],
    }
    assert_close(load_metric().dream_score(**shuffled), load_metric().dream_score(**arguments))


@pytest.mark.parametrize("name", [*SUBSETS, *KINDS])
def test_without_a_category_no_score_is_claimed(name):
    full, arguments = random_arguments(1), random_arguments(1)
    arguments["subsets"].pop(name, None)
    kept = np.array(arguments["pairs"]["kind"]) != name
    arguments["pairs"] = {key: np.array(column)[kept] for key, column in arguments["pairs"].items()}
    result, complete = load_metric().dream_score(**arguments), load_metric().dream_score(**full)
    for part in ("all", "private"):
        assert set(complete[part]) - set(result[part]) == {name, "pearson_score", "spearman_score"}
        assert all(result[part][other] == complete[part][other] for other in result[part])
    assert name in result["note"]
    assert "no official score" in result["note"]


def test_predictions_and_references_alone(metric):
    result = metric.compute(predictions=[1, 2, 4, 3], references=[1, 2, 3, 4])
    assert set(result) == {"all", "note"}
    assert list(result["all"]) == ["all"]
    assert result["all"]["all"]["spearman_rho"] == pytest.approx(0.8)


def test_pairs_of_unknown_part_are_not_private():
    arguments = random_arguments(2)
    del arguments["pairs"]["public"]
    result = load_metric().dream_score(**arguments)
    assert "pearson_score" in result["all"]
    assert not set(result["private"]) & {*KINDS, "pearson_score", "spearman_score"}


def test_constant_predictions_are_undefined_not_an_error(recwarn):
    arguments = random_arguments(3) | {"predictions": np.full(60, 0.1)}
    result = load_metric().dream_score(**arguments)
    assert np.isnan([result["all"][name]["pearson_r"] for name in WEIGHTS]).all()
    assert np.isnan([result["private"]["pearson_score"], result["private"]["spearman_score"]]).all()
    assert "undefined" in result["note"]
    assert not recwarn.list


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": [1.0, float("nan"), None]}, "`predictions` holds 2 of 3 rows"),
        ({"references": [1.0, 2.0, float("inf")]}, "`references` holds 1 of 3 rows"),
        ({"predictions": [], "references": []}, "nothing to score"),
        ({"predictions": [1.0]}, "Mismatch"),
        ({"subsets": {"medium": [1, 1, 1]}}, "unknown subset medium"),
        ({"subsets": {"high": [1, 1]}}, "subset `high` must hold one flag for each of 3"),
        ({"subsets": {"high": ["True", "False", "True"]}}, "True and False"),
        ({"public": [1, 0]}, "`public`"),
        ({"pairs": {"kind": ["indel"], "alt": [0], "ref": [1]}}, "unknown kind of pair indel"),
        ({"pairs": {"kind": ["SNVs"], "alt": [0], "ref": [3]}}, "from 0 to 2"),
        ({"pairs": {"kind": ["SNVs"], "alt": [-1], "ref": [2]}}, "from 0 to 2"),
        ({"pairs": {"kind": ["SNVs"], "alt": [0.5], "ref": [2]}}, "whole numbers"),
        ({"pairs": {"kind": ["SNVs"], "alt": [0, 1], "ref": [2]}}, "differ in length"),
        ({"pairs": {"kind": ["SNVs"], "alt": [0]}}, "lacks ref"),
    ],
)
def test_refuses(metric, change, message):
    arguments = {"predictions": [1.0, 2.0, 3.0], "references": [1.0, 2.0, 4.0]} | change
    with pytest.raises(ValueError, match=message):
        metric.compute(**arguments)
