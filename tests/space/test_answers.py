import numpy as np
import pytest

from modeling_macaron.analysis.mutagenesis import saturation_mutagenesis
from modeling_macaron.analysis.variants import variant_effects
from modeling_macaron.predictor import Predictor
from space.reading import BadInput

ONE, OTHER = "ACGTTTATATAAGGCACGTA", "ACGTTTATATAAGGC"
FLANKED = "ACCA" + ONE + "GGT"


def test_predictions_equal_those_of_the_library(answers, tiny_folder):
    found = answers.predict(f">one\n{FLANKED}\n>bad\nACXT\n>other\n{OTHER.lower()}")
    assert [one.name for one in found] == ["one", "bad", "other"]
    assert [one.promoter and one.promoter.sequence for one in found] == [ONE, None, OTHER]
    np.testing.assert_allclose(
        [found[0].expression, found[2].expression],
        Predictor.from_pretrained(tiny_folder).predict([ONE, OTHER]),
        rtol=1e-6,
    )
    assert found[1].expression is None and "“X” at position 3" in found[1].problem


def test_a_variable_part_that_ends_like_the_flanks_is_not_trimmed_twice(answers, tiny_folder):
    inner = "ACCA" + "TTTTTT" + "GGT"
    (found,) = answers.predict("ACCA" + inner + "GGT")
    assert found.promoter.sequence == inner
    assert found.expression == pytest.approx(
        Predictor.from_pretrained(tiny_folder).predict(["ACCA" + inner + "GGT"])[0], rel=1e-6
    )


@pytest.mark.parametrize(("text", "message"), [("ACXT", "“X”"), ("ACXT\nAC.T", "None of these 2 lines is a promoter")])
def test_nothing_to_predict(answers, text, message):
    with pytest.raises(BadInput, match=message):
        answers.predict(text)


def test_strongest_substitutions(answers, tiny_folder):
    found = answers.mutate(FLANKED)
    (expected,) = saturation_mutagenesis(tiny_folder, [ONE])
    np.testing.assert_allclose(found.result.deltas, expected.deltas, atol=1e-6)
    assert len(found.strongest) == 10 and len(found.substitutions) == 60
    for one in found.substitutions:
        assert one.delta == pytest.approx(expected.deltas[one.position - 1, "ACGT".index(one.alternative)], abs=1e-6)
    sizes = [abs(one.delta) for one in found.strongest]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] >= np.sort(np.abs(expected.deltas), axis=None)[-10] - 1e-6
    for one in found.strongest:
        assert ONE[one.position - 1] == one.reference != one.alternative
        assert one.delta == pytest.approx(expected.deltas[one.position - 1, "ACGT".index(one.alternative)], abs=1e-6)


def test_the_strongest_substitutions_replace_known_bases(answers):
    found = answers.mutate("NNNNNACGT" + "N" * 11)
    assert {one.reference for one in found.strongest} == set("ACGT") and len(found.strongest) == 10
    assert len(found.substitutions) == 16 * 4 + 4 * 3


@pytest.mark.parametrize(
    ("alternative", "changed"),
    [
        ("ACGTTTATATAAGGCACGTC", "ACGTTTATATAAGGCACGTC"),
        ("A20C", "ACGTTTATATAAGGCACGTC"),
        ("TTT4C", "ACGCATATAAGGCACGTA"),
        ("20A>C", "ACGTTTATATAAGGCACGTC"),
        ("A20>c", "ACGTTTATATAAGGCACGTC"),
        ("A20del", "ACGTTTATATAAGGCACGT"),
        ("ACGTTTATATAAGG", "ACGTTTATATAAGG"),
    ],
)
def test_variants_equal_those_of_the_library(answers, tiny_folder, alternative, changed):
    found = answers.compare(ONE, alternative)
    assert (found.reference.sequence, found.alternative.sequence) == (ONE, changed)
    expected = variant_effects(tiny_folder, [ONE], [changed])
    np.testing.assert_allclose(found.forward, [expected.reference[0], expected.alternative[0]], rtol=1e-6)
    both = variant_effects(tiny_folder, [ONE], [changed], both_orientations=True)
    mean = np.mean([found.forward, found.reversed], axis=0)
    np.testing.assert_allclose(mean, [both.reference[0], both.alternative[0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("reference", "alternative", "field", "message"),
    [
        ("", "A1C", "reference", "Paste a promoter first"),
        ("AXC", "A1C", "reference", "“X” at position 2"),
        (ONE, " ", "alternative", "Write a change, such as A12G, or paste the other sequence"),
        ("NN" + OTHER[:4], "", "alternative", "such as A3G"),
        (ONE, "acgtttatataaggcacgta", "alternative", "same as the reference"),
        (ONE, "C1A", "alternative", "C1A does not match the reference: it has A, not C, at position 1 .counted"),
        (ONE, "A21C", "alternative", "A21C lies outside the reference, which has positions 1 to 20"),
        (ONE, "GTC18C", "alternative", "does not match the reference: it has GTA, not GTC, at position 18"),
        (ONE, "A20del,", "alternative", "is not a valid change"),
        (ONE, "CGTAC17G", "alternative", "lies outside the reference"),
        (ONE, "A0C", "alternative", "A0C lies outside the reference"),
        (ONE, "A1A", "alternative", "A1A cannot be applied: both alleles are the same"),
        (ONE, "A1AC", "alternative", "A1AC makes it 21 nt long, 1 more than the model reads. Allow cutting the 5' end"),
        (ONE, "ACGZ", "alternative", "“Z” at position 4"),
    ],
)
def test_invalid_variants(answers, reference, alternative, field, message):
    with pytest.raises(BadInput, match=message) as caught:
        answers.compare(reference, alternative)
    assert caught.value.field == field


def test_long_alternatives_are_cut_if_allowed(answers, tiny_folder):
    found = answers.compare(ONE, "T4TCC", cut=True)
    changed = "GTCCTTATATAAGGCACGTA"
    assert found.alternative.sequence == changed and found.num_cut == 2 and found.difference == (4, "", "CC")
    expected = variant_effects(tiny_folder, [ONE], ["ACGTCCTTATATAAGGCACGTA"], overflow="trim")
    np.testing.assert_allclose(found.forward, [expected.reference[0], expected.alternative[0]], rtol=1e-6)
    with pytest.raises(BadInput, match="After cutting the 5' end, this is the same"):
        answers.compare(ONE, "A1CA", cut=True)
    assert answers.compare(ONE, "A1C", cut=True).num_cut == 0


def test_changes_keep_their_written_position(answers):
    assert answers.compare(ONE, "TT4T").difference == (4, "T", "")
    assert answers.compare(ONE, "GT3G").difference == (3, "T", "")
    assert answers.compare(ONE, "ACGTTATATAAGGCACGTA").difference == (5, "T", "")


def test_a_changed_sequence_is_not_trimmed_again(answers):
    inner = "ACCC" + "TTTTTT" + "GGT"
    found = answers.compare("ACCA" + inner + "GGT", "C4A")
    assert found.alternative.sequence == "ACCATTTTTTGGT"
