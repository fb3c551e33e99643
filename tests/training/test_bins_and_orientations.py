"""Training with soft bins and with both orientations."""

import json

import numpy as np
import pytest
import torch

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.loading import load_checkpoint
from modeling_macaron.training.dataset import PreparedData
from modeling_macaron.training.run import build_model
from tests.batches import random_ids
from tests.training.runs import SHORT, options, parse, run

NUMBER = 6


def build(prepared, init_from, **values):
    arguments, training = parse(prepared, "x", *options(**values))
    return build_model(arguments, PreparedData(prepared), init_from, training.expression_bins)


@pytest.fixture(scope="module")
def final(prepared, tmp_path_factory):
    """Model of a run of 12 steps with soft bins and both orientations."""
    words = options(expression_bins=NUMBER, both_orientations="true")
    return run(prepared, tmp_path_factory.mktemp("runs") / "bins", *SHORT, *words)


def test_bins_reach_one_bin_beyond_the_percentiles(final, prepared):
    bins, data = load_checkpoint(final)[0].config.expression_bins, PreparedData(prepared)
    low, high = (np.percentile(data.train.labels, (0.1, 99.9)) - data.expression_mean) / data.expression_std
    assert len(bins) == NUMBER
    np.testing.assert_allclose(bins[1:-1], np.linspace(low, high, NUMBER - 2))
    np.testing.assert_allclose(np.diff(bins), (high - low) / (NUMBER - 3))


def test_run_reports_the_divergence_of_both_orientations(final, prepared):
    model, data = load_checkpoint(final)[0].eval(), PreparedData(prepared)
    assert model.config.both_orientations
    rows = data.validation.__getitems__(range(len(data.validation)))
    ids = data.tokenizer(["".join("ACGTN"[base] for base in row) for row in rows["input_ids"]], return_tensors="pt")
    labels = torch.tensor((rows["labels"] - data.expression_mean) / data.expression_std)
    with torch.no_grad():
        outputs = model(ids["input_ids"], labels=labels)
    metrics = json.loads((final / "training.json").read_text())["metrics"]
    assert metrics["expression_loss"] == pytest.approx(outputs.loss.item(), rel=1e-4)
    assert metrics["pearson_r"] == pytest.approx(np.corrcoef(outputs.logits[:, 0], labels)[0, 1], abs=1e-4)
    card = (final / "README.md").read_text()
    assert f"| Expression loss | divergence of {NUMBER} soft bins |" in card
    assert f"| Divergence of the soft bins (nats) | {outputs.loss.item():.4f} |" in card
    assert "| Prediction | mean over both orientations |" in card


def test_fine_tuning_keeps_the_bins_of_a_checkpoint(final, prepared):
    expected = load_checkpoint(final)[0]
    for values in ({}, {"expression_bins": NUMBER}):
        model = build(prepared, str(final), **values)
        assert model.config.expression_bins == expected.config.expression_bins
        assert torch.equal(model.expression_head.weight, expected.expression_head.weight)
        assert model.config.both_orientations
    assert not build(prepared, str(final), both_orientations="false").config.both_orientations
    with pytest.raises(ValueError, match="has 6 bins, but the recipe sets `expression_bins` to 8"):
        build(prepared, str(final), expression_bins=8)


def test_checkpoint_without_bins_gets_a_new_head(prepared, tmp_path, caplog):
    before = build(prepared, None)
    before.save_pretrained(tmp_path / "plain")
    PreparedData(prepared).tokenizer.save_pretrained(tmp_path / "plain")
    model = build(prepared, str(tmp_path / "plain"), expression_bins=NUMBER)
    assert "a new expression head with 6 bins" in caplog.text
    assert torch.equal(model.macaron.layers[0].layer_norm.weight, before.macaron.layers[0].layer_norm.weight)
    ids = random_ids(3, length=160)
    model(ids, labels=torch.zeros(3)).loss.backward()
    assert (model.expression_head.weight.grad != 0).any()
    model.save_pretrained(tmp_path / "bins")
    loaded = MacaronForExpressionPrediction.from_pretrained(tmp_path / "bins")
    torch.testing.assert_close(loaded(ids).logits, model.eval()(ids).logits, rtol=1e-5, atol=1e-6)
