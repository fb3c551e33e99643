"""Ablation: every variant is a recipe that trains, results are kept, and the page shows them."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks import ablation
from benchmarks.data import random_sequences
from benchmarks.pages import render_block
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.training.arguments import parse_recipe

VARIANTS = ablation.read_variants()


def result_of(values):
    runs = [
        {"variant": name, "seed": seed, "pearson_r": r, "spearman_rho": r - 0.01, "parameters": 1000}
        for name, by_seed in values.items()
        for seed, r in enumerate(by_seed, start=1)
    ]
    machine = {"name": "2 cores of Some CPU", "versions": {"torch": "2.0"}}
    return {"runs": runs, "jobs": 2, "machine": machine, "date": "2026-01-01", "command": "python -m x"}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_is_a_recipe_that_changes_what_it_says(variant):
    options = [word for name, value in variant.options.items() for word in (f"--{name}", str(value))]
    recipe = str(ablation.RECIPES / "base.yaml")
    model_arguments, args = parse_recipe([recipe, "--dataset", "d", "--output_dir", "o", *options])
    MacaronForExpressionPrediction(MacaronConfig(strand_length=80, **model_arguments.given()))
    given = {**vars(args), **model_arguments.given()}
    assert {name: given[name] for name in variant.options} == variant.options


def test_names_are_unique_and_the_base_comes_first():
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == len(names) and names[0] == "base" and not VARIANTS[0].options
    assert len({json.dumps(variant.options, sort_keys=True) for variant in VARIANTS}) == len(VARIANTS)


def test_difference_is_taken_seed_by_seed():
    result = result_of({"base": [0.8, 0.9, 0.7], "glu": [0.79, 0.88, 0.67]})
    average, error = ablation.difference(result, "glu")
    assert average == pytest.approx(-0.02) and error == pytest.approx(0.01 / np.sqrt(3))


def test_page_shows_mean_spread_and_change(tmp_path):
    result = result_of({"base": [0.8, 0.9, 0.7], "glu": [0.79, 0.88, 0.67]})
    block = ablation.render_figures(result, VARIANTS)
    assert "| 3 | 0.8000 ± 0.1000 |  |" in block and "| 3 | 0.7800 ± 0.1054 | \N{MINUS SIGN}0.0200 ± 0.0058 |" in block
    assert "0.765 / 0.810" in block and "no convolution" not in block
    figure = ablation.plot(result, VARIANTS)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["GLU"]


def test_committed_page_shows_the_committed_results():
    result = json.loads(ablation.RESULT.read_text(encoding="utf-8"))
    block = render_block(ablation.BLOCK, ablation.render_figures(result, VARIANTS))
    assert block in ablation.PAGE.read_text(encoding="utf-8"), "run python -m benchmarks.ablation"
    assert ablation.PLOT.is_file()
    assert result["recipe"] == yaml.safe_load((ablation.RECIPES / "base.yaml").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_results_are_written_after_each_run_and_kept(tmp_path, capsys):
    rng = np.random.default_rng(0)
    table = tmp_path / "library.parquet"
    split = np.where(np.arange(192) < 128, "train", "validation")
    pd.DataFrame(
        {"sequence": random_sequences(192).to_pylist(), "activity": rng.normal(size=192), "split": split}
    ).drop_duplicates("sequence").to_parquet(table)
    output = tmp_path / "result.json"
    command = ["--table", str(table), "--work", str(tmp_path / "work"), "--output", str(output), "--seeds", "1"]
    command += ["--strand_length", "110", "--jobs", "1", "--only", "base"]
    assert ablation.main(command) == 0
    first = json.loads(output.read_text())
    assert [(run["variant"], run["seed"]) for run in first["runs"]] == [("base", 1)]
    assert -1 <= first["runs"][0]["pearson_r"] <= 1 and str(tmp_path) not in output.read_text()
    assert ablation.main([*command, "merged"]) == 0
    second = json.loads(output.read_text())
    assert second["runs"][0] == first["runs"][0] and second["runs"][1]["variant"] == "merged"
    with pytest.raises(SystemExit):
        ablation.main([*command, "nothing"])
    assert "no variant nothing" in capsys.readouterr().err
    other = tmp_path / "other.parquet"
    table.rename(other)
    with pytest.raises(SystemExit):
        ablation.main([*command, "--table", str(other)])
    assert "another base recipe or table" in capsys.readouterr().err
