"""Variant effects of sequences and of tables, and their figures."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_macaron.analysis.figures import VariantFigures
from modeling_macaron.analysis.files import FileOptions
from modeling_macaron.analysis.plots import variant_effect_plot
from modeling_macaron.analysis.variants import apply_variant, variant_effects, variants_file
from modeling_macaron.dna import reverse_complement_text, where_they_differ
from modeling_macaron.predictor import Predictor
from tests.analysis.cases import (
    EFFECTS,
    assert_effects,
    names_in,
    read,
    run_script,
    slow_apply,
    slow_reverse_complement,
    write,
)
from tokenization import KmerTokenizer

# Even and odd lengths, so both paddings; RNA, lower case, N, an insertion, a deletion, flanks, equal sequences.
REFERENCES = ["ACGTACGTAC", "acgua", "GGNGGTT", "ACGT", "CCCTTTAAA", "ACCATTTCATGGT", "TTTTT"]
ALTERNATIVES = ["ACGTTCGTAC", "acgca", "GGNGCTT", "ACGGGT", "CCAAA", "ACCATTTCCTGGT", "TTTTT"]
FULL = "ACGTTGCAAGGCTATCCGAT"
TOO_LONG = "21 nt are more than the 20 that the model reads"


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_deltas_equal_explicit_predictions(tiny_folder, explicit, batch_size):
    predictor = Predictor.from_pretrained(tiny_folder, batch_size=batch_size)
    effects = variant_effects(predictor, REFERENCES, ALTERNATIVES)
    reference, alternative = ([explicit(text) for text in texts] for texts in (REFERENCES, ALTERNATIVES))
    assert np.abs(np.subtract(alternative, reference))[:-1].min() > 1e-4, "the model distinguishes the pairs"
    np.testing.assert_allclose(effects.reference, reference, rtol=1e-5)
    np.testing.assert_allclose(effects.alternative, alternative, rtol=1e-5)
    np.testing.assert_array_equal(effects.delta, effects.alternative - effects.reference)
    assert effects.delta[-1] == 0 and effects.delta.dtype == np.float64


def test_both_orientations_by_hand(predictor, explicit):
    effects = variant_effects(predictor, REFERENCES, ALTERNATIVES, both_orientations=True)
    for found, texts in ((effects.reference, REFERENCES), (effects.alternative, ALTERNATIVES)):
        parts = [text[4:-3] if text.startswith("ACCA") else text for text in texts]
        expected = [(explicit(part) + explicit(slow_reverse_complement(part))) / 2 for part in parts]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    plain = variant_effects(predictor, REFERENCES, ALTERNATIVES)
    assert np.abs(effects.delta - plain.delta)[:-1].min() > 1e-4, "the orientation matters to the model"


@pytest.mark.parametrize(("both_orientations", "computed"), [(False, 4), (True, 7)])
def test_equal_sequences_are_computed_once(predictor, forwards, both_orientations, computed):
    # TTTT with flanks is TTTT; ACGT is its own reverse complement.
    references, alternatives = ["TTTT", "ACGT", "ACCATTTTGGT", "TTTT"] * 9, ["TTCT", "TTTT", "ACCATTCTGGT", "TTCA"] * 9
    variant_effects(replace(predictor, batch_size=2), references, alternatives, both_orientations=both_orientations)
    assert sum(forwards) == computed
    effects = variant_effects(predictor, [], [], both_orientations=both_orientations)
    assert [part.shape for part in effects] == [(0,)] * 3


@pytest.mark.parametrize(
    ("references", "alternatives", "message"),
    [
        ("ACGT", "ACGA", "got one str"),
        (["ACGT"], ["ACGA", "ACGC"], "1 references and 2 alternatives"),
        (["ACGT", "ACXT"], ["ACGA", "ACGC"], r"pair 1 .*reference sequence: letter 'X' at position 3 "),
        (["ACGT"], ["A" * 21], rf"pair 0 .*alternative sequence: {TOO_LONG}"),
        (["ACGT"], [""], r"pair 0 .*alternative sequence: empty sequence"),
        (["ACGT"], [None], r"pair 0 .*alternative sequence: empty sequence"),
        (["AC GT"], ["NA"], r"pair 0 .*alternative sequence: missing sequence 'NA'"),
        (["ACCATTTTGGT"], ["ACCATTTTGCT"], r"pair 0 .*the constant flanks differ"),
        (["ACCATTTTGGT"], ["TTTA"], r"pair 0 .*the constant flanks differ"),
        # The alternative is also too long without its flank, but the flank is reported.
        (["ACCA" + "T" * 20 + "GGT"], ["ACGA" + "T" * 20 + "GGT"], r"pair 0 .*the constant flanks differ"),
        (["ACCA" + "T" * 20 + "GGT"], ["ACCA" + "T" * 21 + "GGT"], rf"alternative sequence: {TOO_LONG}"),
    ],
)
def test_invalid_pairs(predictor, references, alternatives, message):
    with pytest.raises(ValueError, match=message):
        variant_effects(predictor, references, alternatives)


def test_flanks_that_are_always_trimmed_must_agree(predictor):
    tokenizer = KmerTokenizer(kmer_size=5, strand_length=20, flank5="ACCA", flank3="GGT", trimming="always")
    trimming = replace(predictor, tokenizer=tokenizer)
    for alternative in ("AGCATTTTGGT", "ACCATTTTGGA"):
        with pytest.raises(ValueError, match="the constant flanks differ"):
            variant_effects(trimming, ["ACCATTTTGGT"], [alternative])
    # The flanks are not the tokenizer's but equal in both sequences, in RNA and in lower case.
    found = variant_effects(trimming, ["GGGGTTTTAAU"], ["ggggTTATAAT"])
    np.testing.assert_allclose(found.delta, variant_effects(predictor, ["TTTT"], ["TTAT"]).delta, atol=1e-9)


@pytest.mark.parametrize("flanks", [("", ""), ("ACCA", "GGT")])
def test_overflow_is_trimmed_at_the_5_prime_end(predictor, explicit, flanks):
    pairs = [(FULL, FULL[:9] + "TTC" + FULL[9:]), (FULL[1:], FULL[1:15] + "GA" + FULL[15:])]
    pairs += [(FULL[2:], FULL[2:9] + "C" + FULL[9:]), ("AG" + FULL, "AG" + FULL[:5] + "A" + FULL[6:])]
    references, alternatives = zip(*pairs, strict=True)
    whole = [[text.join(flanks) for text in texts] for texts in (references, alternatives)]
    effects = variant_effects(predictor, *whole, overflow="trim")
    np.testing.assert_allclose(effects.reference, [explicit(text[-20:]) for text in references], rtol=1e-5)
    np.testing.assert_allclose(effects.alternative, [explicit(text[-20:]) for text in alternatives], rtol=1e-5)
    with pytest.raises(ValueError, match=r"pair 0 .*the variant is trimmed away"):
        variant_effects(predictor, ["G" + FULL], [FULL], overflow="trim")
    with pytest.raises(ValueError, match="more than the 20 that the model reads"):
        variant_effects(predictor, *whole)


@given(st.text("ACGTacgt", min_size=1, max_size=30), st.data())
def test_variants_are_applied_as_by_a_slow_version(sequence, data):
    start = data.draw(st.integers(0, len(sequence)))
    end = data.draw(st.integers(start, len(sequence)))
    alternative = data.draw(st.text("ACGT", max_size=6))
    changed = apply_variant(sequence, start, sequence[start:end].swapcase(), alternative)
    assert changed == slow_apply(sequence, start, sequence[start:end], alternative)
    # Applying the reverse-complemented variant gives the reverse complement of the changed sequence.
    turned = [reverse_complement_text(text) for text in (sequence, sequence[start:end], alternative)]
    assert apply_variant(turned[0], len(sequence) - end, *turned[1:]) == reverse_complement_text(changed)


@pytest.mark.parametrize(
    ("start", "reference", "alternative", "message"),
    [(-1, "T", "A", "position outside"), (3, "TA", "T", "position outside"), (5, "", "T", "position outside"),
     (1, "C", "n", "ambiguous"), (1, "C", "C[chr2:321[", "symbolic"), (1, "C", "-", "not DNA")],
)  # fmt: skip
def test_variants_that_cannot_be_applied(start, reference, alternative, message):
    with pytest.raises(ValueError, match=message):
        apply_variant("ACGT", start, reference, alternative)


def test_reverse_complement_of_text():
    assert reverse_complement_text("AaCGTTUN") == "NAAACGtT" and reverse_complement_text("RKBD") == "HVMY"
    codes = "ACGTNRYSWKMBDHV"
    assert reverse_complement_text(reverse_complement_text(codes)) == codes


@pytest.mark.parametrize(
    ("source", "output"), [("in.tsv", "out.parquet"), ("in.csv.gz", "out.csv"), ("in.parquet", "out.tsv")]
)
def test_table_of_pairs(tiny_folder, tmp_path, explicit, source, output):
    frame = pd.DataFrame({"name": range(7), "Ref_Sequence": REFERENCES, "position": 3, "alt_seq": ALTERNATIVES})
    frame = pd.concat([frame] * 7, ignore_index=True)
    write(frame, tmp_path / source)
    predictor = Predictor.from_pretrained(tiny_folder, batch_size=2)
    assert variants_file(predictor, tmp_path / source, tmp_path / output)[:3] == (49, 49, 0)
    table = read(tmp_path / output)
    assert table.columns.tolist() == [*frame.columns, *EFFECTS, "problem"]
    assert table["Ref_Sequence"].tolist() == REFERENCES * 7
    assert_effects(table, [(explicit(r), explicit(a)) for r, a in zip(REFERENCES, ALTERNATIVES, strict=True)] * 7)


ROWS = [  # sequence, position from 1, ref, alt, the alternative sequence or the problem
    ("ACGTACGT", "1", "A", "C", "CCGTACGT"),
    ("ACGTACGT", "8", "t", " g ", "ACGTACGg"),
    ("ACGTACGT", "3.0", "GT", "G", "ACGACGT"),
    ("ACGTACGT", "8", "T", "TAA", "ACGTACGTAA"),
    ("ACGUACGU", "4", "T", "C", "ACGCACGU"),
    ("ACNTACGT", "1", "A", "T", "TCNTACGT"),
    ("ACCATTTCATGGT", "5", "T", "A", "ACCAATTCATGGT"),
    ("A" * 20, "7", "A", "T", "A" * 6 + "T" + "A" * 13),
    ("A" * 20, "7", "A", "AT", f"alternative sequence: {TOO_LONG}"),
    ("A" * 21, "7", "AA", "A", f"reference sequence: {TOO_LONG}"),
    ("ACCATTTCATGGT", "2", "C", "A", "the constant flanks differ"),
    ("ACGTACGT", "1", "C", "A", "reference allele is not what the sequence holds"),
    ("ACGTACGT", "0", "A", "C", "position outside the sequence"),
    ("ACGTACGT", "9", "A", "C", "position outside the sequence"),
    ("ACGTACGT", "8", "TA", "T", "position outside the sequence"),
    ("ACGTACGT", "x", "A", "C", "position is not a whole number"),
    ("ACGTACGT", "1.5", "A", "C", "position is not a whole number"),
    ("ACGTACGT", "nan", "A", "C", "position is not a whole number"),
    ("ACGTACGT", "inf", "A", "C", "position is not a whole number"),
    ("ACGTACGT", "", "A", "C", "position is not a whole number"),
    ("ACGTACGT", "1", "A", "", "missing allele"),
    ("ACGTACGT", "1", ".", "C", "missing allele"),
    ("ACGTACGT", "1", "A", "NA", "missing allele"),
    ("NA", "1", "N", "A", "missing sequence 'NA'"),
    ("ACGTACGT", "1", "A", "-", "allele '-': write a deletion or an insertion as in VCF, with the base before it"),
    ("ACGTACGT", "1", "A", "a", "both alleles are the same"),
    ("ACGTACGT", "3", "GT", "GU", "both alleles are the same"),
    ("ACGTACGT", "1", "A", "C,G", "several alternative alleles: give each its own row"),
    ("NCGTACGT", "1", "N", "A", "allele with an ambiguous base (N or another IUPAC code)"),
    ("ACGTACGT", "1", "A", "<DEL>", "symbolic, breakend or * allele"),
    ("ACGTACGT", "1", "A", "AX", "allele with a character that is not DNA"),
    ("ACXTACGT", "1", "A", "C", "reference sequence: letter 'X' at position 3 (counted from 1) is not DNA"),
]


@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
def test_table_of_alleles_with_every_problem(predictor, tmp_path, explicit, source):
    frame = pd.DataFrame([row[:4] for row in ROWS], columns=["Promoter", "POS", "REF", "alternate"])
    write(frame.replace("", None) if source.endswith(".parquet") else frame, tmp_path / source)
    fine = [set(row[4].upper()) <= set("ACGTUN") for row in ROWS]
    result = variants_file(predictor, tmp_path / source, tmp_path / "out.parquet")
    assert result[:3] == (len(ROWS), len(ROWS), fine.count(False))
    table = read(tmp_path / "out.parquet")
    assert table["problem"].tolist() == ["" if ok else row[4] for ok, row in zip(fine, ROWS, strict=True)]
    assert_effects(table, [(explicit(r[0]), explicit(r[4])) if ok else None for ok, r in zip(fine, ROWS, strict=True)])


def test_positions_from_0_and_spreadsheets(predictor, tmp_path, explicit):
    rows = [("1 acg tac", 3, "T", "A"), ("ACGTACGT", 0, "A", "C")]
    frame = pd.DataFrame(rows, columns=["sequence", "position", "ref", "alt"])
    frame.to_excel(tmp_path / "in.xlsx", index=False)
    variants_file(predictor, tmp_path / "in.xlsx", tmp_path / "out.csv", position_base=0)
    pairs = [("ACGTAC", "ACGAAC"), ("ACGTACGT", "CCGTACGT")]
    assert_effects(read(tmp_path / "out.csv"), [tuple(map(explicit, pair)) for pair in pairs])
    with pytest.raises(ValueError, match="position_base must be 0 or 1"):
        variants_file(predictor, tmp_path / "in.xlsx", tmp_path / "new.csv", position_base=2)


@pytest.mark.parametrize(
    ("text", "options", "alternatives"),
    [
        ("p,ACGTAA,ACGTAC\np,ACGTAA,ACGT\n", "--reference_column 1 --alternative_column 2", ("ACGTAC", "ACGT")),
        (
            "A,C,ACGTAA,0\nG,GG,ACGTAA,2\n",
            "--reference_column 0 --alternative_column 1 --sequence_column 2 --position_column 3 --position_base 0",
            ("CCGTAA", "ACGGTAA"),
        ),
        ("wild,mutant,sequence\nACGTAA,ACGA,x\n", "--reference_column wild --alternative_column mutant", ("ACGA",)),
    ],
)
def test_named_columns(tiny_folder, tmp_path, explicit, text, options, alternatives):
    (tmp_path / "in.csv").write_text(text)
    run_script("variants", tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv", *options.split())
    assert_effects(read(tmp_path / "out.csv"), [(explicit("ACGTAA"), explicit(text)) for text in alternatives])


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        (["a", "b"], {}, "no column is known to be the reference .*'a', 'b'.*Pass --reference_column"),
        (["reference_sequence", "b"], {}, "no column is known to be the alternative"),
        (["reference_sequence", "ref_seq", "alt_seq"], {}, "more than one column may be the reference"),
        (["sequence", "position", "ref"], {}, "no column is known to be the alternative .of sequence, position"),
        (["position", "ref", "alt"], {}, "no column is known to be the sequence"),
        (["a", "alt_sequence"], {"reference": "alt_sequence"}, "no column is known to be the alternative"),
        (["a", "alt_sequence"], {"reference": "b"}, "has no column 'b'"),
    ],
)
def test_columns_that_are_not_found(predictor, tmp_path, columns, given, message):
    write(pd.DataFrame([["w"] * len(columns)], columns=columns), tmp_path / "in.csv")
    with pytest.raises(ValueError, match=message):
        variants_file(predictor, tmp_path / "in.csv", tmp_path / "out.csv", columns=given)


def test_overflow_of_a_table(tiny_folder, tmp_path, explicit):
    frame = pd.DataFrame({"sequence": FULL, "position": [10, 1], "ref": ["G", "A"], "alt": ["GAA", "CA"]})
    write(frame, tmp_path / "in.tsv")
    options = ["--overflow", "trim", "--plots", tmp_path / "plots"]
    run_script("variants", tiny_folder, tmp_path / "in.tsv", tmp_path / "out.tsv", *options)
    table = read(tmp_path / "out.tsv")
    assert table["problem"].tolist() == ["", "the variant is trimmed away"]
    expected = [explicit(FULL), explicit(FULL[2:10] + "AA" + FULL[10:])]
    np.testing.assert_allclose(table.loc[0, EFFECTS[:2]].astype(float), expected, rtol=1e-5)
    assert names_in(tmp_path / "plots") == ["promoter_1_variants.png"]
    with pytest.raises(ValueError, match='overflow must be "refuse" or "trim", got \'cut\''):
        variants_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "new.tsv", overflow="cut")


@pytest.mark.parametrize(
    ("reference", "alternative", "expected"),
    [
        ("ACGT", "TCGT", (0, "A", "T")), ("ACGT", "ACGA", (3, "T", "A")), ("ACGT", "ATTT", (1, "CG", "TT")),
        ("ACGT", "ACGT", (4, "", "")), ("AAAA", "AAA", (3, "A", "")), ("ACGT", "ACGTT", (4, "", "T")),
        ("ACGT", "AGCGT", (1, "", "G")), ("ACGT", "CGT", (0, "A", "")), ("ACGT", "ATTTT", (1, "CG", "TTT")),
    ],
)  # fmt: skip
def test_where_two_sequences_differ(reference, alternative, expected):
    assert where_they_differ(reference, alternative) == expected


def test_figures_of_the_first_promoters(predictor, tmp_path, monkeypatch):
    """Two variants per promoter and one with another reference base. The last promoter has flanks."""
    rows = [(f"ACGTACGTA{last}", *variant) for last in "ACG"
            for variant in ((2, "C", "G"), (10, last, "T"), (1, "T", "A"))]  # fmt: skip
    rows.append(("ACCATTTTCCGGT", 5, "T", "A"))
    frame = pd.DataFrame(rows, columns=["sequence", "position", "ref", "alt"]).assign(name="p")
    write(frame, tmp_path / "in.tsv")
    drawn = []
    monkeypatch.setattr(
        "modeling_macaron.analysis.plots.variant_effect_plot",
        lambda *arguments, **options: drawn.append((arguments, options)) or variant_effect_plot(*arguments, **options),
    )
    figures, options = VariantFigures(tmp_path / "plots", 4), FileOptions(name_column="name")
    predictor = replace(predictor, batch_size=1)
    result = variants_file(predictor, tmp_path / "in.tsv", tmp_path / "out.tsv", figures=figures, options=options)
    assert result.num_problems == 3
    expected = [(f"ACGTACGTA{last}", (1, 9), ("G", "T")) for last in "ACG"] + [("TTTTCC", (0,), ("A",))]
    assert [arguments[:3] for arguments, _ in drawn] == expected
    assert {options["title"] for _, options in drawn} == {"p"}
    np.testing.assert_allclose(drawn[-1][0][3], variant_effects(predictor, ["TTTTCC"], ["ATTTCC"]).delta, rtol=1e-9)
    assert names_in(tmp_path / "plots") == [f"promoter_{i}_variants.png" for i in (1, 2, 3, 4)]
    with pytest.raises(FileExistsError, match="holds figures already"):
        VariantFigures(tmp_path / "plots")


def test_numbers_of_figures_and_variants_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_macaron.analysis.figures.MAX_VARIANTS", 2)
    figures = VariantFigures(tmp_path, 1)
    figures.add(["AAAA"] * 3 + ["CCCC"], ["CAAA", "ACAA", "AACA", "CCCA"], np.arange(4.0), [""] * 4)
    assert figures._effects == {"AAAA": [((0, "A", "C"), 0.0), ((1, "A", "C"), 1.0)]}
