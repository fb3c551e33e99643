"""Predict pairs of reference and alternative sequences in a stream."""

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


class VariantRows(NamedTuple):
    """Output rows with their sequences, and problems (rows,) that are empty if there is none.

    `refuse_problems(problems)` raises for the first row with a problem.
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

    `progress` counts the rows, `if_none()` makes the error for an empty stream, `name_column` holds the titles of
    `plots`. For other arguments see `variants_file`. Returns the numbers of rows and of rows without an effect.
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
    """Add the variants with an effect, untrimmed, to the figures; `lengths` are those of both variable parts."""
    parts = [
        variable_parts(tokenizer, list(compress(column, fine)), some.tolist())
        for column, some in zip((rows.references, rows.alternatives), lengths, strict=True)
    ]
    names = [""] * len(fine) if name_column is None else rows.table.column(name_column).to_pylist()
    plots.add(*parts, effects.delta, [str(name or "") for name in compress(names, fine)])


def check_overflow(overflow: str) -> None:
    """Raise a `ValueError` unless `overflow` is `"refuse"` or `"trim"`."""
    if overflow not in ("refuse", "trim"):
        raise ValueError(f'overflow must be "refuse" or "trim", got {overflow!r}')


def trim_pairs(
    tokenizer: KmerTokenizer, references: list[str], alternatives: list[str], problems: list[str]
) -> tuple[tuple[list[str], list[str]], list[str], np.ndarray]:
    """Trim variable parts that are too long at their 5' ends, see `variants_file`; constant flanks stay.

    Returns both sequences, problems (rows,) and the number of trimmed nucleotides (2, rows).
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
    """Encode both sequences of each row, and extend the known problems (rows,).

    Problems are sequences that the tokenizer rejects, and constant flanks that differ between the two sequences.
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
    """Whether one sequence of a row has flanks, and the other is too long only because it has none."""
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
    """Cut the flanks from valid texts, given the lengths of their variable parts, and `spell` them."""
    starts = (len(_cut_ends(tokenizer, text, length)[0]) for text, length in zip(texts, lengths, strict=True))
    return [spell(text[at : at + length]) for text, at, length in zip(texts, starts, lengths, strict=True)]


def spell(text: str) -> str:
    """Write DNA as the tokenizer reads it: upper case, U as T."""
    return text.upper().replace("U", "T")


def effects_of(
    model: MacaronForExpressionPrediction,
    pair: Sequence[StrandBatch],
    *,
    both_orientations: bool,
    batch_size: int,
    progress: tqdm,
) -> VariantEffects:
    """Predict the effects (rows,) of valid encoded pairs. Equal strands are computed once."""
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
    """Reverse complement of the variable parts (rows, strand_length), with the tokenizer's padding."""
    turned = reverse_complement(ids)
    odd = (ids.shape[1] - lengths) % 2 == 1
    turned[odd] = np.roll(turned[odd], -1, axis=1)
    return turned


def _with_effects(rows: pa.Table, effects: VariantEffects, bad: np.ndarray, problems: list[str]) -> pa.Table:
    """Append the columns of effects, which are null for rows with a problem."""
    for name, values in zip(EFFECT_COLUMNS, effects, strict=True):
        column = np.full(len(bad), np.nan)
        column[~bad] = values
        rows = rows.append_column(name, pa.array(column, mask=bad))
    return rows.append_column(PROBLEM, pa.array(problems, pa.string()))
