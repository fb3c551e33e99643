"""Predict the effects of the variants of a VCF file on the promoters of a genome."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pysam

from modeling_macaron.analysis.figures import VariantFigures
from modeling_macaron.analysis.files import FileOptions, FileResult, check_files, run_task
from modeling_macaron.analysis.genome import (
    Promoter,
    hint_at_chr,
    is_current,
    open_fasta,
    plus_strand,
    quiet_htslib,
    read_promoters,
)
from modeling_macaron.analysis.variants import EffectTask, Pairs, apply_variant, check_allele, check_different
from modeling_macaron.dna import reverse_complement_text, without_trimming
from modeling_macaron.io.tables import Columns, PromoterTable, TableBatch
from modeling_macaron.predictor import PredictorLike, as_predictor

_COLUMNS = ("chrom", "pos", "id", "ref", "alt", "promoter", "strand")
_HIDDEN = ("reference_sequence", "alternative_sequence", "known_problem")
_SCHEMA = pa.schema([(name, pa.int64() if name == "pos" else pa.string()) for name in (*_COLUMNS, *_HIDDEN)])


class _Contig(NamedTuple):
    """Promoters of a contig sorted by start, and the running maximum of their ends."""

    promoters: list[Promoter]
    starts: list[int]
    furthest_ends: list[int]


class _VcfTable(PromoterTable):
    """Output lines of a VCF, with sequences and problems in the columns `_HIDDEN`; row numbers are variant names."""

    def refuse_problems(self, numbers: np.ndarray, problems: Sequence[str]) -> None:
        """Raise for the first variant of a batch with a problem."""
        for name, problem in zip(numbers, problems, strict=True):
            if problem:
                raise ValueError(f"variant {name}: {problem}")


@quiet_htslib()
def vcf_file(
    predictor: PredictorLike,
    vcf: str | Path,
    genome: str | Path,
    promoters: str | Path,
    output: str | Path,
    *,
    overflow: str = "refuse",
    both_orientations: bool = False,
    figures: VariantFigures | None = None,
    options: FileOptions | None = None,
) -> FileResult:
    """Predict the effect of every alternative allele on every promoter that it overlaps, in a stream.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts.
    vcf : str or Path
        VCF, plain or compressed by bgzip, or BCF. If an up-to-date index exists, only the promoters' regions are read.
        All indexes of the file (`.tbi`, `.csi`) must be up to date, see `is_current`. Otherwise the whole file is read.
    genome : str or Path
        FASTA, plain or compressed by bgzip; see `open_fasta`.
    promoters : str or Path
        BED of six columns or more, also as `.gz`: intervals of the variable parts, with strand.
    output : str or Path
        `.parquet`, `.csv` or `.tsv` with one line per variant, alternative allele and promoter: `chrom`, `pos` (from
        1), `id`, `ref`, `alt` (as in the VCF), `promoter`, `strand`, `reference_expression`, `alternative_expression`,
        `delta` (alternative minus reference, in assay units) and `problem`. It appears when it is complete.
    overflow, both_orientations, figures, options
        See `variants_file`.

    Returns
    -------
    FileResult
        `num_malformed` is 0, since a malformed record raises.

    Raises
    ------
    ValueError
        If a file is invalid, the VCF has no variant or none within a promoter, or a row has a problem and `strict` is
        set.
    OSError
        If a file cannot be read or written, or the checkpoint does not exist.

    Notes
    -----
    Each allele is applied alone, to the plus strand; other variants and genotypes are ignored. Promoters on the minus
    strand are then reverse-complemented.

    A record belongs to every promoter that its reference allele overlaps (up to `END`, if present). Bases beyond a
    promoter that `REF` and `ALT` share are ignored, so a deletion whose anchor lies just before the promoter is
    predicted. These lines have a problem, besides those of `variants_file`:

    - The variant changes bases beyond the promoter.
    - The contig is missing from the FASTA, or ends within the promoter.
    - The record has no alternative allele (`.`).
    """
    options = options or FileOptions()
    check_files(output, options, (predictor, vcf, genome, promoters))
    contigs = _by_contig(read_promoters(promoters))
    fasta = open_fasta(genome)  # not closed, since the reading thread may outlive an error
    first = _first_contig(vcf)
    predictor = as_predictor(predictor)
    batch_rows = 16 * predictor.batch_size

    def read_batches(_: PromoterTable) -> Iterator[TableBatch]:
        lines = _read_lines(_records(Path(vcf), contigs), contigs, fasta)
        while some := list(islice(lines, batch_rows)):
            names = ["{chrom}:{pos} {ref}>{alt}, promoter {promoter}".format(**line) for line in some]
            yield TableBatch(pa.Table.from_pylist(some, _SCHEMA), np.array(names))

    table = _VcfTable(str(vcf), Columns(""), "VCF", "variant", read_batches)
    if next(_read_lines(_records(Path(vcf), contigs), contigs, fasta), None) is None:
        names = f"their first contigs are {first!r} and {next(iter(contigs))!r}"
        hint = hint_at_chr(first, next(iter(contigs)))
        raise ValueError(f"no variant of {vcf} lies in a promoter of {promoters} ({names}){hint}")
    task = _VcfTask(predictor, _read_pairs, overflow, both_orientations, figures, "promoter")
    task.tokenizer = without_trimming(predictor.tokenizer)
    return run_task(task, predictor, table, output, options, [vcf, genome, promoters])


class _VcfTask(EffectTask):
    """Effects of the variants of a VCF."""

    def compute(self, batch: TableBatch, *rest) -> pa.Table:
        return super().compute(TableBatch(batch.table.select(_COLUMNS), batch.numbers), *rest)


def _read_pairs(batch: TableBatch) -> Pairs:
    return Pairs(*(batch.table[name].to_pylist() for name in _HIDDEN))


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
    """Promoters that overlap an interval."""
    first, last = bisect_right(contig.furthest_ends, start), bisect_left(contig.starts, end)
    return [promoter for promoter in contig.promoters[first:last] if promoter.end > start]


def _first_contig(vcf: str | Path) -> str:
    """Contig of the first record. Raises if the file has none."""
    if not Path(vcf).is_file():
        raise FileNotFoundError(f"there is no file {vcf}")
    first = next(_records(Path(vcf), None), None)
    if first is None:
        raise ValueError(f"{vcf} has no variants")
    return first.contig


def _records(path: Path, contigs: dict[str, _Contig] | None) -> Iterator[pysam.VariantRecord]:
    """Yield all records in file order or, with a current index, those that overlap promoters."""
    number = 0
    try:
        with pysam.VariantFile(str(path), drop_samples=True) as file:
            indexed = contigs is not None and file.index is not None and _has_new_index(path)
            for record in _indexed_records(file, contigs) if indexed else file:
                yield record
                number += 1
    except NotImplementedError as error:  # pysam's error for gzip
        raise ValueError(f"{path} is not compressed by bgzip: decompress it (and compress it by bgzip)") from error
    except (OSError, ValueError) as error:
        after = f" after {number} records" if number else " as VCF"
        raise ValueError(f"{path} cannot be read{after}: {error}") from error


def _has_new_index(path: Path) -> bool:
    """Whether the VCF has indexes and all are current; htslib uses any of them."""
    indexes = [path.with_name(path.name + suffix) for suffix in (".tbi", ".csi")]
    indexes = [index for index in indexes if index.exists()]
    return bool(indexes) and all(is_current(index, path) for index in indexes)


def _indexed_records(file: pysam.VariantFile, contigs: dict[str, _Contig]) -> Iterator[pysam.VariantRecord]:
    """Yield the records that overlap promoters, each once."""
    for name in (name for name in list(file.header.contigs) if name in contigs):
        seen = 0
        for start, end in _merged(contigs[name]):
            # A record that starts before `seen` was yielded for the previous region.
            yield from (record for record in file.fetch(name, start, end) if record.start >= seen)
            seen = end


def _merged(contig: _Contig) -> Iterator[tuple[int, int]]:
    """Regions that the promoters of a contig cover; overlapping and adjacent ones are merged."""
    first = 0
    for i, end in enumerate(contig.furthest_ends):
        if i + 1 == len(contig.starts) or contig.starts[i + 1] > end:
            yield contig.starts[first], end
            first = i + 1


def _read_lines(
    records: Iterator[pysam.VariantRecord], contigs: dict[str, _Contig], fasta: pysam.FastaFile
) -> Iterator[dict]:
    """Yield a line for each record, alternative allele and promoter."""
    sequence_of = lru_cache(1024)(lambda promoter: plus_strand(fasta, promoter))
    for record in records:
        contig = contigs.get(record.contig)
        promoters = _overlapping(contig, record.start, record.stop) if contig else ()
        for alternative in (record.alts or (".",)) if promoters else ():
            for promoter in promoters:
                yield _to_line(record, alternative, promoter, sequence_of)


def _to_line(
    record: pysam.VariantRecord, alternative: str, promoter: Promoter, sequence_of: Callable[[Promoter], str]
) -> dict:
    values = (record.contig, record.pos, record.id or ".", record.ref, alternative, promoter.name, promoter.strand)
    line = dict(zip(_COLUMNS, values, strict=True)) | dict.fromkeys(_HIDDEN, "")
    try:
        check_different(record.ref, alternative)
        sequence = sequence_of(promoter)
        changed = _apply_within(promoter, sequence, record.start, record.ref, alternative)
    except ValueError as problem:
        return line | {"known_problem": str(problem)}
    if promoter.strand == "-":
        sequence, changed = reverse_complement_text(sequence), reverse_complement_text(changed)
    return line | {"reference_sequence": sequence, "alternative_sequence": changed}


def _apply_within(promoter: Promoter, sequence: str, start: int, reference: str, alternative: str) -> str:
    """Apply an allele to a promoter's plus strand, without the bases beyond its ends."""
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
