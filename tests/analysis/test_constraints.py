"""Constraints on designs, checked base by base."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_macaron.analysis.constraints import Constraints, Rules, random_promoters
from modeling_macaron.dna import IUPAC, encode_bases
from tests.analysis.cases import slow_reverse_complement
from tokenization import KmerTokenizer


def allows(sequence, site):
    tokenizer = KmerTokenizer(kmer_size=5, strand_length=20, flank5="ACCA", flank3="GGT")
    return Rules(Constraints(forbidden_sites=(site,)), tokenizer).allow(encode_bases(sequence)[None])[0]


@given(
    text=st.text("ACGT", min_size=1, max_size=20).filter(lambda text: not re.fullmatch("ACCA.*GGT", text)),
    site=st.text("ACGTRYSWKMBDHVN", min_size=1, max_size=6).filter(lambda site: site.strip("N")),
)
def test_sites_are_found_as_by_regular_expressions(text, site):
    pattern = re.compile("".join(f"[{IUPAC[code]}]" for code in site))
    construct, found = "ACCA" + text + "GGT", False
    for start in range(len(construct) - len(site) + 1):
        part = construct[start : start + len(site)]
        if start + len(site) > 4 and start < 4 + len(text):  # not within a flank
            found |= bool(pattern.fullmatch(part) or pattern.fullmatch(slow_reverse_complement(part)))
    assert allows(text, site) == (not found)


def test_sites_across_a_flank_count_and_those_in_it_do_not(rules):
    ids = encode_bases("CAGG")
    problem = "it has the forbidden site CACA across the 5' flank, forward strand"  # ACCA + CA
    assert rules(forbidden_sites=("CACA",)).explain(ids) == problem
    assert rules(forbidden_sites=("ACCA",)).allow(encode_bases("AAAA")[None]).all()
    assert Rules(Constraints(forbidden_sites=("CACA",)), KmerTokenizer(trimming="never")).allow(ids[None]).all()


@pytest.mark.parametrize(
    ("text", "expected"), [("ACCAGGT", False), ("ACCATGGT", False), ("ACCATGGA", True), ("TCCATGGT", True)]
)
def test_designs_that_would_be_trimmed_are_rejected(rules, text, expected):
    assert rules().allow(encode_bases(text)[None]).tolist() == [expected]
    assert (rules().explain(encode_bases(text)) is None) == expected


def test_random_promoters_meet_the_constraints(rules):
    found = random_promoters(30, 20, 0.35, rules(forbidden_sites=("TTT",)), seed=1)
    assert ((found == 1) | (found == 2)).sum(axis=1).tolist() == [7] * 30
    texts = ["".join("ACGT"[base] for base in row) for row in found]
    assert len(set(texts)) == 30 and not any("TTT" in text or "AAA" in text for text in texts)
    counts = np.bincount(random_promoters(300, 20, 0.5, rules(), seed=1).ravel(), minlength=4)
    np.testing.assert_allclose(counts / 6000, 0.25, atol=0.03)
    np.testing.assert_array_equal(random_promoters(5, 20, 0.35, rules(forbidden_sites=("TTT",)), seed=1), found[:5])
    with pytest.raises(ValueError, match=r"none of 1000 random promoters of 20 nt is allowed; .* GC content 0\.500"):
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
        ({"forbidden_sites": ("NN",)}, "matches every sequence"),
        ({"fixed_positions": (-1,)}, "counted from 0"),
    ],
)
def test_invalid_constraints(fields, message):
    with pytest.raises(ValueError, match=message):
        Constraints(**fields)
