"""Promoters of a genome: the intervals of a BED file, and their sequences in a FASTA file."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pysam

from tokenization import KmerTokenizer
from tokenization.tokenization_kmer import MOST_LETTERS

_COMPLEMENT = str.maketrans("ACGTUNRYSWKMBDHVacgtunryswkmbdhv", "TGCAANYRSWMKVHDBtgcaanyrswmkvhdb")
_NO_INTERVAL = re.compile(r"#|(track|browser)\b")
_BED_LINE_LETTERS = 4 << 20
_BED_LETTERS = 256 << 20
_BED_PROMOTERS = 4 << 20


class Promoter(NamedTuple):
    """A promoter of a genome.

    Attributes
    ----------
    contig : str
        Name of the chromosome or contig.
    start, end : int
        Its first nucleotide and the one behind its last, counted from 0, as in BED.
    name : str
        Its name; `contig:start-end` (counted from 1) where it has none.
    strand : str
        `"+"` or `"-"`: the strand whose 5'-3' sequence the construct holds.
    """

    contig: str
    start: int
    end: int
    name: str
    strand: str


def read_promoters(path: str | Path) -> list[Promoter]:
    """Read the promoters of a BED file.

    Parameters
    ----------
    path : str or Path
        Tab-separated, with six columns or more; also as `.gz`. Lines that begin with `#`, `track` or `browser` are left
        out.

    Returns
    -------
    list of Promoter
        In the order of the file.

    Raises
    ------
    ValueError
        If the file cannot be read or has no interval, or one without whole numbers, length or strand.
    FileNotFoundError
        If there is no such file.
    """
    promoters = []
    try:
        for number, line in _bed_lines(path):
            promoters.append(_to_promoter(line, f"{path}, line {number}"))
            if len(promoters) > _BED_PROMOTERS:
                raise ValueError(f"{path} has more than {_BED_PROMOTERS:,} promoters")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}") from error
    except (zlib.error, UnicodeDecodeError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as BED of six columns, tab-separated: {error}") from error
    if not promoters:
        raise ValueError(f"{path} has no promoters")
    return promoters


def _bed_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Intervals of a BED file with the number of their line, as long as they fit into memory."""
    opened, letters = gzip.open if str(path).endswith(".gz") else open, 0
    with opened(path, "rt", encoding="utf-8-sig") as file:
        for number, line in enumerate(iter(partial(file.readline, _BED_LINE_LETTERS + 1), ""), start=1):
            if len(line) > _BED_LINE_LETTERS:
                raise ValueError(f"{path}, line {number}: more than {_BED_LINE_LETTERS:,} letters; is it a BED file?")
            if line.strip() and not _NO_INTERVAL.match(line):
                letters += len(line)
                if letters > _BED_LETTERS:
                    raise ValueError(f"{path} has intervals of more than {_BED_LETTERS:,} letters in all")
                yield number, line.rstrip("\r\n")


def _to_promoter(line: str, where: str) -> Promoter:
    """Read a line of a BED file."""
    fields = line.split("\t", 6)[:6]
    if len(fields) < 6:
        raise ValueError(
            f"{where}: {len(fields)} column{'s' * (len(fields) > 1)}, separated by tabs; six are needed "
            "(contig, start, end, name, score and strand)"
        )
    contig, start, end, name, _, strand = fields
    whole = all(re.fullmatch("[0-9]{1,18}", number) for number in (start, end))
    if not whole or int(start) >= int(end) or strand not in ("+", "-"):
        told = " ".join(fields)[:100]
        raise ValueError(f"{where}: expected contig, start < end, name, score and strand (+ or -), got {told!r}")
    name = name if name not in ("", ".") else f"{contig}:{int(start) + 1}-{end}"
    return Promoter(contig, int(start), int(end), name, strand)


def plus_strand(fasta: pysam.FastaFile, promoter: Promoter) -> str:
    """Sequence of a promoter's interval on the plus strand."""
    if promoter.contig not in fasta:
        hint = hint_at_chr(promoter.contig, fasta.references[0])
        raise ValueError(f"the FASTA lacks the contig{hint}")
    if promoter.end - promoter.start > MOST_LETTERS:
        raise ValueError(f"{promoter.end - promoter.start} nt are more than the {MOST_LETTERS:,} that a model may read")
    if promoter.end > fasta.get_reference_length(promoter.contig):
        raise ValueError("the promoter reaches beyond the end of its contig")
    return fasta.fetch(promoter.contig, promoter.start, promoter.end)


def reverse_complement_text(sequence: str) -> str:
    """Return the reverse complement of DNA as text; U becomes A, and IUPAC letters their complements."""
    return sequence.translate(_COMPLEMENT)[::-1]


def hint_at_chr(first: str, second: str) -> str:
    """Say that two contigs differ in `chr`, if they do."""
    if first.startswith("chr") == second.startswith("chr"):
        return ""
    return ": one file names its contigs with `chr`, the other without; rename those of one"


def without_trimming(tokenizer: KmerTokenizer) -> KmerTokenizer:
    """Tokenizer that takes the intervals of a genome for the variable parts that they are."""
    return KmerTokenizer(
        kmer_size=tokenizer.kmer_size, strand_length=tokenizer.strand_length, flank5=tokenizer.flank5,
        flank3=tokenizer.flank3, trimming="never",
    )  # fmt: skip
