"""Blocks of the paper and of the ablations."""

import pytest
import torch

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from tests.batches import LENGTH, random_batch, random_ids

ABLATIONS = [{"feed_forward": "single"}, {"use_convolution": False}, {"reverse_complement": False}]


def block_by_hand(layer, hidden_states, is_macaron=True, has_convolution=True):
    """Equations of the block."""
    step = 0.5 if is_macaron else 1.0
    if is_macaron:
        hidden_states = hidden_states + step * layer.feed_forward1(hidden_states)
    if has_convolution:
        hidden_states = hidden_states + layer.convolution(hidden_states)
    hidden_states = layer.layer_norm(hidden_states)
    hidden_states = hidden_states + layer.self_attn(hidden_states, hidden_states)[0]
    return hidden_states + step * layer.feed_forward2(hidden_states)


@pytest.mark.parametrize("has_convolution", [True, False])
@pytest.mark.parametrize("feed_forward", ["half_steps", "single"])
def test_block_follows_its_equations(make_model, feed_forward, has_convolution):
    layer = make_model(feed_forward=feed_forward, use_convolution=has_convolution).macaron.layers[0]
    hidden_states = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = block_by_hand(layer, hidden_states, feed_forward == "half_steps", has_convolution)
        torch.testing.assert_close(layer(hidden_states), expected)


def test_omitted_branches_have_no_weights(make_model):
    names = [name for name, _ in make_model(feed_forward="single", use_convolution=False).named_parameters()]
    assert not [name for name in names if "feed_forward1" in name or "conv" in name]


def test_plain_encoder_of_twice_the_width_has_as_many_weights():
    sizes = {"hidden_size": 32, "head_dim": 8, "num_hidden_layers": 2}
    macaron = MacaronForExpressionPrediction(MacaronConfig(intermediate_size=24, **sizes))
    plain = MacaronForExpressionPrediction(MacaronConfig(intermediate_size=48, feed_forward="single", **sizes))
    norms = 2 * 2 * 32  # each block has one layer norm less
    assert macaron.num_parameters() - plain.num_parameters() == norms


def test_forward_strand_only_ignores_the_reverse_strand(make_model):
    model = make_model(reverse_complement=False)
    ids, other = random_ids(3), random_ids(3, seed=1)
    changed = torch.cat([ids[:, : LENGTH // 2], other[:, LENGTH // 2 :]], dim=1)
    with torch.no_grad():
        outputs = model(ids)
        torch.testing.assert_close(model(changed).logits, outputs.logits, rtol=0, atol=0)
        assert not torch.allclose(model(other).logits, outputs.logits)
    assert outputs.nucleotide_logits.shape == (3, LENGTH // 2, 6)
    assert model.config.sequence_length == LENGTH // 2


def test_forward_strand_only_reconstructs_the_bases_it_reads(make_model):
    model, batch = make_model(reverse_complement=False), random_batch()
    labels = batch["masked_nucleotides"].clone()
    labels[:, LENGTH // 2 :] = -100
    with torch.no_grad():
        loss = model(**batch).reconstruction_loss
        torch.testing.assert_close(model(**{**batch, "masked_nucleotides": labels}).reconstruction_loss, loss)


@pytest.mark.parametrize("fields", ABLATIONS)
def test_ablations_train_save_and_load(make_model, tmp_path, fields):
    model, ids = make_model(**fields), random_ids(2)
    model(**random_batch()).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.save_pretrained(tmp_path)
    loaded = MacaronForExpressionPrediction.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
        alone = model(ids, output_nucleotide_logits=False).logits
        torch.testing.assert_close(alone, model(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention_projections", ["separate", "merged"])
@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16])
def test_parts_train_under_autocast(make_model, attention_projections, stream):
    model = make_model(attention_projections=attention_projections, hidden_dropout=0.1).train()
    model.set_attn_implementation("eager")
    layer = model.macaron.layers[0]
    states = torch.randn(2, 12, model.config.hidden_size).to(stream).requires_grad_()
    for part in (lambda x: layer.self_attn(x, x)[0], layer.feed_forward1, layer.convolution, layer):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = part(states)
        outputs.float().square().sum().backward()
        assert states.grad.isfinite().all() and states.grad.any()
        states.grad = None
