"""Gradient attributions, the one-hot module, and packages that use it."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import IntegratedGradients
from hypothesis import given, settings
from hypothesis import strategies as st
from tangermeme.deep_lift_shap import deep_lift_shap, integrated_gradients_op
from tangermeme.ersatz import dinucleotide_shuffle
from tangermeme.saliency import saliency
from tangermeme.saturation_mutagenesis import saturation_mutagenesis

from modeling_macaron import MacaronForExpressionPrediction, MacaronForMaskedLM, MacaronModel
from modeling_macaron.analysis.attribution import (
    OneHotExpression,
    as_one_hot_module,
    attribution_file,
    gradient_x_input,
    integrated_gradients,
)
from modeling_macaron.predictor import Predictor
from tests.analysis.cases import read, write
from tests.batches import LENGTH, random_ids
from tokenization import MISSING_WORDS, KmerTokenizer

SEQUENCES = ["ACGTACGTACGTTTAACCGG", "TTTTTATATAAGGCNNACGT", "GATTACAGATTACAGATTAC"]
MIXED = ["ACGTACGTAC", "acgu" * 5, "GGGG", "ACCATTTTGGT", "NRYACG", "T"]
VARIANTS = [
    {}, {"reverse_complement": False}, {"pooling": "mean"}, {"attention_projections": "merged"},
    {"feed_forward": "single", "use_convolution": False}, {"kmer_size": 4, "gate_activation": "sigmoid"},
]  # fmt: skip
BINS = {"expression_bins": (-2.0, 0.0, 2.0)}
HEADS = [BINS, {"both_orientations": True}, {"both_orientations": True, **BINS}]


def one_hot(sequences, dtype=torch.float32):
    """Encode sequences as (sequences, 4, length), with zeros for symbols other than A, C, G and T."""
    bases = [[[symbol == base for symbol in sequence] for base in "ACGT"] for sequence in sequences]
    return torch.tensor(bases, dtype=dtype)


def stacked(result):
    return np.stack(result.attributions).transpose(0, 2, 1)


@pytest.fixture(scope="module")
def exact(make_model):
    """Tiny model in float64."""
    return Predictor.from_pretrained(make_model().double())


@pytest.fixture(scope="module")
def exact_module(exact):
    return as_one_hot_module(exact)


@pytest.mark.parametrize("fields", VARIANTS)
@pytest.mark.parametrize("model_class", [MacaronModel, MacaronForExpressionPrediction, MacaronForMaskedLM])
def test_embedded_kmers_give_the_numbers_of_their_ids(make_model, model_class, fields):
    model, ids = make_model(model_class, **fields), random_ids(3)
    embeddings = getattr(model, "macaron", model).embeddings
    weights = torch.nn.functional.one_hot(ids[:, : model.config.sequence_length], 6)
    with torch.no_grad():
        expected, found = model(ids), model(inputs_embeds=embeddings.embed_one_hot(weights))
    assert torch.equal(found[0], expected[0])


def test_invalid_embedded_kmers(make_model):
    for inputs in ({}, {"input_ids": random_ids(1), "inputs_embeds": torch.zeros(1, LENGTH, 16)}):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            make_model()(**inputs)
    for shape in ((1, LENGTH - 1, 16), (1, LENGTH, 15), (LENGTH, 16)):
        with pytest.raises(ValueError, match=rf"inputs_embeds must be \(batch, {LENGTH}, 16\)"):
            make_model()(inputs_embeds=torch.zeros(shape))


class TestModule:
    @settings(deadline=None, max_examples=60)
    @given(data=st.data(), length=st.integers(1, 20), fields=st.sampled_from(VARIANTS + HEADS))
    def test_equals_predict(self, make_model, data, length, fields):
        texts = st.text("ACGTN", min_size=length, max_size=length)
        sequence = texts.filter(lambda text: text.strip("N") and text not in MISSING_WORDS)
        sequences = data.draw(st.lists(sequence, min_size=1, max_size=5))
        tokenizer = KmerTokenizer(kmer_size=5, strand_length=20, trimming="never")
        predictor = Predictor.from_pretrained(make_model(**fields).double(), tokenizer=tokenizer)
        with torch.no_grad():
            found = as_one_hot_module(predictor)(one_hot(sequences))
        assert found.dtype == torch.float64 and found.shape == (len(sequences), 1)
        np.testing.assert_allclose(found[:, 0], predictor.predict(sequences), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("fields", [*VARIANTS, *HEADS])
    def test_equals_predict_in_other_precisions(self, make_model, fields, dtype):
        predictor = Predictor.from_pretrained(make_model(**fields).to(dtype))
        found = as_one_hot_module(predictor)(one_hot(SEQUENCES)).detach()
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found[:, 0], predictor.predict(SEQUENCES), rtol=1e-6, atol=5e-6)

    def test_missing_weight_counts_as_n(self, exact, exact_module):
        """Half of A and half of N is embedded as the mean of both."""
        rows = []
        projection = exact.model.macaron.embeddings.kmer_projection
        hook = projection.register_forward_hook(lambda _, inputs, output: rows.append(output))
        for weights in (one_hot(["ACGT"]), one_hot(["NCGT"]), (one_hot(["ACGT"]) + one_hot(["NCGT"])) / 2):
            exact_module(weights.double())
        hook.remove()
        torch.testing.assert_close(rows[2], (rows[0] + rows[1]) / 2)
        short = one_hot(["ACGTACG"], torch.float64)
        torch.testing.assert_close(exact_module(short), exact_module(torch.nn.functional.pad(short, (6, 7))))

    def test_is_in_evaluation_mode(self, make_model):
        """tangermeme restores the mode of the module."""
        module = as_one_hot_module(make_model(hidden_dropout=0.5).train())
        assert isinstance(module, OneHotExpression)
        saliency(module, one_hot(SEQUENCES), device="cpu")
        assert not any(part.training for part in module.modules())

    @pytest.mark.parametrize("shape", [(2, 4, 21), (2, 4, 0), (2, 20, 4), (2, 6, 20), (4, 20), (1, 2, 4, 20)])
    def test_invalid_shapes(self, exact_module, shape):
        with pytest.raises(ValueError, match=r"one-hot DNA must be \(batch, 4, length\) with a length of 1 to 20"):
            exact_module(torch.zeros(shape))


class TestGradients:
    @pytest.mark.parametrize("fields", VARIANTS + HEADS)
    def test_equal_finite_differences(self, make_model, fields):
        module = as_one_hot_module(make_model(**fields).double())
        weights = one_hot(["ACGTNACGGTTA"], torch.float64).requires_grad_()
        (gradients,) = torch.autograd.grad(module(weights).sum(), weights)
        step = 1e-6
        shifts = step * torch.eye(weights.numel(), dtype=torch.float64).view(-1, *weights.shape[1:])
        with torch.no_grad():
            differences = (module(weights + shifts) - module(weights - shifts)) / (2 * step)
        assert gradients.abs().max() > 1e-2
        torch.testing.assert_close(differences.view(gradients.shape), gradients, rtol=1e-5, atol=1e-7)

    def test_result(self, predictor):
        """The tokenizer of the folder trims the flanks ACCA and GGT."""
        result = gradient_x_input(predictor, [*MIXED, "ACCAACGTACGTACGGT"])
        assert result.sequences == ["ACGTACGTAC", "ACGT" * 5, "GGGG", "TTTT", "NNNACG", "T", "ACGTACGTAC"]
        assert [bases.shape for bases in result.attributions] == [(len(text), 4) for text in result.sequences]
        np.testing.assert_allclose(result.attributions[0], result.attributions[-1], rtol=1e-9)
        np.testing.assert_allclose(result.expression[:-1], predictor.predict(MIXED), rtol=1e-9)
        unknown = predictor.predict_strands(np.full((1, 20), 4, np.uint8))[0, 0]
        np.testing.assert_allclose(result.baseline_expression, [unknown] * 7, rtol=1e-9)
        for bases, per_base, sequence in zip(result.attributions, result.per_base, result.sequences, strict=True):
            np.testing.assert_array_equal(per_base, bases.sum(axis=1))
            assert (bases[~one_hot([sequence])[0].T.bool()] == 0).all(), "zero for absent bases and for N"


class TestIntegratedGradients:
    @pytest.mark.parametrize("fields", VARIANTS)
    @pytest.mark.parametrize("baseline", ["n", "uniform", np.array([0.3, 0.2, 0.2, 0.3])])
    def test_sum_is_the_difference_of_the_outputs(self, make_model, fields, baseline):
        result = integrated_gradients(make_model(**fields), SEQUENCES, steps=256, baseline=baseline)
        difference = result.expression - result.baseline_expression
        assert np.abs(difference).min() > 0.01
        totals = [bases.sum() for bases in result.per_base]
        np.testing.assert_allclose(totals, difference, rtol=0.01)
        np.testing.assert_allclose(result.completeness_error, totals - difference, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("baseline", "weight"), [("n", 0.0), ("uniform", 0.25)])
    def test_baselines_replace_the_variable_part_only(self, exact, exact_module, baseline, weight):
        result = integrated_gradients(exact, MIXED, steps=1, baseline=baseline)
        expected = [exact_module(torch.full((1, 4, len(text)), weight)).item() for text in result.sequences]
        np.testing.assert_allclose(result.baseline_expression, expected, rtol=1e-12)
        np.testing.assert_allclose(result.expression, exact.predict(MIXED), rtol=1e-12)

    def test_sequences_as_baselines(self, exact):
        others = [SEQUENCES[2], SEQUENCES[0], SEQUENCES[0]]
        baseline = one_hot(others).permute(0, 2, 1).numpy()
        result = integrated_gradients(exact, SEQUENCES, steps=256, baseline=baseline)
        np.testing.assert_allclose(result.baseline_expression, exact.predict(others), rtol=1e-12)
        difference = result.expression - result.baseline_expression
        np.testing.assert_allclose([bases.sum() for bases in result.per_base], difference, rtol=0.01)
        same = np.array([[a == b for a, b in zip(*pair, strict=True)] for pair in zip(SEQUENCES, others, strict=True)])
        assert not np.stack(result.per_base)[same].any(), "unchanged bases contribute nothing"
        again = integrated_gradients(exact, SEQUENCES[1:], steps=256, baseline=baseline[1])
        np.testing.assert_allclose(again.attributions[0], result.attributions[1], rtol=1e-9, atol=1e-12)

    def test_correction_keeps_the_sum_of_a_baseline_without_n(self, exact):
        plain, corrected = (
            integrated_gradients(exact, SEQUENCES[::2], steps=5, baseline="uniform", gradient_correction=correction)
            for correction in (False, True)
        )
        assert not np.allclose(plain.attributions, corrected.attributions)
        np.testing.assert_allclose(plain.per_base, corrected.per_base, atol=1e-10)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"baseline": "zeros"}, 'baseline must be "n", "uniform" or an array'),
            ({"baseline": np.zeros(5)}, r"baseline must be \(4,\)"),
            ({"baseline": np.array(0.25)}, r"baseline must be \(4,\)"),
            ({"baseline": np.zeros((2, 20, 4))}, "baseline has 2 sequences, but 3 were given"),
            ({"baseline": np.zeros((19, 4))}, "baseline has 19 bases, sequence 0 of the batch has 20"),
            ({"baseline": np.full(4, 0.3)}, "with a sum of at most 1"),
            ({"baseline": np.array([-0.1, 0.5, 0.1, 0.1])}, "0 or more"),
            ({"baseline": np.full(4, np.nan)}, "0 or more"),
            ({"steps": 0}, "steps must be at least 1"),
        ],
    )
    def test_invalid_options(self, exact, options, message):
        with pytest.raises(ValueError, match=message):
            integrated_gradients(exact, SEQUENCES, **options)


@pytest.fixture(params=["gradient_x_input", "integrated_gradients"])
def attribute(request):
    """Call one of the two functions with few steps."""
    if request.param == "gradient_x_input":
        return gradient_x_input
    return lambda *args, **options: integrated_gradients(*args, steps=5, **options)


class TestBoth:
    @pytest.mark.parametrize("batch_size", [1, 12])
    def test_results_do_not_depend_on_batches(self, exact, attribute, batch_size):
        expected = attribute(exact, MIXED)
        result = attribute(replace(exact, batch_size=batch_size), MIXED)
        for found, wanted in zip(result.attributions, expected.attributions, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(result.expression, expected.expression, rtol=1e-12)
        np.testing.assert_allclose(result.baseline_expression, expected.baseline_expression, rtol=1e-12)

    def test_model_is_unchanged(self, exact, attribute):
        expected = attribute(exact, SEQUENCES).attributions
        with torch.no_grad():
            np.testing.assert_array_equal(attribute(exact, SEQUENCES).attributions, expected)
        assert all(parameter.grad is None and parameter.requires_grad for parameter in exact.model.parameters())

    def test_sequences_are_checked(self, exact, attribute):
        result = attribute(exact, [])
        assert (result.sequences, result.attributions, result.per_base) == ([], [], [])
        assert result.expression.shape == result.baseline_expression.shape == result.completeness_error.shape == (0,)
        with pytest.raises(ValueError, match="sequence 1 of the batch: letter 'X' at position 3"):
            attribute(exact, ["ACGT", "ACX"])


ROWS = ["ACGTACGTAC", "AC!T", "", "accaGNggt", "A" * 21, "TTTT"]
FINE = [ROWS[0], ROWS[3], ROWS[5]]


@pytest.mark.parametrize(
    ("options", "function"),
    [
        ({"steps": 5}, lambda *given: integrated_gradients(*given, steps=5)),
        ({"steps": 3, "baseline": "uniform"}, lambda *given: integrated_gradients(*given, steps=3, baseline="uniform")),
        ({"method": "gradient_x_input"}, gradient_x_input),
    ],
)
def test_file_has_a_line_for_each_base(predictor, tmp_path, options, function):
    write(pd.DataFrame({"id": range(6), "sequence": ROWS}), tmp_path / "in.tsv")
    result = attribution_file(replace(predictor, batch_size=4), tmp_path / "in.tsv", tmp_path / "out.csv", **options)
    assert result[:3] == (6, 10 + 1 + 1 + 2 + 1 + 4, 3)
    lines = read(tmp_path / "out.csv")
    columns = ["row", "position", "base", "attribution", "predicted_expression", "predicted_baseline", "problem"]
    assert list(lines) == columns
    assert lines["row"].tolist() == [1] * 10 + [2, 3] + [4] * 2 + [5] + [6] * 4
    assert lines[lines["problem"] != ""].iloc[:, 1:-1].isna().all(axis=None)
    expected, fine = function(predictor, FINE), lines[lines["problem"] == ""]
    assert "".join(fine["base"]) == "".join(expected.sequences) == "ACGTACGTACGNTTTT"
    assert fine["position"].tolist() == [*range(1, 11), 1, 2, 1, 2, 3, 4]
    sizes = list(map(len, expected.sequences))
    np.testing.assert_allclose(fine["attribution"], np.concatenate(expected.per_base), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fine["predicted_expression"], np.repeat(predictor.predict(FINE), sizes), rtol=1e-9)
    np.testing.assert_allclose(fine["predicted_baseline"], np.repeat(expected.baseline_expression, sizes), rtol=1e-9)


def test_unknown_methods_are_rejected(predictor, tmp_path):
    write(pd.DataFrame({"id": range(6), "sequence": ROWS}), tmp_path / "in.tsv")
    with pytest.raises(ValueError, match="method must be one of integrated_gradients, gradient_x_input"):
        attribution_file(predictor, tmp_path / "in.tsv", tmp_path / "out.tsv", method="deep_lift")


def test_captum_integrates_the_same_gradients(exact, exact_module):
    expected, delta = IntegratedGradients(exact_module).attribute(
        one_hot(SEQUENCES, torch.float64), target=0, n_steps=64, method="gausslegendre", return_convergence_delta=True
    )
    result = integrated_gradients(exact, SEQUENCES, steps=64)
    np.testing.assert_allclose(stacked(result), expected.detach(), rtol=1e-6, atol=1e-8)  # its steps are float32
    np.testing.assert_allclose(result.completeness_error, delta.detach(), rtol=1e-3, atol=1e-7)


class TestTangermeme:
    """tangermeme moves the module to a GPU if there is one, so `device` is given."""

    def test_saturation_mutagenesis(self, exact, exact_module):
        result = saturation_mutagenesis(exact_module, one_hot(SEQUENCES), raw_outputs=True, device="cpu")
        np.testing.assert_allclose(result.y0[:, 0], exact.predict(SEQUENCES), rtol=1e-12)
        for row, text in enumerate(SEQUENCES):
            mutants = [text[:position] + base + text[position + 1 :] for base in "ACGT" for position in range(20)]
            expected = exact.predict(mutants).reshape(4, 20)
            np.testing.assert_allclose(result.y_hat[row, :, :, 0], expected, rtol=1e-12)

    @pytest.mark.parametrize("correction", [False, True])
    def test_saliency(self, exact, exact_module, correction):
        expected = saliency(exact_module, one_hot(SEQUENCES), gradient_correction=correction, device="cpu")
        result = gradient_x_input(exact, SEQUENCES, gradient_correction=correction)
        np.testing.assert_allclose(stacked(result), expected, rtol=1e-9, atol=1e-12)

    def test_deep_lift_shap(self, exact, exact_module):
        """The rule for any module equals our integrated gradients, averaged over references.

        Without it, tangermeme treats products of gates and attention as linear, and warns.
        """
        bases, steps = one_hot(SEQUENCES[:1], torch.float64), 256
        references = dinucleotide_shuffle(bases, n=3, random_state=0)
        options = {"references": references, "warning_threshold": 0.01, "device": "cpu"}
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            rules = {OneHotExpression: integrated_gradients_op(steps)}
            expected = deep_lift_shap(exact_module, bases, additional_nonlinear_ops=rules, **options)
        baselines = references[0].permute(0, 2, 1).numpy()
        ours = integrated_gradients(exact, SEQUENCES[:1] * 3, steps=steps, baseline=baselines)
        np.testing.assert_allclose(np.mean(ours.per_base, axis=0), expected[0].sum(dim=0), rtol=1e-9, atol=1e-9)
        with pytest.warns(RuntimeWarning, match="Convergence deltas"):
            deep_lift_shap(exact_module, bases, **options)
