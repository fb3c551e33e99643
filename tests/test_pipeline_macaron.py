"""Pipeline: all kinds of input give the same predictions."""

import datasets
import numpy as np
import pytest
import torch
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_macaron import PromoterExpressionPipeline

SEQUENCES = ["ACGTACGTAA", "ttttgggg", "ACCAACGTTGCAGGT", "NNG", "A" * 20, "ACGU", "ACGTACGTAA"]


@pytest.fixture(scope="module")
def predict(make_model, tiny_tokenizer):
    return PromoterExpressionPipeline(model=make_model(), tokenizer=tiny_tokenizer, device="cpu")


@pytest.fixture(scope="module")
def expected(make_model, tiny_tokenizer):
    """Expression of each sequence in assay units, computed explicitly."""
    with torch.no_grad():
        logits = make_model()(**tiny_tokenizer(SEQUENCES, return_tensors="pt")).logits[:, 0].double().numpy()
    assert len({round(value, 4) for value in logits}) == len(set(SEQUENCES))
    return logits * 2.5 + 11.25


class Sequences(torch.utils.data.Dataset):
    def __len__(self):
        return len(SEQUENCES)

    def __getitem__(self, index):
        return SEQUENCES[index]


KINDS = {
    "list": lambda: list(SEQUENCES),
    "dicts": lambda: [{"sequence": sequence} for sequence in SEQUENCES],
    "dicts with more": lambda: [{"sequence": sequence, "row_id": 1} for sequence in SEQUENCES],
    "generator": lambda: (sequence for sequence in SEQUENCES),
    "generator of dicts": lambda: ({"sequence": sequence} for sequence in SEQUENCES),
    "torch data set": Sequences,
    "data set": lambda: datasets.Dataset.from_dict({"sequence": SEQUENCES}),
    "data set with more": lambda: datasets.Dataset.from_dict({"sequence": SEQUENCES, "y": [1.0] * len(SEQUENCES)}),
    "key of a data set": lambda: KeyDataset(datasets.Dataset.from_dict({"dna": SEQUENCES}), "dna"),
}


@pytest.mark.parametrize("batch_size", [None, 3, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_input(predict, expected, kind, batch_size):
    options = {} if batch_size is None else {"batch_size": batch_size}
    results = list(predict(KINDS[kind](), **options))
    assert [result["sequence"] for result in results] == SEQUENCES
    for result in results:
        assert set(result) == {"sequence", "expression", "standardized_expression"}
        assert type(result["expression"]) is float
        assert type(result["standardized_expression"]) is float
        assert result["expression"] == pytest.approx(result["standardized_expression"] * 2.5 + 11.25, abs=1e-12)
    np.testing.assert_allclose([result["expression"] for result in results], expected, rtol=0, atol=1e-5)


def test_batches_go_through_the_model(make_model, tiny_tokenizer):
    model, sizes = make_model(), []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    predict = PromoterExpressionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu", batch_size=3)
    predict(SEQUENCES)
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize("inputs", [SEQUENCES[0], {"sequence": SEQUENCES[0]}])
def test_one_sequence_gives_one_dict(predict, expected, inputs):
    assert predict(inputs)["expression"] == pytest.approx(expected[0], abs=1e-5)
    assert predict([], batch_size=4) == predict(()) == []


@pytest.mark.parametrize("batch_size", [1, 2])
def test_truncation(predict, make_model, tiny_tokenizer, batch_size):
    long = "ACGT" * 10
    with pytest.raises(ValueError, match="40 nt"):
        predict(long)
    result = predict([long, long[10:30]], truncation=True, batch_size=batch_size)
    assert result[0]["sequence"] == long
    assert result[0]["expression"] == pytest.approx(result[1]["expression"], abs=1e-5)
    cutting = PromoterExpressionPipeline(model=make_model(), tokenizer=tiny_tokenizer, truncation=True)
    assert cutting(long)["expression"] == pytest.approx(result[0]["expression"], abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("ACXT", "'X' at position 3"),
        ("", "empty sequence"),
        ("A" * 21, "21 nt"),
        ({"dna": "ACGT"}, "key 'sequence'.*'dna'"),
        ({"sequence": 3}, "got {'sequence': 3}"),
        (None, "got None"),
    ],
)
def test_errors(predict, inputs, message, as_list, batch_size):
    with pytest.raises(ValueError, match=message):
        predict(["ACGT", inputs] if as_list else inputs, batch_size=batch_size)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pipeline_of_a_folder(tiny_folder, expected, dtype):
    predict = pipeline("promoter-expression", model=str(tiny_folder), trust_remote_code=True, dtype=dtype, device="cpu")
    assert type(predict).__module__.startswith("transformers_modules.")
    results = [result["expression"] for result in predict(SEQUENCES, batch_size=4)]
    np.testing.assert_allclose(results, expected, rtol=0, atol=1e-5 if dtype == "float32" else 0.3)


def test_pipeline_does_not_drop_out(make_model, tiny_tokenizer):
    model = make_model(hidden_dropout=0.5).train()
    predict = PromoterExpressionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu")
    assert predict("ACGT") == predict("ACGT")


def test_saved_pipeline_loads(tmp_path, predict):
    predict.save_pretrained(tmp_path)
    loaded = pipeline("promoter-expression", model=str(tmp_path), trust_remote_code=True, device="cpu")
    assert loaded("ACGT")["expression"] == pytest.approx(predict("ACGT")["expression"], abs=1e-5)
