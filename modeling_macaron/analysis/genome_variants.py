"""Predict the effects of the variants of a VCF file on the promoters of a genome."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import accumulate, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pysam
import torch

from modeling_macaron.analysis.predict import FilePrediction, check_request, load_model
from modeling_macaron.analysis.variant_pairs import VariantRows, check_overflow, write_effects
from modeling_macaron.analysis.variant_plots import VariantPlots
from modeling_macaron.analysis.variants import apply_variant, check_allele, check_different
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.progress import progress_bar
from tokenization import KmerTokenizer
from tokenization.tokenization_kmer import MOST_LETTERS

_COMPLEMENT = str.maketrans("ACGTUNRYSWKMBDHVacgtunryswkmbdhv", "TGCAANYRSWMKVHDBtgcaanyrswmkvhdb")
_NO_INTERVAL = re.compile(r"#|(track|browser)\b")
_BED_LINE_LETTERS = 4 << 20
_BED_LETTERS = 256 << 20
_BED_PROMOTERS = 4 << 20
_VCF_BYTES = 64 << 20  # of a header, and of a line: one of 500,000 genotypes has about a third of it
_PIECE_BYTES = 1 << 20
_COLUMNS = ("chrom", "pos", "id", "ref", "alt", "promoter", "strand")
_SCHEMA = pa.schema([(name, pa.int64() if name == "pos" else pa.string()) for name in _COLUMNS])


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


class _Contig(NamedTuple):
    """Promoters of a contig by their starts, and the furthest end of all up to each."""

    promoters: list[Promoter]
    starts: list[int]
    furthest_ends: list[int]


class _Line(NamedTuple):
    """A line of the output (the columns of `_SCHEMA`), both sequences and the problem."""

    columns: tuple[str, int, str, str, str, str, str]
    reference: str
    alternative: str
    problem: str


@contextmanager
def _quiet() -> Iterator[None]:
    """Let htslib print nothing beside the errors that pysam raises."""
    verbosity = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(verbosity)


@_quiet()
def vcf_file(
    model: str | Path | MacaronForExpressionPrediction,
    vcf: str | Path,
    genome: str | Path,
    promoters: str | Path,
    output: str | Path,
    *,
    tokenizer: KmerTokenizer | None = None,
    overflow: str = "refuse",
    both_orientations: bool = False,
    plots: str | Path | None = None,
    num_plots: int = 10,
    plot_format: str = "png",
    strict: bool = False,
    overwrite: bool = False,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    merged: bool = False,
    dtype: str | torch.dtype | None = None,
    compile_model: bool = False,
    verbose: bool = False,
) -> FilePrediction:
    """Predict the effect of every alternative allele on every promoter that it lies in, in a stream.

    Parameters
    ----------
    model, tokenizer, device, merged, dtype, compile_model
        See `load_model`.
    vcf : str or Path
        VCF, plain or compressed by bgzip, or BCF. Of one with an index (`.tbi`, `.csi`) that is not older than it, only
        the promoters' regions are read; any other is read to its end for the sizes of its lines first.
    genome : str or Path
        FASTA, plain or compressed by bgzip. Its index (`.fai`) is written beside it where there is none, as
        `samtools faidx` does.
    promoters : str or Path
        BED of six columns or more, also as `.gz`: the genomic intervals of the variable parts, with strand.
    output : str or Path
        `.parquet`, `.csv` or `.tsv` with one line for each variant, alternative allele and promoter: `chrom`, `pos`
        (counted from 1), `id`, `ref`, `alt` (as in the VCF), `promoter`, `strand`, `reference_expression`,
        `alternative_expression`, `delta` (assay units) and `problem`. It appears under its name when it is complete.
    overflow, both_orientations, plots, num_plots, plot_format, strict, overwrite, batch_size, verbose
        See `variants_file`.

    Returns
    -------
    FilePrediction
        `num_malformed` is 0: a line that is no record is an error.

    Raises
    ------
    ValueError
        If a file is not understood, the VCF has no variant or none within a promoter, or with `strict`.
    OSError
        If a file cannot be read or written, or there is no such checkpoint.

    Notes
    -----
    The alleles are put into the plus strand; a promoter on the minus strand is reverse-complemented then. Alleles are
    those of the record alone: neighbouring variants and genotypes play no part.

    A record counts to every promoter that its reference allele (to `END`, where it has one) overlaps. What `REF` and
    `ALT` share beyond the promoter's ends is left out, so a deletion whose anchor stands just before it is predicted;
    one that changes letters beyond them is a problem. Further problems: a contig that the FASTA lacks or that ends
    within the promoter; no alternative allele (`.`); and those of `variants_file`.
    """
    check_overflow(overflow)
    check_request(output, overwrite, batch_size)
    figures = None if plots is None else VariantPlots(plots, num_plots, plot_format=plot_format, overwrite=overwrite)
    contigs = _by_contig(read_promoters(promoters))
    with _open_genome(genome):
        first = _first_contig(vcf)
    model, tokenizer = load_model(model, tokenizer, device, merged=merged, dtype=dtype, compile_model=compile_model)

    tokenizer = _without_trimming(tokenizer)

    def read_rows() -> Iterator[VariantRows]:
        with _open_genome(genome) as fasta:
            lines = _read_lines(_records(Path(vcf), contigs), contigs, fasta)
            while some := list(islice(lines, 16 * batch_size)):
                yield _to_rows(some)

    def no_variants() -> ValueError:
        names = f"their first contigs are {first!r} and {next(iter(contigs))!r}"
        hint = _hint(first, next(iter(contigs)))
        return ValueError(f"no variant of {vcf} lies in a promoter of {promoters} ({names}){hint}")

    with progress_bar("variants", verbose=verbose) as progress:
        num_rows, num_problems = write_effects(
            model, tokenizer, read_rows(), output,
            both_orientations=both_orientations, strict=strict, batch_size=batch_size, progress=progress,
            plots=figures, name_column="promoter", overflow=overflow,
            if_none=no_variants,
        )  # fmt: skip
    return FilePrediction(num_rows, num_problems, 0)


def _without_trimming(tokenizer: KmerTokenizer) -> KmerTokenizer:
    """Tokenizer that takes the intervals of a genome for the variable parts that they are."""
    return KmerTokenizer(
        kmer_size=tokenizer.kmer_size, strand_length=tokenizer.strand_length, flank5=tokenizer.flank5,
        flank3=tokenizer.flank3, trimming="never",
    )  # fmt: skip


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


def _hint(first: str, second: str) -> str:
    """Say that two contigs differ in `chr`, if they do."""
    if first.startswith("chr") == second.startswith("chr"):
        return ""
    return ": one file names its contigs with `chr`, the other without; rename those of one"


def reverse_complement_text(sequence: str) -> str:
    """Return the reverse complement of DNA as text; U becomes A, and IUPAC letters their complements."""
    return sequence.translate(_COMPLEMENT)[::-1]


def _by_contig(promoters: list[Promoter]) -> dict[str, _Contig]:
    """Group promoters by contig."""
    grouped: dict[str, list[Promoter]] = {}
    for promoter in sorted(promoters, key=lambda promoter: (promoter.start, promoter.end)):
        grouped.setdefault(promoter.contig, []).append(promoter)
    return {
        contig: _Contig(some, [one.start for one in some], list(accumulate((one.end for one in some), max)))
        for contig, some in grouped.items()
    }


def _overlapping(contig: _Contig, start: int, end: int) -> list[Promoter]:
    """Promoters that hold one nucleotide or more of an interval."""
    first, last = bisect_right(contig.furthest_ends, start), bisect_left(contig.starts, end)
    return [promoter for promoter in contig.promoters[first:last] if promoter.end > start]


def _open_genome(path: str | Path) -> pysam.FastaFile:
    """Open a FASTA file by its index."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return pysam.FastaFile(str(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as FASTA (plain, or compressed by bgzip): {error}") from error


def _first_contig(vcf: str | Path) -> str:
    """Contig of the first record of a VCF file, which must have one."""
    if not Path(vcf).is_file():
        raise FileNotFoundError(f"there is no file {vcf}")
    _check_sizes(Path(vcf))
    first = next(_records(Path(vcf), None), None)
    if first is None:
        raise ValueError(f"{vcf} has no variants")
    return first.contig


def _check_sizes(path: Path) -> None:
    """Refuse a VCF or BCF with a header or line that would fill the memory; of one with an index, see its beginning."""
    with open(path, "rb") as file:
        opened = gzip.open if file.read(2) == b"\x1f\x8b" else open
    indexed = _has_new_index(path)
    try:
        with opened(path, "rb") as file:
            for what, size in _bcf_sizes(file) if file.peek(3)[:3] == b"BCF" else _vcf_sizes(file):
                if size > _VCF_BYTES:
                    raise ValueError(f"{path} has a {what} of more than {_VCF_BYTES:,} bytes; is it VCF?")
                if indexed and what == "line" and size < _PIECE_BYTES:
                    return
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as VCF: {error}") from error


def _vcf_sizes(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Bytes so far of the header, then, after each piece that was read, of the line that goes on."""
    size, begins = 0, True
    for piece in iter(partial(file.readline, _PIECE_BYTES), b""):
        if begins and not piece.startswith(b"#"):
            break
        size, begins = size + len(piece), piece.endswith(b"\n")
        yield "header", size
    else:
        return
    size = 0
    while piece:
        size = len(piece) - 1 - piece.rfind(b"\n") if b"\n" in piece else size + len(piece)
        yield "line", size
        piece = file.read(_PIECE_BYTES)


def _bcf_sizes(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Bytes of the header and of each record, as the file tells them beforehand."""
    what, lengths = "header", file.read(9)[5:]
    while len(lengths) in (4, 8):
        size = sum(struct.unpack(f"<{len(lengths) // 4}I", lengths))
        yield what, size
        file.seek(size, 1)
        what, lengths = "line", file.read(8)


def _records(path: Path, contigs: dict[str, _Contig] | None) -> Iterator[pysam.VariantRecord]:
    """Read a VCF file in its order: all, or where there is a good index, the records within the promoters."""
    number = 0
    try:
        with pysam.VariantFile(str(path), drop_samples=True) as file:
            indexed = contigs is not None and file.index is not None and _has_new_index(path)
            for record in _indexed_records(file, contigs) if indexed else file:
                yield record
                number += 1
    except NotImplementedError as error:  # what pysam says of gzip
        raise ValueError(f"{path} is not compressed by bgzip: decompress it (and compress it by bgzip)") from error
    except (OSError, ValueError) as error:
        after = f" after {number} records" if number else " as VCF"
        raise ValueError(f"{path} cannot be read{after}: {error}") from error


def _has_new_index(path: Path) -> bool:
    indexes = [path.with_name(path.name + suffix) for suffix in (".tbi", ".csi")]
    return any(index.exists() and index.stat().st_mtime >= path.stat().st_mtime for index in indexes)


def _indexed_records(file: pysam.VariantFile, contigs: dict[str, _Contig]) -> Iterator[pysam.VariantRecord]:
    """Fetch the records that overlap promoters, each once."""
    for name in (name for name in list(file.header.contigs) if name in contigs):
        seen = 0
        for start, end in _merged(contigs[name]):
            # One that began before the end of the region before overlapped that one too.
            yield from (record for record in file.fetch(name, start, end) if record.start >= seen)
            seen = end


def _merged(contig: _Contig) -> Iterator[tuple[int, int]]:
    """Regions that the promoters of a contig cover; those that overlap or touch become one."""
    first = 0
    for i, end in enumerate(contig.furthest_ends):
        if i + 1 == len(contig.starts) or contig.starts[i + 1] > end:
            yield contig.starts[first], end
            first = i + 1


def _read_lines(
    records: Iterator[pysam.VariantRecord], contigs: dict[str, _Contig], fasta: pysam.FastaFile
) -> Iterator[_Line]:
    """Lines of the output: for each record, each alternative allele, each promoter."""
    sequence_of = lru_cache(1024)(lambda promoter: _plus_strand(fasta, promoter))
    for record in records:
        contig = contigs.get(record.contig)
        promoters = _overlapping(contig, record.start, record.stop) if contig else ()
        for alternative in (record.alts or (".",)) if promoters else ():
            for promoter in promoters:
                yield _to_line(record, alternative, promoter, sequence_of)


def _to_line(
    record: pysam.VariantRecord, alternative: str, promoter: Promoter, sequence_of: Callable[[Promoter], str]
) -> _Line:
    """Apply one alternative allele to one promoter."""
    columns = (record.contig, record.pos, record.id or ".", record.ref, alternative, promoter.name, promoter.strand)
    try:
        check_different(record.ref, alternative)
        sequence = sequence_of(promoter)
        changed = _apply_within(promoter, sequence, record.start, record.ref, alternative)
    except ValueError as problem:
        return _Line(columns, "", "", str(problem))
    if promoter.strand == "-":
        sequence, changed = reverse_complement_text(sequence), reverse_complement_text(changed)
    return _Line(columns, sequence, changed, "")


def _plus_strand(fasta: pysam.FastaFile, promoter: Promoter) -> str:
    """Sequence of a promoter's interval on the plus strand."""
    if promoter.contig not in fasta:
        hint = _hint(promoter.contig, fasta.references[0])
        raise ValueError(f"the FASTA lacks the contig{hint}")
    if promoter.end - promoter.start > MOST_LETTERS:
        raise ValueError(f"{promoter.end - promoter.start} nt are more than the {MOST_LETTERS:,} that a model may read")
    if promoter.end > fasta.get_reference_length(promoter.contig):
        raise ValueError("the promoter reaches beyond the end of its contig")
    return fasta.fetch(promoter.contig, promoter.start, promoter.end)


def _apply_within(promoter: Promoter, sequence: str, start: int, reference: str, alternative: str) -> str:
    """Put an allele into a promoter's plus strand, without what both alleles share beyond its ends."""
    if alternative == ".":
        raise ValueError("no alternative allele")
    check_allele(alternative)
    before = max(promoter.start - start, 0)
    after = max(start + len(reference) - promoter.end, 0)
    ends = [(allele[:before], allele[len(allele) - after :]) for allele in (reference, alternative)]
    if ends[0] != ends[1] or before + after > min(len(reference), len(alternative)):
        raise ValueError("the variant reaches beyond the promoter")
    inner = [allele[before : len(allele) - after] for allele in (reference, alternative)]
    return apply_variant(sequence, start + before - promoter.start, *inner)


def _to_rows(lines: list[_Line]) -> VariantRows:
    """Rows of the output and their sequences."""
    columns, references, alternatives, problems = map(list, zip(*lines, strict=True))
    arrays = [pa.array(values, kind.type) for values, kind in zip(zip(*columns, strict=True), _SCHEMA, strict=True)]

    def refuse_problems(problems: Sequence[str]) -> None:
        for (chrom, pos, _, ref, alt, name, _), problem in zip(columns, problems, strict=True):
            if problem:
                raise ValueError(f"variant {chrom}:{pos} {ref}>{alt}, promoter {name}: {problem}")

    return VariantRows(
        pa.Table.from_arrays(arrays, schema=_SCHEMA), references, alternatives, problems, refuse_problems
    )
