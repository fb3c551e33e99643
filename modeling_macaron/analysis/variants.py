"""Predict variant effects: expression with the alternative allele minus expression with the reference allele."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import torch

from modeling_macaron.analysis.predict import FilePrediction, check_batch_size, check_request
from modeling_macaron.analysis.variant_pairs import (
    EFFECT_COLUMNS,
    PROBLEM,
    VariantEffects,
    VariantRows,
    check_overflow,
    effects_of,
    encode_pairs,
    spell,
    trim_pairs,
    write_effects,
)
from modeling_macaron.analysis.variant_plots import VariantPlots
from modeling_macaron.io.delimited import find_layout
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.io.tables import (
    READ_DELIMITERS,
    SEQUENCE_NAMES,
    VALUE_NAMES,
    PromoterTable,
    TextsOf,
    choose_by_content,
    log_choice,
    open_table,
    parquet_texts,
)
from modeling_macaron.loading import load_model
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import KmerTokenizer, is_missing, strip_marks

PAIR_NAMES = {
    "reference": ("reference_sequence", "ref_sequence", "ref_seq"),
    "alternative": ("alternative_sequence", "alternate_sequence", "alt_sequence", "alt_seq"),
}
ALLELE_NAMES = {
    "sequence": SEQUENCE_NAMES,
    "position": ("position", "pos"),
    "reference": ("reference", "ref", "reference_allele", "ref_allele"),
    "alternative": ("alternative", "alternate", "alt", "alternative_allele", "alternate_allele", "alt_allele"),
}
_DNA, _CERTAIN = frozenset("ACGTUNRYSWKMBDHV"), frozenset("ACGTU")


def check_allele(allele: str) -> None:
    """Raise a `ValueError` if an allele is symbolic (`<DEL>`), a breakend, `*`, not DNA or ambiguous."""
    letters = set(allele.upper())
    if letters & set("<>[]*"):
        raise ValueError("symbolic, breakend or * allele")
    if letters - _DNA:
        raise ValueError("allele with a letter that is not DNA")
    if letters - _CERTAIN:
        raise ValueError("allele with an ambiguous letter (N or another of IUPAC)")


def check_different(reference: str, alternative: str) -> None:
    """Raise a `ValueError` if alleles are equal, ignoring case and with U as T."""
    if spell(reference) == spell(alternative):
        raise ValueError("both alleles are the same")


def apply_variant(sequence: str, start: int, reference: str, alternative: str) -> str:
    """Replace the reference allele at `start` (from 0) by the alternative allele; one of them may be empty.

    Raises a `ValueError` if `check_allele` rejects an allele, or the sequence does not contain the reference there.

    Examples
    --------
    >>> apply_variant("ACGTT", 1, "C", "T")
    'ATGTT'
    >>> apply_variant("ACGTT", 1, "CG", "C")
    'ACTT'
    """
    check_allele(reference)
    check_allele(alternative)
    end = start + len(reference)
    if start < 0 or end > len(sequence):
        raise ValueError("position outside the sequence")
    if spell(sequence[start:end]) != spell(reference):
        raise ValueError("reference allele is not what the sequence holds")
    return sequence[:start] + alternative + sequence[end:]


def variant_effects(
    model: str | Path | MacaronForExpressionPrediction,
    references: Sequence[str],
    alternatives: Sequence[str],
    *,
    tokenizer: KmerTokenizer | None = None,
    both_orientations: bool = False,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    merged: bool = False,
    dtype: str | torch.dtype | None = None,
    compile_model: bool = False,
    overflow: str = "refuse",
    verbose: bool = False,
) -> VariantEffects:
    """Predict the effects of variants from pairs of sequences. Equal sequences are computed once.

    Parameters
    ----------
    model, tokenizer, device, merged, dtype, compile_model
        See `load_model`.
    references, alternatives : sequence of str
        (variants,) DNA without and with each variant, with or without the constant flanks.
    both_orientations : bool
        Average over the variable part and its reverse complement, each as the forward strand.
    batch_size : int
        Sequences per forward pass.
    overflow : str
        See `variants_file`.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    VariantEffects
        Arrays (variants,) in assay units.

    Raises
    ------
    ValueError
        If the lists differ in length, a sequence is not DNA, empty or too long, or a pair differs in the constant
        flanks. The message names the pair.
    """
    if isinstance(references, str) or isinstance(alternatives, str):
        raise ValueError("`references` and `alternatives` must be lists of sequences, got one str")
    if len(references) != len(alternatives):
        raise ValueError(f"{len(references)} references and {len(alternatives)} alternatives: expected pairs")
    check_batch_size(batch_size)
    check_overflow(overflow)
    model, tokenizer = load_model(model, tokenizer, device, merged=merged, dtype=dtype, compile_model=compile_model)
    texts, problems = (_strip_all(references), _strip_all(alternatives)), [""] * len(references)
    if overflow == "trim":
        texts, problems, _ = trim_pairs(tokenizer, *texts, problems)
    pair, problems = encode_pairs(tokenizer, *texts, problems)
    for index, problem in enumerate(problems):
        if problem:
            raise ValueError(f"pair {index} (counted from 0): {problem}")
    with progress_bar("variants", len(problems), verbose=verbose) as progress:
        return effects_of(model, pair, both_orientations=both_orientations, batch_size=batch_size, progress=progress)


def variants_file(
    model: str | Path | MacaronForExpressionPrediction,
    source: str | Path,
    output: str | Path,
    *,
    tokenizer: KmerTokenizer | None = None,
    reference_column: str | None = None,
    alternative_column: str | None = None,
    sequence_column: str | None = None,
    position_column: str | None = None,
    position_base: int = 1,
    overflow: str = "refuse",
    both_orientations: bool = False,
    plots: str | Path | None = None,
    num_plots: int = 10,
    plot_format: str = "png",
    name_column: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    merged: bool = False,
    dtype: str | torch.dtype | None = None,
    compile_model: bool = False,
    verbose: bool = False,
) -> FilePrediction:
    """Predict the effect of every row of a table, in a stream.

    A row is a pair of sequences (columns `reference_sequence`, `alternative_sequence`) or a sequence with one variant
    (`sequence`, `position`, `ref`, `alt`). For other names see `PAIR_NAMES` and `ALLELE_NAMES`. The table is of the
    second kind if a column of sequences or positions is given, or if it has a column of positions and none of pairs.

    Parameters
    ----------
    model, tokenizer, device, merged, dtype, compile_model
        See `load_model`.
    source : str or Path
        TSV, CSV, XLSX or Parquet.
    output : str or Path
        `.parquet`, `.csv` or `.tsv` with all columns and rows of the source, then `reference_expression`,
        `alternative_expression`, `delta` (alternative minus reference, in assay units) and `problem`, the reason if a
        row has no effect. It appears when it is complete.
    reference_column, alternative_column : str, optional
        Columns of both sequences, or of both alleles. Columns of a file without header are named by number, from 0.
    sequence_column, position_column : str, optional
        Columns of the sequence, and of the position of the reference allele's first nucleotide.
    position_base : int
        Position of the first nucleotide, 1 (as in VCF and HGVS) or 0.
    overflow : str
        What to do with a variable part longer than `strand_length`. `"refuse"` makes it a problem. `"trim"` keeps its
        3' end, next to the transcription start; a variant that is trimmed away is a problem.
    both_orientations : bool
        Average over both orientations of the variable part.
    plots : str or Path, optional
        Folder for figures of the variants of the first `num_plots` promoters (distinct references) with an effect.
    num_plots, plot_format
        See `RowFigures`.
    name_column : str, optional
        Column with the promoters' names, for the titles of the figures.
    strict : bool
        Raise at the first malformed line or row with a problem.
    overwrite : bool
        Replace an existing output.
    batch_size : int
        Sequences per forward pass. Equal sequences within 16 times as many rows are computed once.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    FilePrediction

    Raises
    ------
    ValueError
        If the source, the type of output or an option is invalid, or a row has a problem and `strict` is set.
    OSError
        If a file cannot be read or written, or the checkpoint does not exist.

    Notes
    -----
    These rows have a problem:

    - The variant is rejected by `apply_variant`, or lies in the constant flanks, which the model does not read.
    - The position is not a whole number.
    - An allele is missing, both are equal, or there are several alternatives.
    - A sequence is rejected by the tokenizer.

    A variable part of changed length is padded again. N outside the alleles is allowed. A pair of equal sequences has
    an effect of 0.
    """
    if position_base not in (0, 1):
        raise ValueError(f"position_base must be 0 or 1, got {position_base}")
    check_overflow(overflow)
    check_request(output, overwrite, batch_size, (model, source))
    figures = None if plots is None else VariantPlots(plots, num_plots, plot_format=plot_format, overwrite=overwrite)
    given = {"reference": reference_column, "alternative": alternative_column}
    given |= {"sequence": sequence_column, "position": position_column}
    columns = _find_columns(*_read_columns(source, given), given, str(source))
    table = open_table(source, sequence_column=next(iter(columns.values())), batch_rows=16 * batch_size)
    model, tokenizer = load_model(model, tokenizer, device, merged=merged, dtype=dtype, compile_model=compile_model)
    with progress_bar("variants", table.num_rows, verbose=verbose) as progress:
        num_rows, num_problems = write_effects(
            model, tokenizer, _read_rows(table, columns, position_base, strict), output,
            both_orientations=both_orientations, strict=strict, batch_size=batch_size, progress=progress,
            plots=figures, name_column=name_column, overflow=overflow,
            if_none=table.no_rows,
        )  # fmt: skip
    return FilePrediction(num_rows, num_problems, table.num_malformed, table.first_malformed)


def _read_columns(source: str | Path, given: dict[str, str | None]) -> tuple[list[str], TextsOf]:
    """Names of the columns of a table (numbers without a header), and how to read some of their texts."""
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    kind = next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() not in (".gz", ".zst")), "")
    if kind not in (*READ_DELIMITERS, ".parquet"):
        raise ValueError(
            f"{source}: unknown kind of file for a table of variants; expected .tsv, .txt or .csv (each also with "
            ".gz or .zst), .parquet or .xlsx"
        )
    usual = [name for names in (*PAIR_NAMES.values(), *ALLELE_NAMES.values()) for name in names]
    known = {*usual, *VALUE_NAMES, *(name.lower() for name in given.values() if name and not name.isdigit())}
    try:
        if kind == ".parquet":
            file = pyarrow.parquet.ParquetFile(path)
            return file.schema_arrow.names, partial(parquet_texts, file)
        layout = find_layout(path, "detect", READ_DELIMITERS[kind], known)
        return layout.names, layout.texts_of
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{source} cannot be read: {' '.join(str(error).split())}") from error


def _find_columns(names: Sequence[str], texts_of: TextsOf, given: dict[str, str | None], where: str) -> dict[str, str]:
    """Column of each role: sequence and position (for alleles), reference, alternative."""
    lowered = [name.strip().lower() for name in names]
    of_pairs = any(name in lowered for usual in PAIR_NAMES.values() for name in usual)
    has_position = any(name in lowered for name in ALLELE_NAMES["position"])
    of_alleles = given["sequence"] or given["position"] or (has_position and not of_pairs)
    columns, listed = {}, "its columns are " + ", ".join(repr(name) for name in names)
    for role, usual in (ALLELE_NAMES if of_alleles else PAIR_NAMES).items():
        found = [name for name, low in zip(names, lowered, strict=True) if low in usual]
        if given[role] is not None:
            found = [name for name in names if name == given[role]]
            if not found:
                raise ValueError(f"{where} has no column {given[role]!r}: {listed}")
        elif role == "sequence" or not of_alleles:
            fitting = choose_by_content("sequence", found, texts_of)
            if len(fitting) == 1:
                log_choice(where, role, fitting[0], found)
                found = fitting
        if len(found) != 1:
            what = f"more than one column may be the {role}" if found else f"no column is known to be the {role}"
            needed = "sequence, position, ref, alt" if of_alleles else "reference_sequence, alternative_sequence"
            raise ValueError(f"{where}: {what} (of {needed}); {listed}. Pass --{role}_column")
        columns[role] = found[0]
    if len(set(columns.values())) < len(columns):
        raise ValueError(f"{where}: one column cannot be two things: {columns}")
    return columns


def _read_rows(
    table: PromoterTable, columns: dict[str, str], position_base: int, strict: bool
) -> Iterator[VariantRows]:
    """Yield rows of a table with both sequences."""
    for batch in table:
        table.refuse_columns(batch.table.column_names, (*EFFECT_COLUMNS, PROBLEM))
        texts = [_texts(batch.table.column(name)) for name in columns.values()]
        references = _strip_all(texts[0])
        if len(columns) == 2:
            alternatives, problems = _strip_all(texts[1]), [""] * len(references)
        else:
            applied = [_apply_row(*row, position_base) for row in zip(references, *texts[1:], strict=True)]
            alternatives, problems = [text for text, _ in applied], [problem for _, problem in applied]
        refuse_problems = partial(table.refuse_problems, batch.numbers)
        yield VariantRows(batch.table, references, alternatives, problems, refuse_problems)
    if strict:
        table.refuse_malformed()


def _texts(column: pa.ChunkedArray) -> list[str]:
    return pc.fill_null(column.cast(pa.large_string()), "").to_pylist()


def _strip_all(texts: Sequence[str | None]) -> list[str]:
    """Sequences without white space and line numbers; empty if missing."""
    return ["" if text is None else strip_marks(text) for text in texts]


def _apply_row(sequence: str, position: str, reference: str, alternative: str, base: int) -> tuple[str, str]:
    """Alternative sequence of a row, and the problem if it is empty."""
    if is_missing(sequence):
        return "", f"missing sequence {sequence!r}"
    try:
        number = float(position)
    except ValueError:
        number = np.nan
    if not number.is_integer():
        return "", "position that is not a whole number"
    reference, alternative = reference.strip(), alternative.strip()
    if "-" in (reference, alternative):
        return "", "allele '-': write a deletion or an insertion as in VCF, with the base before it"
    if not (reference and alternative) or is_missing(reference) or is_missing(alternative):
        return "", "missing allele"
    if "," in alternative:
        return "", "several alternative alleles: each needs a row of its own"
    try:
        check_different(reference, alternative)
        return apply_variant(sequence, int(number) - base, reference, alternative), ""
    except ValueError as problem:
        return "", str(problem)
