"""Variant effects of sequences in memory and of tables."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.analysis.genome import reverse_complement_text
from modeling_macaron.analysis.variants import apply_variant, variant_effects, variants_file
from tests.analysis.variant_cases import (
    EFFECTS,
    assert_effects,
    explicit_predictions,
    read,
    script_main,
    slow_apply,
    slow_reverse_complement,
    write,
)
from tokenization import KmerTokenizer

# Even and odd lengths, so both paddings; RNA, lower case, an N, an insertion, a deletion, flanks, no change.
REFERENCES = ["ACGTACGTAC", "acgua", "GGNGGTT", "ACGT", "CCCTTTAAA", "ACCATTTCATGGT", "TTTTT"]
ALTERNATIVES = ["ACGTTCGTAC", "acgca", "GGNGCTT", "ACGGGT", "CCAAA", "ACCATTTCCTGGT", "TTTTT"]


@pytest.fixture(scope="module")
def explicit(tiny_folder, tiny_tokenizer):
    return explicit_predictions(tiny_folder, tiny_tokenizer)


@pytest.fixture(scope="module")
def main():
    return script_main()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_deltas_equal_explicit_predictions(tiny_folder, explicit, batch_size):
    effects = variant_effects(tiny_folder, REFERENCES, ALTERNATIVES, batch_size=batch_size)
    reference, alternative = ([explicit(text) for text in texts] for texts in (REFERENCES, ALTERNATIVES))
    assert np.abs(np.subtract(alternative, reference))[:-1].min() > 1e-4, "the model tells the pairs apart"
    np.testing.assert_allclose(effects.reference, reference, rtol=1e-5)
    np.testing.assert_allclose(effects.alternative, alternative, rtol=1e-5)
    np.testing.assert_array_equal(effects.delta, effects.alternative - effects.reference)
    assert effects.delta[-1] == 0, "what is equal is computed once"
    assert effects.delta.dtype == np.float64


def test_both_orientations_by_hand(tiny_folder, explicit):
    effects = variant_effects(tiny_folder, REFERENCES, ALTERNATIVES, both_orientations=True)
    plain = variant_effects(tiny_folder, REFERENCES, ALTERNATIVES)
    expected = []
    for texts in (REFERENCES, ALTERNATIVES):
        parts = [text[4:-3] if text.startswith("ACCA") else text for text in texts]
        expected.append([(explicit(part) + explicit(slow_reverse_complement(part))) / 2 for part in parts])
    np.testing.assert_allclose(effects.reference, expected[0], rtol=1e-5)
    np.testing.assert_allclose(effects.alternative, expected[1], rtol=1e-5)
    assert np.abs(effects.delta - plain.delta)[:-1].min() > 1e-4, "the orientation matters to the model"


@pytest.mark.parametrize(("both_orientations", "computed"), [(False, 4), (True, 7)])
def test_equal_sequences_are_computed_once(tiny_folder, both_orientations, computed):
    # TTTT with flanks is TTTT; ACGT is its own reverse complement.
    references, alternatives = ["TTTT", "ACGT", "ACCATTTTGGT", "TTTT"] * 9, ["TTCT", "TTTT", "ACCATTCTGGT", "TTCA"] * 9
    model, sizes = MacaronForExpressionPrediction.from_pretrained(tiny_folder), []
    model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    variant_effects(model, references, alternatives, both_orientations=both_orientations, batch_size=2)
    assert sum(sizes) == computed


def test_no_pair_gives_no_effect(tiny_folder):
    for both_orientations in (False, True):
        effects = variant_effects(tiny_folder, [], [], both_orientations=both_orientations)
        assert [part.shape for part in effects] == [(0,)] * 3


@pytest.mark.parametrize(
    ("references", "alternatives", "message"),
    [
        ("ACGT", "ACGA", "got one str"),
        (["ACGT"], "ACGA", "got one str"),
        (["ACGT"], ["ACGA", "ACGC"], "1 references and 2 alternatives"),
        (["ACGT", "ACXT"], ["ACGA", "ACGC"], r"pair 1 .*reference sequence: letter 'X' at position 3 "),
        (["ACGT"], ["A" * 21], r"pair 0 .*alternative sequence: 21 nt are more than the 20 "),
        (["ACGT"], [""], r"pair 0 .*alternative sequence: empty sequence"),
        (["ACCATTTTGGT"], ["ACCATTTTGCT"], r"pair 0 .*the constant flanks differ"),
        (["ACCATTTTGGT"], ["TTTA"], r"pair 0 .*the constant flanks differ"),
        # Not cut, it is too long as well: that is not what is wrong with it.
        (["ACCA" + "T" * 20 + "GGT"], ["ACGA" + "T" * 20 + "GGT"], r"pair 0 .*the constant flanks differ"),
        (
            ["ACCA" + "T" * 20 + "GGT"],
            ["ACCA" + "T" * 21 + "GGT"],
            r"alternative sequence: 21 nt are more than the 20 ",
        ),
    ],
)
def test_pairs_that_are_none(tiny_folder, references, alternatives, message):
    with pytest.raises(ValueError, match=message):
        variant_effects(tiny_folder, references, alternatives)


def test_flanks_that_are_always_cut_must_agree(tiny_folder):
    tokenizer = KmerTokenizer(kmer_size=5, strand_length=20, flank5="ACCA", flank3="GGT", trimming="always")
    with pytest.raises(ValueError, match="the constant flanks differ"):
        variant_effects(tiny_folder, ["ACCATTTTGGT"], ["AGCATTTTGGT"], tokenizer=tokenizer)
    with pytest.raises(ValueError, match="the constant flanks differ"):
        variant_effects(tiny_folder, ["ACCATTTTGGT"], ["ACCATTTTGGA"], tokenizer=tokenizer)
    # Not the tokenizer's flanks, but the same in both, in RNA and in lower case.
    got = variant_effects(tiny_folder, ["GGGGTTTTAAU"], ["ggggTTATAAT"], tokenizer=tokenizer)
    np.testing.assert_allclose(got.delta, variant_effects(tiny_folder, ["TTTT"], ["TTAT"]).delta, atol=1e-5)


def test_batch_size_of_zero_is_refused(tiny_folder):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        variant_effects(tiny_folder, ["A"], ["C"], batch_size=0)


# One variant in one sequence

DNA = st.text("ACGTacgt", min_size=1, max_size=30)


@given(DNA, st.data())
def test_variants_are_applied_as_by_a_slow_version(sequence, data):
    start = data.draw(st.integers(0, len(sequence)))
    end = data.draw(st.integers(start, len(sequence)))
    alternative = data.draw(st.text("ACGT", max_size=6))
    changed = apply_variant(sequence, start, sequence[start:end].swapcase(), alternative)
    assert changed == slow_apply(sequence, start, sequence[start:end], alternative)
    # Both applied to the reverse complement, from the other side, give the reverse complement.
    turned = [reverse_complement_text(text) for text in (sequence, sequence[start:end], alternative)]
    assert apply_variant(turned[0], len(sequence) - end, *turned[1:]) == reverse_complement_text(changed)


@pytest.mark.parametrize(
    ("start", "reference", "alternative", "message"),
    [
        (-1, "T", "A", "position outside"),
        (4, "A", "C", "position outside"),
        (3, "TA", "T", "position outside"),
        (5, "", "T", "position outside"),
        (1, "G", "A", "reference allele is not what"),
        (1, "CC", "A", "reference allele is not what"),
        (1, "N", "A", "ambiguous letter"),
        (1, "C", "n", "ambiguous letter"),
        (1, "C", "R", "ambiguous letter"),
        (1, "C", "<DEL>", "symbolic"),
        (1, "C", "*", "symbolic"),
        (1, "C", "C[chr2:321[", "symbolic"),
        (1, "C", "X", "letter that is not DNA"),
        (1, "C", "-", "letter that is not DNA"),
    ],
)
def test_variants_that_cannot_be_applied(start, reference, alternative, message):
    with pytest.raises(ValueError, match=message):
        apply_variant("ACGT", start, reference, alternative)


def test_allele_of_rna_fits_dna():
    assert apply_variant("ACGT", 3, "u", "A") == "ACGA"


def test_reverse_complement_of_text():
    assert reverse_complement_text("AaCGTTUN") == "NAAACGtT"
    letters = "ACGTNRYSWKMBDHV"
    assert reverse_complement_text(reverse_complement_text(letters)) == letters
    assert reverse_complement_text("RKBD") == "HVMY"


# Tables


@pytest.mark.parametrize("output", ["out.parquet", "out.csv", "out.tsv"])
@pytest.mark.parametrize("source", ["in.tsv", "in.csv.gz", "in.parquet"])
def test_table_of_pairs(tiny_folder, tmp_path, explicit, source, output):
    frame = pd.DataFrame({"name": range(7), "Ref_Sequence": REFERENCES, "position": 3, "alt_seq": ALTERNATIVES})
    frame = pd.concat([frame] * 7, ignore_index=True)
    write(frame, tmp_path / source)
    result = variants_file(tiny_folder, tmp_path / source, tmp_path / output, batch_size=2)
    assert result[:4] == (49, 0, 0, ())
    got = read(tmp_path / output)
    assert got.columns.tolist() == [*frame.columns, *EFFECTS, "problem"]
    assert got["Ref_Sequence"].tolist() == REFERENCES * 7
    assert_effects(got, [(explicit(r), explicit(a)) for r, a in zip(REFERENCES, ALTERNATIVES, strict=True)] * 7)


ROWS = [  # sequence, position from 1, ref, alt, the alternative sequence or the problem
    ("ACGTACGT", "1", "A", "C", "CCGTACGT"),
    ("ACGTACGT", "8", "t", "g", "ACGTACGg"),
    ("ACGTACGT", "3.0", "GT", "G", "ACGACGT"),
    ("ACGTACGT", "8", "T", "TAA", "ACGTACGTAA"),
    ("ACGUACGU", "4", "T", "C", "ACGCACGU"),
    ("ACNTACGT", "1", "A", "T", "TCNTACGT"),
    ("ACCATTTCATGGT", "5", "T", "A", "ACCAATTCATGGT"),
    ("A" * 20, "7", "A", "T", "A" * 6 + "T" + "A" * 13),
    ("A" * 20, "7", "A", "AT", "alternative sequence: 21 nt are more than the 20 that the model reads"),
    ("A" * 21, "7", "AA", "A", "reference sequence: 21 nt are more than the 20 that the model reads"),
    ("ACCATTTCATGGT", "2", "C", "A", "the constant flanks differ"),
    ("ACGTACGT", "1", "C", "A", "reference allele is not what the sequence holds"),
    ("ACGTACGT", "0", "A", "C", "position outside the sequence"),
    ("ACGTACGT", "9", "A", "C", "position outside the sequence"),
    ("ACGTACGT", "8", "TA", "T", "position outside the sequence"),
    ("ACGTACGT", "-2", "A", "C", "position outside the sequence"),
    ("ACGTACGT", "x", "A", "C", "position that is not a whole number"),
    ("ACGTACGT", "1.5", "A", "C", "position that is not a whole number"),
    ("ACGTACGT", "nan", "A", "C", "position that is not a whole number"),
    ("ACGTACGT", "inf", "A", "C", "position that is not a whole number"),
    ("ACGTACGT", "", "A", "C", "position that is not a whole number"),
    ("ACGTACGT", "1", "A", "", "missing allele"),
    ("ACGTACGT", "1", ".", "C", "missing allele"),
    ("ACGTACGT", "1", "A", "-", "allele '-': write a deletion or an insertion as in VCF, with the base before it"),
    ("ACGTACGT", "1", "-", "A", "allele '-': write a deletion or an insertion as in VCF, with the base before it"),
    ("ACGTACGT", "1", "A", "a", "both alleles are the same"),
    ("ACGTACGT", "3", "GT", "GU", "both alleles are the same"),
    ("ACGTACGT", "1", "A", "C,G", "several alternative alleles: each needs a row of its own"),
    ("ACGTACGT", "1", "A", "N", "allele with an ambiguous letter (N or another of IUPAC)"),
    ("NCGTACGT", "1", "N", "A", "allele with an ambiguous letter (N or another of IUPAC)"),
    ("NCGTACGT", "1", "A", "C", "reference allele is not what the sequence holds"),
    ("ACGTACGT", "1", "A", "*", "symbolic, breakend or * allele"),
    ("ACGTACGT", "1", "A", "<DEL>", "symbolic, breakend or * allele"),
    ("ACGTACGT", "1", "A", "AX", "allele with a letter that is not DNA"),
    ("ACXTACGT", "1", "A", "C", "reference sequence: letter 'X' at position 3 (counted from 1) is not DNA"),
    ("", "1", "A", "C", "position outside the sequence"),
]


@pytest.mark.parametrize("source", ["in.tsv", "in.csv", "in.parquet"])
def test_table_of_alleles_with_every_problem(tiny_folder, tmp_path, explicit, source):
    frame = pd.DataFrame([row[:4] for row in ROWS], columns=["Promoter", "POS", "REF", "alternate"])
    if source.endswith(".parquet"):
        frame = frame.replace("", None)
    write(frame, tmp_path / source)
    fine = [set(row[4].upper()) <= set("ACGTUN") for row in ROWS]
    result = variants_file(tiny_folder, tmp_path / source, tmp_path / "out.parquet")
    assert result[:4] == (len(ROWS), fine.count(False), 0, ())
    got = read(tmp_path / "out.parquet")
    assert got["problem"].tolist() == ["" if ok else row[4] for ok, row in zip(fine, ROWS, strict=True)]
    expected = [(explicit(r[0]), explicit(r[4])) if ok else None for ok, r in zip(fine, ROWS, strict=True)]
    assert_effects(got, expected)


@pytest.mark.parametrize("dtype", [int, float, str])
def test_position_counted_from_0(tiny_folder, tmp_path, explicit, dtype):
    rows = [row for row in ROWS[:7] if row[1] != "3.0"]
    frame = pd.DataFrame([row[:4] for row in rows], columns=["sequence", "position", "ref", "alt"])
    frame["position"] = [dtype(int(text) - 1) for text in frame["position"]]
    frame.to_parquet(tmp_path / "in.parquet")
    variants_file(tiny_folder, tmp_path / "in.parquet", tmp_path / "out.csv", position_base=0)
    assert_effects(read(tmp_path / "out.csv"), [(explicit(row[0]), explicit(row[4])) for row in rows])
    with pytest.raises(ValueError, match="position_base must be 0 or 1"):
        variants_file(tiny_folder, tmp_path / "in.parquet", tmp_path / "new.csv", position_base=2)


def test_columns_without_a_header(tiny_folder, tmp_path, explicit, main):
    (tmp_path / "pairs.csv").write_text("p,ACGTAA,ACGTAC\np,ACGTAA,ACGT\n")
    (tmp_path / "alleles.tsv").write_text("A\tC\tACGTAA\t0\nG\tGG\tACGTAA\t2\n")
    command = [str(tiny_folder), str(tmp_path / "pairs.csv"), str(tmp_path / "out.csv")]
    main([*command, "--reference_column", "1", "--alternative_column", "2"])
    pairs = [(explicit("ACGTAA"), explicit(text)) for text in ("ACGTAC", "ACGT")]
    assert_effects(read(tmp_path / "out.csv"), pairs)
    columns = ["--reference_column", "0", "--alternative_column", "1", "--sequence_column", "2"]
    command[1] = str(tmp_path / "alleles.tsv")
    main([*command, *columns, "--position_column", "3", "--position_base", "0", "--overwrite"])
    assert_effects(read(tmp_path / "out.csv"), [(pairs[0][0], explicit(text)) for text in ("CCGTAA", "ACGGTAA")])


def test_columns_with_names_of_their_own(tiny_folder, tmp_path, explicit, main):
    write(pd.DataFrame({"wild": ["ACGT"], "mutant": ["ACGA"], "sequence": ["x"]}), tmp_path / "in.tsv")
    columns = ["--reference_column", "wild", "--alternative_column", "mutant"]
    main([str(tiny_folder), str(tmp_path / "in.tsv"), str(tmp_path / "out.tsv"), *columns])
    assert_effects(read(tmp_path / "out.tsv"), [(explicit("ACGT"), explicit("ACGA"))])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["a", "b"], "no column is known to be the reference .*'a', 'b'.*Pass --reference_column"),
        (["reference_sequence", "b"], "no column is known to be the alternative"),
        (["reference_sequence", "ref_seq", "alt_seq"], "more than one column may be the reference"),
        (["sequence", "position", "ref"], "no column is known to be the alternative .of sequence, position"),
        (["position", "ref", "alt"], "no column is known to be the sequence"),
    ],
)
def test_columns_that_are_not_found(tiny_folder, tmp_path, columns, message):
    write(pd.DataFrame([["w"] * len(columns)], columns=columns), tmp_path / "in.csv")
    with pytest.raises(ValueError, match=message):
        variants_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv")


def test_one_column_cannot_be_both(tiny_folder, tmp_path):
    write(pd.DataFrame({"a": ["ACGT"], "alt_sequence": ["ACGA"]}), tmp_path / "in.csv")
    with pytest.raises(ValueError, match="one column cannot be two things"):
        variants_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv", reference_column="alt_sequence")
    with pytest.raises(ValueError, match="has no column 'b'"):
        variants_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv", reference_column="b")


def test_strict_names_the_line_and_leaves_nothing(tiny_folder, tmp_path):
    frame = pd.DataFrame({"reference_sequence": ["ACGT"] * 99 + ["ACXT"], "alternative_sequence": "ACGA"})
    write(frame, tmp_path / "in.tsv")
    with pytest.raises(ValueError, match=r"in.tsv, line 101: reference sequence: letter 'X' at position 3 "):
        variants_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.tsv", strict=True, batch_size=1)
    assert [path.name for path in tmp_path.iterdir()] == ["in.tsv"]


def test_error_of_the_model_leaves_nothing(tiny_folder, tmp_path):
    frame = pd.DataFrame({"reference_sequence": ["ACGT"] * 999, "alternative_sequence": "ACGA"})
    write(frame, tmp_path / "in.tsv")
    model, calls = MacaronForExpressionPrediction.from_pretrained(tiny_folder), []

    def fail(*_):
        calls.append(1)
        if len(calls) == 20:
            raise RuntimeError("out of memory")

    model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        variants_file(model, tmp_path / "in.tsv", tmp_path / "out.tsv", batch_size=2)
    assert [path.name for path in tmp_path.iterdir()] == ["in.tsv"]


@pytest.mark.parametrize(
    ("source", "output", "options", "message"),
    [
        ("absent.tsv", "out.tsv", [], "there is no file"),
        ("in.fa", "out.tsv", [], "unknown kind of file for a table of variants"),
        ("in.tsv", "out.xyz", [], "unknown kind of output"),
        ("empty.tsv", "out.tsv", [], "empty"),
        ("header.tsv", "out.tsv", [], "has no rows"),
        ("broken.tsv.gz", "out.tsv", [], "cannot be read"),
        ("broken.parquet", "out.tsv", [], "cannot be read"),
        ("done.tsv", "out.tsv", [], "already has the column delta"),
        ("in.tsv", "there.tsv", [], "exists already"),
        ("in.tsv", "out.tsv", ["--batch_size", "0"], "batch_size must be at least 1"),
        ("bad.tsv", "out.tsv", ["--strict"], "bad.tsv, line 2: alternative sequence: letter 'X' at position 1 "),
        ("in.tsv", "out.tsv", ["--genome", "g.fa"], "--genome and --promoters are for a VCF"),
        ("in.tsv", "out.tsv", ["--device", "nowhere"], "cannot be used"),
        ("v.vcf", "out.tsv", [], "a VCF needs --genome (FASTA) and --promoters (BED)"),
        ("v.vcf", "out.tsv", ["--genome", "g", "--promoters", "p", "--position_base", "1"], "is for a table"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(
    tiny_folder, tmp_path, monkeypatch, main, source, output, options, message
):
    frame = pd.DataFrame({"reference_sequence": ["ACGT"], "alternative_sequence": ["ACGA"]})
    for name in ("in.tsv", "in.fa", "v.vcf"):
        write(frame, tmp_path / name)
    write(frame.assign(delta=1.0), tmp_path / "done.tsv")
    write(frame.iloc[:0], tmp_path / "header.tsv")
    write(frame.assign(alternative_sequence="X"), tmp_path / "bad.tsv")
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "there.tsv").write_text("mine")
    (tmp_path / "broken.parquet").write_text("PAR1")
    lines = "".join(f"{'ACGT'[i % 4] * (i % 19 + 1)}\t{i}\n" for i in range(9999))
    text = "reference_sequence\talternative_sequence\n" + lines
    (tmp_path / "broken.tsv.gz").write_bytes(gzip.compress(text.encode())[:-200])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([str(tiny_folder), source, output, *options])
    assert str(stop.value.code).startswith("error: ")
    assert message in stop.value.code
    assert "\n" not in stop.value.code
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("flanks", [("", ""), ("ACCA", "GGT")])
def test_overflow_is_trimmed_at_the_5_prime_end(tiny_folder, explicit, flanks):
    full = "ACGTTGCAAGGCTATCCGAT"
    pairs = [(full, full[:9] + "TTC" + full[9:]), (full[1:], full[1:15] + "GA" + full[15:])]
    pairs += [(full[2:], full[2:9] + "C" + full[9:]), ("AG" + full, "AG" + full[:5] + "A" + full[6:])]
    references, alternatives = zip(*pairs, strict=True)
    whole = [[flanks[0] + text + flanks[1] for text in texts] for texts in (references, alternatives)]
    effects = variant_effects(tiny_folder, *whole, overflow="trim")
    np.testing.assert_allclose(effects.reference, [explicit(text[-20:]) for text in references], rtol=1e-5)
    np.testing.assert_allclose(effects.alternative, [explicit(text[-20:]) for text in alternatives], rtol=1e-5)
    with pytest.raises(ValueError, match=r"pair 0 .*the variant is trimmed away"):
        variant_effects(tiny_folder, ["G" + full], [full], overflow="trim")
    with pytest.raises(ValueError, match="more than the 20 that the model reads"):
        variant_effects(tiny_folder, *whole)


def test_overflow_of_a_table(tiny_folder, tmp_path, explicit, main):
    full = "ACGTTGCAAGGCTATCCGAT"
    frame = pd.DataFrame(
        {"sequence": full, "position": [10, 1, 20], "ref": ["G", "A", "T"], "alt": ["GAA", "CA", "TC"]}
    )
    write(frame, tmp_path / "in.tsv")
    main([str(tiny_folder), str(tmp_path / "in.tsv"), str(tmp_path / "out.tsv"), "--overflow", "trim",
          "--plots", str(tmp_path / "plots")])  # fmt: skip
    got = read(tmp_path / "out.tsv")
    assert list(got["problem"].fillna("")) == ["", "the variant is trimmed away", ""]
    expected = [explicit(full[2:10] + "AA" + full[10:]), explicit(full[1:] + "C")]
    np.testing.assert_allclose(got["alternative_expression"][[0, 2]], expected, rtol=1e-5)
    np.testing.assert_allclose(got["reference_expression"][[0, 2]], explicit(full), rtol=1e-5)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["promoter_1_variants.png"]


def test_overflow_of_another_name(tiny_folder):
    with pytest.raises(ValueError, match='overflow must be "refuse" or "trim", got \'cut\''):
        variant_effects(tiny_folder, ["ACGT"], ["ACGA"], overflow="cut")


def test_merged_model_gives_the_same_effects(tiny_folder):
    usual = variant_effects(tiny_folder, REFERENCES, ALTERNATIVES)
    merged = variant_effects(tiny_folder, REFERENCES, ALTERNATIVES, merged=True)
    np.testing.assert_allclose(merged.alternative, usual.alternative, rtol=1e-4)
    half = variant_effects(tiny_folder, REFERENCES, ALTERNATIVES, dtype="bfloat16")
    assert 0 < np.abs(half.alternative - usual.alternative).max() < 0.2


@pytest.mark.parametrize("strict", [True, False])
def test_strict_stops_at_a_line_that_is_no_row(tiny_folder, tmp_path, strict):
    (tmp_path / "in.tsv").write_text("reference_sequence\talternative_sequence\nACGT\tACGA\nACGT\tACGA\tx\ty\n")
    call = [tiny_folder, tmp_path / "in.tsv", tmp_path / "out.tsv"]
    if not strict:
        assert variants_file(*call).num_malformed == 1
        return
    with pytest.raises(ValueError, match=r"in.tsv, line 3: "):
        variants_file(*call, strict=True)
    assert not (tmp_path / "out.tsv").exists()
