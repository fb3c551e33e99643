"""Design promoters in silico: from a start, by a few substitutions, to more, less or a wanted expression.

A design is as good as the model is there. The more edits, the farther it may lead from what the model has seen, and a
search finds the model's errors as readily as real effects: keep `max_edits` small, read `out_of_range` and
`nearest_training_distance`, and measure what matters.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm

from modeling_macaron.atomic import check_free, new_file
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.table_writer import check_output, write_table
from modeling_macaron.tables import open_table, string_buffers
from tokenization import KmerTokenizer
from tokenization.tokenization_kmer import MASK_ID

from .constraints import Constraints, Rules, random_promoters
from .design_oracle import Oracle, run_searches
from .design_search import (
    METHODS,
    Goal,
    Search,
    Space,
    best_first,
    search_beam,
    search_by_evolution,
    search_by_gradient,
    search_greedy,
)
from .mutants import BASES, NUM_BASES, pad_centered
from .nearest import nearest_strand_distance
from .predict import check_batch_size, load_model

DEFAULT_LENGTH = 80  # nt of the challenge's variable part
OUT_OF_RANGE = 3.0  # standard deviations of expression in training

_STARTS_AT_ONCE = 16  # searches that share batches; what each has seen is held in memory
_LETTER_BYTES = np.frombuffer(BASES.encode(), np.uint8)
_SCHEMA = pa.schema([
    ("row", pa.int64()), ("rank", pa.int64()), ("start", pa.string()), ("sequence", pa.string()),
    ("start_expression", pa.float64()), ("expression", pa.float64()), ("num_edits", pa.int64()),
    ("edits", pa.string()), ("nearest_training_distance", pa.int64()), ("out_of_range", pa.bool_()),
])  # fmt: skip


class Design(NamedTuple):
    """A designed promoter.

    Attributes
    ----------
    start, sequence : str
        Variable part before and after, of A, C, G and T.
    start_expression, expression : float
        Their predictions, in assay units.
    edits : tuple of (int, str, str)
        Position (from 0 in the variable part), base of `start` and base of `sequence`, in order.
    nearest_training_distance : int or None
        Hamming distance to the nearest training sequence, None where no training sequences were given.
    out_of_range : bool
        The prediction lies more than 3 standard deviations from the mean of the expression that the model was trained
        on (`expression_mean`, `expression_std` of its config). The true range of the training data is not known to the
        model; out there hardly anything was measured, so the number is an extrapolation.
    start_index : int
        Which of the starts, from 0.
    """

    start: str
    sequence: str
    start_expression: float
    expression: float
    edits: tuple[tuple[int, str, str], ...]
    nearest_training_distance: int | None
    out_of_range: bool
    start_index: int


class FileDesign(NamedTuple):
    """What was written.

    Attributes
    ----------
    num_starts, num_designs : int
        Starts, and designs written for them.
    num_unchanged : int
        Designs among them that are their start: nothing better was found.
    num_out_of_range : int
        Designs among them that are `out_of_range`.
    num_malformed : int
        Lines of the file of starts that are no row and were left out.
    """

    num_starts: int
    num_designs: int
    num_unchanged: int
    num_out_of_range: int
    num_malformed: int


class _Options(NamedTuple):
    """Options of a search; see `design`."""

    target: str | float
    max_edits: int
    method: str
    num_designs: int
    min_distance: int
    beam_width: int
    population: int
    generations: int
    num_candidates: int
    seed: int

    def check(self) -> None:
        """Refuse options that make no search."""
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        is_number = isinstance(self.target, Real) and np.isfinite(self.target)
        if self.target not in ("higher", "lower") and not is_number:
            raise ValueError(f'target must be "higher", "lower" or a number in assay units, got {self.target!r}')
        least = {"population": 2, "seed": 0}
        for name in ("max_edits", "num_designs", "min_distance", "beam_width", "population", "generations",
                     "num_candidates", "seed"):  # fmt: skip
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(f"{name} must be at least {least.get(name, 1)}, got {getattr(self, name)}")
        if self.num_designs > 1 and self.min_distance > 2 * self.max_edits:
            raise ValueError(
                f"two designs with {self.max_edits} edits each differ at {2 * self.max_edits} positions at most: "
                f"min_distance {self.min_distance} is too large"
            )

    def search(self, space: Space, goal: Goal) -> Search:
        """Begin the search; its seed belongs to the start and to the answers before, not to the other starts."""
        if self.method == "greedy":
            return search_greedy(space, goal)
        if self.method == "beam":
            return search_beam(space, goal, self.beam_width)
        if self.method == "gradient":
            return search_by_gradient(space, goal, self.num_candidates)
        random = np.random.default_rng([self.seed, len(space.found), zlib.crc32(space.start.tobytes())])
        return search_by_evolution(space, goal, self.population, self.generations, random)


def design(
    model: str | Path | MacaronForExpressionPrediction,
    starts: Sequence[str] | None = None,
    *,
    target: str | float = "higher",
    max_edits: int = 10,
    method: str = "greedy",
    num_designs: int = 1,
    min_distance: int = 2,
    beam_width: int = 10,
    population: int = 64,
    generations: int = 30,
    num_candidates: int = 16,
    constraints: Constraints | None = None,
    training_sequences: Sequence[str] | str | Path | None = None,
    num_starts: int = 1,
    length: int | None = None,
    gc: float | None = None,
    seed: int = 0,
    tokenizer: KmerTokenizer | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    merged: bool = False,
    verbose: bool = False,
) -> list[Design]:
    """Design promoters with a wanted expression by substitutions in given or random starts.

    Predictions are scored in steps of 1e-5 standard deviations, and of equals the first is taken, so that rounding in
    float32 does not choose: the batch size does not change the designs, but for a difference that falls on a step.

    Parameters
    ----------
    model, tokenizer, device, merged
        See `load_model`. Take float32 or float64 weights: half precision hides small effects.
    starts : sequence of str, optional
        DNA of A, C, G and T, with or without the constant flanks, which are not edited. Default: random promoters.
    target : str or float
        `"higher"`, `"lower"`, or the expression to come close to, in assay units.
    max_edits : int
        Most substitutions between a start and its design.
    method : str
        `"greedy"`: the best single substitution, again and again, up to 3 x length predictions an edit. `"beam"`: the
        best `beam_width` sequences are carried on, the greedy line among them, for that many times the predictions.
        `"evolution"`: a genetic algorithm, at most `population * (generations + 1)` predictions. `"gradient"`: greedy
        among the `num_candidates` substitutions that a gradient proposes; a backward pass and these predictions an
        edit, the cheapest.
    num_designs : int
        Most designs for each start, by a search each. Fewer are given where no more were found that are at least as
        close to the target as the start.
    min_distance : int
        Hamming distance between any two designs of a start, at least.
    beam_width, population, generations, num_candidates : int
        Of the methods that have them.
    constraints : Constraints, optional
        Every sequence on the way keeps to them too. A given start that does not is refused, never repaired (that would
        take edits nobody asked for); a random one is drawn anew.
    training_sequences : sequence of str, or str or Path, optional
        Sequences, or a promoter table, for `nearest_training_distance`.
    num_starts, length, gc : int, int, float
        Random starts: how many, their length (default 80 nt, or the strand where it is shorter) and fraction of G and
        C (default 0.5, or the middle of the constraints' range).
    seed : int
        Seed of random starts and of the evolution.
    batch_size : int
        Sequences that go through the model at once.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    list of Design
        In the order of the starts, the best of each first. Where nothing better is found it is the start, with no edit.

    Raises
    ------
    ValueError
        On options that make no search, and on a start that is no DNA, too long or breaks a constraint (the message
        tells which).
    FileNotFoundError
        If there is no checkpoint, or no table of training sequences.

    Examples
    --------
    >>> rules = Constraints(gc_range=(0.3, 0.6), forbidden_sites=("GAATTC",))
    >>> designs = design("runs/mine/final", ["TTTATATAAGGC"], max_edits=2, constraints=rules)  # doctest: +SKIP
    >>> designs[0].edits  # doctest: +SKIP
    ((3, 'A', 'G'), (8, 'A', 'C'))
    """
    options = _Options(target, max_edits, method, num_designs, min_distance, beam_width, population, generations,
                       num_candidates, seed)  # fmt: skip
    options.check()
    check_batch_size(batch_size)
    if isinstance(training_sequences, (str, Path)):
        open_table(training_sequences)
    model, tokenizer = load_model(model, tokenizer, device, merged=merged)
    rules = Rules(constraints or Constraints(), tokenizer)
    if starts is None:
        letters = _random_starts(rules, tokenizer, num_starts, length, gc, seed)
    else:
        letters = _encode_starts(rules, tokenizer, starts)
    designs = _search_all(Oracle(model, tokenizer, batch_size), letters, rules, options, verbose)
    if training_sequences is None or not designs:
        return designs
    strands = np.concatenate([pad_centered(_to_ids(found.sequence), tokenizer.strand_length) for found in designs])
    distances = nearest_strand_distance(tokenizer, strands, training_sequences, verbose=verbose).tolist()
    return [found._replace(nearest_training_distance=near) for found, near in zip(designs, distances, strict=True)]


def design_file(
    model: str | Path | MacaronForExpressionPrediction,
    output: str | Path,
    *,
    starts: str | Path | None = None,
    sequence_column: str | None = None,
    fasta: str | Path | None = None,
    overwrite: bool = False,
    **options,
) -> FileDesign:
    """Design promoters for every row of a file, or for random starts, and write them.

    Parameters
    ----------
    model
        See `load_model`.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`, with the columns `row` (of the starts, from 0), `rank` (from 1), `start`,
        `sequence` (variable parts), `start_expression`, `expression` (assay units), `num_edits`, `edits` (such as
        `12A>G 40C>T`, positions from 0), `nearest_training_distance` and `out_of_range`; see `Design`. It appears under
        its name when it is complete.
    starts : str or Path, optional
        TSV, CSV, FASTA or Parquet; see `modeling_macaron.tables.open_table`. Default: random promoters.
    sequence_column : str, optional
        Name of the column with the DNA, or its position in a file without header.
    fasta : str or Path, optional
        The designs as FASTA too.
    overwrite : bool
        Replace outputs that are there.
    **options
        The options of `design`.

    Returns
    -------
    FileDesign

    Raises
    ------
    ValueError
        As `design`; and if the file of starts or the kind of output is not understood.
    OSError
        If a file cannot be read or written, or there is no such checkpoint.
    """
    check_output(output)
    _check_free(output, fasta, overwrite)
    sequences, num_malformed = None, 0
    if starts is not None:
        table = open_table(starts, sequence_column=sequence_column)
        texts = [batch.table.column(table.columns.sequence).to_pylist() for batch in table]
        sequences, num_malformed = [text or "" for column in texts for text in column], table.num_malformed
        if not sequences:
            raise ValueError(f"{starts} has no rows")
    with ExitStack() as stack:
        write = stack.enter_context(write_table(output))
        records = stack.enter_context(new_file(fasta)) if fasta is not None else None
        designs = design(model, sequences, **options)
        write(_to_table(designs))
        if records is not None:
            records.write_text(_to_fasta(designs), encoding="ascii")
    return FileDesign(
        len({found.start_index for found in designs}),
        len(designs),
        sum(not found.edits for found in designs),
        sum(found.out_of_range for found in designs),
        num_malformed,
    )


def _check_free(output: str | Path, fasta: str | Path | None, overwrite: bool) -> None:
    """Refuse outputs that are there, before any work is done."""
    if fasta is not None and Path(fasta).absolute() == Path(output).absolute():
        raise ValueError(f"{output} cannot be both the table and the FASTA file")
    for path in (output, fasta):
        if path is not None:
            check_free(path, overwrite)


def _random_starts(
    rules: Rules, tokenizer: KmerTokenizer, num_starts: int, length: int | None, gc: float | None, seed: int
) -> list[np.ndarray]:
    """Draw the starts, (length,) each."""
    length = min(DEFAULT_LENGTH, tokenizer.strand_length) if length is None else length
    if not 1 <= length <= tokenizer.strand_length:
        raise ValueError(f"length must be 1 to strand_length = {tokenizer.strand_length}, got {length}")
    if num_starts < 1:
        raise ValueError(f"num_starts must be at least 1, got {num_starts}")
    if gc is None:
        gc = 0.5 if rules.constraints.gc_range is None else sum(rules.constraints.gc_range) / 2
    if not 0 <= gc <= 1:
        raise ValueError(f"gc must be a fraction, got {gc}")
    return list(random_promoters(num_starts, length, gc, rules, seed))


def _encode_starts(rules: Rules, tokenizer: KmerTokenizer, starts: Sequence[str]) -> list[np.ndarray]:
    """Variable parts (length,) of starts, which must all keep to the rules."""
    if isinstance(starts, str):
        raise ValueError("`starts` must be a list of sequences, got one str")
    starts = list(starts)
    if not starts:
        return []
    ids = tokenizer(starts, return_tensors="np")["input_ids"].astype(np.uint8)
    masked = np.flatnonzero((ids == MASK_ID).any(axis=1))
    if masked.size:
        raise ValueError(f"start {masked[0]} has a masked base; write A, C, G or T")
    lengths = tokenizer.encode_strands(*string_buffers(pa.array(starts, pa.large_string()))).lengths
    letters = []
    for index, (row, length) in enumerate(zip(ids, lengths.tolist(), strict=True)):
        first = (tokenizer.strand_length - length) // 2
        part = row[first : first + length]
        unknown = np.flatnonzero(part >= NUM_BASES)
        if unknown.size:
            raise ValueError(f"start {index}: position {unknown[0]} (from 0) is none of A, C, G and T")
        broken = rules.explain(part)
        if broken is not None:
            raise ValueError(f"start {index} breaks a constraint: {broken}")
        letters.append(part)
    return letters


def _search_all(
    oracle: Oracle, starts: Sequence[np.ndarray], rules: Rules, options: _Options, verbose: bool
) -> list[Design]:
    """Design from each start (length,), some at a time."""
    config = oracle.model.config
    designs: list[Design] = []
    with tqdm(total=len(starts) * options.num_designs, unit=" designs", disable=not verbose) as progress:
        for first in range(0, len(starts), _STARTS_AT_ONCE):
            group = starts[first : first + _STARTS_AT_ONCE]
            known: list[dict[bytes, float]] = [{} for _ in group]
            found = _search_group(oracle, group, rules, options, known, progress)
            for index, (letters, answers) in enumerate(zip(group, found, strict=True)):
                designs += [_to_design(letters, answer, known[index], first + index, config) for answer in answers]
    return designs


def _search_group(
    oracle: Oracle,
    starts: Sequence[np.ndarray],
    rules: Rules,
    options: _Options,
    known: Sequence[dict[bytes, float]],
    progress: tqdm,
) -> list[np.ndarray]:
    """Find the answers (found, length) to each start (length,), the first ones of all side by side, then the second."""
    goal = Goal(options.target, float(oracle.model.config.expression_std))
    found = [np.empty((0, letters.size), np.uint8) for letters in starts]
    for rank in range(options.num_designs):
        spaces = {
            index: Space(letters, rules, options.max_edits, found[index], options.min_distance)
            for index, letters in enumerate(starts)
            if len(found[index]) == rank
        }
        searches = {index: options.search(space, goal) for index, space in spaces.items()}
        run_searches(searches, known, oracle, progress)
        for index, space in spaces.items():
            found[index] = np.concatenate([found[index], _pick(space, goal, known[index])])
        progress.update(len(starts))
    return found


def _pick(space: Space, goal: Goal, known: dict[bytes, float]) -> np.ndarray:
    """Choose the best of all that was predicted, (1, length), or (0, length) where nothing is as good as the start."""
    letters = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1)
    scores = goal.score(np.array(list(known.values())))
    fit = np.flatnonzero(space.may_end(letters) & (scores >= scores[0]))  # the start was the first to be predicted
    return letters[fit[best_first(scores[fit])[:1]]]


def _to_ids(sequence: str) -> np.ndarray:
    """Letter ids (1, length) of a sequence of A, C, G and T."""
    return np.array([[BASES.index(base) for base in sequence]], np.uint8)


def _to_design(start: np.ndarray, answer: np.ndarray, known: dict[bytes, float], index: int, config) -> Design:
    """Write out an answer (length,) to a start (length,)."""
    before, after = (_LETTER_BYTES[letters].tobytes().decode() for letters in (start, answer))
    edits = tuple((i, *pair) for i, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])
    value = known[answer.tobytes()]
    is_far = abs(value - config.expression_mean) > OUT_OF_RANGE * config.expression_std
    return Design(before, after, known[start.tobytes()], value, edits, None, bool(is_far), index)


def _to_table(designs: Sequence[Design]) -> pa.Table:
    """Designs as rows."""
    rows, rank = [], 0
    for number, found in enumerate(designs):
        rank = rank + 1 if number and designs[number - 1].start_index == found.start_index else 1
        edits = " ".join(f"{position}{ref}>{alt}" for position, ref, alt in found.edits)
        own = {"row": found.start_index, "rank": rank, "num_edits": len(found.edits), "edits": edits}
        rows.append({**found._asdict(), **own})
    return pa.Table.from_pylist([{name: row[name] for name in _SCHEMA.names} for row in rows], _SCHEMA)


def _to_fasta(designs: Sequence[Design]) -> str:
    """Designs as FASTA records, with their prediction as `open_table` reads it."""
    table = _to_table(designs).to_pylist()
    return "".join(
        f">design_{row['row']}_{row['rank']} expression={row['expression']:.6g}\n{row['sequence']}\n" for row in table
    )
