"""Ablation: every variant is a valid recipe, and results are kept."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks import ablation
from benchmarks.data import random_sequences
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.training.arguments import parse_recipe

VARIANTS = ablation.read_variants()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_changes_the_recipe_as_described(variant):
    options = [word for name, value in variant.options.items() for word in (f"--{name}", str(value))]
    recipe = str(ablation.RECIPES / "base.yaml")
    model_arguments, args = parse_recipe([recipe, "--dataset", "d", "--output_dir", "o", *options])
    MacaronForExpressionPrediction(MacaronConfig(strand_length=80, **model_arguments.given()))
    given = {**vars(args), **model_arguments.given()}
    assert {name: given[name] for name in variant.options} == variant.options


def test_variants_differ_and_the_base_comes_first():
    assert VARIANTS[0].name == "base" and not VARIANTS[0].options
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    assert len({json.dumps(variant.options, sort_keys=True) for variant in VARIANTS}) == len(VARIANTS)


def test_page_shows_mean_spread_and_change_seed_by_seed():
    runs = [
        {"variant": name, "seed": seed, "pearson_r": r, "spearman_rho": r - 0.01, "parameters": 1000}
        for name, values in {"base": [0.8, 0.9, 0.7], "glu": [0.79, 0.88, 0.67]}.items()
        for seed, r in enumerate(values, start=1)
    ]
    machine = {"name": "2 cores of Some CPU", "versions": {"torch": "2.0"}}
    result = {"runs": runs, "jobs": 2, "machine": machine, "date": "2026-01-01", "command": "python -m x"}
    block = ablation.render_figures(result, VARIANTS)
    assert "| 3 | 0.8000 ± 0.1000 |  |" in block and "| 3 | 0.7800 ± 0.1054 | \N{MINUS SIGN}0.0200 ± 0.0058 |" in block
    assert "0.765 / 0.810" in block and "no convolution" not in block
    figure = ablation.plot(result, VARIANTS)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["GLU"]


def test_committed_results_match_the_recipe():
    result = json.loads(ablation.RESULT.read_text(encoding="utf-8"))
    assert result["recipe"] == yaml.safe_load((ablation.RECIPES / "base.yaml").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_results_are_written_after_each_run_and_kept(tmp_path):
    table, output = tmp_path / "library.parquet", tmp_path / "result.json"
    split, values = np.where(np.arange(192) < 128, "train", "validation"), np.random.default_rng(0).normal(size=192)
    frame = pd.DataFrame({"sequence": random_sequences(192), "activity": values, "split": split})
    frame.drop_duplicates("sequence").to_parquet(table)
    command = ["--table", str(table), "--work", str(tmp_path / "work"), "--output", str(output), "--seeds", "1"]
    command += ["--strand_length", "110", "--jobs", "1", "--only", "base"]
    assert ablation.main(command) == 0
    first = json.loads(output.read_text())
    assert [(run["variant"], run["seed"]) for run in first["runs"]] == [("base", 1)]
    assert -1 <= first["runs"][0]["pearson_r"] <= 1 and str(tmp_path) not in output.read_text()
    assert ablation.main([*command, "merged"]) == 0
    second = json.loads(output.read_text())
    assert second["runs"][0] == first["runs"][0] and second["runs"][1]["variant"] == "merged"
    with pytest.raises(ValueError, match="another base recipe or table"):
        ablation.main([*command, "--table", str(tmp_path / "other.parquet")])
