"""Variant effects of VCF files on the promoters of a genome: BED, FASTA, VCF and their indexes."""

import gzip
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_macaron.analysis import genome as genome_module
from modeling_macaron.analysis.files import FileOptions
from modeling_macaron.analysis.genome import Promoter, _has_index, open_fasta, read_promoters
from modeling_macaron.analysis.genome_variants import (
    _by_contig,
    _has_new_index,
    _merged,
    _overlapping,
    _records,
    vcf_file,
)
from modeling_macaron.predictor import Predictor
from tests.analysis.cases import (
    EFFECTS,
    assert_effects,
    error_of,
    explicit_predictions,
    failing_predictor,
    names_in,
    read,
    run_script,
    slow_apply,
    slow_reverse_complement,
)
from tokenization import KmerTokenizer

_RANDOM = np.random.default_rng(0)
GENOME = {
    "chr1": "".join(_RANDOM.choice(list("ACGT"), 300)), "chr2": "".join(_RANDOM.choice(list("acgt"), 100)),
    "chr4": "N" * 50,
}  # fmt: skip
COLUMNS = ["chrom", "pos", "id", "ref", "alt", "promoter", "strand"]
PROMOTERS = [
    Promoter("chr2", 10, 29, "chr2:11-29", "-"), Promoter("chr1", 20, 38, "P1", "+"),
    Promoter("chr1", 30, 45, "P#2", "-"), Promoter("chr1", 45, 60, "P3", "+"), Promoter("chr2", 12, 22, "P4", "+"),
    Promoter("chr1", 100, 125, "too long", "+"), Promoter("chr1", 290, 301, "beyond", "+"),
    Promoter("chr3", 0, 10, "missing", "-"), Promoter("chr4", 0, 10, "gap", "-"),
]  # fmt: skip
KINDS = ["vcf", "vcf.gz", "vcf.gz+index", "bcf"]
BEYOND, TOO_LONG = "the variant reaches beyond the promoter", "are more than the 20 that the model reads"
SAME = "both alleles are the same"
OLD, LATER = (1e9, 1e9), (1.1e9, 1.1e9)  # times of access and modification


def write_genome(path, genome=GENOME):
    lines = (
        f">{name} made\n" + "".join(s[i : i + 50] + "\n" for i in range(0, len(s), 50)) for name, s in genome.items()
    )
    path.write_text("".join(lines))


def write_bed(path, promoters=PROMOTERS):
    names = ["." if ":" in p.name else p.name for p in promoters]
    lines = [f"{p.contig}\t{p.start}\t{p.end}\t{n}\t0\t{p.strand}" for p, n in zip(promoters, names, strict=True)]
    text = "track name=made\n# made\n" + "\n".join(lines)  # without a line break at the end
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_vcf(path, records, kind="vcf", contigs=("chr1", "chr2", "chr3", "chr4", "chr5"), csi=False):
    """Write records (contig, start from 0, id, ref, alt, INFO) and return the path of the VCF."""
    header = "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={name}>\n" for name in contigs)
    header += '##INFO=<ID=END,Number=1,Type=Integer,Description="End">\n'
    header += '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    header += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts1\n"
    lines = [f"{c}\t{s + 1}\t{name}\t{ref}\t{alt}\t.\t.\t{info}\tGT\t0/1\n" for c, s, name, ref, alt, info in records]
    plain = path.with_suffix(".vcf")
    plain.write_text(header + "".join(lines))
    other = path.with_suffix("." + kind.split("+")[0])
    if kind.startswith("vcf.gz"):
        pysam.tabix_compress(str(plain), str(other), force=True)
    elif kind.startswith("bcf"):
        with pysam.VariantFile(str(plain)) as source, pysam.VariantFile(str(other), "wb", header=source.header) as out:
            for record in source:
                out.write(record)
    if kind.endswith("+index"):
        pysam.tabix_index(str(other), preset=kind[:3], force=True, csi=csi)
    return other


@pytest.fixture
def run(predictor, tmp_path):
    """Return a function that predicts a VCF and reads the output."""
    write_genome(tmp_path / "g.fa")
    write_bed(tmp_path / "p.bed")

    def effects(vcf, genome="g.fa", predictor=predictor, options=None, **settings):
        options = options or FileOptions(overwrite=True)
        inputs = (vcf, tmp_path / genome, tmp_path / "p.bed", tmp_path / "out.parquet")
        result = vcf_file(predictor, *inputs, options=options, **settings)
        table = read(tmp_path / "out.parquet")
        assert result[:4] == (len(table), len(table), sum(table["problem"] != ""), result.reasons)
        return table

    return effects


def random_records(seed=1, count=150):
    """Variants of every kind on and around the promoters, sorted."""
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
    """Apply each allele to the whole chromosome, then cut out the promoters."""
    lines = []
    for contig, start, name, reference, alternative, _ in records:
        for p in sorted(PROMOTERS, key=lambda p: (p.start, p.end)):
            if p.contig != contig or not set(range(start, start + len(reference))) & set(range(p.start, p.end)):
                continue
            before = GENOME[contig].upper()
            after = slow_apply(before, start, reference, alternative)
            end = len(after) - (len(before) - p.end)
            is_same_outside = after[: p.start] == before[: p.start] and after[end:] == before[p.end :]
            pair = [before[p.start : p.end], after[p.start : end]]
            if p.strand == "-":
                pair = [slow_reverse_complement(text) for text in pair]
            columns = [contig, start + 1, name, reference, alternative, p.name, p.strand]
            lines.append((columns, p, pair if is_same_outside else None))
    return lines


@pytest.mark.parametrize("kind", KINDS)
def test_vcf_equals_a_slow_version(predictor, tmp_path, run, explicit, kind):
    records = random_records()
    table = run(write_vcf(tmp_path / "v.vcf", records, kind), predictor=replace(predictor, batch_size=2))
    lines = slow_lines(records)
    assert len(lines) > 64, "several batches"
    assert table.columns.tolist() == [*COLUMNS, *EFFECTS, "problem"]
    assert table[COLUMNS].values.tolist() == [columns for columns, _, _ in lines]
    expected, anchored = [], 0
    for (columns, promoter, pair), problem in zip(lines, table["problem"], strict=True):
        start, end = columns[1] - 1, columns[1] - 1 + len(columns[3])
        sticks_out = start < promoter.start or end > promoter.end
        assert (problem == SAME) == (columns[3] == columns[4])
        if problem == BEYOND:
            assert sticks_out  # in repeats, the slow version may place it within the promoter
        elif TOO_LONG in problem:
            assert problem == f"alternative sequence: {len(pair[1])} nt {TOO_LONG}" and len(pair[1]) > 20
        elif not problem:
            anchored += sticks_out
        expected.append(None if problem else [explicit(text) for text in pair])
    assert_effects(table, expected)
    assert anchored, "bases beyond an end that both alleles share are ignored"
    assert {"", BEYOND, TOO_LONG, SAME} == {
        TOO_LONG if TOO_LONG in problem else problem for problem in table["problem"]
    }


def test_variants_on_the_minus_strand_by_hand(tmp_path, run, explicit):
    (tmp_path / "g.fa").write_text(">c\nTTTTAACCGTGGAATTTT\n")
    (tmp_path / "p.bed").write_text("c\t4\t14\tp\t.\t-\n")
    records = [("c", 5, ".", "A", "G", "."), ("c", 13, ".", "A", "AC", ".")]
    # The reverse complement of AACCGTGGAA is TTCCACGGTT; A>G at its second base is T>C at the last but one.
    reference = explicit("TTCCACGGTT")
    expected = [(reference, explicit("TTCCACGGCT")), (reference, explicit("GTTCCACGGTT"))]
    assert_effects(run(write_vcf(tmp_path / "v.vcf", records, contigs=["c"])), expected)


def test_alleles_that_cover_a_whole_promoter(tmp_path, run):
    (tmp_path / "g.fa").write_text(">c\nGGAAAAAGG\n")
    (tmp_path / "p.bed").write_text("c\t3\t6\tp\t.\t-\n")
    records = [("c", 2, ".", "AAAAA", "A", "."), ("c", 2, ".", "AAAAA", "AAAA", ".")]
    assert run(write_vcf(tmp_path / "v.vcf", records, contigs=["c"]))["problem"].tolist() == [BEYOND, ""]


def special_records():
    """Records with the problem of every line, by allele and promoter."""
    chromosome = GENOME["chr1"]
    other = {i: "ACGT"[("ACGT".index(base) + 1) % 4] for i, base in enumerate(chromosome)}
    symbolic, ambiguous = "symbolic, breakend or * allele", "allele with an ambiguous base (N or another IUPAC code)"
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
        (at(25, ",".join(base for base in "ACGT" if base != chromosome[25])), ["", "", ""]),
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
def test_every_problem_of_a_vcf(tmp_path, run, kind):
    table = run(write_vcf(tmp_path / "v.vcf", [record for record, _ in special_records()], kind))
    expected = []
    for (contig, start, _, _, alternatives, _), problems in special_records():
        alleles = alternatives.split(",")
        per_allele = len(problems) // len(alleles)
        expected += [[contig, start + 1, alleles[i // per_allele], problem] for i, problem in enumerate(problems)]
    assert table[["chrom", "pos", "alt", "problem"]].values.tolist() == expected
    for name in EFFECTS:
        assert (table[name].isna() == (table["problem"] != "")).all()


def test_strict_names_the_variant(tmp_path, run):
    vcf = write_vcf(tmp_path / "v.vcf", [("chr1", 24, ".", GENOME["chr1"][24], "*", ".")])
    with pytest.raises(ValueError, match=r"variant chr1:25 [ACGT]>\*, promoter P1: symbolic"):
        run(vcf, options=FileOptions(strict=True))
    assert not (tmp_path / "out.parquet").exists()


def test_interrupted_runs_are_resumed(tiny_folder, tmp_path, run):
    vcf, options = write_vcf(tmp_path / "v.vcf", random_records()), FileOptions(resume=True, overwrite=True)
    predictor, sizes = failing_predictor(tiny_folder, 0, batch_size=2)
    expected, total = run(vcf, predictor=predictor), len(sizes)
    with pytest.raises(KeyboardInterrupt):
        run(vcf, predictor=failing_predictor(tiny_folder, total * 2 // 3, batch_size=2)[0], options=options)
    sizes.clear()
    pd.testing.assert_frame_equal(run(vcf, predictor=predictor, options=options), expected)
    assert 0 < len(sizes) < total


def test_an_index_limits_reading_to_the_promoters(tmp_path, run):
    records = [("chr1", start, ".", "A", "C", ".") for start in range(200)]
    contigs = _by_contig([Promoter("chr1", 20, 30, "a", "+"), Promoter("chr1", 25, 40, "b", "+")])
    for kind, expected in (("vcf", range(200)), ("vcf.gz+index", range(20, 40))):
        vcf = write_vcf(tmp_path / "v.vcf", records, kind)
        assert [record.start for record in _records(vcf, contigs)] == list(expected)
    # A deletion over two promoters is read once.
    write_bed(tmp_path / "p.bed", [Promoter("chr1", 20, 30, "a", "+"), Promoter("chr1", 40, 50, "b", "-")])
    records = [("chr1", 25, "long", GENOME["chr1"][25:45], GENOME["chr1"][25], ".")]
    assert run(write_vcf(tmp_path / "v.vcf", records, "vcf.gz+index"))["promoter"].tolist() == ["a", "b"]


def test_header_without_contigs(tmp_path, run):
    records = random_records(count=40)
    tables = [run(write_vcf(tmp_path / "v.vcf", records, kind, contigs=())) for kind in ("vcf", "vcf.gz+index")]
    assert len(tables[0]) == len(slow_lines(records))
    pd.testing.assert_frame_equal(*tables)


def test_command_line_with_compressed_files(tiny_folder, tmp_path, run, explicit, capsys):
    pysam.tabix_compress(str(tmp_path / "g.fa"), str(tmp_path / "g.fa.gz"), force=True)
    write_bed(tmp_path / "p.bed.gz")
    vcf = write_vcf(tmp_path / "v.vcf", [record for record, _ in special_records()[3:9]], "vcf.gz+index")
    options = ["--genome", tmp_path / "g.fa.gz", "--promoters", tmp_path / "p.bed.gz", "--both_orientations"]
    run_script("variants", tiny_folder, vcf, tmp_path / "out.tsv", *options)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"9 variants written to {tmp_path / 'out.tsv'}",
        "4 of them could not be predicted: the column `problem` gives the reason",
    ]

    def both(text):
        return (explicit(text) + explicit(slow_reverse_complement(text))) / 2

    table, promoter = read(tmp_path / "out.tsv"), GENOME["chr1"][20:38]
    changed = [slow_apply(promoter, row["pos"] - 21, row["ref"], row["alt"]) for row in table.to_dict("records")]
    pairs = zip(changed, table["problem"], strict=True)
    assert_effects(table, [None if problem else [both(promoter), both(text)] for text, problem in pairs])


HEADER = "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
FINE = "chr1\t25\t.\tA\tC\t.\t.\t.\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.vcf", None, "there is no file v.vcf"),
        ("v.vcf", "hello\nworld\n", "v.vcf cannot be read as VCF"),
        ("v.vcf", HEADER, "v.vcf has no variants"),
        ("v.vcf", HEADER + FINE * 99 + "chr1\tx\t.\tA\tC\t.\t.\t.\n", "v.vcf cannot be read after 99 records"),
        (
            "v.vcf",
            HEADER + FINE.replace("chr1", "1"),
            "no variant of v.vcf lies in a promoter of p.bed (their first contigs are '1' and 'chr3'): "
            "only one file has `chr` in its contig names",
        ),
        ("v.vcf.gz", gzip.compress((HEADER + FINE).encode(), mtime=0), "v.vcf.gz is not compressed by bgzip"),
        ("v.vcf.gz", "truncated", "v.vcf.gz cannot be read as VCF: no BGZF EOF marker"),
        ("g.fa", None, "there is no file g.fa"),
        ("g.fa", "", "g.fa cannot be read as FASTA"),
        ("g.fa", ">chr1\nAC\nACGT\nACG\nACGTA\n", "g.fa cannot be read as FASTA"),
        ("g.fa.gz", gzip.compress(b">chr1\nACGT\n", mtime=0), "g.fa.gz cannot be read as FASTA"),
        ("p.bed", None, "there is no file p.bed"),
        ("p.bed", "# nothing\n", "p.bed has no promoters"),
        ("p.bed", "# a\nchr1\t10\t20\tp\t0\n", "p.bed, line 2: 5 columns, separated by tabs; six are needed"),
        ("p.bed", "chr1 10 20 p 0 +\n", "p.bed, line 1: 1 column, separated by tabs; six are needed"),
        ("p.bed", "chr1\t10\t20\tp\t0\t+\nchr1\t10\t20\tp\t0\t.\n", "strand (+ or -), got 'chr1 10 20 p 0 .'"),
        ("p.bed", "chr1\tx\t20\tp\t0\t+\n", "got 'chr1 x 20 p 0 +'"),
        ("p.bed", "chr1\t20\t20\tp\t0\t+\n", "got 'chr1 20 20 p 0 +'"),
        ("p.bed.gz", gzip.compress(b"chr1\t10\t20\tp\t0\t+\n" * 99, mtime=0)[:-9], "p.bed.gz cannot be read as BED"),
    ],
)
def test_mistakes(tiny_folder, tmp_path, run, monkeypatch, capfd, name, content, message):
    (tmp_path / "v.vcf").write_text(HEADER + FINE)
    if content == "truncated":
        pysam.tabix_compress(str(tmp_path / "v.vcf"), str(tmp_path / name), force=True)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-28])
    elif content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    vcf, genome, bed = (name if name.startswith(usual[:2]) else usual for usual in ("v.vcf", "g.fa", "p.bed"))
    monkeypatch.chdir(tmp_path)
    before = set(names_in(tmp_path))
    assert message in error_of("variants", tiny_folder, vcf, "out.parquet", "--genome", genome, "--promoters", bed)
    assert "[E::" not in capfd.readouterr().err, "htslib is silent"
    assert set(names_in(tmp_path)) - before <= {"g.fa.fai"}, "only the index, next to its FASTA"


def test_verbosity_of_htslib_is_restored(tiny_folder, tmp_path):
    before = pysam.set_verbosity(2)
    try:
        with pytest.raises(FileNotFoundError):
            vcf_file(tiny_folder, "absent.vcf", "absent.fa", "absent.bed", tmp_path / "out.csv")
        assert pysam.get_verbosity() == 2
    finally:
        pysam.set_verbosity(before)


@pytest.mark.parametrize("trimming", ["auto", "always"])
def test_intervals_are_variable_parts_with_every_tokenizer(tiny_folder, tmp_path, run, trimming):
    """The interval begins and ends with the flanks."""
    interval = "ACCATGTGTCAGGT"
    write_genome(tmp_path / "g.fa", {"chr1": "TTTTT" + interval + "TTTTT"})
    write_bed(tmp_path / "p.bed", [Promoter("chr1", 5, 5 + len(interval), "P1", "+")])
    vcf = write_vcf(tmp_path / "v.vcf", [("chr1", 10, "v1", "G", "C", ".")])
    tokenizers = [
        KmerTokenizer(kmer_size=5, strand_length=20, flank5="ACCA", flank3="GGT", trimming=name)
        for name in (trimming, "never")
    ]
    untrimmed = explicit_predictions(tiny_folder, tokenizers[1])
    predictor = Predictor.from_pretrained(tiny_folder, tokenizer=tokenizers[0])
    expected = [(untrimmed(interval), untrimmed(slow_apply(interval, 5, "G", "C")))]
    assert_effects(run(vcf, predictor=predictor), expected)


def test_overflow_is_trimmed_at_the_5_prime_end_of_the_strand(tmp_path, run, explicit):
    plus = "ACGTTGCAAGGCTATCCGAT"
    (tmp_path / "g.fa").write_text(f">c\n{plus}TTTT\n")
    (tmp_path / "p.bed").write_text("c\t0\t20\tp\t.\t-\n")
    records = [("c", 2, ".", "G", "GTT", "."), ("c", 18, ".", "A", "ATT", ".")]
    table = run(write_vcf(tmp_path / "v.vcf", records, contigs=["c"]), overflow="trim")
    # The 5' end of the minus strand is the right end of the plus strand, so its last two bases are lost.
    pair = [explicit(slow_reverse_complement(text)) for text in (plus, plus[:3] + "TT" + plus[3:18])]
    assert table["problem"].tolist() == ["", "the variant is trimmed away"]
    np.testing.assert_allclose(table.loc[0, EFFECTS[:2]].astype(float), pair, rtol=1e-5)


@pytest.mark.parametrize("genome", ["g.fa", "g.fa.gz"])
def test_outdated_index_of_a_genome_is_rebuilt(tmp_path, run, genome):
    """Only the change time shows a replacement with an older date, as by `cp -p` or `mv`."""
    vcf, tables, path = write_vcf(tmp_path / "v.vcf", random_records(count=30)), [], tmp_path / genome
    for description in ("", " anew"):
        write_genome(tmp_path / "g.fa", {f"{name}{description}": text for name, text in GENOME.items()})
        if genome.endswith(".gz"):
            pysam.tabix_compress(str(tmp_path / "g.fa"), str(path), force=True)
        os.utime(path, OLD)
        for index in tmp_path.glob("g.fa*.[fg]?i"):
            os.utime(index, LATER)
        assert not _has_index(path)
        tables.append(run(vcf, genome))
        assert _has_index(path)
    pd.testing.assert_frame_equal(*tables)
    if genome.endswith(".gz"):
        (tmp_path / "g.fa.gz.gzi").unlink()
        assert not _has_index(path), "both indexes are needed"


@pytest.mark.parametrize("content", ["hello\n", "chr1\t300\n", ""])
def test_damaged_index_of_a_genome_is_rebuilt(tmp_path, content):
    write_genome(tmp_path / "g.fa")
    (tmp_path / "g.fa.fai").write_text(content)
    assert open_fasta(tmp_path / "g.fa").fetch("chr1") == GENOME["chr1"]


def test_a_genome_in_a_read_only_folder(tmp_path, run, monkeypatch):
    vcf = write_vcf(tmp_path / "v.vcf", random_records())
    expected = run(vcf)
    (tmp_path / "g.fa.fai").write_text("stale\n")
    os.utime(tmp_path / "g.fa.fai", OLD)

    def fail(path, **_):
        raise PermissionError(f"no writing to {path}")

    monkeypatch.setattr(genome_module, "new_file", fail)
    pd.testing.assert_frame_equal(run(vcf), expected)
    assert (tmp_path / "g.fa.fai").read_text() == "stale\n"


@pytest.mark.parametrize(("kind", "csi"), [("vcf.gz", False), ("vcf.gz", True), ("bcf", True)])
def test_outdated_index_of_a_vcf_is_not_used(tmp_path, run, kind, csi):
    records = random_records(count=40)
    vcf = write_vcf(tmp_path / "v.vcf", records, f"{kind}+index", csi=csi)
    assert _has_new_index(vcf)
    write_vcf(tmp_path / "v.vcf", records[20:], kind)
    os.utime(vcf, OLD)
    for path in tmp_path.glob("v.*.?[bs]i"):
        os.utime(path, LATER)
    assert not _has_new_index(vcf)
    assert len(run(vcf)) == len(slow_lines(records[20:]))


def test_all_indexes_of_a_vcf_must_be_current(tmp_path, run):
    records = random_records(count=40)
    write_vcf(tmp_path / "v.vcf", records[:20], "vcf.gz+index", csi=True)
    vcf = write_vcf(tmp_path / "v.vcf", records, "vcf.gz+index")
    os.utime(f"{vcf}.csi", LATER)
    assert not _has_new_index(vcf), "htslib prefers the other one"
    assert len(run(vcf)) == len(slow_lines(records))
    os.utime(f"{vcf}.csi")
    assert _has_new_index(vcf)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=12),
    st.integers(0, 40),
    st.integers(1, 9),
)
def test_overlaps_and_regions_equal_slow_ones(intervals, start, length):
    promoters = [Promoter("c", a, a + n, str(i), "+") for i, (a, n) in enumerate(intervals)]
    contig, inside = _by_contig(promoters)["c"], set(range(start, start + length))
    expected = {p for p in promoters if inside & set(range(p.start, p.end))}
    found = _overlapping(contig, start, start + length)
    assert len(found) == len(expected) and set(found) == expected
    regions = list(_merged(contig))
    covered = {i for p in promoters for i in range(p.start, p.end)}
    assert {i for a, b in regions for i in range(a, b)} == covered
    assert all(regions[i][1] < regions[i + 1][0] for i in range(len(regions) - 1))


def test_promoters_of_a_bed_file(tmp_path):
    lines = (
        'browser position chr1\ntrack name=a\n#c\ttracks\nchrM\t0\t7\t.\t.\t-\textra\r\n\nNA\t3\t5\ttracks "x\t1\t+\n'
    )
    lines += "c\t1\t7\tq\t0\t+\t1\t2\t3\t4\t5\t6\n"
    expected = [
        Promoter("chrM", 0, 7, "chrM:1-7", "-"), Promoter("NA", 3, 5, 'tracks "x', "+"), Promoter("c", 1, 7, "q", "+")
    ]  # fmt: skip
    (tmp_path / "p.bed").write_text(lines)
    (tmp_path / "p.bed.gz").write_bytes(gzip.compress(lines.encode()))
    assert read_promoters(tmp_path / "p.bed") == read_promoters(tmp_path / "p.bed.gz") == expected
