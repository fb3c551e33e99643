"""Files of rows that are made to exhaust memory: bounded, and told."""

import gzip
import os
import resource
import subprocess
import sys
from pathlib import Path

import pysam
import pytest

from modeling_macaron.io.tables import open_table

GIGABYTE = 1 << 30
ROOT = Path(__file__).parents[2]


def squeeze(path, head, piece, megabytes):
    """Write a gzip file that becomes large: `head`, then megabytes of `piece`, each a member of the file."""
    content = piece * (1_000_000 // len(piece))
    path.write_bytes(gzip.compress(head) + gzip.compress(content) * megabytes)
    return path, megabytes * (1_000_000 // len(piece))


READ = """
import sys
from modeling_macaron.io.tables import open_table
rows = 0
try:
    for batch in open_table(sys.argv[1], sequence_column="sequence" if sys.argv[1].endswith("csv.gz") else None):
        rows += len(batch.numbers)
except ValueError as error:
    sys.exit(f"refused: {error}")
print(rows)
"""


def read_within(path, memory, read=READ):
    """Read a file in a process that may take so much memory; give what it says."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))  # noqa: E731
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    done = subprocess.run(
        [sys.executable, "-c", read, str(path)], capture_output=True, text=True, preexec_fn=limit, env=environment,
        timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "head", "piece", "message"),
    [
        ("bomb.csv.gz", b"sequence,value\n", b"A", "a line of more than 4,194,304 bytes"),
        ("bomb.fa.gz", b">one\n", b"A", "line 2: a record of more than 4,194,304 letters"),
        ("name.fa.gz", b">", b"A", "line 1: a record of more than 4,194,304 letters"),
        ("lines.fa.gz", b">one\n", b"ACGTACGT\n", "a record of more than 4,194,304 letters"),
        ("quote.csv.gz", b'sequence,value\n"', b"A\n", "mend the quotes"),
    ],
)  # fmt: skip
def test_endless_lines_are_refused_in_bounded_memory(tmp_path, name, head, piece, message):
    path, _ = squeeze(tmp_path / name, head, piece, megabytes=2_000)
    assert path.stat().st_size < 5_000_000
    code, told = read_within(path, 3 * GIGABYTE // 2)
    assert code == 1 and told.startswith("refused:") and len(told.splitlines()) == 1
    assert message in told


@pytest.mark.parametrize(
    ("name", "head", "piece"),
    [
        ("many.csv.gz", b"sequence,value\n", b"ACGTACGTACGTACG,12\n"),
        ("many.fa.gz", b"", b">a\n" + b"ACGT" * 255 + b"\n"),
    ],
)
def test_large_files_stream_in_bounded_memory(tmp_path, name, head, piece):
    path, num_rows = squeeze(tmp_path / name, head, piece, megabytes=2_000)
    code, told = read_within(path, 3 * GIGABYTE // 2)
    assert (code, told.strip()) == (0, str(num_rows))


READ_GENOME_FILE = """
import resource, sys
import psutil
from modeling_macaron.analysis.genome_variants import vcf_file
limit = psutil.Process().memory_info().vms + 1_500_000_000  # torch's libraries take 2 GB themselves, or 10 with CUDA
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
vcf, bed = sys.argv[1].replace(".bed", ".vcf"), sys.argv[1].replace(".vcf", ".bed")
try:
    vcf_file("no model", vcf, sys.argv[1].partition(".")[0] + ".fa", bed, "out.csv")
except ValueError as error:
    sys.exit(f"refused: {error}")
"""
VCF_HEADER = "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
BCF = b"BCF\2\2" + (len(VCF_HEADER) + 1).to_bytes(4, "little") + VCF_HEADER.encode() + b"\0"


def bgzip(path, content):
    """Compress by bgzip, without the end of a file."""
    with pysam.BGZFile(str(path), "wb") as file:
        file.write(content)
    return path.read_bytes()[:-28]


@pytest.mark.parametrize(
    ("name", "head", "piece", "message"),
    [
        ("line.bed.gz", b"chr1\t1\t9\tp\t0\t+\nchr1\t", b"1", "line 2: more than 4,194,304 letters"),
        ("comment.bed.gz", b"#", b"A", "line 1: more than 4,194,304 letters"),
        pytest.param("many.bed.gz", b"", b"chr1\t1\t9\tp\t0\t+\n", "than 4,194,304 promoters", marks=pytest.mark.slow),
        ("wide.bed.gz", b"", b"chr1\t1\t9\t" + b"p" * 10_000 + b"\t0\t+\n", "more than 268,435,456 letters"),
        ("line.vcf.gz", VCF_HEADER.encode() + b"chr1\t1\t.\t", b"A", "a line of more than 67,108,864 bytes"),
        ("first.vcf.gz", b"##fileformat=VCFv4.2\n##", b"A", "a header of more than 67,108,864 bytes"),
        ("header.vcf.gz", b"##fileformat=VCFv4.2\n", b"##a=b\n", "a header of more than 67,108,864 bytes"),
        ("text.vcf.gz", b"BCF\2\2" + b"\xff\xff\xff\x7f##", b"A", "a header of more than 67,108,864 bytes"),
        ("long.vcf.gz", BCF + b"\xff\xff\xff\x7f\0\0\0\0", b"A", "a line of more than 67,108,864 bytes"),
        ("gzip.vcf.gz", b"##fileformat=VCFv4.2\n##", b"A", "a header of more than 67,108,864 bytes"),
    ],
)  # fmt: skip
def test_endless_lines_of_genome_files_are_refused_in_bounded_memory(tmp_path, name, head, piece, message):
    path = tmp_path / name
    (tmp_path / f"{name.partition('.')[0]}.fa").write_text(">chr1\nACGT\n")
    if ".vcf" in name:
        (tmp_path / name.replace(".vcf", ".bed")).write_bytes(gzip.compress(b"chr1\t1\t9\tp\t0\t+\n"))
    if name == "gzip.vcf.gz" or ".bed" in name:
        squeeze(path, head, piece, megabytes=1_900)
    else:
        blocks = [bgzip(tmp_path / "block", content) for content in (head, piece * (1_000_000 // len(piece)))]
        path.write_bytes(blocks[0] + blocks[1] * 1_900)
    assert path.stat().st_size < 13_000_000
    code, told = read_within(path, resource.RLIM_INFINITY, READ_GENOME_FILE)
    assert code == 1 and told.startswith(f"refused: {path}") and len(told.splitlines()) == 1
    assert message in told


def test_records_of_any_length_up_to_the_limit_are_read(tmp_path):
    path = tmp_path / "long.fa"
    path.write_text(">one\n" + "A" * (4 << 20) + "\n>two\n" + ("C" * 1_000 + "\n") * 4_194 + "C" * 304)
    (batch,) = open_table(path)
    assert [len(text) for text in batch.table.column("sequence").to_pylist()] == [4 << 20, 4 << 20]


def test_many_long_records_are_read_in_several_batches(tmp_path):
    path = tmp_path / "long.fa"
    path.write_text("".join(f">{index}\n{'ACGT' * 262_144}\n" for index in range(130)))
    batches = list(open_table(path))
    assert len(batches) == 3
    assert [number for batch in batches for number in batch.numbers.tolist()] == list(range(1, 131))
