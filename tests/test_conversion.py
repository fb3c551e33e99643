"""Outputs, losses, gradients and checkpoints equal those of the original implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.conversion import config_from_shapes, convert_checkpoint, convert_weights, read_original_weights
from scripts.convert_tf_checkpoint import main as convert_main

REFERENCE = Path(__file__).parent / "fixtures" / "tf_reference"
WEIGHTS = REFERENCE / "small_weights.safetensors"


@pytest.fixture(scope="module")
def io():
    with np.load(REFERENCE / "small_io.npz") as arrays:
        return dict(arrays)


def reference_model(dtype=torch.float64, attn_implementation="sdpa", **overrides):
    weights = read_original_weights(WEIGHTS)
    config = config_from_shapes(weights, num_expression_positions=4, **overrides)
    config._attn_implementation = attn_implementation
    model = MacaronForExpressionPrediction(config)
    model.load_state_dict(convert_weights(weights))
    return model.to(dtype).eval()


def labels_of(io):
    masked_nucleotides = np.where(io["mask"] > 0, io["seq"].astype(np.int64), -100)
    return torch.from_numpy(io["expression_target"]).double(), torch.from_numpy(masked_nucleotides)


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_float64_outputs_equal_the_original(io, attn_implementation):
    model = reference_model(attn_implementation=attn_implementation)
    with torch.no_grad():
        outputs = model(torch.from_numpy(io["x"]))
        hidden_states = model.macaron(torch.from_numpy(io["x"])).last_hidden_state[:, :4]
        per_position = model.expression_head(hidden_states).squeeze(-1)
    np.testing.assert_allclose(outputs.logits.numpy(), io["expression_f64"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(outputs.nucleotide_logits.numpy(), io["nucleotide_logits_f64"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(per_position.numpy(), io["expression_per_position_f64"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("suffix", ["f32", "tf26"])
def test_float32_outputs_equal_the_original(io, suffix):
    with torch.no_grad():
        outputs = reference_model(torch.float32)(torch.from_numpy(io["x"]))
    np.testing.assert_allclose(outputs.logits.numpy(), io[f"expression_{suffix}"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(outputs.nucleotide_logits.numpy(), io[f"nucleotide_logits_{suffix}"], rtol=0, atol=2e-5)


def test_losses_and_gradients_equal_the_original(io):
    model = reference_model()
    labels, masked_nucleotides = labels_of(io)
    outputs = model(torch.from_numpy(io["x"][:8]), labels=labels, masked_nucleotides=masked_nucleotides)
    outputs.loss.backward()
    assert outputs.expression_loss.item() == pytest.approx(io["loss_expression_f64"].item(), abs=1e-10)
    assert outputs.reconstruction_loss.item() == pytest.approx(io["loss_seq_f64"].item(), abs=1e-10)
    assert outputs.loss.item() == pytest.approx(io["loss_f64"].item(), abs=1e-10)

    expected = convert_weights(load_file(REFERENCE / "small_grads_f64.safetensors"))
    for name, parameter in model.named_parameters():
        scale = max(expected[name].abs().max().item(), 1e-3)
        assert (parameter.grad - expected[name]).abs().max().item() <= 1e-9 * scale, name
    assert model.macaron.embeddings.expression_projection.weight.grad.abs().max() == 0, "zero, but present"


def test_tensorflow_checkpoint_reads_like_safetensors(tensorflow, tmp_path, io):
    # The checkpoint was saved five Adam steps (learning rate 3.5e-4) after the weights of the safetensors file.
    prefix = f"{REFERENCE}/tf_checkpoint/"
    weights, expected = read_original_weights(prefix), read_original_weights(WEIGHTS)
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        assert weights[name].shape == values.shape, name
        np.testing.assert_allclose(weights[name], values, rtol=0, atol=5 * 3.6e-4, err_msg=name)
    model = convert_checkpoint(prefix, tmp_path / "converted", num_expression_positions=4).eval()
    labels, masked_nucleotides = labels_of(io)
    with torch.no_grad():
        loss = model(torch.from_numpy(io["x"][:8]), labels=labels, masked_nucleotides=masked_nucleotides).loss
    assert loss < 0.6 * io["loss_f64"], "the five steps were taken on these examples"


def test_script_writes_a_folder_that_loads(tmp_path, io):
    output = tmp_path / "converted"
    overrides = json.dumps({"num_expression_positions": 4, "expression_mean": 11.0, "expression_std": 2.0})
    convert_main([str(WEIGHTS), str(output), "--config", overrides])
    model = MacaronForExpressionPrediction.from_pretrained(output)
    with torch.no_grad():
        logits = model(torch.from_numpy(io["x"])).logits
    np.testing.assert_allclose(logits.numpy(), io["expression_tf26"], rtol=0, atol=2e-5)
    assert (model.config.expression_mean, model.config.strand_length, model.config.kmer_size) == (11.0, 20, 5)
    assert (output / "tokenization_kmer.py").is_file()


def without_bias(weights):
    del weights["kmer_dense/bias"]


def without_shape(weights):
    del weights["pos_embedding/embeddings"]


def with_another(weights):
    weights["extra"] = np.zeros(1, np.float32)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (without_bias, [], 'Missing key.*"macaron.embeddings.kmer_projection.bias"'),
        (without_shape, [], "'pos_embedding/embeddings' is missing"),
        (with_another, [], 'Unexpected key.*"extra"'),
        (None, ["{broken"], "Expecting property name"),
        (None, ["relu"], "No such file .*relu"),
        (None, ['{"hidden_size": 64}'], "do not fit: .*size mismatch"),
        (None, ['{"relu": true}'], "MacaronConfig has no field relu"),
        (None, ['{"attention_projections": "merged"}'], "do not fit: .*qk_proj"),
        (None, ['{"hidden_dropout": 2.0}'], r"`hidden_dropout` must be in \[0, 1\)"),
    ],
)
def test_errors_leave_no_output(tmp_path, change, options, message):
    weights = load_file(WEIGHTS)
    if change:
        change(weights)
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(SystemExit, match=f"(?s)error: .*{message}"):
        convert_main(
            [str(tmp_path / "weights.safetensors"), str(tmp_path / "out"), *(["--config", *options] if options else [])]
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("source", "message"), [("a.safetensors", "No such file"), ("a", "a.index is missing")])
def test_missing_source(tmp_path, source, message):
    with pytest.raises(SystemExit, match=message):
        convert_main([str(tmp_path / source), str(tmp_path / "out")])
