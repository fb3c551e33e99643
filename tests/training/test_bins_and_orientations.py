"""Training with soft bins and with both orientations."""

import json

import numpy as np
import pytest
import torch
import yaml

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.loading import load_checkpoint
from modeling_macaron.training.arguments import parse_recipe
from modeling_macaron.training.dataset import PreparedData
from modeling_macaron.training.run import build_model
from tests.batches import random_ids
from tests.training.test_run import RECIPE, ROOT, SHORT, TINY, run

NUMBER = 6


def build(prepared, init_from, *options):
    given = ["--dataset", str(prepared), "--output_dir", "x", *options]
    arguments, training = parse_recipe([RECIPE, *TINY, *given])
    return build_model(arguments, PreparedData(prepared), init_from, training.expression_bins)


@pytest.fixture(scope="module")
def with_bins(prepared, tmp_path_factory):
    """A run of 12 steps with soft bins and both orientations."""
    output_dir = tmp_path_factory.mktemp("runs") / "bins"
    run(prepared, output_dir, *SHORT, "--expression_bins", str(NUMBER), "--both_orientations", "true")
    return output_dir


def test_bins_reach_one_bin_beyond_the_percentiles(with_bins, prepared):
    config = load_checkpoint(with_bins / "final")[0].config
    data = PreparedData(prepared)
    labels = np.concatenate([data.train[row]["labels"] for row in range(len(data.train))]).astype(np.float64)
    low, high = (np.percentile(labels, (0.1, 99.9)) - data.expression_mean) / data.expression_std
    assert len(config.expression_bins) == NUMBER
    np.testing.assert_allclose(config.expression_bins[1:-1], np.linspace(low, high, NUMBER - 2))
    np.testing.assert_allclose(np.diff(config.expression_bins), (high - low) / (NUMBER - 3))


def test_run_reports_the_divergence_of_both_orientations(with_bins, prepared):
    final, data = with_bins / "final", PreparedData(prepared)
    model = load_checkpoint(final)[0].eval()
    assert model.config.both_orientations
    rows = data.validation.__getitems__(range(len(data.validation)))
    ids = data.tokenizer(["".join("ACGTN"[base] for base in row) for row in rows["input_ids"]], return_tensors="pt")
    labels = torch.tensor((rows["labels"] - data.expression_mean) / data.expression_std)
    with torch.no_grad():
        outputs = model(ids["input_ids"], labels=labels)
    facts = json.loads((final / "training.json").read_text())
    assert facts["metrics"]["expression_loss"] == pytest.approx(outputs.loss.item(), rel=1e-4)
    assert facts["metrics"]["pearson_r"] == pytest.approx(np.corrcoef(outputs.logits[:, 0], labels)[0, 1], abs=1e-4)
    card = (final / "README.md").read_text()
    assert f"| Expression loss | divergence of {NUMBER} soft bins |" in card
    assert f"| Divergence of the soft bins (nats) | {outputs.loss.item():.4f} |" in card
    assert "| Prediction | mean over both orientations |" in card


def test_fine_tuning_keeps_the_bins_of_a_checkpoint(with_bins, prepared):
    final = str(with_bins / "final")
    expected = load_checkpoint(final)[0]
    for options in ([], ["--expression_bins", str(NUMBER)]):
        model = build(prepared, final, *options)
        assert model.config.expression_bins == expected.config.expression_bins
        assert torch.equal(model.expression_head.weight, expected.expression_head.weight)
        assert model.config.both_orientations
    assert not build(prepared, final, "--both_orientations", "false").config.both_orientations
    with pytest.raises(ValueError, match="has 6 bins, the recipe says `expression_bins` 8"):
        build(prepared, final, "--expression_bins", "8")


def test_checkpoint_without_bins_gets_a_new_head(prepared, tmp_path, caplog):
    before = build(prepared, None)
    before.save_pretrained(tmp_path / "plain")
    PreparedData(prepared).tokenizer.save_pretrained(tmp_path / "plain")
    with caplog.at_level("INFO"):
        model = build(prepared, str(tmp_path / "plain"), "--expression_bins", str(NUMBER))
    assert "the expression head is new, with 6 bins" in caplog.text
    assert torch.equal(model.macaron.layers[0].layer_norm.weight, before.macaron.layers[0].layer_norm.weight)
    ids = random_ids(3, length=160)
    model(ids, labels=torch.zeros(3)).loss.backward()
    assert (model.expression_head.weight.grad != 0).any()
    model.save_pretrained(tmp_path / "bins")
    loaded = MacaronForExpressionPrediction.from_pretrained(tmp_path / "bins")
    torch.testing.assert_close(loaded(ids).logits, model.eval()(ids).logits, rtol=1e-5, atol=1e-6)


def test_resuming_needs_the_same_number_of_bins(with_bins, prepared):
    message = "was trained with expression_bins 6, and would go on with 8"
    with pytest.raises(ValueError, match=message):
        run(prepared, with_bins, *SHORT, "--expression_bins", "8", "--resume_from_checkpoint", "auto")


@pytest.mark.parametrize("number", [3, -1, 1001])
def test_numbers_of_bins_that_are_out_of_range(prepared, number):
    with pytest.raises(ValueError, match="expression_bins must be 4 to 1000"):
        build(prepared, None, "--expression_bins", str(number))


def test_yeast_recipe_is_that_of_the_library_with_what_legnet_adds():
    library, yeast = (
        yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")) for name in ("library", "yeast")
    )
    assert {name: value for name, value in yeast.items() if library.get(name) != value} == {
        "expression_bins": 18,
        "reverse_probability": 0.5,
        "both_orientations": True,
        "num_train_epochs": 11,
        "warmup_steps": 0.05,
    }
    assert library.keys() < yeast.keys()


def test_small_table_recipe_stops_early(prepared):
    _, args = parse_recipe(
        [str(ROOT / "configs" / "small_table.yaml"), "--dataset", str(prepared), "--output_dir", "x"]
    )
    assert 0 < args.early_stopping_patience * args.eval_steps < args.max_steps
