"""Variant effects of VCF files on the promoters of a genome."""

import gzip
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pysam
import pytest

from modeling_macaron.analysis import fasta_index
from modeling_macaron.analysis.fasta_index import _has_index
from modeling_macaron.analysis.genome import Promoter
from modeling_macaron.analysis.genome_variants import _by_contig, _has_new_index, _records, vcf_file
from tests.analysis.variant_cases import (
    EFFECTS,
    SCRIPT,
    assert_effects,
    explicit_predictions,
    read,
    script_main,
    slow_apply,
    slow_reverse_complement,
)


@pytest.fixture(scope="module")
def explicit(tiny_folder, tiny_tokenizer):
    return explicit_predictions(tiny_folder, tiny_tokenizer)


@pytest.fixture(scope="module")
def main():
    return script_main()


def random_genome(seed=0):
    rng = np.random.default_rng(seed)
    chromosome = "".join(rng.choice(list("ACGT"), 300))
    return {"chr1": chromosome, "chr2": "".join(rng.choice(list("acgt"), 100)), "chr4": "N" * 50}


GENOME = random_genome()
COLUMNS = ["chrom", "pos", "id", "ref", "alt", "promoter", "strand"]
PROMOTERS = [
    Promoter("chr2", 10, 29, "chr2:11-29", "-"),
    Promoter("chr1", 20, 38, "P1", "+"),
    Promoter("chr1", 30, 45, "P#2", "-"),
    Promoter("chr1", 45, 60, "P3", "+"),
    Promoter("chr2", 12, 22, "P4", "+"),
    Promoter("chr1", 100, 125, "too long", "+"),
    Promoter("chr1", 290, 301, "beyond", "+"),
    Promoter("chr3", 0, 10, "missing", "-"),
    Promoter("chr4", 0, 10, "gap", "-"),
]


def write_genome(path, genome=GENOME):
    texts = (
        f">{name} made\n" + "".join(s[i : i + 50] + "\n" for i in range(0, len(s), 50)) for name, s in genome.items()
    )
    path.write_text("".join(texts))


def write_bed(path, promoters=PROMOTERS):
    lines = [
        f"{p.contig}\t{p.start}\t{p.end}\t{p.name if ':' not in p.name else '.'}\t0\t{p.strand}" for p in promoters
    ]
    text = "track name=made\n# made\n" + "\n".join(lines)  # no line break at its end
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_vcf(path, records, contigs=("chr1", "chr2", "chr3", "chr4", "chr5")):
    """Records of contig, start from 0, id, ref, alt (text of the column) and INFO."""
    header = "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={name}>\n" for name in contigs)
    header += '##INFO=<ID=END,Number=1,Type=Integer,Description="End">\n'
    header += '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    header += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts1\n"
    lines = [
        f"{c}\t{start + 1}\t{name}\t{ref}\t{alt}\t.\t.\t{info}\tGT\t0/1\n" for c, start, name, ref, alt, info in records
    ]
    path.write_text(header + "".join(lines))


def convert_vcf(path, kind):
    """Write the VCF in another form, and give its name."""
    other = path.with_suffix("." + kind.split("+")[0])
    if kind.startswith("vcf.gz"):
        pysam.tabix_compress(str(path), str(other), force=True)
    elif kind == "bcf":
        with pysam.VariantFile(str(path)) as source, pysam.VariantFile(str(other), "wb", header=source.header) as out:
            for record in source:
                out.write(record)
    if kind.endswith("+index"):
        pysam.tabix_index(str(other), preset="vcf", force=True)
    return other


def random_records(seed=1, count=150):
    """Variants of every kind over and around the promoters, in the order of the genome."""
    rng, records = np.random.default_rng(seed), []
    for _ in range(count):
        contig, low, high = [("chr1", 15, 65), ("chr2", 5, 35)][int(rng.integers(2))]
        start, length = int(rng.integers(low, high)), int(rng.choice([1, 1, 1, 2, 4]))
        reference = GENOME[contig][start : start + length].upper()
        anchor = reference[0] if rng.random() < 0.5 else ""
        alternative = anchor + "".join(rng.choice(list("ACGT"), int(rng.choice([1, 1, 2, 3])) - (len(anchor) > 0)))
        records.append((contig, start, f"v{len(records)}", reference, alternative or "A", "."))
    return sorted(records, key=lambda record: record[:2])


def slow_lines(records):
    """Line by line: the whole chromosome with the allele, cut where the promoter begins and ends."""
    lines = []
    for contig, start, name, reference, alternative, _ in records:
        for p in sorted(PROMOTERS, key=lambda p: (p.start, p.end)):
            if p.contig != contig or not set(range(start, start + len(reference))) & set(range(p.start, p.end)):
                continue
            before = GENOME[contig].upper()
            after = slow_apply(before, start, reference, alternative)
            end = len(after) - (len(before) - p.end)
            same_outside = after[: p.start] == before[: p.start] and after[end:] == before[p.end :]
            pair = [before[p.start : p.end], after[p.start : end]]
            if p.strand == "-":
                pair = [slow_reverse_complement(text) for text in pair]
            columns = [contig, start + 1, name, reference, alternative, p.name, p.strand]
            lines.append((columns, p, pair if same_outside else None))
    return lines


KINDS = ["vcf", "vcf.gz", "vcf.gz+index", "bcf"]
BEYOND, TOO_LONG = "the variant reaches beyond the promoter", "are more than the 20 that the model reads"

SAME = "both alleles are the same"


@pytest.mark.parametrize("kind", KINDS)
def test_vcf_equals_a_slow_version(tiny_folder, tmp_path, explicit, kind):
    write_genome(tmp_path / "g.fa")
    write_bed(tmp_path / "p.bed")
    records = random_records()
    write_vcf(tmp_path / "v.vcf", records)
    inputs = (convert_vcf(tmp_path / "v.vcf", kind), tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.parquet")
    result = vcf_file(tiny_folder, *inputs, batch_size=2)
    lines, got = slow_lines(records), read(tmp_path / "out.parquet")
    assert len(lines) > 64, "several batches"
    assert got.columns.tolist() == [*COLUMNS, *EFFECTS, "problem"]
    assert got[COLUMNS].values.tolist() == [columns for columns, _, _ in lines]
    assert result[:4] == (len(lines), sum(got["problem"] != ""), 0, ())
    expected, anchored = [], 0
    for (columns, promoter, pair), problem in zip(lines, got["problem"], strict=True):
        start, end = columns[1] - 1, columns[1] - 1 + len(columns[3])
        sticks_out = start < promoter.start or end > promoter.end
        assert (problem == SAME) == (columns[3] == columns[4])
        if problem == SAME:
            pass
        elif problem == BEYOND:
            assert sticks_out  # the slow version may see it within, where letters repeat
        elif TOO_LONG in problem:
            assert problem == f"alternative sequence: {len(pair[1])} nt {TOO_LONG}" and len(pair[1]) > 20
        else:
            anchored += sticks_out
        expected.append(None if problem else [explicit(text) for text in pair])
    assert_effects(got, expected)
    assert anchored, "what both alleles share beyond an end is left out"
    assert {"", BEYOND, TOO_LONG, SAME} == {TOO_LONG if TOO_LONG in problem else problem for problem in got["problem"]}


def test_snv_on_the_minus_strand_by_hand(tiny_folder, tmp_path, explicit):
    (tmp_path / "g.fa").write_text(">c\nTTTTAACCGTGGAATTTT\n")
    (tmp_path / "p.bed").write_text("c\t4\t14\tp\t.\t-\n")
    write_vcf(tmp_path / "v.vcf", [("c", 5, ".", "A", "G", "."), ("c", 13, ".", "A", "AC", ".")], ["c"])
    vcf_file(tiny_folder, tmp_path / "v.vcf", tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.csv")
    got = read(tmp_path / "out.csv")
    # AACCGTGGAA is TTCCACGGTT on the other strand; A>G in its second letter is T>C in the last but one.
    reference = explicit("TTCCACGGTT")
    assert_effects(got, [(reference, explicit("TTCCACGGCT")), (reference, explicit("GTTCCACGGTT"))])


def special_records():
    """Records, each with the problem of every line: allele by allele, promoter by promoter."""
    chromosome = GENOME["chr1"]
    other = {i: "ACGT"[("ACGT".index(letter) + 1) % 4] for i, letter in enumerate(chromosome)}
    symbolic, ambiguous = "symbolic, breakend or * allele", "allele with an ambiguous letter (N or another of IUPAC)"
    mismatch = "reference allele is not what the sequence holds"

    def at(start, alternative, length=1, reference=None, info="."):
        return ("chr1", start, ".", reference or chromosome[start : start + length], alternative, info)

    return [
        (at(10, "<DEL>", info="END=22"), [symbolic]),
        (at(18, "A", 4), [BEYOND]),
        (at(19, chromosome[19], 3), [""]),
        (at(20, other[20]), [""]),
        (at(21, chromosome[21], reference=other[21]), [mismatch]),
        (at(22, "."), ["no alternative allele"]),
        (at(23, "*," + other[23]), [symbolic, ""]),
        (at(24, "N"), [ambiguous]),
        (at(25, ",".join(letter for letter in "ACGT" if letter != chromosome[25])), ["", "", ""]),
        (at(26, chromosome[26] + "ACG"), [f"alternative sequence: 21 nt {TOO_LONG}"]),
        (at(27, "C[chr2:20["), [symbolic]),
        (at(35, f"{other[35]},<INS>"), ["", "", symbolic, symbolic]),
        (at(37, chromosome[37] + other[38], 2), [BEYOND, ""]),
        (at(70, other[70]), []),
        (at(110, other[110]), [f"reference sequence: 25 nt {TOO_LONG}"]),
        (at(295, other[295]), ["the promoter reaches beyond the end of its contig"]),
        (("chr3", 4, "rs3", "A", "C", "."), ["the FASTA lacks the contig"]),
        (("chr4", 4, ".", "A", "C", "."), [mismatch]),
        (("chr4", 5, ".", "N", "C", "."), [ambiguous]),
        (("chr5", 5, ".", "A", "C", "."), []),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_problem_of_a_vcf(tiny_folder, tmp_path, kind):
    write_genome(tmp_path / "g.fa")
    write_bed(tmp_path / "p.bed")
    write_vcf(tmp_path / "v.vcf", [record for record, _ in special_records()])
    inputs = (tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.parquet")
    result = vcf_file(tiny_folder, convert_vcf(tmp_path / "v.vcf", kind), *inputs)
    expected = []
    for (contig, start, _, _, alternatives, _), problems in special_records():
        alleles = alternatives.split(",")
        per_allele = len(problems) // len(alleles)
        expected += [[contig, start + 1, alleles[i // per_allele], problem] for i, problem in enumerate(problems)]
    got = read(tmp_path / "out.parquet")
    assert got[["chrom", "pos", "alt", "problem"]].values.tolist() == expected
    bad = got["problem"] != ""
    for name in EFFECTS:
        assert got[name].isna().tolist() == bad.tolist()
    assert result[:4] == (len(got), bad.sum(), 0, ())


def test_strict_names_the_variant(tiny_folder, tmp_path):
    write_genome(tmp_path / "g.fa")
    write_bed(tmp_path / "p.bed")
    write_vcf(tmp_path / "v.vcf", [("chr1", 24, ".", GENOME["chr1"][24], "*", ".")])
    inputs = (tmp_path / "v.vcf", tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.parquet")
    with pytest.raises(ValueError, match=r"variant chr1:25 [ACGT]>\*, promoter P1: symbolic"):
        vcf_file(tiny_folder, *inputs, strict=True)
    assert not (tmp_path / "out.parquet").exists()


def test_long_deletion_over_two_promoters_is_read_once(tiny_folder, tmp_path):
    write_genome(tmp_path / "g.fa")
    promoters = [Promoter("chr1", 20, 30, "a", "+"), Promoter("chr1", 40, 50, "b", "-")]
    write_bed(tmp_path / "p.bed", promoters)
    records = [("chr1", 25, "long", GENOME["chr1"][25:45], GENOME["chr1"][25], ".")]
    write_vcf(tmp_path / "v.vcf", records)
    vcf = convert_vcf(tmp_path / "v.vcf", "vcf.gz+index")
    result = vcf_file(tiny_folder, vcf, tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.csv")
    assert result[:4] == (2, 2, 0, ())
    assert read(tmp_path / "out.csv")["promoter"].tolist() == ["a", "b"]


def test_index_spares_the_records_between_promoters(tmp_path):
    contigs = _by_contig([Promoter("chr1", 20, 30, "a", "+"), Promoter("chr1", 25, 40, "b", "+")])
    write_vcf(tmp_path / "v.vcf", [("chr1", start, ".", "A", "C", ".") for start in range(200)])
    read_plain = [record.start for record in _records(tmp_path / "v.vcf", contigs)]
    vcf = convert_vcf(tmp_path / "v.vcf", "vcf.gz+index")
    assert read_plain == list(range(200))
    assert [record.start for record in _records(vcf, contigs)] == list(range(20, 40))


def test_allele_over_a_whole_promoter_is_beyond_it(tiny_folder, tmp_path):
    (tmp_path / "g.fa").write_text(">c\nGGAAAAAGG\n")
    (tmp_path / "p.bed").write_text("c\t3\t6\tp\t.\t-\n")
    write_vcf(tmp_path / "v.vcf", [("c", 2, ".", "AAAAA", "A", "."), ("c", 2, ".", "AAAAA", "AAAA", ".")], ["c"])
    vcf_file(tiny_folder, tmp_path / "v.vcf", tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.csv")
    assert read(tmp_path / "out.csv")["problem"].tolist() == [BEYOND, ""]


def test_index_of_an_older_file_is_not_used(tiny_folder, tmp_path):
    write_genome(tmp_path / "g.fa")
    write_bed(tmp_path / "p.bed")
    letter = {"A": "C"}.get(GENOME["chr1"][24], "A")
    records = [("chr1", i, ".", GENOME["chr1"][i], letter, ".") for i in (22, 24) if GENOME["chr1"][i] != letter]
    write_vcf(tmp_path / "v.vcf", [("chr2", 1, ".", "A", "C", ".")])
    vcf = convert_vcf(tmp_path / "v.vcf", "vcf.gz+index")
    write_vcf(tmp_path / "v.vcf", records)
    pysam.tabix_compress(str(tmp_path / "v.vcf"), str(vcf), force=True)
    os.utime(str(vcf) + ".tbi", (1e9, 1e9))
    result = vcf_file(tiny_folder, vcf, tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.csv")
    assert result[:4] == (len(records), 0, 0, ())


def test_header_without_contigs(tiny_folder, tmp_path):
    write_genome(tmp_path / "g.fa")
    write_bed(tmp_path / "p.bed")
    records, frames = random_records(count=40), []
    write_vcf(tmp_path / "v.vcf", records, contigs=())
    for kind in ("vcf", "vcf.gz+index"):
        inputs = (tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.parquet")
        vcf_file(tiny_folder, convert_vcf(tmp_path / "v.vcf", kind), *inputs, overwrite=True)
        frames.append(read(tmp_path / "out.parquet"))
    assert len(frames[0]) == len(slow_lines(records))
    pd.testing.assert_frame_equal(*frames)


@pytest.mark.parametrize("forms", [("vcf", "g.fa", "p.bed"), ("vcf.gz+index", "g.fa.gz", "p.bed.gz")])
def test_command_line_from_end_to_end(tiny_folder, tmp_path, explicit, main, forms):
    kind, genome, bed = forms
    write_genome(tmp_path / "g.fa")
    if genome.endswith(".gz"):
        pysam.tabix_compress(str(tmp_path / "g.fa"), str(tmp_path / genome), force=True)
        (tmp_path / "g.fa").unlink()
    write_bed(tmp_path / bed)
    records = [record for record, _ in special_records()[3:9]]
    write_vcf(tmp_path / "v.vcf", records)
    vcf = convert_vcf(tmp_path / "v.vcf", kind).name
    options = ["--genome", str(tmp_path / genome), "--promoters", str(tmp_path / bed)]
    command = [sys.executable, str(SCRIPT), str(tiny_folder), vcf, "out.tsv", *options, "--both_orientations"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "9 variants written to out.tsv",
        "4 of them could not be predicted: the column `problem` says why",
    ]
    assert "[W::" not in result.stderr

    def both(text):
        return (explicit(text) + explicit(slow_reverse_complement(text))) / 2

    got, expected = read(tmp_path / "out.tsv"), []
    for row in got.to_dict("records"):
        promoter = GENOME["chr1"][20:38]
        changed = slow_apply(promoter, row["pos"] - 21, row["ref"], row["alt"])
        expected.append(None if row["problem"] else [both(promoter), both(changed)])
    assert expected.count(None) == 4
    assert_effects(got, expected)
    with pytest.raises(SystemExit, match=r"error: .*out.tsv exists already.*--overwrite"):
        main([str(tiny_folder), str(tmp_path / vcf), str(tmp_path / "out.tsv"), *options])


HEADER = "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
FINE = "chr1\t25\t.\tA\tC\t.\t.\t.\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.vcf", None, "there is no file v.vcf"),
        ("v.vcf", "", "v.vcf cannot be read as VCF"),
        ("v.vcf", "hello\nworld\n", "v.vcf cannot be read as VCF"),
        ("v.vcf", HEADER, "v.vcf has no variants"),
        ("v.vcf", HEADER + "chr1\t25\t.\n", "v.vcf cannot be read as VCF"),
        ("v.vcf", HEADER + FINE * 99 + "chr1\tx\t.\tA\tC\t.\t.\t.\n", "v.vcf cannot be read after 99 records"),
        (
            "v.vcf",
            HEADER + FINE.replace("chr1", "1"),
            "no variant of v.vcf lies in a promoter of p.bed (their first contigs are '1' and 'chr3'): "
            "one file names its contigs with `chr`, the other without",
        ),
        ("v.vcf.gz", gzip.compress((HEADER + FINE).encode(), mtime=0), "v.vcf.gz is not compressed by bgzip"),
        ("v.vcf.gz", "truncated", "v.vcf.gz cannot be read as VCF: no BGZF EOF marker"),
        ("g.fa", None, "there is no file g.fa"),
        ("g.fa", "", "g.fa cannot be read as FASTA"),
        ("g.fa", "hello\n", "g.fa cannot be read as FASTA"),
        ("g.fa", ">chr1\nAC\nACGT\nACG\nACGTA\n", "g.fa cannot be read as FASTA"),
        ("g.fa.gz", gzip.compress(b">chr1\nACGT\n", mtime=0), "g.fa.gz cannot be read as FASTA"),
        ("p.bed", None, "there is no file p.bed"),
        ("p.bed", "", "p.bed has no promoters"),
        ("p.bed", "# nothing\n", "p.bed has no promoters"),
        ("p.bed", "chr1\t10\t20\n", "p.bed, line 1: 3 columns, separated by tabs; six are needed"),
        ("p.bed", "# a\nchr1\t10\t20\tp\t0\n", "p.bed, line 2: 5 columns"),
        ("p.bed", "chr1 10 20 p 0 +\n", "p.bed, line 1: 1 column, separated by tabs; six are needed"),
        ("p.bed", "chr1\t10\t20\tp\t0\t+\nchr1\t10\t20\tp\t0\t.\n", "strand (+ or -), got 'chr1 10 20 p 0 .'"),
        ("p.bed", "chr1\t10\t20\tp\t0\t+\nchr1\t10\t20\tp\n", "p.bed, line 2: 4 columns"),
        ("p.bed", "chr1\tx\t20\tp\t0\t+\n", "got 'chr1 x 20 p 0 +'"),
        ("p.bed", "chr1\t-3\t20\tp\t0\t+\n", "got 'chr1 -3 20 p 0 +'"),
        ("p.bed", "chr1\t20\t20\tp\t0\t+\n", "got 'chr1 20 20 p 0 +'"),
        ("p.bed.gz", gzip.compress(b"chr1\t10\t20\tp\t0\t+\n" * 99, mtime=0)[:-9], "p.bed.gz cannot be read as BED"),
        ("p.bed.gz", "chr1\t10\t20\tp\t0\t+\n", "p.bed.gz cannot be read as BED"),
    ],
)
def test_bad_files_are_told_in_one_line_and_leave_nothing(
    tiny_folder, tmp_path, monkeypatch, capfd, main, name, content, message
):
    write_genome(tmp_path / "g.fa")
    write_bed(tmp_path / "p.bed")
    (tmp_path / "v.vcf").write_text(HEADER + FINE)
    if content == "truncated":
        pysam.tabix_compress(str(tmp_path / "v.vcf"), str(tmp_path / name), force=True)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-28])
    elif content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    chosen = {key: name if name.startswith(key[:2]) else key for key in ("v.vcf", "g.fa", "p.bed")}
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    options = ["--genome", chosen["g.fa"], "--promoters", chosen["p.bed"]]
    with pytest.raises(SystemExit) as stop:
        main([str(tiny_folder), chosen["v.vcf"], "out.parquet", *options])
    assert str(stop.value.code).startswith("error: ")
    assert message in stop.value.code
    assert "\n" not in stop.value.code
    assert "[E::" not in capfd.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} - before <= {"g.fa.fai"}, "the index alone, beside its FASTA"


def test_an_interval_that_no_model_reads_is_not_fetched(tiny_folder, tmp_path):
    write_genome(tmp_path / "g.fa", {"chr1": "ACGT" * 2_501})
    write_bed(tmp_path / "p.bed", [Promoter("chr1", 0, 10_001, "p", "+"), Promoter("chr1", 0, 10_000, "q", "+")])
    write_vcf(tmp_path / "v.vcf", [("chr1", 0, ".", "A", "C", ".")])
    vcf_file(tiny_folder, tmp_path / "v.vcf", tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.csv")
    wide, long = sorted(read(tmp_path / "out.csv")["problem"])
    assert wide == "10001 nt are more than the 10,000 that a model may read"
    assert long == "reference sequence: 10000 nt are more than the 20 that the model reads"


def test_contigs_of_other_names_are_told(tiny_folder, tmp_path):
    write_genome(tmp_path / "g.fa")
    write_bed(tmp_path / "p.bed", [Promoter("1", 10, 20, "p", "+")])
    write_vcf(tmp_path / "v.vcf", [("chr1", 12, ".", "A", "C", ".")])
    inputs = (tmp_path / "v.vcf", tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.csv")
    with pytest.raises(ValueError, match=r"their first contigs are 'chr1' and '1'"):
        vcf_file(tiny_folder, *inputs)


def test_verbosity_of_htslib_is_left_as_it_was(tiny_folder, tmp_path):
    before = pysam.set_verbosity(2)
    try:
        with pytest.raises(FileNotFoundError):
            vcf_file(tiny_folder, "absent.vcf", "absent.fa", "absent.bed", tmp_path / "out.csv")
        assert pysam.get_verbosity() == 2
    finally:
        pysam.set_verbosity(before)


@pytest.mark.parametrize("trimming", ["auto", "always"])
def test_intervals_are_variable_parts_whatever_the_tokenizer_trims(tiny_folder, tiny_tokenizer, tmp_path, trimming):
    """The interval begins and ends with letters of the flanks, which stand for themselves there."""
    interval = "ACCATGTGTCAGGT"
    write_genome(tmp_path / "genome.fa", {"chr1": "TTTTT" + interval + "TTTTT"})
    write_bed(tmp_path / "promoters.bed", [Promoter("chr1", 5, 5 + len(interval), "P1", "+")])
    write_vcf(tmp_path / "in.vcf", [("chr1", 10, "v1", "G", "C", ".")], contigs=("chr1",))
    settings = {name: getattr(tiny_tokenizer, name) for name in ("kmer_size", "strand_length", "flank5", "flank3")}
    vcf_file(
        tiny_folder, tmp_path / "in.vcf", tmp_path / "genome.fa", tmp_path / "promoters.bed", tmp_path / "out.tsv",
        tokenizer=type(tiny_tokenizer)(**settings, trimming=trimming),
    )  # fmt: skip
    untrimmed = explicit_predictions(tiny_folder, type(tiny_tokenizer)(**settings, trimming="never"))
    expected = [(untrimmed(interval), untrimmed(slow_apply(interval, 5, "G", "C")))]
    assert_effects(read(tmp_path / "out.tsv"), expected)


def test_overflow_is_trimmed_at_the_5_prime_end_of_the_strand(tiny_folder, tmp_path, explicit):
    plus = "ACGTTGCAAGGCTATCCGAT"
    (tmp_path / "g.fa").write_text(f">c\n{plus}TTTT\n")
    (tmp_path / "p.bed").write_text("c\t0\t20\tp\t.\t-\n")
    write_vcf(tmp_path / "v.vcf", [("c", 2, ".", "G", "GTT", "."), ("c", 18, ".", "A", "ATT", ".")], ["c"])
    call = [tiny_folder, tmp_path / "v.vcf", tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.csv"]
    vcf_file(*call, overflow="trim")
    # On the minus strand the 5' end is the right one of the plus strand, so its last two letters are lost.
    texts = [plus[:3] + "TT" + plus[3:18], plus[:19] + "T"]
    reference = explicit(slow_reverse_complement(plus))
    assert texts[1] == plus, "inserted letters beside T are pushed out"
    got = read(tmp_path / "out.csv")
    assert list(got["problem"].fillna("")) == ["", "the variant is trimmed away"]
    np.testing.assert_allclose(got["reference_expression"][0], reference, rtol=1e-5)
    np.testing.assert_allclose(got["alternative_expression"][0], explicit(slow_reverse_complement(texts[0])), rtol=1e-5)


def test_contigs_of_the_genome_named_without_chr_are_hinted_at(tiny_folder, tmp_path):
    write_genome(tmp_path / "g.fa", {"1": "ACGT" * 10})
    write_bed(tmp_path / "p.bed", [Promoter("chr1", 10, 20, "p", "+")])
    write_vcf(tmp_path / "v.vcf", [("chr1", 12, ".", "A", "C", ".")])
    vcf_file(tiny_folder, tmp_path / "v.vcf", tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.csv")
    (problem,) = read(tmp_path / "out.csv")["problem"]
    assert problem.startswith("the FASTA lacks the contig: one file names its contigs with `chr`, the other without")


OLD, LATER = (1e9, 1e9), (1.1e9, 1.1e9)  # times of access and modification


def deltas(folder, path, genome):
    vcf_file(folder, path / "v.vcf", path / genome, path / "p.bed", path / "out.csv", overwrite=True)
    return read(path / "out.csv")["delta"].tolist()


@pytest.mark.parametrize("replaced", ["by a newer file", "by a copy with an older date"])
@pytest.mark.parametrize("genome", ["g.fa", "g.fa.gz"])
def test_outdated_index_of_a_genome_is_rebuilt(tiny_folder, tmp_path, genome, replaced):
    """Only the change time shows that a file was replaced by one with an older date, as `cp -p` or `mv` do."""

    def write(text):
        (tmp_path / "g.fa").write_text(text)
        if genome.endswith(".gz"):
            pysam.tabix_compress(str(tmp_path / "g.fa"), str(tmp_path / genome), force=True)

    write_genome(tmp_path / "g.fa")
    text = (tmp_path / "g.fa").read_text()
    write_bed(tmp_path / "p.bed")
    write_vcf(tmp_path / "v.vcf", random_records(count=30))
    write(text)
    before = deltas(tiny_folder, tmp_path, genome)
    indexes = [path for path in tmp_path.iterdir() if path.suffix in (".fai", ".gzi")]
    assert len(indexes) == 1 + genome.endswith(".gz") and _has_index(tmp_path / genome)
    write(text.replace(">chr1 made", ">chr1 made anew"))
    if replaced == "by a copy with an older date":
        shutil.copyfile(tmp_path / genome, tmp_path / "copy")
        os.utime(tmp_path / "copy", OLD)
        os.replace(tmp_path / "copy", tmp_path / genome)
    for path in indexes:
        os.utime(path, LATER)
    assert not _has_index(tmp_path / genome)
    np.testing.assert_equal(deltas(tiny_folder, tmp_path, genome), before)
    assert _has_index(tmp_path / genome)


@pytest.mark.parametrize("missing", [".fai", ".gzi"])
def test_all_indexes_of_a_genome_must_be_current(tmp_path, missing):
    write_genome(tmp_path / "g.fa")
    pysam.tabix_compress(str(tmp_path / "g.fa"), str(tmp_path / "g.fa.gz"))
    pysam.faidx(str(tmp_path / "g.fa.gz"))
    assert _has_index(tmp_path / "g.fa.gz")
    (tmp_path / f"g.fa.gz{missing}").unlink()
    assert not _has_index(tmp_path / "g.fa.gz")


@pytest.mark.parametrize("content", ["hello\n", "chr1\t300\n", ""])
def test_damaged_index_of_a_genome_is_rebuilt(tmp_path, content):
    write_genome(tmp_path / "g.fa")
    (tmp_path / "g.fa.fai").write_text(content)
    with fasta_index.open_fasta(tmp_path / "g.fa") as fasta:
        assert fasta.fetch("chr1") == GENOME["chr1"]


def test_a_genome_in_a_folder_that_cannot_be_written_is_read(tiny_folder, tmp_path, monkeypatch):
    write_genome(tmp_path / "g.fa")
    write_bed(tmp_path / "p.bed")
    write_vcf(tmp_path / "v.vcf", random_records())
    expected = deltas(tiny_folder, tmp_path, "g.fa")
    (tmp_path / "g.fa.fai").write_text("stale\n")
    os.utime(tmp_path / "g.fa.fai", OLD)

    def fail(path, **_):
        raise PermissionError(f"no writing to {path}")

    monkeypatch.setattr(fasta_index, "new_file", fail)
    np.testing.assert_equal(deltas(tiny_folder, tmp_path, "g.fa"), expected)
    assert (tmp_path / "g.fa.fai").read_text() == "stale\n"


@pytest.mark.parametrize("kind", ["tbi", "csi", "bcf"])
def test_outdated_index_of_a_vcf_is_not_used(tiny_folder, tmp_path, kind):
    write_genome(tmp_path / "g.fa")
    write_bed(tmp_path / "p.bed")
    records, path = random_records(count=40), tmp_path / ("v.bcf" if kind == "bcf" else "v.vcf.gz")
    write_vcf(tmp_path / "v.vcf", records)
    convert_vcf(tmp_path / "v.vcf", "bcf" if kind == "bcf" else "vcf.gz")
    pysam.tabix_index(str(path), preset="bcf" if kind == "bcf" else "vcf", force=True, csi=kind != "tbi")
    index = tmp_path / f"{path.name}.{'tbi' if kind == 'tbi' else 'csi'}"
    assert index.exists() and _has_new_index(path)
    write_vcf(tmp_path / "v.vcf", records[20:])
    convert_vcf(tmp_path / "v.vcf", "bcf" if kind == "bcf" else "vcf.gz")
    os.utime(path, OLD)
    os.utime(index, LATER)
    assert not _has_new_index(path)
    vcf_file(tiny_folder, path, tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.csv")
    assert len(read(tmp_path / "out.csv")) == len(slow_lines(records[20:]))


def test_of_two_indexes_both_must_be_new(tiny_folder, tmp_path):
    write_genome(tmp_path / "g.fa")
    write_bed(tmp_path / "p.bed")
    records = random_records(count=40)
    write_vcf(tmp_path / "v.vcf", records[:20])
    vcf = convert_vcf(tmp_path / "v.vcf", "vcf.gz")
    pysam.tabix_index(str(vcf), preset="vcf", csi=True)
    write_vcf(tmp_path / "v.vcf", records)
    convert_vcf(tmp_path / "v.vcf", "vcf.gz+index")
    os.utime(f"{vcf}.csi", LATER)
    assert not _has_new_index(vcf), "htslib prefers the other one"
    vcf_file(tiny_folder, vcf, tmp_path / "g.fa", tmp_path / "p.bed", tmp_path / "out.csv")
    assert len(read(tmp_path / "out.csv")) == len(slow_lines(records))
    os.utime(f"{vcf}.csi")
    assert _has_new_index(vcf)
