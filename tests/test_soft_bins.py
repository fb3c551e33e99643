"""Soft bins of the expression, and predictions averaged over both orientations."""

import numpy as np
import pytest
import torch
from scipy import stats

from modeling_macaron import MacaronForExpressionPrediction, MacaronForMaskedLM
from modeling_macaron.modeling_macaron import soft_bin_targets
from tests.batches import random_batch, random_ids

BINS = tuple(np.linspace(-3.0, 2.0, 6).tolist())
KINDS = [{}, {"expression_bins": BINS}]


def swap(ids):
    """Put the reverse complement first."""
    half = ids.shape[1] // 2
    return torch.cat([ids[:, half:], ids[:, :half]], dim=1)


@pytest.mark.parametrize("number", [2, 18])
def test_targets_are_integrals_of_a_normal_distribution(number):
    centers, labels = np.linspace(-2.0, 3.0, number), np.array([-40.0, -2.2, 0.1, 1.37, 3.0, 9.0])
    width = 5.0 / (number - 1)
    edges = np.concatenate([[-np.inf], (centers[1:] + centers[:-1]) / 2, [np.inf]])
    expected = np.diff(stats.norm(labels[:, None], width / 2).cdf(edges), axis=1)
    got = soft_bin_targets(torch.from_numpy(labels), torch.from_numpy(centers))
    np.testing.assert_allclose(got, expected, atol=1e-12)
    in_float32 = soft_bin_targets(torch.tensor(labels, dtype=torch.float32), torch.tensor(centers).float())
    np.testing.assert_allclose(in_float32, expected, atol=1e-6)
    assert (in_float32 >= 0).all()


def test_expression_and_variance_follow_from_the_mean_logits(make_model):
    model, ids = make_model(expression_bins=BINS), random_ids(5)
    with torch.no_grad():
        outputs = model(ids, labels=torch.linspace(-4, 4, 5))
        states = model.macaron(ids).last_hidden_state[:, : model.config.num_pooled_positions]
        probabilities = model.expression_head(states).mean(dim=1).softmax(dim=1).double().numpy()
    distribution = [stats.rv_discrete(values=(np.arange(6), row / row.sum())) for row in probabilities]
    mean, variance = np.array([one.stats(moments="mv") for one in distribution]).T
    np.testing.assert_allclose(outputs.logits[:, 0], BINS[0] + mean, atol=1e-5)
    np.testing.assert_allclose(outputs.variance[:, 0], variance, atol=1e-5)
    targets = soft_bin_targets(torch.linspace(-4, 4, 5), torch.tensor(BINS)).numpy()
    expected = stats.entropy(targets, probabilities, axis=1)
    np.testing.assert_allclose(outputs.row_losses, expected, rtol=1e-4)
    assert outputs.loss.item() == outputs.expression_loss.item() == pytest.approx(expected.mean(), rel=1e-4)


@pytest.mark.parametrize("fields", KINDS)
def test_prediction_is_the_mean_over_both_orientations(make_model, fields):
    single, both = make_model(**fields), make_model(**fields, both_orientations=True)
    ids = random_ids(4)
    with torch.no_grad():
        one, other, got = single(ids), single(swap(ids)), both(ids, output_hidden_states=True)
        turned, alone = both(swap(ids)), both(ids, output_nucleotide_logits=False)
        given = single(ids, output_hidden_states=True)
    expected = (one.logits + other.logits) / 2
    assert (one.logits - other.logits).abs().max() > 1e-3
    for logits in (got.logits, turned.logits, alone.logits):
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    if fields:  # variance of a mixture of two distributions
        within, between = (one.variance + other.variance) / 2, (one.logits - other.logits) ** 2 / 4
        torch.testing.assert_close(got.variance, within + between, rtol=1e-4, atol=1e-6)
    assert torch.equal(got.nucleotide_logits, one.nucleotide_logits)
    assert len(got.hidden_states) == len(given.hidden_states)
    assert all(torch.equal(*pair) for pair in zip(got.hidden_states, given.hidden_states, strict=True))


@pytest.mark.parametrize("fields", KINDS)
def test_training_reads_one_orientation(make_model, fields):
    fields = {**fields, "hidden_dropout": 0.0}
    batch = random_batch()
    single, both = (make_model(**fields, both_orientations=value).train() for value in (False, True))
    assert torch.equal(single(**batch).loss, both(**batch).loss)
    assert not torch.equal(single.eval()(**batch).loss, both.eval()(**batch).loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_give_float32(make_model, dtype):
    model, ids = make_model(expression_bins=BINS, both_orientations=True), random_ids(3)
    with torch.no_grad():
        exact = model(ids)
        got = model.to(dtype)(ids, labels=torch.zeros(3))
    assert got.logits.dtype == got.variance.dtype == got.loss.dtype == torch.float32
    torch.testing.assert_close(got.logits, exact.logits, rtol=0, atol=0.1)


def test_bfloat16_steps_lower_the_loss(make_config):
    torch.manual_seed(0)
    model = MacaronForExpressionPrediction(make_config(expression_bins=BINS, hidden_dropout=0.0)).train()
    optimizer, batch, losses = torch.optim.Adam(model.parameters(), lr=1e-2), random_batch(8), []
    for _ in range(30):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(batch["input_ids"], labels=batch["labels"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_checkpoint_keeps_bins_and_orientations(tmp_path, make_model):
    model, ids = make_model(expression_bins=BINS, both_orientations=True), random_ids(3)
    model.save_pretrained(tmp_path)
    loaded = MacaronForExpressionPrediction.from_pretrained(tmp_path)
    assert loaded.config.expression_bins == BINS and loaded.config.both_orientations
    with torch.no_grad():
        expected = model(ids)
        for other in (loaded, model.to_merged()):
            got = other(ids)
            torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(got.variance, expected.variance, rtol=1e-4, atol=1e-5)
    _, report = MacaronForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
