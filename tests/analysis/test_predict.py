"""Prediction of sequences."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.analysis.predict import predict
from modeling_macaron.loading import _has_no_flash_kernel, load_checkpoint, load_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "predict.py"
SEQUENCES = ["ACGTACGTAC", "acgu" * 4, "GGGG", "ACCATTTTGGT", "NRYACG"]


def explicit(folder, tokenizer, sequences):
    """One forward pass a sequence, written out."""
    model = MacaronForExpressionPrediction.from_pretrained(folder).eval()
    values = []
    for sequence in sequences:
        with torch.no_grad():
            logits = model(**tokenizer(sequence, return_tensors="pt")).logits.double().item()
        values.append(logits * model.config.expression_std + model.config.expression_mean)
    return np.array(values)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_predictions_equal_explicit_forward_passes(tiny_folder, tiny_tokenizer, batch_size):
    expected = explicit(tiny_folder, tiny_tokenizer, SEQUENCES)
    assert expected.std() > 1e-3, "the model tells sequences apart"
    np.testing.assert_allclose(predict(tiny_folder, SEQUENCES, batch_size=batch_size), expected, rtol=1e-5)


def test_loaded_model_predicts_like_its_folder(tiny_folder, tiny_tokenizer):
    model = MacaronForExpressionPrediction.from_pretrained(tiny_folder)
    expected = predict(tiny_folder, SEQUENCES)
    np.testing.assert_array_equal(predict(model, SEQUENCES), expected)
    np.testing.assert_array_equal(predict(model, SEQUENCES, tokenizer=tiny_tokenizer), expected)
    assert not model.training


@pytest.mark.parametrize("options", [{"merged": True}, {"dtype": "float64"}, {"merged": True, "dtype": torch.float64}])
def test_merged_and_converted_models_predict_the_same(tiny_folder, options):
    expected = predict(tiny_folder, SEQUENCES)
    np.testing.assert_allclose(predict(tiny_folder, SEQUENCES, **options), expected, rtol=1e-5)
    model, _ = load_model(tiny_folder, **options)
    assert model.config.attention_projections == ("merged" if options.get("merged") else "separate")
    assert model.dtype == (torch.float64 if "dtype" in options else torch.float32)


def test_attention_of_merged_wide_heads_on_a_gpu(tiny_folder, make_model, monkeypatch):
    assert not _has_no_flash_kernel(MacaronConfig(hidden_size=512), torch.device("cpu"))
    assert not _has_no_flash_kernel(MacaronConfig(hidden_size=256), torch.device("cuda"))
    assert _has_no_flash_kernel(MacaronConfig(hidden_size=512), torch.device("cuda"))
    assert load_model(tiny_folder, merged=True)[0].config._attn_implementation == "sdpa"
    monkeypatch.setattr("modeling_macaron.loading._has_no_flash_kernel", lambda config, device: True)
    assert load_model(tiny_folder, merged=True)[0].config._attn_implementation == "eager"
    assert load_model(make_model().to_merged())[0].config._attn_implementation == "eager"
    assert load_model(tiny_folder)[0].config._attn_implementation == "sdpa"


def test_attention_that_the_caller_chose_is_kept(tiny_folder, monkeypatch):
    monkeypatch.setattr("modeling_macaron.loading._has_no_flash_kernel", lambda config, device: True)
    AttentionInterface.register("own", sdpa_attention_forward)
    model = MacaronForExpressionPrediction.from_pretrained(tiny_folder, attn_implementation="own")
    assert load_model(model, merged=True)[0].config._attn_implementation == "own"


@pytest.mark.parametrize(("name", "value"), [("hidden_dropout", 1.5), ("reconstruction_weight", -1)])
def test_a_change_that_is_not_possible_is_the_callers_fault(tiny_folder, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be in .*, got {value}") as caught:
        load_checkpoint(tiny_folder, **{name: value})
    assert str(tiny_folder) not in str(caught.value)


def test_a_change_replaces_what_the_checkpoint_says(tiny_folder):
    model, _ = load_checkpoint(tiny_folder, hidden_dropout=0.25, reconstruction_weight=0.5, dtype="float64")
    assert (model.config.hidden_dropout, model.config.reconstruction_weight, model.dtype) == (0.25, 0.5, torch.float64)
    assert model.dropout.p == 0.25 and model.name_or_path == str(tiny_folder)


def test_bfloat16_predicts_nearly_the_same(tiny_folder):
    expected = predict(tiny_folder, SEQUENCES)
    got = predict(tiny_folder, SEQUENCES, dtype="bfloat16")
    assert not np.array_equal(got, expected)
    np.testing.assert_allclose(got, expected, atol=0.1)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "cuda:x"])
def test_device_that_is_not_there(tiny_folder, device):
    with pytest.raises(ValueError, match=f"device {device} cannot be used"):
        load_model(tiny_folder, device=device)


def test_one_sequence_is_no_list(tiny_folder):
    with pytest.raises(ValueError, match="got one str"):
        predict(tiny_folder, "ACGT")


@pytest.mark.parametrize("dtype", ["bf17", "int8", torch.int64, "nn"])
def test_dtype_that_is_none(tiny_folder, dtype):
    with pytest.raises(ValueError, match="is not a floating-point type"):
        load_model(tiny_folder, dtype=dtype)


def test_compiled_model_gets_batches_of_one_size(tiny_folder):
    model, sizes = MacaronForExpressionPrediction.from_pretrained(tiny_folder), []

    def compiled(input_ids, **options):
        sizes.append(len(input_ids))
        return model.forward(input_ids, **options)

    model._compiled_call_impl = compiled  # what `model.compile()` sets
    np.testing.assert_allclose(predict(model, SEQUENCES, batch_size=3), predict(tiny_folder, SEQUENCES), rtol=1e-5)
    assert sizes == [3, 3], "each size would be compiled anew"


@pytest.mark.slow
def test_compiled_model_predicts_the_same(tiny_folder):
    model, tokenizer = load_model(tiny_folder, compile_model=True)
    got = predict(model, SEQUENCES, tokenizer=tokenizer, batch_size=2)
    np.testing.assert_allclose(got, predict(tiny_folder, SEQUENCES), rtol=1e-5)


def test_no_sequence_gives_no_prediction(tiny_folder):
    assert predict(tiny_folder, []).shape == (0,)


def test_tokenizer_of_a_model_that_was_never_saved(make_model):
    _, tokenizer = load_model(make_model())
    assert (tokenizer.strand_length, tokenizer.kmer_size) == (20, 5)


def test_bad_sequence_is_named(tiny_folder):
    with pytest.raises(ValueError, match=r"sequence 1 of the batch: letter 'X' at position 3"):
        predict(tiny_folder, ["ACGT", "ACX"])


@pytest.mark.parametrize("name", ["absent", "absent/", "./absent", "a/b/c"])
def test_checkpoint_that_can_only_be_a_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        load_model(name)


def test_folder_of_a_run_leads_to_its_model(tiny_folder, tmp_path):
    (tmp_path / "run" / "final").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"did you mean .*final"):
        load_model(tmp_path / "run")


def test_lack_of_memory_on_a_gpu_tells_what_to_do(tiny_folder, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model, tokenizer = load_model(tiny_folder)
    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(MemoryError, match="too little memory for 3 sequences at once: pass a smaller --batch_size"):
        predict(model, SEQUENCES, tokenizer=tokenizer, batch_size=3)
