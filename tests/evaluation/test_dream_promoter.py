"""The official score of the challenge."""

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_macaron.evaluation.dream_promoter import dream_promoter
from modeling_macaron.evaluation.dream_promoter.dream_promoter import dream_score

FOLDER = Path(dream_promoter.__file__).parent
SUBSETS = ("high", "low", "yeast", "random", "challenging")
KINDS = ("SNVs", "motif_perturbation", "motif_tiling")
WEIGHTS = {"all": 1, "high": 0.3, "low": 0.3, "yeast": 0.3, "random": 0.3, "challenging": 0.5, "SNVs": 1.25,
           "motif_perturbation": 0.3, "motif_tiling": 0.4}  # fmt: skip


def random_arguments(seed, rows=60, pairs=45):
    """Arguments with every category, public and private."""
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


@pytest.mark.slow
def test_card_runs_offline_in_a_fresh_process(tmp_path):
    code = f"import doctest; print(doctest.testfile({str(FOLDER / 'README.md')!r}, module_relative=False))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parents[2], capture_output=True, text=True, check=False,
        env={"PATH": "", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"},
    )  # fmt: skip
    assert "TestResults(failed=0, attempted=" in done.stdout, done.stdout + done.stderr
    assert len(doctest.DocTestParser().get_examples((FOLDER / "README.md").read_text(encoding="utf-8"))) >= 8


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_category_against_pandas(seed):
    arguments = random_arguments(seed)
    result = dream_score(**arguments)
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
            r, rho = (pd.Series(x).corr(pd.Series(y), method=method) for method in ("pearson", "spearman"))
            expected = {"n": len(x), "pearson_r": r, "pearson_r2": r * r, "spearman_rho": rho}
            assert result[part][name] == pytest.approx(expected, abs=1e-9)
            scores[0] += weight * r * r / 4.65
            scores[1] += weight * rho / 4.65
        found = [result[part][name] for name in ("pearson_score", "spearman_score")]
        assert found == pytest.approx(scores, abs=1e-9)
    assert "note" not in result


@pytest.mark.parametrize("name", [*SUBSETS, *KINDS])
def test_no_official_score_without_a_category(name):
    complete, arguments = dream_score(**random_arguments(1)), random_arguments(1)
    arguments["subsets"].pop(name, None)
    arguments["pairs"] = pd.DataFrame(arguments["pairs"]).query(f"kind != '{name}'")
    result = dream_score(**arguments)
    for part in ("all", "private"):
        assert set(complete[part]) - set(result[part]) == {name, "pearson_score", "spearman_score"}
        assert all(result[part][other] == complete[part][other] for other in result[part])
    assert "no official score" in result["note"] and name in result["note"]


def test_unknown_parts_are_left_out():
    arguments = random_arguments(2)
    del arguments["pairs"]["public"]
    result = dream_score(**arguments)
    assert "pearson_score" in result["all"]
    assert not set(result["private"]) & {*KINDS, "pearson_score", "spearman_score"}
    alone = dream_score([1, 2, 4, 3], [1, 2, 3, 4])
    assert set(alone) == {"all", "note"} and list(alone["all"]) == ["all"]
    assert alone["all"]["all"]["spearman_rho"] == pytest.approx(0.8)


def test_correlations_of_constant_predictions_are_undefined(recwarn):
    result = dream_score(**random_arguments(3) | {"predictions": np.full(60, 0.1)})
    assert np.isnan([result["all"][name]["pearson_r"] for name in WEIGHTS]).all()
    assert np.isnan([result["private"]["pearson_score"], result["private"]["spearman_score"]]).all()
    assert "undefined" in result["note"]
    assert not recwarn.list


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": [1.0, float("nan"), None]}, "`predictions` must be .* 2 that are not finite"),
        ({"references": [1.0, 2.0, float("inf")]}, "`references` must be .* 1 that are not finite"),
        ({"predictions": [], "references": []}, "nothing to score"),
        ({"predictions": [1.0]}, "1 predictions and 3 references"),
        ({"subsets": {"medium": [1, 1, 1]}}, "unknown subset medium"),
        ({"subsets": {"high": [1, 1]}}, "`high` must hold True or False"),
        ({"subsets": {"high": ["True", "False", "True"]}}, "`high` must hold True or False"),
        ({"public": [1, 0]}, "`public`"),
        ({"pairs": {"kind": ["indel"], "alt": [0], "ref": [1]}}, "unknown kind of pair indel"),
        ({"pairs": {"kind": ["SNVs"], "alt": [0], "ref": [3]}}, "from 0 to 2"),
        ({"pairs": {"kind": ["SNVs"], "alt": [-1], "ref": [2]}}, "from 0 to 2"),
        ({"pairs": {"kind": ["SNVs"], "alt": [0.5], "ref": [2]}}, "integers"),
        ({"pairs": {"kind": ["SNVs"], "alt": [0, 1], "ref": [2]}}, "same length"),
    ],
)
def test_rejected_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        dream_score(**{"predictions": [1.0, 2.0, 3.0], "references": [1.0, 2.0, 4.0]} | change)
