"""Size, initial weights, equivalent computations and outputs of the model."""

import dataclasses
import doctest
import logging
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from modeling_macaron import (
    MacaronConfig,
    MacaronForExpressionPrediction,
    MacaronForMaskedLM,
    MacaronModel,
    MacaronOutput,
    modeling_macaron,
)
from modeling_macaron.modeling_macaron import reconstruction_loss
from tests.batches import LENGTH, random_batch, random_ids

ALL_CLASSES = [MacaronForExpressionPrediction, MacaronForMaskedLM, MacaronModel]


def assert_same(got, expected):
    """Compare up to the last bits, which depend on the memory layout of the weights."""
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def gradients(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# Size and initial weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, 47_425_543),
        ({"attention_projections": "merged"}, 30_615_559),
        ({"pooling": "mean"}, 47_425_543 - 2 * 512),
        ({"gate_activation": "sigmoid"}, 47_425_543),
    ],
)
def test_number_of_parameters(fields, parameters):
    with torch.device("meta"):
        model = MacaronForExpressionPrediction(MacaronConfig(**fields))
    assert model.num_parameters() == parameters
    assert not list(model.buffers())


LIMITS_OF_THE_PAPER = {
    "embeddings.kmer_projection.weight": math.sqrt(6 / (60 + 512)),
    "embeddings.position_embeddings.weight": 0.05,
    "embeddings.strand_embeddings.weight": 0.05,
    "embeddings.expression_projection.weight": math.sqrt(6 / (1 + 512)),
    "up_proj.weight": math.sqrt(6 / (512 + 2048)),
    "down_proj.weight": math.sqrt(6 / (1024 + 512)),
    "convolution.depthwise_conv.weight": 0.0279,
    "convolution.pointwise_conv.weight": math.sqrt(6 / (512 + 512)),
    "self_attn.q_proj.weight": 0.00475,
    "self_attn.k_proj.weight": 0.00475,
    "self_attn.v_proj.weight": 0.00475,
    "self_attn.o_proj.weight": 0.0271,
    "expression_head.weight": math.sqrt(6 / (512 + 1)),
    "nucleotide_head.weight": math.sqrt(6 / (512 + 6)),
}


def test_initial_weights_match_the_original():
    torch.manual_seed(0)
    model = MacaronForExpressionPrediction(MacaronConfig(num_hidden_layers=1))
    seen = set()
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if name.endswith("bias"):
            assert (values == 0).all(), name
        elif "layer_norm" in name:
            assert (values == 1).all(), name
        else:
            (kind,) = [kind for kind in LIMITS_OF_THE_PAPER if name.endswith(kind)]
            seen.add(kind)
            limit, margin = LIMITS_OF_THE_PAPER[kind], 6 / values.numel() + 0.004
            assert limit * (1 - margin) < values.abs().max() < limit * 1.004, name
            assert abs(values.mean()) < 5 * limit / math.sqrt(3 * values.numel()), name
            assert values.std() == pytest.approx(limit / math.sqrt(3), rel=4 / math.sqrt(values.numel()) + 0.01), name
    assert seen == set(LIMITS_OF_THE_PAPER)


# Saving and loading ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["expression_positions", "mean"])
@pytest.mark.parametrize("model_class", ALL_CLASSES)
def test_saved_model_loads(tmp_path, make_model, model_class, pooling):
    model = make_model(model_class, pooling=pooling)
    model.save_pretrained(tmp_path)
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert not loaded.training
    state = loaded.state_dict()
    assert list(state) == list(model.state_dict())
    for name, values in model.state_dict().items():
        assert torch.equal(state[name], values), name
    for (name, buffer), (_, expected) in zip(loaded.named_buffers(), model.named_buffers(), strict=True):
        assert torch.equal(buffer, expected), name
    with torch.no_grad():
        expected, got = model(random_ids(3)), loaded(random_ids(3))
    assert_same(dict(got), dict(expected))
    assert {path.name for path in tmp_path.glob("*.py")} >= {"configuration_macaron.py", "modeling_macaron.py"}
    assert not list(tmp_path.glob("*.bin"))


def test_only_missing_weights_are_initialized(tmp_path, make_model):
    make_model().save_pretrained(tmp_path)
    weights = {name: w.clone() for name, w in load_file(tmp_path / "model.safetensors").items()}  # not from the file
    lacking = ["expression_head.bias", "macaron.layers.0.self_attn.q_proj.bias", "macaron.layers.1.layer_norm.bias"]
    save_file({name: w for name, w in weights.items() if name not in lacking}, tmp_path / "model.safetensors")
    loaded, info = MacaronForExpressionPrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == set(lacking)
    for name, values in loaded.state_dict().items():
        assert torch.equal(values, torch.zeros_like(values) if name in lacking else weights[name]), name


def test_heads_and_encoder_load_the_same_checkpoint(tiny_folder, make_model):
    batch = random_batch()
    with torch.no_grad():
        expected = make_model()(**batch)
        masked_lm, info = MacaronForMaskedLM.from_pretrained(tiny_folder, output_loading_info=True)
        assert not any(info.values()), info
        got = masked_lm(batch["input_ids"], labels=batch["masked_nucleotides"])
        assert_same(got.logits, expected.nucleotide_logits)
        assert_same(got.loss, expected.reconstruction_loss)
        encoder, info = MacaronModel.from_pretrained(tiny_folder, output_loading_info=True)
        assert not info["missing_keys"]
        expected = make_model().macaron(batch["input_ids"]).last_hidden_state
        assert_same(encoder(batch["input_ids"]).last_hidden_state, expected)


def test_saved_encoder_loads_as_encoder_or_with_new_heads(tmp_path, make_model):
    make_model(MacaronModel).save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(loaded).__name__ == "MacaronModel"
    with torch.no_grad():
        expected = make_model(MacaronModel)(random_ids(2)).last_hidden_state
        assert_same(loaded(random_ids(2)).last_hidden_state, expected)
    model, info = MacaronForExpressionPrediction.from_pretrained(tmp_path, output_loading_info=True)
    heads = {f"{head}_head.{kind}" for head in ("expression", "nucleotide") for kind in ("weight", "bias")}
    assert set(info["missing_keys"]) == heads
    assert (model.expression_head.bias == 0).all()
    assert 0 < model.expression_head.weight.abs().max() <= math.sqrt(6 / 17)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(tiny_folder, make_model, dtype):
    model = MacaronForExpressionPrediction.from_pretrained(tiny_folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    with torch.no_grad():
        outputs, exact = model(**random_batch()), make_model()(**random_batch())
    assert outputs.loss.dtype == torch.float32
    torch.testing.assert_close(outputs.logits.float(), exact.logits, rtol=0.1, atol=0.1)


def test_layers_can_be_offloaded_to_disk(tiny_folder, make_model, tmp_path):
    device_map = {"macaron.embeddings": "cpu", "macaron.layers.0": "cpu", "macaron.layers.1": "disk"}
    device_map |= {"dropout": "cpu", "expression_head": "cpu", "nucleotide_head": "cpu"}
    model = MacaronForExpressionPrediction.from_pretrained(
        tiny_folder, device_map=device_map, offload_folder=tmp_path / "offload"
    )
    with torch.no_grad():
        assert_same(model(random_ids(2)).logits, make_model()(random_ids(2)).logits)


# Equivalent computations ----------------------------------------------------------------------------------------------


def test_eager_equals_sdpa(make_model):
    batch = random_batch()
    losses, all_gradients = {}, {}
    for implementation in ("eager", "sdpa"):
        model = make_model(attn_implementation=implementation).double()
        assert model.config._attn_implementation == implementation
        losses[implementation], all_gradients[implementation] = gradients(model, batch)
    assert losses["eager"] == pytest.approx(losses["sdpa"], rel=1e-12)
    torch.testing.assert_close(all_gradients["eager"], all_gradients["sdpa"], rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("hidden_dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_nothing(make_model, use_reentrant, hidden_dropout):
    batch = random_batch()
    model = make_model(hidden_dropout=hidden_dropout).double().train()
    torch.manual_seed(5)
    loss, expected = gradients(model, batch)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    calls = []
    model.macaron.layers[1].self_attn.register_forward_hook(lambda *_: calls.append(1))
    if use_reentrant:
        model.enable_input_require_grads()
    torch.manual_seed(5)
    checkpointed_loss, got = gradients(model, batch)
    assert len(calls) == 2, "the block was not computed again in the backward pass"
    assert checkpointed_loss == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_dropout_is_active_in_training_only(make_model):
    model, ids = make_model(hidden_dropout=0.3), random_ids(2)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids).logits)
        model.train()
        assert not torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("pooling", ["expression_positions", "mean"])
def test_row_does_not_depend_on_its_batch(make_model, pooling):
    model, ids = make_model(pooling=pooling).double(), random_ids(5)
    with torch.no_grad():
        together = model(ids)
        for row in range(5):
            alone = model(ids[row : row + 1])
            torch.testing.assert_close(alone.logits[0], together.logits[row], rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(
                alone.nucleotide_logits[0], together.nucleotide_logits[row], rtol=1e-10, atol=1e-12
            )


def test_model_is_not_causal(make_model):
    model, ids = make_model(), random_ids(1)
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 6
    with torch.no_grad():
        difference = (model(ids).nucleotide_logits - model(changed).nucleotide_logits).abs().amax(dim=-1)
    assert (difference > 0).all(), "every position attends to every other"


# Variants -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["expression_positions", "mean"])
def test_expression_is_the_mean_over_the_pooled_positions(make_model, pooling):
    model = make_model(pooling=pooling)
    num_pooled = 0 if pooling == "mean" else 3
    assert num_pooled == model.config.num_pooled_positions
    with torch.no_grad():
        hidden_states = model.macaron(random_ids(2)).last_hidden_state
        outputs = model(random_ids(2))
        assert hidden_states.shape == (2, num_pooled + LENGTH, 16)
        per_position = model.expression_head(hidden_states[:, : num_pooled or None])
        torch.testing.assert_close(outputs.logits, per_position.mean(dim=1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(outputs.nucleotide_logits, model.nucleotide_head(hidden_states[:, num_pooled:]))


@pytest.mark.parametrize(
    ("gate_activation", "function"),
    [("silu", lambda gate: gate / (1 + torch.exp(-gate))), ("sigmoid", lambda gate: 1 / (1 + torch.exp(-gate)))],
)
def test_gate(make_model, gate_activation, function):
    layer = make_model(gate_activation=gate_activation).macaron.layers[0].feed_forward1
    hidden_states = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both = layer.layer_norm(hidden_states) @ layer.up_proj.weight.T
        expected = (both[..., :24] * function(both[..., 24:])) @ layer.down_proj.weight.T
        torch.testing.assert_close(layer(hidden_states), expected, rtol=1e-4, atol=1e-5)


# Outputs --------------------------------------------------------------------------------------------------------------


def test_hidden_states_and_attentions(make_model):
    model = make_model(attn_implementation="eager")
    with torch.no_grad():
        outputs = model(random_ids(2), output_hidden_states=True, output_attentions=True)
        last = model.macaron(random_ids(2)).last_hidden_state
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(2, 3 + LENGTH, 16)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(2, 2, 3 + LENGTH, 3 + LENGTH)] * 2
    assert torch.equal(outputs.hidden_states[-1], last)
    with torch.no_grad():
        assert torch.equal(outputs.hidden_states[0], model.macaron.embeddings(random_ids(2)))
    for weights in outputs.attentions:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 3 + LENGTH))


@pytest.mark.parametrize("model_class", ALL_CLASSES)
def test_tuples(make_model, model_class):
    model, ids = make_model(model_class), random_ids(2)
    with torch.no_grad():
        expected, got = model(ids), model(ids, return_dict=False)
        assert isinstance(got, tuple)
        for values, name in zip(got, expected, strict=True):
            assert torch.equal(values, expected[name]), name
        model.config.return_dict = False
        assert isinstance(model(ids), tuple) and list(model(ids, return_dict=True)) == list(expected)


def test_losses(make_model):
    model, batch = make_model(reconstruction_weight=0.25), random_batch()
    with torch.no_grad():
        both = model(**batch)
        expression = model(batch["input_ids"], labels=batch["labels"])
        nucleotides = model(batch["input_ids"], masked_nucleotides=batch["masked_nucleotides"])
        neither = model(batch["input_ids"])
    mean_squared_error = ((both.logits[:, 0] - batch["labels"]) ** 2).mean()
    torch.testing.assert_close(both.expression_loss, mean_squared_error)
    log_probabilities = both.nucleotide_logits.double().log_softmax(dim=-1)
    masked = (batch["masked_nucleotides"] != -100).nonzero().tolist()
    total = -sum(log_probabilities[row, i, batch["masked_nucleotides"][row, i]].item() for row, i in masked)
    assert len(masked) > 10
    assert both.reconstruction_loss.item() == pytest.approx(total / (len(masked) + 1), rel=1e-5)
    torch.testing.assert_close(both.loss, both.expression_loss + 0.25 * both.reconstruction_loss)
    assert torch.equal(expression.loss, both.expression_loss)
    assert torch.equal(model(batch["input_ids"], labels=batch["labels"][:, None]).loss, expression.loss)
    assert expression.reconstruction_loss is None
    torch.testing.assert_close(nucleotides.loss, 0.25 * both.reconstruction_loss)
    assert nucleotides.expression_loss is None
    assert neither.loss is None
    assert neither.logits.shape == (4, 1) and neither.nucleotide_logits.shape == (4, LENGTH, 6)


def test_evaluation_gathers_logits_only():
    names = {field.name for field in dataclasses.fields(MacaronOutput)}
    assert set(MacaronConfig().keys_to_ignore_at_inference) == names - {"loss", "logits"}


def test_loss_is_zero_if_nothing_is_masked():
    logits = torch.randn(2, 5, 6, requires_grad=True)
    loss = reconstruction_loss(logits, torch.full((2, 5), -100))
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": torch.zeros(2, LENGTH - 1, dtype=torch.long)}, r"\(batch, 40\).*got \(2, 39\)"),
        ({"input_ids": torch.zeros(LENGTH, dtype=torch.long)}, r"\(batch, 40\).*got \(40,\)"),
        ({"input_ids": random_ids(2), "labels": torch.zeros(3)}, r"labels .*\(2\), got 3"),
        ({"input_ids": random_ids(2), "labels": torch.zeros(2, 2)}, r"labels .*\(2\), got 4"),
    ],
)
def test_wrong_shapes_are_rejected(make_model, inputs, message):
    with pytest.raises(ValueError, match=message):
        make_model()(**inputs)


def test_loading_logs_nothing(tiny_folder, caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING):
            MacaronForExpressionPrediction.from_pretrained(tiny_folder)
            MacaronForMaskedLM.from_pretrained(tiny_folder)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


def test_examples_of_the_documentation_run():
    result = doctest.testmod(modeling_macaron)
    assert result.attempted >= 8
    assert result.failed == 0
