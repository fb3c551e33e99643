"""Many calls in many threads give the same numbers and leave no memory behind."""

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from transformers import pipeline

from modeling_macaron.analysis.predict import predict

THREADS, CALLS = 8, 1_000


def random_sequences(number, seed, longest=20):
    rng = np.random.default_rng(seed)
    return ["".join([*rng.choice(list("ACGTN"), rng.integers(longest)), "G"]) for _ in range(number)]


def test_a_thousand_pipeline_calls_of_eight_threads(tiny_folder):
    call = pipeline("promoter-expression", model=str(tiny_folder), trust_remote_code=True)
    sequences = random_sequences(CALLS, 0)
    expected = predict(tiny_folder, sequences)
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
    assert python < 100e3  # measured: 2 to 12 kB
    assert resident < 4e6  # measured: up to 0.8 MB; includes tensors


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_do_not_change_predictions(tiny_folder, batch_size):
    sequences = random_sequences(65, 2)
    np.testing.assert_allclose(
        predict(tiny_folder, sequences, batch_size=batch_size), predict(tiny_folder, sequences), rtol=1e-5
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_sides_of_padding_and_truncation_change_nothing(tiny_tokenizer, side):
    tokenizer = type(tiny_tokenizer)(**{**tiny_tokenizer.init_kwargs, "padding_side": side, "truncation_side": side})
    sequences = random_sequences(20, 3)
    expected = tiny_tokenizer(sequences)["input_ids"]
    assert tokenizer(sequences, padding=True)["input_ids"] == expected
    assert tokenizer(sequences, padding="max_length", truncation=True)["input_ids"] == expected
    too_long = ["T" + sequence for sequence in random_sequences(40, 4, longest=60) if len(sequence) >= 20]  # no flank
    assert len(too_long) > 10
    for sequence, ids in zip(too_long, tokenizer(too_long, truncation=True)["input_ids"], strict=True):
        first = (len(sequence) - 20) // 2
        assert ids[:20] == ["ACGTN".index(letter) for letter in sequence[first : first + 20]]
