"""Warnings and comparisons for small tables, and the output of a run."""

import json
import logging
import sys
import warnings

import pytest

from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.sources import open_source
from modeling_macaron.training.model_card import compare_with_ridge
from scripts.train import main
from tests.training.runs import RECIPE, ROOT, TINY, options, parse, run
from tokenization import KmerTokenizer


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """9 training rows and 3 of validation."""
    folder = tmp_path_factory.mktemp("few") / "data"
    table = tmp_path_factory.mktemp("table") / "promoters.tsv"
    splits = ["train"] * 9 + ["validation"] * 3
    lines = [f"{'ACGTTGCATT'[index % 7 :] * 5}\t{index}\t{split}" for index, split in enumerate(splits)]
    table.write_text("sequence\texpression\tsplit\n" + "\n".join(lines) + "\n")
    source = open_source(str(table), split_column="split")
    prepare_dataset(source, folder, tokenizer=KmerTokenizer(strand_length=80))
    return folder


@pytest.mark.parametrize(
    "values", [{"global_batch_size": 4}, {"dataloader_drop_last": "false", "gradient_accumulation_steps": 2}]
)
def test_few_rows_train_in_small_or_incomplete_batches(few, tmp_path, caplog, values):
    card = (run(few, tmp_path / "run", *options(**values)) / "README.md").read_text()
    assert "| Optimizer steps | " in card and "| Optimizer steps | 0" not in card
    assert "a Pearson r of 3 validation rows is unreliable" in caplog.text


def test_a_loss_is_better_when_it_is_lower(few, tmp_path):
    assert parse(few, tmp_path)[1].greater_is_better is True
    assert parse(few, tmp_path, "--metric_for_best_model", "loss")[1].greater_is_better is False


@pytest.mark.parametrize(
    ("warmup_steps", "warns"), [("100", True), ("5", True), ("4", False), ("0.6", True), ("0.1", False)]
)
def test_a_warm_up_of_more_than_half_of_the_run_is_reported(few, tmp_path, caplog, warmup_steps, warns):
    with caplog.at_level(logging.WARNING):
        run(few, tmp_path / "run", *options(global_batch_size=4, max_steps=8, warmup_steps=warmup_steps))
    assert ("of 8 steps: pass a smaller --warmup_steps" in caplog.text) == warns


def test_a_run_prints_only_its_summary(few, tmp_path, capfd):
    recipe = tmp_path / "recipe.yaml"
    text = (ROOT / "configs" / "small_table.yaml").read_text()
    recipe.write_text(text.replace("dataloader_drop_last: true", "dataloader_drop_last: false"))
    places = options(dataset=few, output_dir=tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main([str(recipe), *places, *TINY, *options(max_steps=1, warmup_steps=0)])
    out, err = capfd.readouterr()
    assert out.splitlines()[-1].startswith("the model is in") and err == ""


@pytest.mark.parametrize(("rows", "is_fitted"), [(9, True), (8, False)])
def test_small_tables_are_compared_with_ridge_regression(few, tmp_path, monkeypatch, capsys, rows, is_fitted):
    monkeypatch.setattr("modeling_macaron.training.run._SMALL_TABLE", rows)
    main([RECIPE, *TINY, *options(dataset=few, output_dir=tmp_path / "run", global_batch_size=4)])
    line = "Ridge regression on k-mer counts of the same rows: Pearson r "
    final = tmp_path / "run" / "final"
    assert (line in capsys.readouterr().out) is (line in (final / "README.md").read_text()) is is_fitted
    facts = json.loads((final / "training.json").read_text())
    assert set(facts["ridge"]) == ({"pearson_r", "spearman_rho"} if is_fitted else set())


@pytest.mark.parametrize(("ours", "comparison"), [(0.36, "ahead of this model (0.360)"), (0.73, "behind this model")])
def test_comparison_names_the_better_model(ours, comparison):
    facts = {"metrics": {"pearson_r": ours}, "ridge": {"pearson_r": 0.68, "spearman_rho": 0.66}}
    assert f"Pearson r 0.680, {comparison}" in compare_with_ridge(facts)


def test_without_scikit_learn_there_is_no_comparison(few, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "modeling_macaron.evaluation.ridge", None)
    final = run(few, tmp_path / "run", "--global_batch_size", "4")
    assert "Ridge" not in (final / "README.md").read_text() and "needs the extra `analysis`" in caplog.text
