"""The original implementation's numbers: outputs, losses, gradients and checkpoints."""

import json
import subprocess
import sys
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
    model.load_state_dict(convert_weights(weights, config))
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

    expected = convert_weights(load_file(REFERENCE / "small_grads_f64.safetensors"), model.config)
    for name, parameter in model.named_parameters():
        scale = max(expected[name].abs().max().item(), 1e-3)
        assert (parameter.grad - expected[name]).abs().max().item() <= 1e-9 * scale, name


def test_gradient_that_is_zero_is_there(io):
    model = reference_model()
    labels, masked_nucleotides = labels_of(io)
    model(torch.from_numpy(io["x"][:8]), labels=labels, masked_nucleotides=masked_nucleotides).loss.backward()
    gradient = model.macaron.embeddings.expression_projection.weight.grad
    assert gradient is not None
    assert gradient.abs().max() == 0


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("kmer_dense/bias"), "missing ['kmer_dense/bias']"),
        (lambda weights: weights.update(extra=np.zeros(1)), "unknown ['extra']"),
        (lambda weights: weights.pop("pos_embedding/embeddings"), "'pos_embedding/embeddings' is missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    weights = read_original_weights(WEIGHTS)
    change(weights)
    save_file(weights, tmp_path / "changed.safetensors")
    with pytest.raises(ValueError, match=r".") as error:
        convert_checkpoint(tmp_path / "changed.safetensors", tmp_path / "out")
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.safetensors", "out"], "no such file"),
        (["absent", "out"], "absent.index is missing"),
        ([str(WEIGHTS), "out", "--config", "{broken"], "no valid JSON"),
        ([str(WEIGHTS), "out", "--config", "relu"], "--config relu: there is no such file"),
        ([str(WEIGHTS), "out", "--config", '{"hidden_size": 64}'], "`hidden_size` is 32 by the shapes"),
        ([str(WEIGHTS), "out", "--config", '{"attention_projections": "merged"}'], "is 'separate' by the shapes"),
        ([str(WEIGHTS), "out", "--config", '{"hidden_dropout": 2.0}'], "`hidden_dropout` must be in [0, 1)"),
    ],
)
def test_script_refuses_with_one_line(tmp_path, arguments, message):
    script = Path(__file__).parents[1] / "scripts" / "convert_tf_checkpoint.py"
    result = subprocess.run([sys.executable, str(script), *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
