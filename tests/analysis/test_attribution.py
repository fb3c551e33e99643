"""Attribution by gradients, the model as a module that takes one-hot DNA, and the packages that read such modules."""

import warnings

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from hypothesis import given, settings
from hypothesis import strategies as st
from tangermeme.deep_lift_shap import deep_lift_shap, integrated_gradients_op
from tangermeme.ersatz import dinucleotide_shuffle
from tangermeme.marginalize import marginalize
from tangermeme.saliency import saliency
from tangermeme.saturation_mutagenesis import saturation_mutagenesis

from modeling_macaron import MacaronForExpressionPrediction, MacaronForMaskedLM, MacaronModel
from modeling_macaron.analysis.attribution import (
    OneHotExpression,
    as_one_hot_module,
    gradient_x_input,
    integrated_gradients,
)
from modeling_macaron.analysis.predict import predict, predict_strands
from modeling_macaron.loading import load_model
from tests.batches import LENGTH, random_ids
from tokenization import MISSING_WORDS, KmerTokenizer

SEQUENCES = ["ACGTACGTACGTTTAACCGG", "TTTTTATATAAGGCNNACGT", "GATTACAGATTACAGATTAC"]
MIXED = ["ACGTACGTAC", "acgu" * 5, "GGGG", "ACCATTTTGGT", "NRYACG", "T"]
VARIANTS = [
    {},
    {"reverse_complement": False},
    {"pooling": "mean"},
    {"pooling": "mean", "reverse_complement": False},
    {"attention_projections": "merged"},
    {"feed_forward": "single", "use_convolution": False},
    {"kmer_size": 4, "gate_activation": "sigmoid"},
]
BINS = {"expression_bins": (-2.0, 0.0, 2.0)}
HEADS = [BINS, {"both_orientations": True}, {"both_orientations": True, **BINS}]


def one_hot(sequences, dtype=torch.float32):
    """(sequences, 4, length); a column of zeros where the letter is none of A, C, G and T."""
    letters = [[[letter == base for letter in sequence] for base in "ACGT"] for sequence in sequences]
    return torch.tensor(letters, dtype=dtype)


def mutate(sequence, position, base):
    return sequence[:position] + base + sequence[position + 1 :]


@pytest.fixture(scope="module")
def exact_model(make_model):
    """Tiny model in float64."""
    return make_model().double()


@pytest.fixture(scope="module")
def exact_module(exact_model):
    return as_one_hot_module(exact_model)


class TestInputsEmbeds:
    @pytest.mark.parametrize("fields", VARIANTS)
    @pytest.mark.parametrize("model_class", [MacaronModel, MacaronForExpressionPrediction, MacaronForMaskedLM])
    def test_embedded_kmers_give_the_numbers_of_their_letters(self, make_model, model_class, fields):
        model, ids = make_model(model_class, **fields), random_ids(3)
        embeddings = getattr(model, "macaron", model).embeddings
        letters = torch.nn.functional.one_hot(ids[:, : model.config.sequence_length], 6)
        with torch.no_grad():
            expected, got = model(ids), model(inputs_embeds=embeddings.embed_one_hot(letters))
        assert torch.equal(got[0], expected[0])

    def test_losses_are_the_same(self, make_model):
        model, ids = make_model(), random_ids(2)
        embedded = model.macaron.embeddings.embed_one_hot(torch.nn.functional.one_hot(ids, 6))
        targets = {"labels": torch.tensor([0.5, -1.0]), "masked_nucleotides": ids}
        assert torch.equal(model(inputs_embeds=embedded, **targets).loss, model(ids, **targets).loss)

    @pytest.mark.parametrize("model_class", [MacaronModel, MacaronForExpressionPrediction, MacaronForMaskedLM])
    def test_exactly_one_input_is_needed(self, make_model, model_class):
        model = make_model(model_class)
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model()
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(random_ids(1), inputs_embeds=torch.zeros(1, LENGTH, 16))

    @pytest.mark.parametrize("shape", [(1, LENGTH - 1, 16), (1, LENGTH, 15), (LENGTH, 16), (1, LENGTH)])
    def test_shape_of_embedded_kmers(self, make_model, shape):
        with pytest.raises(ValueError, match=rf"inputs_embeds must be \(batch, {LENGTH}, 16\)"):
            make_model()(inputs_embeds=torch.zeros(shape))


class TestModule:
    @settings(deadline=None, max_examples=60)
    @given(data=st.data(), length=st.integers(1, 20), fields=st.sampled_from(VARIANTS + HEADS))
    def test_equals_predict(self, make_model, data, length, fields):
        texts = st.text("ACGTN", min_size=length, max_size=length)
        sequence = texts.filter(lambda text: text.strip("N") and text not in MISSING_WORDS)
        sequences = data.draw(st.lists(sequence, min_size=1, max_size=5))
        model = make_model(**fields).double()
        with torch.no_grad():
            got = as_one_hot_module(model)(one_hot(sequences))
        assert got.dtype == torch.float64
        assert got.shape == (len(sequences), 1)
        expected = predict(model, sequences, tokenizer=KmerTokenizer(kmer_size=5, strand_length=20, trimming="never"))
        np.testing.assert_allclose(got[:, 0], expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("fields", VARIANTS)
    def test_equals_predict_in_float32(self, make_model, fields):
        model = make_model(**fields)
        got = as_one_hot_module(model)(one_hot(SEQUENCES)).detach()
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got[:, 0], predict(model, SEQUENCES), rtol=1e-6, atol=5e-6)

    def test_equals_predict_of_a_folder(self, tiny_folder):
        got = as_one_hot_module(tiny_folder)(one_hot(SEQUENCES)).detach()
        np.testing.assert_allclose(got[:, 0].cpu(), predict(tiny_folder, SEQUENCES), rtol=1e-6)

    @pytest.mark.parametrize("fields", [{}, *HEADS])
    def test_equals_predict_in_bfloat16(self, make_model, fields):
        model = make_model(**fields).to(torch.bfloat16)
        got = as_one_hot_module(model)(one_hot(SEQUENCES)).detach()
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got[:, 0], predict(model, SEQUENCES), rtol=1e-6)

    def test_equals_predict_merged_and_eager(self, make_model):
        model = make_model(pooling="mean").to_merged()
        model.set_attn_implementation("eager")
        got = as_one_hot_module(model)(one_hot(SEQUENCES)).detach()
        np.testing.assert_allclose(got[:, 0], predict(model, SEQUENCES), rtol=1e-6)

    def test_integers_are_taken(self, exact_module):
        letters = one_hot(SEQUENCES, torch.int8)
        torch.testing.assert_close(exact_module(letters), exact_module(letters.double()), rtol=0, atol=0)

    def test_weight_that_is_missing_is_n(self, exact_model, exact_module):
        """Half of A and half of N is embedded as the mean of both."""
        embedded = {}
        hook = exact_model.macaron.embeddings.kmer_projection.register_forward_hook(
            lambda _, inputs, output: embedded.update(output=output)
        )
        rows = []
        for letters in (one_hot(["ACGT"]), one_hot(["NCGT"]), (one_hot(["ACGT"]) + one_hot(["NCGT"])) / 2):
            exact_module(letters.double())
            rows.append(embedded["output"])
        hook.remove()
        torch.testing.assert_close(rows[2], (rows[0] + rows[1]) / 2)

    def test_does_not_depend_on_padding_with_zeros(self, exact_module):
        short = one_hot(["ACGTACG"], torch.float64)
        torch.testing.assert_close(exact_module(short), exact_module(torch.nn.functional.pad(short, (6, 7))))

    def test_is_in_evaluation_mode(self, make_model):
        model = make_model(hidden_dropout=0.5).train()
        module = as_one_hot_module(model)
        assert isinstance(module, OneHotExpression)
        assert not any(part.training for part in module.modules())

    @pytest.mark.parametrize("shape", [(2, 4, 21), (2, 4, 0), (2, 20, 4), (2, 6, 20), (4, 20), (1, 2, 4, 20)])
    def test_shapes_that_are_none(self, exact_module, shape):
        with pytest.raises(ValueError, match=r"one-hot DNA must be \(batch, 4, length\) with a length of 1 to 20"):
            exact_module(torch.zeros(shape))

    def test_tokenizer_of_another_length(self, make_model):
        message = "the tokenizer pads to 30 nt, the model reads 20 nt"
        tokenizer = KmerTokenizer(kmer_size=5, strand_length=30)
        with pytest.raises(ValueError, match=message):
            as_one_hot_module(make_model(), tokenizer)
        with pytest.raises(ValueError, match=message):
            gradient_x_input(make_model(), ["ACGT"], tokenizer=tokenizer)


class TestGradients:
    @pytest.mark.parametrize("fields", VARIANTS + HEADS)
    def test_equal_finite_differences(self, make_model, fields):
        module = as_one_hot_module(make_model(**fields).double())
        letters = one_hot(["ACGTNACGGTTA"], torch.float64).requires_grad_()
        (gradients,) = torch.autograd.grad(module(letters).sum(), letters)
        step = 1e-6
        shifts = step * torch.eye(letters.numel(), dtype=torch.float64).view(-1, *letters.shape[1:])
        with torch.no_grad():
            differences = (module(letters + shifts) - module(letters - shifts)) / (2 * step)
        assert gradients.abs().max() > 1e-2
        torch.testing.assert_close(differences.view(gradients.shape), gradients, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("fields", VARIANTS)
    @pytest.mark.parametrize("gradient_correction", [False, True])
    def test_times_input(self, make_model, fields, gradient_correction):
        model = make_model(**fields).double()
        result = gradient_x_input(model, MIXED, gradient_correction=gradient_correction)
        for row, sequence in enumerate(result.sequences):
            letters = one_hot([sequence], torch.float64).requires_grad_()
            (gradients,) = torch.autograd.grad(as_one_hot_module(model)(letters), letters)
            if gradient_correction:
                gradients = gradients - gradients.mean(dim=1, keepdim=True)
            expected = (gradients * letters)[0].T.detach()
            np.testing.assert_allclose(result.attributions[row], expected, rtol=1e-9, atol=1e-12)

    def test_result(self, tiny_folder, tiny_tokenizer):
        """The tokenizer of the folder cuts the flanks ACCA and GGT."""
        result = gradient_x_input(tiny_folder, [*MIXED, "ACCAACGTACGTACGGT"])
        assert result.sequences == ["ACGTACGTAC", "ACGT" * 5, "GGGG", "TTTT", "NNNACG", "T", "ACGTACGTAC"]
        assert [letters.shape for letters in result.attributions] == [(len(text), 4) for text in result.sequences]
        np.testing.assert_array_equal(result.attributions[0], result.attributions[-1])
        np.testing.assert_allclose(result.expression[:-1], predict(tiny_folder, MIXED), rtol=1e-6)
        (unknown,) = predict_strands(load_model(tiny_folder)[0], np.full((1, 20), 4, np.uint8))
        np.testing.assert_allclose(result.baseline_expression, [unknown[0]] * 7, rtol=1e-6)
        assert not result.attributions[4][:3].any(), "N has no letter"
        for letters, bases, sequence in zip(result.attributions, result.per_base, result.sequences, strict=True):
            np.testing.assert_array_equal(bases, letters.sum(axis=1))
            assert (letters[~one_hot([sequence])[0].T.bool()] == 0).all()


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

    def test_more_steps_make_a_smaller_error(self, exact_model):
        errors = [
            np.abs(integrated_gradients(exact_model, SEQUENCES, steps=steps).completeness_error).mean()
            for steps in (2, 16, 256)
        ]
        assert errors[0] > 4 * errors[1] > 16 * errors[2]

    def test_n_baseline_gives_nothing_to_letters_that_are_not_there(self, exact_model):
        result = integrated_gradients(exact_model, SEQUENCES, steps=4)
        for letters, sequence in zip(result.attributions, SEQUENCES, strict=True):
            assert (letters[~one_hot([sequence])[0].T.bool()] == 0).all()

    def test_baselines_are_predicted(self, exact_model, exact_module):
        quarter = torch.full((1, 4, 20), 0.25, dtype=torch.float64)
        for baseline, letters in (("n", torch.zeros_like(quarter)), ("uniform", quarter)):
            result = integrated_gradients(exact_model, SEQUENCES, steps=1, baseline=baseline)
            np.testing.assert_allclose(result.baseline_expression, [exact_module(letters).item()] * 3, rtol=1e-12)
            np.testing.assert_allclose(result.expression, predict(exact_model, SEQUENCES), rtol=1e-12)

    def test_baseline_lies_under_the_variable_part_only(self, exact_model, exact_module):
        result = integrated_gradients(exact_model, MIXED, steps=1, baseline="uniform")
        expected = [exact_module(torch.full((1, 4, len(text)), 0.25)).item() for text in result.sequences]
        np.testing.assert_allclose(result.baseline_expression, expected, rtol=1e-12)

    def test_sequence_as_the_baseline_of_another(self, exact_model):
        others = [SEQUENCES[2], SEQUENCES[0], SEQUENCES[0]]
        baseline = one_hot(others).permute(0, 2, 1).numpy()
        result = integrated_gradients(exact_model, SEQUENCES, steps=256, baseline=baseline)
        np.testing.assert_allclose(result.baseline_expression, predict(exact_model, others), rtol=1e-12)
        difference = result.expression - result.baseline_expression
        np.testing.assert_allclose([bases.sum() for bases in result.per_base], difference, rtol=0.01)
        same = np.array([[a == b for a, b in zip(*pair, strict=True)] for pair in zip(SEQUENCES, others, strict=True)])
        assert not np.stack(result.per_base)[same].any(), "what does not change contributes nothing"
        again = integrated_gradients(exact_model, SEQUENCES[1:], steps=256, baseline=baseline[1])
        np.testing.assert_allclose(again.attributions[0], result.attributions[1], rtol=1e-9, atol=1e-12)

    def test_sequence_that_is_its_baseline(self, exact_model):
        result = integrated_gradients(exact_model, ["ACGT"], steps=3, baseline=np.eye(4))
        assert not result.attributions[0].any()
        np.testing.assert_allclose(result.completeness_error, 0, atol=1e-12)

    def test_correction_keeps_the_sum_of_a_baseline_without_n(self, exact_model):
        sequences = [SEQUENCES[0], SEQUENCES[2]]
        plain, corrected = (
            integrated_gradients(exact_model, sequences, steps=5, baseline="uniform", gradient_correction=correction)
            for correction in (False, True)
        )
        assert not np.allclose(plain.attributions, corrected.attributions)
        np.testing.assert_allclose(plain.per_base, corrected.per_base, atol=1e-10)

    @pytest.mark.parametrize(
        ("baseline", "message"),
        [
            ("zeros", 'baseline must be "n", "uniform" or an array'),
            (np.zeros(5), r"baseline must be \(4,\)"),
            (np.array(0.25), r"baseline must be \(4,\)"),
            (np.zeros((2, 20, 4)), "baseline has 2 sequences for 3"),
            (np.zeros((19, 4)), "baseline has 19 bases, sequence 0 of the batch 20"),
            (np.zeros((3, 21, 4)), "baseline has 21 bases"),
            (np.full(4, 0.3), "with a sum of at most 1"),
            (np.array([-0.1, 0.5, 0.1, 0.1]), "0 or more"),
            (np.full(4, np.nan), "0 or more"),
        ],
    )
    def test_baselines_that_are_none(self, exact_model, baseline, message):
        with pytest.raises(ValueError, match=message):
            integrated_gradients(exact_model, SEQUENCES, baseline=baseline)

    @pytest.mark.parametrize("steps", [0, -1])
    def test_steps_that_are_none(self, exact_model, steps):
        with pytest.raises(ValueError, match="steps must be at least 1"):
            integrated_gradients(exact_model, SEQUENCES, steps=steps)


@pytest.fixture(params=["gradient_x_input", "integrated_gradients"])
def attribute(request):
    """Give one of the two functions, with few steps."""
    if request.param == "gradient_x_input":
        return gradient_x_input
    return lambda *args, **options: integrated_gradients(*args, steps=5, **options)


class TestBoth:
    @pytest.mark.parametrize("batch_size", [1, 3, 1000])
    def test_do_not_depend_on_the_batch(self, exact_model, attribute, batch_size):
        expected = attribute(exact_model, MIXED)
        result = attribute(exact_model, MIXED, batch_size=batch_size, verbose=True)
        alone = attribute(exact_model, MIXED[2:3])
        for got, wanted in zip(result.attributions, expected.attributions, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(alone.attributions[0], expected.attributions[2], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(result.expression, expected.expression, rtol=1e-12)
        np.testing.assert_allclose(result.baseline_expression, expected.baseline_expression, rtol=1e-12)

    def test_model_that_reads_nothing_has_attributions_of_zero(self, make_model, attribute):
        model = make_model()
        torch.nn.init.zeros_(model.expression_head.weight)
        result = attribute(model, MIXED)
        assert not any(letters.any() for letters in result.attributions)
        constant = model.expression_head.bias.item() * 2.5 + 11.25
        np.testing.assert_allclose(result.expression, constant, rtol=1e-6)
        np.testing.assert_allclose(result.completeness_error, 0, atol=1e-5)

    def test_forward_strand_alone_ends_where_the_kmers_end(self, make_model, attribute):
        """With `reverse_complement=False` the k-mers reach to the end of the strand and not beyond."""
        result = attribute(make_model(reverse_complement=False), SEQUENCES)
        assert (np.abs(result.attributions[0]).sum(axis=1) > 0).all()

    def test_leave_no_gradients_and_no_training_mode(self, make_model, attribute):
        model = make_model()
        attribute(model, SEQUENCES)
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        assert not model.training

    def test_work_without_gradients_outside(self, exact_model, attribute):
        expected = attribute(exact_model, SEQUENCES).attributions
        with torch.no_grad():
            np.testing.assert_array_equal(attribute(exact_model, SEQUENCES).attributions, expected)

    def test_no_sequence(self, exact_model, attribute):
        result = attribute(exact_model, [])
        assert (result.sequences, result.attributions, result.per_base) == ([], [], [])
        assert result.expression.shape == result.baseline_expression.shape == result.completeness_error.shape == (0,)

    @pytest.mark.parametrize(
        ("sequences", "message"),
        [
            ("ACGT", "got one str"),
            (["ACGT", "A" * 21], "sequence 1 of the batch: 21 nt are more than the 20"),
            (["ACGT", "ACX"], r"sequence 1 of the batch: letter 'X' at position 3"),
            (["ACGT", ""], "sequence 1 of the batch: empty sequence"),
            (["ACGT", "AC[MASK]T"], "sequence 1 of the batch: a masked letter"),
        ],
    )
    def test_bad_sequence_is_named(self, exact_model, attribute, sequences, message):
        with pytest.raises(ValueError, match=message):
            attribute(exact_model, sequences)

    def test_batch_size_of_zero(self, exact_model, attribute):
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            attribute(exact_model, SEQUENCES, batch_size=0)

    def test_device_that_is_not_there(self, exact_model, attribute):
        with pytest.raises(ValueError, match="device nowhere cannot be used"):
            attribute(exact_model, SEQUENCES, device="nowhere")


class TestCaptum:
    def test_integrated_gradients(self, exact_model, exact_module):
        letters = one_hot(SEQUENCES, torch.float64)
        expected, delta = IntegratedGradients(exact_module).attribute(
            letters, target=0, n_steps=64, method="gausslegendre", return_convergence_delta=True
        )
        result = integrated_gradients(exact_model, SEQUENCES, steps=64)
        got = np.stack(result.attributions).transpose(0, 2, 1)
        np.testing.assert_allclose(got, expected.detach(), rtol=1e-6, atol=1e-8)  # its steps are float32
        np.testing.assert_allclose(result.completeness_error, delta.detach(), rtol=1e-3, atol=1e-7)

    def test_saliency(self, exact_model, exact_module):
        gradients = Saliency(exact_module).attribute(one_hot(SEQUENCES, torch.float64).requires_grad_(), abs=False)
        result = gradient_x_input(exact_model, SEQUENCES, gradient_correction=False)
        expected = (gradients * one_hot(SEQUENCES)).permute(0, 2, 1).detach()
        np.testing.assert_allclose(np.stack(result.attributions), expected, rtol=1e-9, atol=1e-12)


class TestTangermeme:
    """The functions run on the module as it is; they put it onto the GPU where there is one, so `device` is given."""

    def test_saturation_mutagenesis(self, exact_model, exact_module):
        result = saturation_mutagenesis(exact_module, one_hot(SEQUENCES), raw_outputs=True, device="cpu")
        np.testing.assert_allclose(result.y0[:, 0], predict(exact_model, SEQUENCES), rtol=1e-12)
        for row, sequence in enumerate(SEQUENCES):
            mutants = [mutate(sequence, position, base) for base in "ACGT" for position in range(20)]
            expected = predict(exact_model, mutants).reshape(4, 20)
            np.testing.assert_allclose(result.y_hat[row, :, :, 0], expected, rtol=1e-12)

    def test_marginalize(self, exact_model, exact_module):
        backgrounds = [SEQUENCES[0], SEQUENCES[2]]
        result = marginalize(exact_module, one_hot(backgrounds), "TGACTCA", start=5, device="cpu")
        planted = [sequence[:5] + "TGACTCA" + sequence[12:] for sequence in backgrounds]
        np.testing.assert_allclose(result.y_before[:, 0], predict(exact_model, backgrounds), rtol=1e-12)
        np.testing.assert_allclose(result.y_after[:, 0], predict(exact_model, planted), rtol=1e-12)

    def test_leaves_the_model_in_evaluation_mode(self, make_model):
        """It puts the model back into the mode that the module is in."""
        model = make_model(hidden_dropout=0.5).train()
        saliency(as_one_hot_module(model), one_hot(SEQUENCES), device="cpu")
        assert not model.training

    @pytest.mark.parametrize("correction", [False, True])
    def test_saliency(self, exact_model, exact_module, correction):
        expected = saliency(exact_module, one_hot(SEQUENCES), gradient_correction=correction, device="cpu")
        result = gradient_x_input(exact_model, SEQUENCES, gradient_correction=correction)
        got = np.stack(result.attributions).transpose(0, 2, 1)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)

    def test_deep_lift_shap_with_the_module_as_one_operation(self, exact_model, exact_module):
        """By the rule that tangermeme has for any module, it is our integrated gradients, averaged over references."""
        letters, steps = one_hot(SEQUENCES[:1], torch.float64), 256
        references = dinucleotide_shuffle(letters, n=3, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # it warns where attributions do not sum up
            expected = deep_lift_shap(
                exact_module,
                letters,
                references=references,
                additional_nonlinear_ops={OneHotExpression: integrated_gradients_op(steps)},
                warning_threshold=0.01,
                device="cpu",
            )
        baselines = references[0].permute(0, 2, 1).numpy()
        ours = integrated_gradients(exact_model, SEQUENCES[:1] * 3, steps=steps, baseline=baselines)
        np.testing.assert_allclose(np.mean(ours.per_base, axis=0), expected[0].sum(dim=0), rtol=1e-9, atol=1e-9)

    def test_deep_lift_shap_as_it_is_says_that_it_is_not_complete(self, exact_module):
        """It has rules for modules: products of gates and attention are none, and it takes them for linear."""
        with pytest.warns(RuntimeWarning, match="Convergence deltas"):
            got = deep_lift_shap(exact_module, one_hot(SEQUENCES[:1]), n_shuffles=2, random_state=0, device="cpu")
        assert got.shape == (1, 4, 20)
        assert torch.isfinite(got).all()
