"""Options that do not fit the table or each other, and what a run prints."""

import json
import logging
import runpy
import sys
import warnings

import pytest

from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.sources import open_source
from modeling_macaron.training.arguments import parse_recipe
from modeling_macaron.training.model_card import compare_with_ridge
from modeling_macaron.training.run import train
from tests.training.test_run import RECIPE, ROOT, TINY
from tokenization import KmerTokenizer

TRAIN = runpy.run_path(str(ROOT / "scripts" / "train.py"))["main"]


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


def run(data, output_dir, *options, recipe=RECIPE):
    return train(*parse_recipe([recipe, "--dataset", str(data), "--output_dir", str(output_dir), *TINY, *options]))


@pytest.mark.parametrize("options", [[], ["--max_steps", "20"]])
def test_rows_that_do_not_fill_a_batch(few, tmp_path, options):
    with pytest.raises(ValueError, match=r"^9 training rows are fewer than the batch of 32: .*--global_batch_size"):
        run(few, tmp_path / "run", "--global_batch_size", "32", *options)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    "options", [["--global_batch_size", "4"], ["--dataloader_drop_last", "false", "--gradient_accumulation_steps", "2"]]
)
def test_few_rows_train_as_the_message_says(few, tmp_path, caplog, options):
    final = run(few, tmp_path / "run", *options)
    assert "| Optimizer steps | " in (card := (final / "README.md").read_text()) and "| Optimizer steps | 0" not in card
    assert "a Pearson r of 3 validation rows is unreliable" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_steps", "0"], "there is nothing to train"),
        (["--num_train_epochs", "0"], "there is nothing to train"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps must be at least 1, got 0"),
        (["--early_stopping_patience", "0"], "early_stopping_patience must be at least 1, got 0"),
        (
            ["--early_stopping_patience", "2", "--load_best_model_at_end", "false"],
            "early_stopping_patience needs evaluations",
        ),
        (["--metric_for_best_model", "r2"], "metric_for_best_model must be one of pearson_r, .*, got 'r2'"),
        (["--max_steps", "8", "--num_train_epochs", "2"], "--num_train_epochs would have no effect beside max_steps"),
        (["--per_device_train_batch_size", "8"], "--per_device_train_batch_size would have no effect"),
    ],
)
def test_options_that_do_not_fit_each_other(few, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(few, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_a_loss_is_better_when_it_is_lower(few, tmp_path):
    arguments = [RECIPE, "--dataset", str(few), "--output_dir", str(tmp_path)]
    assert parse_recipe(arguments)[1].greater_is_better is True
    assert parse_recipe([*arguments, "--metric_for_best_model", "loss"])[1].greater_is_better is False


@pytest.mark.parametrize(
    ("warmup_steps", "warns"), [("100", True), ("5", True), ("4", False), ("0.6", True), ("0.1", False)]
)
def test_a_warm_up_of_more_than_half_of_the_run_is_reported(few, tmp_path, caplog, warmup_steps, warns):
    options = ["--global_batch_size", "4", "--max_steps", "8", "--warmup_steps", warmup_steps]
    with caplog.at_level(logging.WARNING):
        run(few, tmp_path / "run", *options)
    assert ("the learning rate warms up for" in caplog.text) == warns
    assert not warns or "and the run has 8: pass a smaller --warmup_steps" in caplog.text


@pytest.mark.parametrize("recipe", ["cpu_tiny", "finetune", "library", "small_table"])
def test_recipes_warm_up_for_a_share_of_the_run(few, tmp_path, recipe):
    arguments = [str(ROOT / "configs" / f"{recipe}.yaml"), "--dataset", str(few), "--output_dir", str(tmp_path)]
    assert 0 < parse_recipe(arguments)[1].warmup_steps < 0.2


def test_a_reporter_that_is_not_installed(few, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    arguments = [RECIPE, "--dataset", str(few), "--output_dir", str(tmp_path / "run"), *TINY, "--report_to", "wandb"]
    with pytest.raises(SystemExit, match=r"^error: WandbCallback requires wandb to be installed"):
        TRAIN([*arguments, "--global_batch_size", "4"])
    assert not (tmp_path / "run").exists()


def test_a_run_prints_what_concerns_its_user(few, tmp_path, capfd):
    recipe = (ROOT / "configs" / "small_table.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(recipe.replace("dataloader_drop_last: true", "dataloader_drop_last: false"))
    options = ["--max_steps", "1", "--warmup_steps", "0", "--torch_compile", "false", *TINY]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TRAIN([str(tmp_path / "recipe.yaml"), "--dataset", str(few), "--output_dir", str(tmp_path / "run"), *options])
    out, err = capfd.readouterr()
    assert out.splitlines()[-1].startswith("the model is in")
    assert err == ""


@pytest.mark.parametrize(("rows", "is_fitted"), [(9, True), (8, False)])
def test_small_tables_are_compared_with_ridge_regression(few, tmp_path, monkeypatch, capsys, rows, is_fitted):
    monkeypatch.setattr("modeling_macaron.training.run._SMALL_TABLE", rows)
    options = [RECIPE, "--dataset", str(few), *TINY, "--global_batch_size", "4"]
    TRAIN([*options, "--output_dir", str(tmp_path / "run")])
    line = "Ridge regression on k-mer counts of the same rows: Pearson r "
    card = (tmp_path / "run" / "final" / "README.md").read_text()
    assert (line in capsys.readouterr().out) is (line in card) is is_fitted
    facts = json.loads((tmp_path / "run" / "final" / "training.json").read_text())
    assert set(facts["ridge"]) == ({"pearson_r", "spearman_rho"} if is_fitted else set())


def test_the_comparison_says_who_is_ahead():
    facts = {"metrics": {"pearson_r": 0.36}, "ridge": {"pearson_r": 0.68, "spearman_rho": 0.66}}
    assert compare_with_ridge(facts).endswith("Pearson r 0.680, ahead of this model (0.360)")
    facts["metrics"]["pearson_r"] = 0.73
    assert compare_with_ridge(facts).endswith("Pearson r 0.680, behind this model (0.730)")
    assert compare_with_ridge({"metrics": {"pearson_r": 0.73}}) == ""


def test_without_scikit_learn_there_is_no_comparison(few, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "modeling_macaron.evaluation.ridge", None)
    final = run(few, tmp_path / "run", "--global_batch_size", "4")
    assert "Ridge" not in (final / "README.md").read_text() and "needs the extra `analysis`" in caplog.text
