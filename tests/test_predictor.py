"""`Predictor`: predictions against explicit forward passes, options and errors."""

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from transformers import pipeline

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.analysis.mutagenesis import saturation_mutagenesis
from modeling_macaron.predictor import Predictor, _choose_attention
from tests.analysis.cases import explicit_predictions
from tokenization import KmerTokenizer

SEQUENCES = ["ACGTACGTAC", "acgu" * 4, "GGGG", "ACCATTTTGGT", "NRYACG"]
THREADS, CALLS = 8, 1_000


@pytest.fixture(scope="module")
def expected(tiny_folder, tiny_tokenizer):
    predict = explicit_predictions(tiny_folder, tiny_tokenizer)
    return np.array([predict(sequence) for sequence in SEQUENCES])


def random_sequences(number, seed):
    rng = np.random.default_rng(seed)
    return ["".join([*rng.choice(list("ACGTN"), rng.integers(20)), "G"]) for _ in range(number)]


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 1}, {"batch_size": 2}, {"merged": True}, {"dtype": "float64"},
     {"merged": True, "dtype": torch.float64, "device": "cpu"}],
)  # fmt: skip
def test_predictions_equal_explicit_forward_passes(tiny_folder, expected, options):
    predictor = Predictor.from_pretrained(tiny_folder, **options)
    np.testing.assert_allclose(predictor.predict(SEQUENCES), expected, rtol=1e-5)
    assert predictor.model.dtype == (torch.float64 if "dtype" in options else torch.float32)
    assert predictor.config.attention_projections == ("merged" if "merged" in options else "separate")
    assert predictor.predict([]).shape == (0,)
    assert expected.std() > 1e-3, "the model distinguishes the sequences"


def test_loaded_models(tiny_folder, tiny_tokenizer, make_model, expected):
    model = MacaronForExpressionPrediction.from_pretrained(tiny_folder).train()
    for tokenizer in (None, tiny_tokenizer):
        predictor = Predictor.from_pretrained(model, tokenizer=tokenizer)
        np.testing.assert_allclose(predictor.predict(SEQUENCES), expected, rtol=1e-5)
    assert not model.training
    tokenizer = Predictor.from_pretrained(make_model()).tokenizer  # never saved
    assert (tokenizer.strand_length, tokenizer.kmer_size) == (20, 5)


def test_half_precision_predicts_nearly_the_same(tiny_folder, expected):
    found = Predictor.from_pretrained(tiny_folder, dtype="bfloat16").predict(SEQUENCES)
    assert 0 < np.abs(found - expected).max() < 0.1


@pytest.mark.parametrize(
    ("projections", "hidden_size", "device", "attention", "expected"),
    [("merged", 512, "cuda", "sdpa", "eager"), ("merged", 256, "cuda", "sdpa", "sdpa"),
     ("merged", 512, "cpu", "sdpa", "sdpa"), ("separate", 512, "cuda", "sdpa", "sdpa"),
     ("merged", 512, "cuda", "own", "own")],
)  # fmt: skip
def test_attention_of_wide_merged_heads_on_a_gpu(projections, hidden_size, device, attention, expected):
    chosen = [attention]
    config = SimpleNamespace(attention_projections=projections, hidden_size=hidden_size, _attn_implementation=attention)
    model = SimpleNamespace(config=config, device=torch.device(device), set_attn_implementation=chosen.append)
    _choose_attention(model)
    assert chosen[-1] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nowhere"}, "device nowhere cannot be used"),
        ({"device": "cuda:99"}, "device cuda:99 cannot be used"),
        ({"dtype": "bf17"}, "'bf17' is not a floating-point type"),
        ({"dtype": torch.int64}, "is not a floating-point type"),
        ({"dtype": "nn"}, "is not a floating-point type"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"tokenizer": KmerTokenizer(kmer_size=5, strand_length=30)}, "pads to 30 nt, the model reads 20"),
    ],
)
def test_invalid_options(tiny_folder, options, message):
    with pytest.raises(ValueError, match=message):
        Predictor.from_pretrained(tiny_folder, **options)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ("ACGT", "got one str"),
        (["ACGT", "ACX"], "sequence 1 of the batch: letter 'X' at position 3"),
        (["ACGT", ""], "sequence 1 of the batch: empty"),
        (["A" * 21], r"21 nt are more than the 20 that the model reads \(`strand_length`\)"),
        (["ACGT", "AC[MASK]GT"], "sequence 1 of the batch: a masked base"),
        (["ACGT", b"ACGT"], "expected DNA as a str, got bytes"),
        ([None], "expected DNA as a str, got NoneType"),
    ],
)
def test_invalid_sequences_are_named(tiny_folder, sequences, message):
    with pytest.raises(ValueError, match=message):
        Predictor.from_pretrained(tiny_folder).predict(sequences)


def test_a_prediction_that_is_not_finite_raises(make_model):
    model = make_model()
    with torch.no_grad():
        model.expression_head.weight.fill_(3e38)
    with pytest.raises(ValueError, match="not finite"):
        Predictor.from_pretrained(model).predict(["ACGT"])


def test_lack_of_memory_on_a_gpu_raises_with_advice(tiny_folder, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    predictor = Predictor.from_pretrained(tiny_folder, batch_size=3)
    monkeypatch.setattr(predictor.model, "forward", fail)
    with pytest.raises(MemoryError, match="too little memory for 3 sequences at once: pass a smaller --batch_size"):
        predictor.predict(SEQUENCES)


def test_compiled_model_gets_batches_of_one_size(tiny_folder, expected):
    predictor, sizes = Predictor.from_pretrained(tiny_folder, batch_size=3), []

    def compiled(input_ids, **options):
        sizes.append(len(input_ids))
        return predictor.model.forward(input_ids, **options)

    predictor.model._compiled_call_impl = compiled  # set by `model.compile()`
    np.testing.assert_allclose(predictor.predict(SEQUENCES), expected, rtol=1e-5)
    assert sizes == [3, 3], "each size would be compiled anew"


@pytest.mark.slow
def test_compiled_model_predicts_the_same(tiny_folder, expected):
    predictor = Predictor.from_pretrained(tiny_folder, compile=True, batch_size=2)
    np.testing.assert_allclose(predictor.predict(SEQUENCES), expected, rtol=1e-5)


@pytest.mark.slow
def test_threads_share_a_pipeline_and_leave_no_memory(tiny_folder):
    call = pipeline("promoter-expression", model=str(tiny_folder), trust_remote_code=True)
    sequences = random_sequences(CALLS, 0)
    expected = Predictor.from_pretrained(tiny_folder).predict(sequences)
    process = psutil.Process()
    tracemalloc.start()
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(call, sequences))  # after this, every cache is full
            assert [answer["sequence"] for answer in answers] == sequences
            np.testing.assert_allclose([answer["expression"] for answer in answers], expected, rtol=1e-5)
            del answers
            gc.collect()
            python, resident = tracemalloc.get_traced_memory()[0], process.memory_info().rss
            for _ in pool.map(call, sequences):
                pass
            gc.collect()
            python = tracemalloc.get_traced_memory()[0] - python
            resident = process.memory_info().rss - resident
    finally:
        tracemalloc.stop()
    assert python < 100e3  # measured: 2 to 12 kB; 100 bytes kept by each call would exceed it
    assert resident < 4e6  # measured: up to 0.8 MB; includes tensors; 4 kB kept by each call would exceed it


def test_threads_with_different_work_do_not_disturb_each_other(tiny_folder):
    predictor, sequences = Predictor.from_pretrained(tiny_folder), random_sequences(24, 1)
    expected = predictor.predict(sequences)
    mutated = [result.deltas for result in saturation_mutagenesis(predictor, sequences)]

    def work(index):
        if index % 2:
            return replace(predictor, batch_size=1 + index).predict(sequences)
        return next(saturation_mutagenesis(predictor, sequences[index : index + 1])).deltas

    with ThreadPoolExecutor(THREADS) as pool:
        for index, found in enumerate(pool.map(work, range(len(sequences)))):
            np.testing.assert_allclose(found, expected if index % 2 else mutated[index], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_of_padding_and_truncation_does_not_matter(tiny_tokenizer, side):
    tokenizer = type(tiny_tokenizer)(**{**tiny_tokenizer.init_kwargs, "padding_side": side, "truncation_side": side})
    for sequences, options in ((random_sequences(20, 3), {"padding": "max_length"}), (["T" + "ACGT" * 8], {})):
        expected = tiny_tokenizer(sequences, truncation=True)["input_ids"]
        assert tokenizer(sequences, truncation=True, **options)["input_ids"] == expected
