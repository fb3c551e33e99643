import numpy as np
import pytest

from modeling_macaron.analysis.mutagenesis import saturation_mutagenesis
from modeling_macaron.analysis.predict import predict
from modeling_macaron.analysis.variants import variant_effects
from space.reading import BadInput
from space.reference import load_reference

ONE, OTHER = "ACGTTTATATAAGGCACGTA", "ACGTTTATATAAGGC"
FLANKED = "ACCA" + ONE + "GGT"


def test_predictions_are_the_librarys(answers, tiny_folder):
    found = answers.predict(f">one\n{FLANKED}\n>bad\nACXT\n>other\n{OTHER.lower()}")
    assert [one.name for one in found] == ["one", "bad", "other"]
    assert [one.promoter and one.promoter.sequence for one in found] == [ONE, None, OTHER]
    np.testing.assert_allclose(
        [found[0].expression, found[2].expression], predict(tiny_folder, [ONE, OTHER]), rtol=1e-6
    )
    assert found[1].expression is None and "“X” at position 3" in found[1].problem


def test_a_variable_part_that_ends_like_the_flanks_is_not_trimmed_twice(answers, tiny_folder):
    inner = "ACCA" + "TTTTTT" + "GGT"
    (found,) = answers.predict("ACCA" + inner + "GGT")
    assert found.promoter.sequence == inner
    assert found.expression == pytest.approx(predict(tiny_folder, ["ACCA" + inner + "GGT"])[0], rel=1e-6)


@pytest.mark.parametrize(("text", "message"), [("ACXT", "“X”"), ("ACXT\nAC.T", "None of these 2 lines is a promoter")])
def test_nothing_to_predict(answers, text, message):
    with pytest.raises(BadInput, match=message):
        answers.predict(text)


def test_percentiles_and_measurements():
    reference = load_reference()
    assert reference.num_promoters == reference.counts.sum() == 55_983
    assert reference.percentile_of(reference.percentiles[30]) == pytest.approx(30)
    assert (reference.percentile_of(-9), reference.percentile_of(9)) == (0, 100)
    assert [len(one.sequence) for one in reference.examples] == [80] * 5
    assert reference.measured(reference.examples[1].sequence) == reference.examples[1].measured
    assert reference.measured("ACGT") is None


def test_examples_are_promoters_that_were_kept_out_of_training(shared):
    import pandas as pd

    library = pd.read_parquet(shared / "data/dream2022/measured_library.parquet")
    library = library[library["split"] == "validation"].set_index("sequence")["activity"]
    for example in load_reference().examples:
        measured = library["TGCATTTTTTTCACATC" + example.sequence + "GGTTACGGCTGTT"]
        assert example.measured == pytest.approx(measured, abs=0.005)


def test_strongest_substitutions(answers, tiny_folder):
    found = answers.mutate(FLANKED)
    (expected,) = saturation_mutagenesis(tiny_folder, [ONE])
    np.testing.assert_allclose(found.result.deltas, expected.deltas, atol=1e-6)
    assert len(found.strongest) == 10
    sizes = [abs(one.delta) for one in found.strongest]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] >= np.sort(np.abs(expected.deltas), axis=None)[-10] - 1e-6
    for one in found.strongest:
        assert ONE[one.position - 1] == one.reference != one.alternative
        assert one.delta == pytest.approx(expected.deltas[one.position - 1, "ACGT".index(one.alternative)], abs=1e-6)


@pytest.mark.parametrize(
    ("alternative", "changed"),
    [
        ("ACGTTTATATAAGGCACGTC", "ACGTTTATATAAGGCACGTC"),
        ("A20C", "ACGTTTATATAAGGCACGTC"),
        ("TTT4C", "ACGCATATAAGGCACGTA"),
        ("ACGTTTATATAAGG", "ACGTTTATATAAGG"),
    ],
)
def test_variants_are_the_librarys(answers, tiny_folder, alternative, changed):
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
        (ONE, "", "alternative", "Paste a promoter first"),
        (ONE, "acgtttatataaggcacgta", "alternative", "same as the reference"),
        (ONE, "C1A", "alternative", "position 1 .counted from 1, without flanks. holds A"),
        (ONE, "A21C", "alternative", "position 21 .* holds nothing"),
        (ONE, "A0C", "alternative", "outside the sequence"),
        (ONE, "A1A", "alternative", "the same"),
        (ONE, "A1AC", "alternative", "21 nt are too many"),
        (ONE, "ACGZ", "alternative", "“Z” at position 4"),
    ],
)
def test_variants_that_are_none(answers, reference, alternative, field, message):
    with pytest.raises(BadInput, match=message) as caught:
        answers.compare(reference, alternative)
    assert caught.value.field == field
