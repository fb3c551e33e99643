"""Promoters of a genome: intervals of a BED file, and their sequences in a FASTA file."""

from __future__ import annotations

import gzip
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pysam

from modeling_macaron.atomic import new_file
from modeling_macaron.dna import reverse_complement_text
from modeling_macaron.io.tables import Columns, PromoterTable, TableBatch
from tokenization.tokenization_kmer import MOST_LETTERS

BED_COLUMNS = ("chrom", "start", "end", "name", "score", "strand")

_NO_INTERVAL = re.compile(r"#|(track|browser)\b")
_BED_LINE_LETTERS = 4 << 20
_BED_LETTERS = 256 << 20
_BED_PROMOTERS = 4 << 20


class Promoter(NamedTuple):
    """An interval [start, end) from 0, as in BED; `strand` is the strand of the construct, 5' to 3'."""

    contig: str
    start: int
    end: int
    name: str
    strand: str


def read_promoters(path: str | Path) -> list[Promoter]:
    """Read the promoters of a BED file of six columns or more, also as `.gz`."""
    return [promoter for _, promoter, _ in _read_bed(path)]


def _read_bed(path: str | Path) -> Iterator[tuple[int, Promoter, str]]:
    """Yield line number, promoter and text of each interval of a BED file."""
    count = 0
    try:
        for count, (number, line) in enumerate(_bed_lines(path), start=1):
            if count > _BED_PROMOTERS:
                raise ValueError(f"{path} has more than {_BED_PROMOTERS:,} promoters")
            yield number, _to_promoter(line, f"{path}, line {number}"), line
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}") from error
    except (zlib.error, UnicodeDecodeError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as BED of six columns, tab-separated: {error}") from error
    if not count:
        raise ValueError(f"{path} has no promoters")


def open_intervals(path: str | Path, *, batch_rows: int = 65_536) -> PromoterTable:
    """Read a BED file as a table of text columns without sequences; see `interval_sequences`."""
    lines = [(number, line) for number, _, line in _read_bed(path)]
    width = max(line.count("\t") for _, line in lines) + 1
    names = [*BED_COLUMNS, *(f"column_{number}" for number in range(len(BED_COLUMNS) + 1, width + 1))]

    def read_batches(_: PromoterTable) -> Iterator[TableBatch]:
        for first in range(0, len(lines), batch_rows):
            numbers, texts = zip(*lines[first : first + batch_rows], strict=True)
            rows = [text.split("\t") + [""] * (width - 1 - text.count("\t")) for text in texts]
            columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            yield TableBatch(pa.table(columns, names), np.array(numbers))

    return PromoterTable(str(path), Columns(""), "BED", "line", read_batches, len(lines))


def interval_sequences(fasta: pysam.FastaFile, rows: pa.Table) -> tuple[pa.Array, list[str]]:
    """Sequences (rows,) of intervals, reverse-complemented on the minus strand, and problems or empty texts (rows,)."""
    sequences, problems = [], []
    for contig, start, end, strand in zip(
        *(rows.column(name).to_pylist() for name in ("chrom", "start", "end", "strand")), strict=True
    ):
        try:
            sequence, problem = plus_strand(fasta, Promoter(contig, int(start), int(end), "", strand)), ""
        except ValueError as error:
            sequence, problem = "", str(error)
        sequences.append(reverse_complement_text(sequence) if strand == "-" else sequence)
        problems.append(problem)
    return pa.array(sequences, pa.string()), problems


def _bed_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered intervals of a BED file, within size limits."""
    opened, letters = gzip.open if str(path).endswith(".gz") else open, 0
    with opened(path, "rt", encoding="utf-8-sig") as file:
        for number, line in enumerate(iter(partial(file.readline, _BED_LINE_LETTERS + 1), ""), start=1):
            if len(line) > _BED_LINE_LETTERS:
                raise ValueError(f"{path}, line {number}: over {_BED_LINE_LETTERS:,} characters; is it a BED file?")
            if line.strip() and not _NO_INTERVAL.match(line):
                letters += len(line)
                if letters > _BED_LETTERS:
                    raise ValueError(f"{path} has intervals of over {_BED_LETTERS:,} characters in all")
                yield number, line.rstrip("\r\n")


def _to_promoter(line: str, where: str) -> Promoter:
    fields = line.split("\t", len(BED_COLUMNS))[: len(BED_COLUMNS)]
    if len(fields) < len(BED_COLUMNS):
        raise ValueError(
            f"{where}: {len(fields)} column{'s' * (len(fields) > 1)}, separated by tabs; six are needed "
            "(contig, start, end, name, score and strand)"
        )
    contig, start, end, name, _, strand = fields
    whole = all(re.fullmatch("[0-9]{1,18}", number) for number in (start, end))
    if not whole or int(start) >= int(end) or strand not in ("+", "-"):
        excerpt = " ".join(fields)[:100]
        raise ValueError(f"{where}: expected contig, start < end, name, score and strand (+ or -), got {excerpt!r}")
    name = name if name not in ("", ".") else f"{contig}:{int(start) + 1}-{end}"
    return Promoter(contig, int(start), int(end), name, strand)


def plus_strand(fasta: pysam.FastaFile, promoter: Promoter) -> str:
    """Sequence of a promoter's interval on the plus strand."""
    if promoter.contig not in fasta:
        hint = hint_at_chr(promoter.contig, fasta.references[0])
        raise ValueError(f"the FASTA lacks the contig{hint}")
    if promoter.end - promoter.start > MOST_LETTERS:
        raise ValueError(f"{promoter.end - promoter.start} nt are more than the {MOST_LETTERS:,} that a model can read")
    if promoter.end > fasta.get_reference_length(promoter.contig):
        raise ValueError("the promoter reaches beyond the end of its contig")
    return fasta.fetch(promoter.contig, promoter.start, promoter.end)


def hint_at_chr(first: str, second: str) -> str:
    """Explain that two contigs differ in `chr`; empty if they do not."""
    if first.startswith("chr") == second.startswith("chr"):
        return ""
    return ": only one file has `chr` in its contig names; rename the contigs of one file"


@contextmanager
def quiet_htslib() -> Iterator[None]:
    """Silence htslib's own messages."""
    verbosity = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(verbosity)


@quiet_htslib()
def open_fasta(path: str | Path) -> pysam.FastaFile:
    """Open an indexed FASTA, plain or compressed by bgzip.

    A missing, damaged or outdated index is rebuilt, as by `samtools faidx`, and saved if the folder is writable.
    Raises a `ValueError` if the file cannot be read as FASTA.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    problem = f"{path} cannot be read as FASTA (plain, or compressed by bgzip)"
    try:
        if _has_index(path):
            with suppress(OSError, ValueError):  # a damaged index is rebuilt too
                return pysam.FastaFile(str(path))
        with TemporaryDirectory() as folder:
            fai, gzi = Path(folder, ".fai"), Path(folder, ".gzi")
            pysam.faidx(str(path), "--fai-idx", str(fai), "--gzi-idx", str(gzi))
            built = {"filepath_index": fai} | ({"filepath_index_compressed": gzi} if gzi.exists() else {})
            fasta = pysam.FastaFile(str(path), **{name: str(index) for name, index in built.items()})
            for index in built.values():
                with suppress(OSError), new_file(f"{path}{index.name}", shared=True) as partial:
                    shutil.copyfile(index, partial)
            return fasta
    except pysam.SamtoolsError as error:
        raise ValueError(f"{problem}: it cannot be indexed") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{problem}: {error}") from error


def _has_index(path: Path) -> bool:
    """Whether a FASTA has a current index."""
    with path.open("rb") as file:
        suffixes = (".fai", ".gzi") if file.read(2) == b"\x1f\x8b" else (".fai",)
    return all(is_current(Path(f"{path}{suffix}"), path) for suffix in suffixes)


def is_current(index: Path, path: Path) -> bool:
    """Whether an index has content and is not older than the last change of its file.

    The change time counts too, since a copied file can keep its modification time. After copying
    both, `touch` the index.
    """
    if not index.is_file():
        return False
    indexed, changed = index.stat(), path.stat()
    return indexed.st_size > 0 and indexed.st_mtime_ns >= max(changed.st_mtime_ns, changed.st_ctime_ns)
