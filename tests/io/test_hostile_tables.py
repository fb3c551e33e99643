"""Files that would exhaust memory are rejected, or read in bounded memory."""

import gzip
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_macaron.io.tables import open_table

pytestmark = pytest.mark.slow

GIGABYTE = 1 << 30
ROOT = Path(__file__).parents[2]


def squeeze(path, head, piece, megabytes):
    """Write a gzip file that expands to `head` and megabytes of `piece`, each in its own member."""
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
    sys.exit(f"rejected: {error}")
print(rows)
"""


def read_within(path, memory, read=READ):
    """Read a file in a process with limited memory. Returns its exit code and output."""
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
        ("bomb.fa.gz", b">one\n", b"A", "line 2: a record has more than 4,194,304 characters"),
        ("name.fa.gz", b">", b"A", "line 1: a record has more than 4,194,304 characters"),
        ("lines.fa.gz", b">one\n", b"ACGTACGT\n", "a record has more than 4,194,304 characters"),
        ("quote.csv.gz", b'sequence,value\n"', b"A\n", "mend the quotes"),
    ],
)  # fmt: skip
def test_endless_lines_are_rejected_in_bounded_memory(tmp_path, name, head, piece, message):
    path, _ = squeeze(tmp_path / name, head, piece, megabytes=2_000)
    assert path.stat().st_size < 5_000_000
    code, output = read_within(path, 3 * GIGABYTE // 2)
    assert code == 1 and output.startswith("rejected:") and len(output.splitlines()) == 1
    assert message in output


@pytest.mark.parametrize(
    ("name", "head", "piece"),
    [
        ("many.csv.gz", b"sequence,value\n", b"ACGTACGTACGTACG,12\n"),
        ("many.fa.gz", b"", b">a\n" + b"ACGT" * 255 + b"\n"),
    ],
)
def test_large_files_stream_in_bounded_memory(tmp_path, name, head, piece):
    path, num_rows = squeeze(tmp_path / name, head, piece, megabytes=2_000)
    code, output = read_within(path, 3 * GIGABYTE // 2)
    assert (code, output.strip()) == (0, str(num_rows))


READ_BED = """
import resource, sys
import psutil
from modeling_macaron.analysis.genome_variants import vcf_file
limit = psutil.Process().memory_info().vms + 1_500_000_000  # torch's libraries take 2 GB themselves, or 10 with CUDA
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    vcf_file("no model", "no.vcf", "no.fa", sys.argv[1], "out.csv")
except ValueError as error:
    sys.exit(f"rejected: {error}")
"""


@pytest.mark.parametrize(
    ("name", "head", "piece", "message"),
    [
        ("line.bed.gz", b"chr1\t1\t9\tp\t0\t+\nchr1\t", b"1", "line 2: over 4,194,304 characters"),
        ("comment.bed.gz", b"#", b"A", "line 1: over 4,194,304 characters"),
        pytest.param("many.bed.gz", b"", b"chr1\t1\t9\tp\t0\t+\n", "than 4,194,304 promoters", marks=pytest.mark.slow),
        ("wide.bed.gz", b"", b"chr1\t1\t9\t" + b"p" * 10_000 + b"\t0\t+\n", "over 268,435,456 characters"),
    ],
)  # fmt: skip
def test_endless_lines_of_bed_files_are_rejected_in_bounded_memory(tmp_path, name, head, piece, message):
    path = tmp_path / name
    squeeze(path, head, piece, megabytes=1_900)
    assert path.stat().st_size < 13_000_000
    code, output = read_within(path, resource.RLIM_INFINITY, READ_BED)
    assert code == 1 and output.startswith(f"rejected: {path}") and len(output.splitlines()) == 1
    assert message in output


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
