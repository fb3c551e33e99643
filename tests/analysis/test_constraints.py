"""Rules of designs, checked letter by letter."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_macaron.analysis.constraints import Constraints, Rules, random_promoters
from tokenization import KmerTokenizer


def rules_allow(sequence, site):
    tokenizer = KmerTokenizer(kmer_size=5, strand_length=20, flank5="ACCA", flank3="GGT")
    letters = np.array([["ACGT".index(base) for base in sequence]], np.uint8)
    return Rules(Constraints(forbidden_sites=(site,)), tokenizer).allow(letters)[0]


@given(text=st.text("ACGT", min_size=1, max_size=20), site=st.text("ACGTRYSWKMBDHVN", min_size=1, max_size=6))
def test_sites_as_regular_expressions_find_them(text, site):
    if set(site) == {"N"}:
        return
    codes = {"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC", "B": "CGT", "D": "AGT", "H": "ACT",
             "V": "ACG", "N": "ACGT"}  # fmt: skip
    pattern = re.compile("".join(f"[{codes.get(letter, letter)}]" for letter in site))
    construct = "ACCA" + text + "GGT"
    turned = construct[::-1].translate(str.maketrans("ACGT", "TGCA"))
    width, found = len(site), False
    for start in range(len(construct) - width + 1):
        if start + width > 4 and start < 4 + len(text):  # more than a flank
            stop = start + width
            found |= bool(pattern.fullmatch(construct[start:stop]))
            found |= bool(pattern.fullmatch(turned[len(construct) - stop : len(construct) - start]))
    if text.startswith("ACCA") and text.endswith("GGT") and len(text) >= 7:
        return
    assert rules_allow(text, site) == (not found)


def test_sites_across_the_flanks_and_in_them(rules):
    letters = {"CAGG": [1, 0, 2, 2], "AAAA": [0] * 4}
    site = rules(forbidden_sites=("CACA",))  # ACCA + CA..
    assert site.explain(np.array(letters["CAGG"], np.uint8)) == (
        "it has the forbidden site CACA across the 5' flank, forward strand"
    )
    assert rules(forbidden_sites=("ACCA",)).allow(np.array([letters["AAAA"]], np.uint8)).all()
    whole = Rules(Constraints(forbidden_sites=("CACA",)), KmerTokenizer(trimming="never"))
    assert whole.allow(np.array([letters["CAGG"]], np.uint8)).all()


def test_a_design_does_not_look_like_a_construct(rules):
    """It would be trimmed, and predicted as another sequence."""
    for text, expected in (("ACCAGGT", False), ("ACCATGGT", False), ("ACCATGGA", True), ("TCCATGGT", True)):
        letters = np.array([["ACGT".index(base) for base in text]], np.uint8)
        assert rules().allow(letters).tolist() == [expected]
        assert (rules().explain(letters[0]) is None) == expected


def test_random_promoters_keep_to_content_and_rules(rules):
    found = random_promoters(30, 20, 0.35, rules(forbidden_sites=("TTT",)), seed=1)
    assert ((found == 1) | (found == 2)).sum(axis=1).tolist() == [7] * 30
    texts = ["".join("ACGT"[letter] for letter in row) for row in found]
    assert not any("TTT" in text or "AAA" in text for text in texts)
    assert len(set(texts)) == 30
    counts = np.bincount(random_promoters(300, 20, 0.5, rules(), seed=1).ravel(), minlength=4)
    np.testing.assert_allclose(counts / 6000, 0.25, atol=0.03)
    np.testing.assert_array_equal(random_promoters(5, 20, 0.35, rules(forbidden_sites=("TTT",)), seed=1), found[:5])
    with pytest.raises(ValueError, match=r"none of 1000 random promoters of 20 nt will do; .* GC content 0\.500"):
        random_promoters(1, 20, 0.5, rules(gc_range=(0.1, 0.2)), seed=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gc_range": (0.6, 0.3)}, "the smaller first"),
        ({"gc_range": (30, 60)}, "two fractions"),
        ({"gc_range": (0.3,)}, "two fractions"),
        ({"forbidden_sites": "GAATTC"}, "got one str"),
        ({"forbidden_sites": ("GAAXTC",)}, "'GAAXTC' is not DNA in IUPAC codes"),
        ({"forbidden_sites": ("",)}, "not DNA"),
        ({"forbidden_sites": ("NN",)}, "everywhere"),
        ({"fixed_positions": (-1,)}, "counted from 0"),
    ],
)
def test_constraints_that_are_none(fields, message):
    with pytest.raises(ValueError, match=message):
        Constraints(**fields)
