"""Mutagenesis in silico, against predictions of mutants that are written out."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling_macaron.analysis.mutagenesis import (
    Mutagenesis,
    base_importance,
    saturation_mutagenesis,
    window_scan,
)
from modeling_macaron.analysis.mutants import MutantStrands, Substitutions, WindowEdits, pad_centered
from modeling_macaron.analysis.predict import predict, predict_strands
from tokenization import KmerTokenizer
from tokenization.tokenization_kmer import N_ID

# As given, and the variable part: flanks ACCA and GGT, lower case, U, ambiguity letters, N at the ends, one letter.
SEQUENCES = {
    "ACGTACGTAC": "ACGTACGTAC",
    "ACCATTTTGGT": "TTTT",
    "accaGattacagguggt": "GATTACAGGT",
    "ACGU": "ACGT",
    "NRYACGN": "NNNACGN",
    "G": "G",
    "GCTTTATATAAGGCGGGCAT": "GCTTTATATAAGGCGGGCAT",
}
# The substitution of T by A makes ends like the flanks.
LOOKS_FLANKED = "ACCTGGCGGT"


@pytest.fixture(scope="module")
def as_it_stands():
    """Tokenizer that cuts nothing."""
    return KmerTokenizer(kmer_size=5, strand_length=20, trimming="never")


@pytest.fixture(scope="module")
def slow_deltas(model, as_it_stands):
    """Deltas (length, 4) of a variable part, every mutant written out and predicted, the reference base too."""

    def deltas(sequence):
        mutants = [sequence[:i] + base + sequence[i + 1 :] for i in range(len(sequence)) for base in "ACGT"]
        values = predict(model, [sequence, *mutants], tokenizer=as_it_stands)
        return (values[1:] - values[0]).reshape(-1, 4)

    return deltas


def assert_same(got, expected):
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_deltas_are_differences_of_two_predictions(model, slow_deltas, batch_size):
    results = list(saturation_mutagenesis(model, list(SEQUENCES), batch_size=batch_size))
    assert [result.sequence for result in results] == list(SEQUENCES.values())
    references = predict(model, list(SEQUENCES))
    for result, reference in zip(results, references, strict=True):
        expected = slow_deltas(result.sequence)
        assert isinstance(result.reference, float)
        assert result.reference == pytest.approx(reference, rel=1e-12)
        assert_same(result.deltas, expected)
        is_reference = np.array(list(result.sequence))[:, None] == np.array(list("ACGT"))
        assert (result.deltas[is_reference] == 0).all()
        assert np.abs(result.deltas[~is_reference]).min() > 1e-6, "every substitution tells"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sequences=st.lists(
        st.text("ACGT", min_size=1, max_size=3)
        | st.text("ACGTN", min_size=4, max_size=20).filter(lambda text: set(text) != {"N"}),
        min_size=1,
        max_size=4,
    ),
    batch_size=st.integers(1, 100),
)
def test_any_sequences_in_any_batches(model, as_it_stands, slow_deltas, sequences, batch_size):
    results = saturation_mutagenesis(model, sequences, tokenizer=as_it_stands, batch_size=batch_size)
    for sequence, result in zip(sequences, results, strict=True):
        assert result.sequence == sequence
        assert_same(result.deltas, slow_deltas(sequence))


def test_mutant_that_looks_flanked_is_not_trimmed(model, slow_deltas):
    (result,) = saturation_mutagenesis(model, [LOOKS_FLANKED])
    assert_same(result.deltas, slow_deltas(LOOKS_FLANKED))
    trimmed = predict(model, ["ACCAGGCGGT"])[0] - result.reference
    assert abs(result.deltas[3, 0] - trimmed) > 1e-3


def test_float32_and_merged_models_agree(tiny_folder, model):
    expected = next(saturation_mutagenesis(model, ["ACGTACGTAC"]))
    for options in ({}, {"merged": True}, {"dtype": "float64", "merged": True, "device": "cpu"}):
        got = next(saturation_mutagenesis(tiny_folder, ["ACGTACGTAC"], **options))
        np.testing.assert_allclose(got.deltas, expected.deltas, atol=2e-5)
        assert got.reference == pytest.approx(expected.reference, abs=2e-5)
        assert got.deltas.dtype == np.float64


def test_forwards_are_three_a_base_four_an_n_and_one(model, forwards):
    sequences = ["ACGTACGTAC", "ACCATTTTGGT", "NACGN"]  # 31 + 13 + (9 + 8 + 1)
    list(saturation_mutagenesis(model, sequences, batch_size=16))
    assert forwards == [16, 16, 16, 14], "mutants of several sequences share a batch"
    forwards.clear()
    list(saturation_mutagenesis(model, ["ACGTACGTAC"], batch_size=64))
    assert forwards == [31]


def test_results_come_before_all_is_computed(model, forwards):
    results = saturation_mutagenesis(model, ["ACGTACGTAC"] * 50, batch_size=31)
    assert forwards == []
    next(results)
    assert len(forwards) <= 2
    assert len(list(results)) == 49
    assert forwards == [31] * 50


def test_equal_lengths_can_be_stacked(model):
    stacked = np.stack([result.deltas for result in saturation_mutagenesis(model, ["ACGTA", "TTTTT", "accaGGGGGGGT"])])
    assert stacked.shape == (3, 5, 4)


def test_importance_is_minus_the_mean_of_three():
    deltas = np.array([[0, -3, -6, -3.0], [1, 2, 3, 4], [1, 1, 0, 4]])
    np.testing.assert_allclose(base_importance(Mutagenesis("ANG", 10.0, deltas)), [4, 0, -2])


SEQUENCE = "ACGTTGCAAC"


def test_window_of_n_by_hand(model):
    mutants = ["NNNTTGCAAC", "ACNNNGCAAC", "ACGTNNNAAC", "ACGTTGNNNC"]
    (scan,) = window_scan(model, [f"acca{SEQUENCE}ggt"], window=3, step=2, method="n", batch_size=3)
    assert (scan.sequence, scan.window) == (SEQUENCE, 3)
    assert scan.starts.tolist() == [0, 2, 4, 6]
    values = predict(model, [SEQUENCE, *mutants])
    assert scan.reference == pytest.approx(values[0], rel=1e-12)
    assert_same(scan.deltas, values[1:] - values[0])
    assert np.abs(scan.deltas).min() > 1e-3


@pytest.mark.parametrize(
    ("window", "mutants"),
    [(9, ["C", "A"]), (8, ["AC", "AC", "AC"]), (7, ["AAC", "AAC", "ACC", "ACG"])],
    ids=["to one letter", "of even length", "of odd length"],
)
def test_deletion_by_hand(model, window, mutants):
    if window == 8:
        mutants = [SEQUENCE[:start] + SEQUENCE[start + 8 :] for start in range(3)]
    (scan,) = window_scan(model, [SEQUENCE], window=window, method="delete")
    assert scan.starts.tolist() == list(range(len(mutants)))
    assert [len(mutant) for mutant in mutants] == [10 - window] * len(mutants)
    values = predict(model, [SEQUENCE, *mutants])
    assert_same(scan.deltas, values[1:] - values[0])


def test_deletion_of_one_letter(model):
    (scan,) = window_scan(model, ["ACGTC"], window=1, method="delete")
    values = predict(model, ["ACGTC", "CGTC", "AGTC", "ACTC", "ACGC", "ACGT"])
    assert_same(scan.deltas, values[1:] - values[0])


def test_shuffles_of_two_letters_by_hand(model):
    """A window of two letters is left or turned round: the mean is a share of that one delta."""
    num_shuffles = 16
    (scan,) = window_scan(model, [SEQUENCE], window=2, num_shuffles=num_shuffles, seed=1)
    swapped = [SEQUENCE[:i] + SEQUENCE[i + 1] + SEQUENCE[i] + SEQUENCE[i + 2 :] for i in range(9)]
    full = predict(model, swapped) - predict(model, [SEQUENCE])
    is_pair_of_one = np.array([SEQUENCE[i] == SEQUENCE[i + 1] for i in range(9)])
    assert is_pair_of_one.sum() == 2
    np.testing.assert_allclose(scan.deltas[is_pair_of_one], 0, atol=1e-11)
    counts = (scan.deltas / np.where(is_pair_of_one, 1, full))[~is_pair_of_one] * num_shuffles
    np.testing.assert_allclose(counts, counts.round(), atol=1e-6)
    assert (counts > 0).all() and (counts < num_shuffles).all()
    assert len(set(counts.round())) > 2, "each window has shuffles of its own"
    assert 0.3 < counts.mean() / num_shuffles < 0.7


def test_shuffles_belong_to_the_seed(model, forwards):
    options = {"window": 5, "num_shuffles": 3}
    sequences = [SEQUENCE, "TTGACCATGCATGGTA", SEQUENCE]
    expected = list(window_scan(model, sequences, seed=4, **options))
    assert sum(forwards) == 2 * (1 + 6 * 3) + (1 + 12 * 3)
    for batch_size in (1, 5):
        for got, result in zip(
            window_scan(model, sequences, seed=4, batch_size=batch_size, **options), expected, strict=True
        ):
            assert_same(got.deltas, result.deltas)
    (alone,) = window_scan(model, [sequences[1]], seed=4, **options)
    assert_same(alone.deltas, expected[1].deltas)
    assert_same(expected[2].deltas, expected[0].deltas)
    (other,) = window_scan(model, [SEQUENCE], seed=5, **options)
    assert np.abs(other.deltas - expected[0].deltas).max() > 1e-3
    sparse = list(window_scan(model, sequences, seed=4, step=3, **options))
    assert_same(sparse[1].deltas, expected[1].deltas[::3])


@given(
    letters=st.lists(st.integers(0, 4), min_size=4, max_size=20),
    window=st.integers(2, 4),
    step=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_a_shuffle_keeps_letters_and_leaves_the_rest(letters, window, step, seed):
    letters = np.array(letters, np.uint8)
    edits = WindowEdits(window, step, "shuffle", 3, seed)
    count = edits.count(letters)
    starts = [start for start in range(0, len(letters), step) if start + window <= len(letters)]
    assert count == 3 * len(starts)
    for index, mutant in enumerate(edits.make(letters, np.arange(count))):
        start = starts[index // 3]
        np.testing.assert_array_equal(np.delete(mutant, np.s_[start : start + window]),
                                      np.delete(letters, np.s_[start : start + window]))  # fmt: skip
        assert sorted(mutant[start : start + window]) == sorted(letters[start : start + window])


@given(data=st.data(), method=st.sampled_from(["substitution", "shuffle", "n", "delete"]))
def test_slices_of_mutants_are_parts_of_all(data, method):
    letters = data.draw(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=9), min_size=1, max_size=4))
    letters = [np.array(part, np.uint8) for part in letters]
    edits = Substitutions() if method == "substitution" else WindowEdits(3, 2, method, 2, 0)
    strands = MutantStrands(letters, edits, 12)
    size = len(strands)
    whole = np.concatenate([
        pad_centered(piece, 12) for part in letters
        for piece in (part[None], edits.make(part, np.arange(edits.count(part))))
    ])  # fmt: skip
    assert whole.shape == (size, 12)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size + 5))))
    np.testing.assert_array_equal(strands[start:stop], whole[start:stop])
    assert strands[start:stop].dtype == np.uint8


@given(length=st.integers(1, 20))
def test_padding_is_that_of_the_tokenizer(length):
    tokenizer = KmerTokenizer(kmer_size=5, strand_length=20)
    expected = tokenizer("G" * length)["input_ids"][:20]
    assert pad_centered(np.full((1, length), 2, np.uint8), 20).tolist() == [expected]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ("ACGT", "got one str"),
        (["ACGT", "ACX"], "sequence 1 of the batch: letter 'X' at position 3"),
        (["ACGT", ""], "sequence 1 of the batch: empty"),
        (["A" * 21], r"21 nt are more than the 20 that the model reads \(`strand_length`\)"),
        (["ACGT", "AC[MASK]GT"], "sequence 1 of the batch: a masked letter"),
        (["ACGT", b"ACGT"], "expected DNA as a str, got bytes"),
        ([None], "expected DNA as a str, got NoneType"),
    ],
)
def test_bad_sequences_are_named_at_once(model, sequences, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        saturation_mutagenesis(model, sequences)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        window_scan(model, sequences, window=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"window": 3, "step": 0}, "step must be at least 1"),
        ({"window": 3, "num_shuffles": 0}, "num_shuffles must be at least 1"),
        ({"window": 3, "method": "ablate"}, "must be one of shuffle, n, delete"),
        ({"window": 1}, "1 nt cannot be shuffled"),
        ({"window": 3, "seed": -1}, "seed must not be negative"),
        ({"window": 5}, "sequence 1 of the batch: 4 nt are too few for a window of 5"),
        ({"window": 4, "method": "delete"}, "sequence 1 of the batch: 4 nt are too few for a window of 4"),
        ({"window": 3, "batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_windows_that_are_none(model, options, message):
    with pytest.raises(ValueError, match=message):
        window_scan(model, ["ACGTACGT", "ACGT"], **options)


def test_window_as_long_as_the_sequence(model):
    (scan,) = window_scan(model, ["ACGT"], window=4, method="n")
    (masked,) = predict_strands(model, np.full((1, 20), N_ID, np.uint8))
    assert_same(scan.deltas, masked - predict(model, ["ACGT"]))


def test_no_sequence_gives_no_result(model):
    assert list(saturation_mutagenesis(model, [])) == []
    assert list(window_scan(model, [], window=3)) == []
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        saturation_mutagenesis(model, [], batch_size=0)
