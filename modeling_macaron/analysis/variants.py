"""Predict variant effects: expression with the alternative allele minus expression with the reference allele."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from tqdm.auto import tqdm

from modeling_macaron.analysis.figures import VariantFigures
from modeling_macaron.analysis.files import PROBLEM, FileOptions, FileResult, Task, check_files, run_task
from modeling_macaron.dna import explain_rows, normalize, string_buffers, turn_around
from modeling_macaron.io.delimited import find_layout
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.io.tables import (
    READ_DELIMITERS,
    SEQUENCE_NAMES,
    VALUE_NAMES,
    Role,
    TableBatch,
    TextsOf,
    choose_columns,
    open_table,
    parquet_texts,
)
from modeling_macaron.predictor import Predictor, PredictorLike, as_predictor
from tokenization import KmerTokenizer, StrandBatch, is_missing, strip_marks
from tokenization.tokenization_kmer import TOO_LONG

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
EFFECT_COLUMNS = ("reference_expression", "alternative_expression", "delta")
OVERFLOW = ("refuse", "trim")
_DNA, _CERTAIN = frozenset("ACGTUNRYSWKMBDHV"), frozenset("ACGTU")


class VariantEffects(NamedTuple):
    """Effects of variants on expression, in assay units.

    Attributes
    ----------
    reference, alternative : numpy.ndarray
        (variants,) float64 expression with the reference and the alternative.
    delta : numpy.ndarray
        (variants,) float64 alternative minus reference.
    """

    reference: np.ndarray
    alternative: np.ndarray
    delta: np.ndarray


class Pairs(NamedTuple):
    """Reference and alternative sequences (pairs,) and their problems (pairs,), empty if there is none."""

    references: list[str]
    alternatives: list[str]
    problems: list[str]


class EncodedPairs(NamedTuple):
    """Strands and variable parts of references and alternatives. Rows with a problem are undefined."""

    strands: tuple[StrandBatch, StrandBatch]
    parts: tuple[list[str], list[str]]


def check_allele(allele: str) -> None:
    """Raise a `ValueError` if an allele is symbolic (`<DEL>`), a breakend, `*`, not DNA or ambiguous."""
    characters = set(allele.upper())
    if characters & set("<>[]*"):
        raise ValueError("symbolic, breakend or * allele")
    if characters - _DNA:
        raise ValueError("allele with a character that is not DNA")
    if characters - _CERTAIN:
        raise ValueError("allele with an ambiguous base (N or another IUPAC code)")


def check_different(reference: str, alternative: str) -> None:
    """Raise a `ValueError` if alleles are equal, ignoring case and with U as T."""
    if normalize(reference) == normalize(alternative):
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
    if normalize(sequence[start:end]) != normalize(reference):
        raise ValueError("reference allele is not what the sequence holds")
    return sequence[:start] + alternative + sequence[end:]


def variant_effects(
    predictor: PredictorLike,
    references: Sequence[str],
    alternatives: Sequence[str],
    *,
    both_orientations: bool = False,
    overflow: str = "refuse",
    verbose: bool = False,
) -> VariantEffects:
    """Predict the effects of variants from pairs of sequences. Equal sequences are computed once.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts.
    references, alternatives : sequence of str
        (variants,) DNA without and with each variant, with or without the constant flanks.
    both_orientations : bool
        Average over the variable part and its reverse complement, each as the forward strand.
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
    predictor = as_predictor(predictor)
    pairs = Pairs(_strip_all(references), _strip_all(alternatives), [""] * len(references))
    encoded, problems = encode_pairs(predictor.tokenizer, pairs, overflow)
    for index, problem in enumerate(problems):
        if problem:
            raise ValueError(f"pair {index} (counted from 0): {problem}")
    with progress_bar("variants", len(problems), verbose=verbose) as progress:
        return effects_of(predictor, encoded.strands, both_orientations, progress)


def variants_file(
    predictor: PredictorLike,
    source: str | Path,
    output: str | Path,
    *,
    columns: dict[str, str] | None = None,
    position_base: int = 1,
    overflow: str = "refuse",
    both_orientations: bool = False,
    figures: VariantFigures | None = None,
    options: FileOptions | None = None,
) -> FileResult:
    """Predict the effect of every row of a table, in a stream; see `predict_file`.

    A row is a pair of sequences (columns `reference_sequence`, `alternative_sequence`) or a sequence with one variant
    (`sequence`, `position`, `ref`, `alt`). For other names see `PAIR_NAMES` and `ALLELE_NAMES`. Rows are variants if a
    column of sequences or positions is given, or if the table has a column of positions and no pairs.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts.
    source : str or Path
        TSV, CSV, XLSX or Parquet.
    output : str or Path
        `.parquet`, `.csv` or `.tsv` with all columns and rows of the source, then `reference_expression`,
        `alternative_expression`, `delta` (alternative minus reference, in assay units) and `problem`, the reason if a
        row has no effect.
    columns : dict, optional
        Columns of `"reference"` and `"alternative"` (sequences or alleles), `"sequence"` and `"position"` (of the
        reference allele's first nucleotide). Columns of a file without header are named by number, from 0.
    position_base : int
        Position of the first nucleotide, 1 (as in VCF and HGVS) or 0.
    overflow : str
        What to do with a variable part longer than `strand_length`. `"refuse"` makes it a problem. `"trim"` keeps its
        3' end, next to the transcription start; a variant that is trimmed away is a problem.
    both_orientations : bool
        Average over both orientations of the variable part.
    figures : VariantFigures, optional
        Folder for figures of the variants of the first promoters (distinct references) with an effect.
    options : FileOptions, optional
        `name_column` has the promoters' names, for the titles of the figures.

    Returns
    -------
    FileResult

    Raises
    ------
    ValueError, OSError
        As `predict_file`.

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
    options = options or FileOptions()
    if position_base not in (0, 1):
        raise ValueError(f"position_base must be 0 or 1, got {position_base}")
    check_files(output, options, (predictor, source))
    given = dict.fromkeys(ALLELE_NAMES) | (columns or {})
    names, texts_of = _read_columns(source, given)
    found = _find_columns(names, texts_of, given, str(source))
    if options.name_column is not None and options.name_column not in names:
        raise ValueError(f"{source} has no column {options.name_column!r} of names: its columns are {names}")
    predictor = as_predictor(predictor)
    table = open_table(source, sequence_column=next(iter(found.values())), batch_rows=16 * predictor.batch_size)
    task = EffectTask(
        predictor, partial(_read_pairs, columns=found, base=position_base), overflow, both_orientations, figures,
        options.name_column,
    )  # fmt: skip
    task.settings |= {"columns": found, "position_base": position_base}
    return run_task(task, predictor, table, output, options, [source])


class EffectTask(Task):
    """Add the effects of variants to the columns of a table; `read` gives the pairs of a batch."""

    new_columns = (*EFFECT_COLUMNS, PROBLEM)

    def __init__(
        self,
        predictor: Predictor,
        read: Callable[[TableBatch], Pairs],
        overflow: str,
        both_orientations: bool,
        figures: VariantFigures | None,
        name_column: str | None,
    ):
        if overflow not in OVERFLOW:
            raise ValueError(f'overflow must be "refuse" or "trim", got {overflow!r}')
        self.predictor, self.read, self.figures, self.name_column = predictor, read, figures, name_column
        self.tokenizer = predictor.tokenizer
        self.settings = {"overflow": overflow, "both_orientations": both_orientations}

    def encode(self, batch: TableBatch) -> tuple[EncodedPairs, list[str]]:
        """Encode the pairs of rows."""
        return encode_pairs(self.tokenizer, self.read(batch), self.settings["overflow"])

    def compute(
        self, batch: TableBatch, first_row: int, encoded: EncodedPairs, problems: list[str], progress: tqdm
    ) -> pa.Table:
        """Append the columns of effects, which are null for rows with a problem."""
        is_bad = np.array([problem != "" for problem in problems], dtype=bool)
        fine = [StrandBatch(*(array[~is_bad] for array in strands)) for strands in encoded.strands]
        effects = effects_of(self.predictor, fine, self.settings["both_orientations"], progress)
        progress.update(int(is_bad.sum()))
        lines = batch.table
        for name, values in zip(EFFECT_COLUMNS, effects, strict=True):
            column = np.full(len(is_bad), np.nan)
            column[~is_bad] = values
            lines = lines.append_column(name, pa.array(column, mask=is_bad))
        return lines.append_column(PROBLEM, pa.array(problems, pa.string()))

    def keep_for_figures(self, batch: TableBatch, first_row: int, encoded: EncodedPairs, lines: pa.Table) -> None:
        """Keep the variants with an effect."""
        is_fine = lines[PROBLEM].to_numpy() == ""
        names = [""] * len(lines) if self.name_column is None else lines[self.name_column].to_pylist()
        parts = [list(compress(some, is_fine)) for some in encoded.parts]
        names = [str(name or "") for name in compress(names, is_fine)]
        self.figures.add(*parts, lines["delta"].to_numpy()[is_fine], names)

    def draw(self) -> None:
        """Save the figures."""
        self.figures.draw()


def encode_pairs(tokenizer: KmerTokenizer, pairs: Pairs, overflow: str = "refuse") -> tuple[EncodedPairs, list[str]]:
    """Encode both sequences of each pair, and extend the known problems (pairs,).

    Problems are sequences that the tokenizer rejects, constant flanks that differ between the two sequences, and, if
    `overflow` is `"trim"`, variants in the 5' end that is trimmed.
    """
    texts, problems = [list(pairs.references), list(pairs.alternatives)], list(pairs.problems)
    strands = [tokenizer.encode_strands(*string_buffers(pa.array(column, pa.string()))) for column in texts]
    flanks = [[_flanks(tokenizer, texts[i][row], length) for row, length in enumerate(strands[i].lengths.tolist())]
              for i in (0, 1)]  # fmt: skip
    parts = [[normalize(text[len(left) : len(text) - len(right)]) for text, (left, right) in zip(*both, strict=True)]
             for both in zip(texts, flanks, strict=True)]  # fmt: skip
    shortened = False
    for row, problem in enumerate(problems):
        codes = [one.problem[row] for one in strands]
        if problem or not any(codes):
            continue
        if _has_other_flanks(texts, strands, row):
            problems[row] = "the constant flanks differ"
        elif overflow == "trim" and all(code in (0, TOO_LONG) for code in codes):
            shortened = True
            for i in (0, 1):
                left, excess = len(flanks[i][row][0]), max(len(parts[i][row]) - tokenizer.strand_length, 0)
                texts[i][row] = texts[i][row][:left] + texts[i][row][left + excess :]
            if parts[0][row] != parts[1][row] and normalize(texts[0][row]) == normalize(texts[1][row]):
                problems[row] = "the variant is trimmed away"
    if shortened:
        strands = [tokenizer.encode_strands(*string_buffers(pa.array(column, pa.string()))) for column in texts]
    for which, column, one in zip(("reference", "alternative"), texts, strands, strict=True):
        reasons = explain_rows(tokenizer, pa.array(column, pa.string()), one)
        problems = [known or (reason and f"{which} sequence: {reason}")
                    for known, reason in zip(problems, reasons, strict=True)]  # fmt: skip
    ends = zip(*flanks, strict=True)
    problems = [known or ("" if one == other else "the constant flanks differ")
                for known, (one, other) in zip(problems, ends, strict=True)]  # fmt: skip
    return EncodedPairs(tuple(strands), tuple(parts)), problems


def _has_other_flanks(texts: Sequence[list[str]], strands: Sequence[StrandBatch], row: int) -> bool:
    """Whether one sequence of a row has flanks, and the other is too long only because it has none."""
    fine = [one.problem[row] == 0 for one in strands]
    if sum(fine) != 1:
        return False
    good = fine.index(True)
    has_flanks = len(texts[good][row]) > strands[good].lengths[row]
    return has_flanks and strands[1 - good].problem[row] == TOO_LONG and len(texts[0][row]) == len(texts[1][row])


def _flanks(tokenizer: KmerTokenizer, text: str, length: int) -> tuple[str, str]:
    """Flanks that were trimmed to leave `length` nucleotides."""
    if len(text) == length:
        return "", ""
    left = len(tokenizer.flank5)
    return normalize(text[:left]), normalize(text[left + length :])


def effects_of(
    predictor: Predictor, pair: Sequence[StrandBatch], both_orientations: bool, progress: tqdm
) -> VariantEffects:
    """Predict the effects (rows,) of valid encoded pairs. Equal strands are computed once."""
    rows, strands = len(pair[0].ids), [batch.ids for batch in pair]
    if both_orientations:
        strands += [turn_around(batch.ids, batch.lengths) for batch in pair]
    strands = np.concatenate(strands)
    keys = np.ascontiguousarray(strands).view(f"V{strands.shape[1]}").ravel()
    _, first, places = np.unique(keys, return_index=True, return_inverse=True)
    values = [np.empty(0)]
    for batch in predictor.predict_batches(strands[first]):
        values.append(batch[:, 0])
        progress.update(rows * len(batch) / len(first))
    reference, alternative = np.concatenate(values)[places].reshape(1 + both_orientations, 2, rows).mean(axis=0)
    return VariantEffects(reference, alternative, alternative - reference)


def _read_columns(source: str | Path, given: dict[str, str | None]) -> tuple[list[str], TextsOf]:
    """Column names of a table (numbers without a header), and a function that samples their texts."""
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
    usual = ALLELE_NAMES if of_alleles else PAIR_NAMES
    roles = {
        role: Role(given[role], known, "sequence" if role == "sequence" or not of_alleles else None)
        for role, known in usual.items()
    }
    needed = "sequence, position, ref, alt" if of_alleles else "reference_sequence, alternative_sequence"
    return choose_columns(names, roles, where, texts_of, hint=f" (of {needed})")


def _read_pairs(batch: TableBatch, columns: dict[str, str], base: int) -> Pairs:
    """Read the pairs of a batch of a table, and apply alleles."""
    texts = [
        pc.fill_null(batch.table.column(name).cast(pa.large_string()), "").to_pylist() for name in columns.values()
    ]
    references = _strip_all(texts[0])
    if len(columns) == 2:
        return Pairs(references, _strip_all(texts[1]), [""] * len(references))
    applied = [_apply_row(*row, base) for row in zip(references, *texts[1:], strict=True)]
    return Pairs(references, [text for text, _ in applied], [problem for _, problem in applied])


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
        return "", "position is not a whole number"
    reference, alternative = reference.strip(), alternative.strip()
    if "-" in (reference, alternative):
        return "", "allele '-': write a deletion or an insertion as in VCF, with the base before it"
    if not (reference and alternative) or is_missing(reference) or is_missing(alternative):
        return "", "missing allele"
    if "," in alternative:
        return "", "several alternative alleles: give each its own row"
    try:
        check_different(reference, alternative)
        return apply_variant(sequence, int(number) - base, reference, alternative), ""
    except ValueError as problem:
        return "", str(problem)
