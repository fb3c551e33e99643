"""Merged projections and expression-only outputs give the same numbers."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modeling_macaron import (
    MacaronConfig,
    MacaronForExpressionPrediction,
    MacaronForMaskedLM,
    MacaronModel,
)
from tests.batches import random_batch, random_ids
from tests.test_conversion import REFERENCE, reference_model

ALL_CLASSES = [MacaronForExpressionPrediction, MacaronForMaskedLM, MacaronModel]
PROJECTIONS = ["separate", "merged"]


def relative_error(got, expected):
    return ((got - expected).abs().max() / expected.abs().max()).item()


# Merging --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("model_class", ALL_CLASSES)
def test_merged_model_gives_the_same_outputs(make_model, model_class, dtype, tolerance, attn_implementation):
    model = make_model(model_class, head_dim=24, attn_implementation=attn_implementation).to(dtype)
    merged = model.to_merged()
    assert type(merged) is model_class
    assert (merged.dtype, merged.training) == (dtype, False)
    assert (model.config.attention_projections, merged.config.attention_projections) == ("separate", "merged")
    with torch.no_grad():
        expected, got = model(random_ids(5)), merged(random_ids(5))
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert relative_error(got[name], values) < tolerance, name


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_merged_model_equals_the_original(attn_implementation):
    io = np.load(REFERENCE / "small_io.npz")
    merged = reference_model(attn_implementation=attn_implementation).to_merged()
    with torch.no_grad():
        outputs = merged(torch.from_numpy(io["x"]))
        alone = merged(torch.from_numpy(io["x"]), output_nucleotide_logits=False)
    np.testing.assert_allclose(outputs.logits.numpy(), io["expression_f64"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(alone.logits.numpy(), io["expression_f64"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(outputs.nucleotide_logits.numpy(), io["nucleotide_logits_f64"], rtol=0, atol=1e-10)


def test_merged_attention_has_the_same_weights_over_positions(make_model):
    model = make_model(head_dim=16, attn_implementation="eager").double()
    with torch.no_grad():
        expected, got = (one(random_ids(2), output_attentions=True).attentions for one in (model, model.to_merged()))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_merged_model_has_weights_of_its_own(make_model):
    model = make_model(head_dim=16)
    for source in (model, model.to_merged()):
        merged = source.to_merged()
        before = {name: weights.clone() for name, weights in source.state_dict().items()}
        with torch.no_grad():
            expected = source(random_ids(2)).logits
            assert relative_error(merged(random_ids(2)).logits, expected) < 1e-5
            for parameter in merged.parameters():
                parameter.zero_()
        torch.testing.assert_close(dict(source.state_dict()), before, rtol=0, atol=0)


def test_merging_keeps_mode_dtypes_and_name(tiny_folder):
    model = MacaronForExpressionPrediction.from_pretrained(tiny_folder, dtype=torch.bfloat16).train()
    model.expression_head.float()
    merged = model.to_merged()
    assert merged.training and merged.name_or_path == str(tiny_folder)
    assert merged.expression_head.weight.dtype == torch.float32
    assert merged.macaron.layers[0].self_attn.qk_proj.weight.dtype == torch.bfloat16
    assert all(parameter.device.type == "cpu" and parameter.requires_grad for parameter in merged.parameters())


def test_compiled_merged_heads_that_are_wide_use_batched_products_on_a_gpu(make_model, monkeypatch):
    attention = make_model(attention_projections="merged").macaron.layers[0].self_attn

    def implementation(is_cuda=True, width=512, named="sdpa"):
        attention.config._attn_implementation = named
        return attention.implementation(SimpleNamespace(is_cuda=is_cuda, shape=(2, 1, 8, width)))

    assert implementation() == "sdpa"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert implementation() == "eager"
    assert implementation(is_cuda=False) == implementation(width=256) == "sdpa"
    assert implementation(named="own") == "own"


def test_saved_merged_model_loads(tmp_path, make_model):
    merged = make_model(head_dim=16).to_merged()
    merged.save_pretrained(tmp_path)
    loaded, info = MacaronForExpressionPrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        torch.testing.assert_close(tuple(loaded(random_ids(3)).values()), tuple(merged(random_ids(3)).values()))


@pytest.mark.parametrize(("head_dim", "pays"), [(4, False), (8, False), (12, False), (13, True), (16, True)])
def test_merging_warns_if_not_worthwhile(make_model, caplog, head_dim, pays):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        make_model(head_dim=head_dim).to_merged()
    finally:
        logger.removeHandler(caplog.handler)
    assert ["does not pay" in record.getMessage() for record in caplog.records] == [True] * (not pays)


def test_separate_weights_do_not_load_as_merged_ones(make_model, tmp_path):
    model = make_model(head_dim=16)  # as wide as the stream: the shapes of the projections are the same
    model.save_pretrained(tmp_path)
    fields = {"attention_projections": "merged", "output_loading_info": True}
    missing = MacaronForExpressionPrediction.from_pretrained(tmp_path, **fields)[1]["missing_keys"]
    names = {f"{name}.{kind}" for name in ("qk_proj", "vo_proj") for kind in ("weight", "bias")}
    assert {name.partition("self_attn.")[2] for name in missing} == names


def test_initial_weights_are_as_wide_as_products_of_initial_weights():
    torch.manual_seed(0)
    fields = {"hidden_size": 256, "head_dim": 192, "num_attention_heads": 2, "num_hidden_layers": 1}
    product = MacaronModel(MacaronConfig(**fields)).to_merged().layers[0].self_attn
    fresh = MacaronModel(MacaronConfig(**fields, attention_projections="merged")).layers[0].self_attn
    for name in ("qk_proj", "vo_proj"):
        expected, got = getattr(product, name), getattr(fresh, name)
        assert got.weight.std().item() == pytest.approx(expected.weight.std().item(), rel=0.02)
        assert abs(got.weight.mean().item()) < 0.02 * got.weight.std().item()
        assert (got.bias == 0).all()


# The expression alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("attention_projections", PROJECTIONS)
@pytest.mark.parametrize("pooling", ["expression_positions", "mean"])
@pytest.mark.parametrize("num_hidden_layers", [1, 3])
def test_expression_alone_is_the_same(
    make_model, pooling, attention_projections, attn_implementation, num_hidden_layers
):
    model = make_model(
        pooling=pooling,
        attention_projections=attention_projections,
        attn_implementation=attn_implementation,
        num_hidden_layers=num_hidden_layers,
    ).double()
    labels = torch.tensor([0.5, -1.0, 2.0])
    with torch.no_grad():
        expected = model(random_ids(3), labels=labels)
        got = model(random_ids(3), labels=labels, output_nucleotide_logits=False)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-12, atol=1e-12)
    assert got.nucleotide_logits is None


def test_hidden_states_and_attentions_of_the_expression_alone(make_model):
    model = make_model(attn_implementation="eager")
    with torch.no_grad():
        options = {"output_hidden_states": True, "output_attentions": True}
        whole = model(random_ids(2), **options)
        alone = model(random_ids(2), **options, output_nucleotide_logits=False)
    for got, expected in zip(
        alone.hidden_states + alone.attentions, whole.hidden_states + whole.attentions, strict=True
    ):
        positions = got.shape[-2]
        torch.testing.assert_close(got, expected[..., :positions, :], rtol=1e-4, atol=1e-5)
    assert [states.shape[1] for states in alone.hidden_states] == [43, 43, 3]
    assert [weights.shape[2] for weights in alone.attentions] == [43, 3]


def test_gradients_of_the_expression_alone_are_the_same(make_model):
    model, labels = make_model(hidden_dropout=0.0).double().train(), torch.tensor([0.5, -1.0])
    gradients = []
    for wanted in (True, False):
        model.zero_grad()
        model(random_ids(2), labels=labels, output_nucleotide_logits=wanted).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name in ("nucleotide_head.weight", "nucleotide_head.bias"):
        assert not gradients[1].pop(name).any(), "zero instead of None, for distributed training"
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


# Compilers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("attention_projections", PROJECTIONS)
@pytest.mark.parametrize("wanted", [True, False])
def test_model_is_exported_for_any_batch(make_model, attention_projections, attn_implementation, wanted):
    model = make_model(attention_projections=attention_projections, attn_implementation=attn_implementation)
    options = {"output_nucleotide_logits": wanted}
    shapes = {"input_ids": {0: torch.export.Dim("batch", max=4096)}, "output_nucleotide_logits": None}
    program = torch.export.export(model, (random_ids(4),), options, dynamic_shapes=shapes).module()
    for rows in (1, 7):
        with torch.no_grad():
            torch.testing.assert_close(program(random_ids(rows), **options).logits, model(random_ids(rows)).logits)


@pytest.mark.slow
@pytest.mark.parametrize("attention_projections", PROJECTIONS)
@pytest.mark.parametrize("wanted", [True, False])
def test_model_compiles_as_one_graph(make_model, attention_projections, wanted):
    model = make_model(attention_projections=attention_projections, hidden_dropout=0.0).train()
    inputs = random_batch(3) if wanted else {"input_ids": random_ids(3), "labels": torch.tensor([0.5, -1.0, 2.0])}
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    gradients = []
    for one in (model, compiled):
        model.zero_grad()
        one(**inputs, output_nucleotide_logits=wanted).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
