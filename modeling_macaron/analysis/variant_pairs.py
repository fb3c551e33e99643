"""Score pairs of sequences in a stream: what every table of variants has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from modeling_macaron.analysis.encoding import explain_rows
from modeling_macaron.analysis.predict import predict_strands
from modeling_macaron.analysis.variant_plots import VariantPlots
from modeling_macaron.io.streams import read_ahead, write_behind
from modeling_macaron.io.table_writer import write_table
from modeling_macaron.io.tables import string_buffers
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import KmerTokenizer, StrandBatch, reverse_complement
from tokenization.tokenization_kmer import TOO_LONG

EFFECT_COLUMNS = ("reference_expression", "alternative_expression", "delta")
PROBLEM = "problem"


class VariantEffects(NamedTuple):
    """Effects of variants on expression.

    Attributes
    ----------
    reference : numpy.ndarray
        (variants,) float64 expression with the reference, in assay units.
    alternative : numpy.ndarray
        (variants,) float64 expression with the alternative, in assay units.
    delta : numpy.ndarray
        (variants,) float64 alternative minus reference, in assay units.
    """

    reference: np.ndarray
    alternative: np.ndarray
    delta: np.ndarray


class VariantRows(NamedTuple):
    """Rows of an output, with the two sequences that each stands for.

    Attributes
    ----------
    table : pyarrow.Table
        (rows) the columns that stand before the effects.
    references, alternatives : list of str
        (rows,) both sequences; whatever where there is a problem.
    problems : list of str
        (rows,) why there is no alternative sequence; empty where there is one.
    refuse_problems : callable
        `refuse_problems(problems)` raises for the first row with a problem, naming its place.
    """

    table: pa.Table
    references: list[str]
    alternatives: list[str]
    problems: list[str]
    refuse_problems: Callable[[Sequence[str]], None]


def write_effects(
    model: MacaronForExpressionPrediction,
    tokenizer: KmerTokenizer,
    batches: Iterable[VariantRows],
    output: str | Path,
    *,
    both_orientations: bool,
    strict: bool,
    batch_size: int,
    progress: tqdm,
    if_none: Callable[[], ValueError],
    plots: VariantPlots | None = None,
    name_column: str | None = None,
    overflow: str = "refuse",
) -> tuple[int, int]:
    """Write the effects of a stream of variants; threads read and write while the model computes.

    Parameters
    ----------
    model, tokenizer
        From `load_model`.
    batches : iterable of VariantRows
        The stream.
    output : str or Path
        See `variants_file`.
    both_orientations, strict, batch_size
        See `variants_file`.
    progress : tqdm
        Counts the rows.
    if_none : callable
        `if_none()` makes the error of a stream without rows.
    plots : VariantPlots, optional
        Gets the variants, untrimmed, and draws at the end.
    name_column : str, optional
        Column with the promoters' names, for the figures.
    overflow : str
        See `variants_file`.

    Returns
    -------
    num_rows, num_problems : int
        Rows written, and those among them without an effect.

    Raises
    ------
    ValueError
        If the stream has no row, or with `strict` at the first row with a problem; nothing is written then.
    """
    num_rows = num_problems = 0
    with write_table(output) as write, write_behind(write) as put:
        for rows in read_ahead(batches):
            texts, problems = (rows.references, rows.alternatives), rows.problems
            excess = np.zeros((2, len(problems)), np.int64)
            if overflow == "trim":
                texts, problems, excess = trim_pairs(tokenizer, *texts, problems)
            pair, problems = encode_pairs(tokenizer, *texts, problems)
            bad = np.array([problem != "" for problem in problems], dtype=bool)
            if strict:
                rows.refuse_problems(problems)
            fine = [StrandBatch(*(array[~bad] for array in strands)) for strands in pair]
            effects = effects_of(
                model, fine, both_orientations=both_orientations, batch_size=batch_size, progress=progress
            )
            if plots is not None:
                lengths = [strands.lengths + more[~bad] for strands, more in zip(fine, excess, strict=True)]
                _add_to_plots(plots, tokenizer, rows, ~bad, lengths, effects, name_column)
            progress.update(int(bad.sum()))
            put(_with_effects(rows.table, effects, bad, problems))
            num_rows += len(bad)
            num_problems += int(bad.sum())
        if not num_rows:
            raise if_none()
    if plots is not None:
        plots.draw()
    return num_rows, num_problems


def _add_to_plots(
    plots: VariantPlots,
    tokenizer: KmerTokenizer,
    rows: VariantRows,
    fine: np.ndarray,
    lengths: list[np.ndarray],
    effects: VariantEffects,
    name_column: str | None,
) -> None:
    """Give the variants with an effect, untrimmed, to the figures; `lengths` are those of both variable parts."""
    parts = [
        variable_parts(tokenizer, list(compress(column, fine)), some.tolist())
        for column, some in zip((rows.references, rows.alternatives), lengths, strict=True)
    ]
    names = [""] * len(fine) if name_column is None else rows.table.column(name_column).to_pylist()
    plots.add(*parts, effects.delta, [str(name or "") for name in compress(names, fine)])


def check_overflow(overflow: str) -> None:
    """Refuse what is no manner of treating variable parts that are too long.

    Raises
    ------
    ValueError
        If it is neither `"refuse"` nor `"trim"`.
    """
    if overflow not in ("refuse", "trim"):
        raise ValueError(f'overflow must be "refuse" or "trim", got {overflow!r}')


def trim_pairs(
    tokenizer: KmerTokenizer, references: list[str], alternatives: list[str], problems: list[str]
) -> tuple[tuple[list[str], list[str]], list[str], np.ndarray]:
    """Trim variable parts that are too long at their 5' ends; constant flanks stay.

    Parameters
    ----------
    tokenizer, references, alternatives, problems
        See `encode_pairs`.

    Returns
    -------
    tuple of (list of str, list of str)
        (rows,) both sequences, with the last `strand_length` nucleotides of their variable parts.
    list of str
        (rows,) problems: those known before, and pairs that differ only in what is trimmed.
    numpy.ndarray
        (2, rows) int64 nucleotides that each sequence lost.
    """
    texts = (list(references), list(alternatives))
    pair = [tokenizer.encode_strands(*string_buffers(pa.array(column, pa.string()))) for column in texts]
    problems, excess = list(problems), np.zeros((2, len(references)), np.int64)
    too_long = [strands.problem == TOO_LONG for strands in pair]
    for row in np.flatnonzero(too_long[0] | too_long[1]):
        if problems[row] or _is_other_cut(texts, pair, row):
            continue
        before = [column[row] for column in texts]
        for which in np.flatnonzero([flags[row] for flags in too_long]):
            length, text = int(pair[which].lengths[row]), before[which]
            left = len(_cut_ends(tokenizer, text, length)[0])
            excess[which, row] = length - tokenizer.strand_length
            texts[which][row] = text[:left] + text[left + excess[which, row] :]
        if spell(texts[0][row]) == spell(texts[1][row]) and spell(before[0]) != spell(before[1]):
            problems[row] = "the variant is trimmed away"
    return texts, problems, excess


def encode_pairs(
    tokenizer: KmerTokenizer, references: list[str], alternatives: list[str], problems: list[str]
) -> tuple[list[StrandBatch], list[str]]:
    """Encode both sequences of each row.

    Parameters
    ----------
    tokenizer : KmerTokenizer
        It tells what is no promoter.
    references, alternatives : list of str
        (rows,) the sequences.
    problems : list of str
        (rows,) problems known before, else empty.

    Returns
    -------
    list of StrandBatch
        Reference strands (rows, strand_length) and alternative ones.
    list of str
        (rows,) problems: those known before; what the tokenizer refuses in either sequence; constant flanks that are
        cut from one sequence and not, or not the same, from the other. Nothing is raised.
    """
    texts, problems = (references, alternatives), list(problems)
    columns = [pa.array(column, pa.string()) for column in texts]
    pair = [tokenizer.encode_strands(*string_buffers(column)) for column in columns]
    for which, column, strands in zip(("reference", "alternative"), columns, pair, strict=True):
        reasons = explain_rows(tokenizer, column, strands)
        for row in np.flatnonzero(strands.problem):
            if _is_other_cut(texts, pair, row):
                problems[row] = problems[row] or "the constant flanks differ"
            if not problems[row]:
                problems[row] = f"{which} sequence: {reasons[row]}"
    for row, problem in enumerate(problems):
        if not problem:
            cut = [_cut_ends(tokenizer, texts[i][row], int(pair[i].lengths[row])) for i in (0, 1)]
            problems[row] = "" if cut[0] == cut[1] else "the constant flanks differ"
    return pair, problems


def _is_other_cut(texts: Sequence[list[str]], pair: Sequence[StrandBatch], row: int) -> bool:
    """Whether one sequence of a row is cut at its flanks, and the other so long only because it is not."""
    fine = [strands.problem[row] == 0 for strands in pair]
    if sum(fine) != 1:
        return False
    good = fine.index(True)
    is_cut = len(texts[good][row]) > pair[good].lengths[row]
    return is_cut and pair[1 - good].problem[row] == TOO_LONG and len(texts[0][row]) == len(texts[1][row])


def _cut_ends(tokenizer: KmerTokenizer, text: str, length: int) -> tuple[str, str]:
    """Flanks that were trimmed to leave `length` nucleotides."""
    if len(text) == length:
        return "", ""
    left = len(tokenizer.flank5)
    return spell(text[:left]), spell(text[left + length :])


def variable_parts(tokenizer: KmerTokenizer, texts: Sequence[str], lengths: Sequence[int]) -> list[str]:
    """Cut the flanks from texts that have no problem.

    Parameters
    ----------
    tokenizer : KmerTokenizer
        It knows the flanks.
    texts : sequence of str
        (rows,) DNA.
    lengths : sequence of int
        (rows,) lengths of the variable parts, as `encode_strands` gives them.

    Returns
    -------
    list of str
        (rows,) variable parts in capitals, U as T.
    """
    starts = (len(_cut_ends(tokenizer, text, length)[0]) for text, length in zip(texts, lengths, strict=True))
    return [spell(text[at : at + length]) for text, at, length in zip(texts, starts, lengths, strict=True)]


def spell(text: str) -> str:
    """DNA as the tokenizer reads it: in capitals, U as T."""
    return text.upper().replace("U", "T")


def effects_of(
    model: MacaronForExpressionPrediction,
    pair: Sequence[StrandBatch],
    *,
    both_orientations: bool,
    batch_size: int,
    progress: tqdm,
) -> VariantEffects:
    """Predict the effects of encoded pairs that have no problem; equal strands are computed once.

    Parameters
    ----------
    model : MacaronForExpressionPrediction
        A model in evaluation mode.
    pair : sequence of StrandBatch
        Reference strands (rows, strand_length) and alternative ones.
    both_orientations : bool
        Average each sequence's expression over both orientations of its variable part.
    batch_size : int
        Sequences that go through the model at once.
    progress : tqdm
        Counts the rows.

    Returns
    -------
    VariantEffects
        Arrays (rows,) in assay units.
    """
    rows, strands = len(pair[0].ids), [batch.ids for batch in pair]
    if both_orientations:
        strands += [_turn_around(batch.ids, batch.lengths) for batch in pair]
    strands = np.concatenate(strands)
    keys = np.ascontiguousarray(strands).view(f"V{strands.shape[1]}").ravel()
    _, first, places = np.unique(keys, return_index=True, return_inverse=True)
    values = [np.empty(0)]
    for batch in predict_strands(model, strands[first], batch_size=batch_size):
        values.append(batch)
        progress.update(rows * len(batch) / len(first))
    reference, alternative = np.concatenate(values)[places].reshape(1 + both_orientations, 2, rows).mean(axis=0)
    return VariantEffects(reference, alternative, alternative - reference)


def _turn_around(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Reverse complement of the variable parts (rows, strand_length), padded as the tokenizer pads it."""
    turned = reverse_complement(ids)
    odd = (ids.shape[1] - lengths) % 2 == 1
    turned[odd] = np.roll(turned[odd], -1, axis=1)
    return turned


def _with_effects(rows: pa.Table, effects: VariantEffects, bad: np.ndarray, problems: list[str]) -> pa.Table:
    """Rows with the columns of the effects, which are missing where there is a problem."""
    for name, values in zip(EFFECT_COLUMNS, effects, strict=True):
        column = np.full(len(bad), np.nan)
        column[~bad] = values
        rows = rows.append_column(name, pa.array(column, mask=bad))
    return rows.append_column(PROBLEM, pa.array(problems, pa.string()))
