"""Design promoters in silico: a few substitutions that bring a start to more, less or a target expression.

A design is only as good as the model's predictions. More edits move it further from the training sequences, and a
search exploits the model's errors as readily as real effects. Keep `max_edits` small, check `out_of_range` and
`nearest_training_distance`, and measure the designs.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_macaron.analysis.constraints import Constraints, Rules, random_promoters
from modeling_macaron.analysis.design_search import (
    METHODS,
    Goal,
    Oracle,
    Search,
    Space,
    best_first,
    run_searches,
    search_beam,
    search_by_evolution,
    search_by_gradient,
)
from modeling_macaron.analysis.files import (
    PROBLEM,
    ROWS_AT_ONCE,
    FileOptions,
    FileResult,
    LineTask,
    check_files,
    run_task,
)
from modeling_macaron.analysis.nearest import TrainingStrands
from modeling_macaron.atomic import check_free, new_file
from modeling_macaron.dna import NUM_BASES, encode_sequences, pad_centered, spell, variable_parts, with_flanks
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.io.tables import Columns, PromoterTable, TableBatch, open_table
from modeling_macaron.predictor import Predictor, PredictorLike, as_predictor

logger = logging.getLogger(__name__)

DEFAULT_LENGTH = 80  # nt of the challenge's variable part
OUT_OF_RANGE = 3.0  # standard deviations of expression in training
REACHED = 0.05  # a design within this many standard deviations has reached the target
RANKS = ("expression", "bound")


class Design(NamedTuple):
    """A designed promoter.

    Attributes
    ----------
    start, sequence : str
        Variable part before and after the edits.
    start_expression, expression : float
        Their predictions, in assay units.
    edits : tuple of (int, str, str)
        Position (from 0 in the variable part), base of `start` and base of `sequence` for each edit.
    nearest_training_distance : int or None
        Hamming distance to the nearest training sequence, None if no training sequences were given.
    out_of_range : bool
        Whether the prediction is more than 3 standard deviations from the mean expression of the training rows
        (`expression_mean`, `expression_std` of the config). Such a prediction is an extrapolation.
    start_index : int
        Index of the start, from 0.
    expression_low, expression_high : float or None
        Bounds of the 90 % prediction interval, None if the model has none.
    """

    start: str
    sequence: str
    start_expression: float
    expression: float
    edits: tuple[tuple[int, str, str], ...]
    nearest_training_distance: int | None
    out_of_range: bool
    start_index: int
    expression_low: float | None = None
    expression_high: float | None = None


@dataclass(frozen=True)
class SearchOptions:
    """How to search for designs.

    Attributes
    ----------
    target : str or float
        `"higher"`, `"lower"` or a target expression in assay units.
    max_edits : int
        Maximum number of substitutions per design.
    method : str
        `"greedy"`: repeat the best single substitution, with up to 3 x length predictions per edit. `"beam"`: keep the
        best `beam_width` sequences after each edit, including the greedy one, with `beam_width` times as many
        predictions. `"evolution"`: a genetic algorithm, with at most `population * (generations + 1)` predictions.
        `"gradient"`: greedy among the `num_candidates` substitutions with the best gradients. This is the cheapest
        method: a backward pass and `num_candidates` predictions per edit.
    num_designs : int
        Maximum number of designs per start, each from its own search. Designs are left out if they are further from the
        target than the start.
    min_distance : int
        Minimum Hamming distance between two designs of a start.
    beam_width, population, generations, num_candidates : int
        Options of the methods.
    seed : int
        Seed of the evolution.
    rank_by : str
        `"expression"`, or `"bound"`: the lower end of the 90 % interval for the target `"higher"`, the upper end for
        `"lower"`. Searching and ranking by the bound penalizes uncertain predictions.

    Raises
    ------
    ValueError
        If an option is invalid.
    """

    target: str | float = "higher"
    max_edits: int = 10
    method: str = "greedy"
    num_designs: int = 1
    min_distance: int = 2
    beam_width: int = 10
    population: int = 64
    generations: int = 30
    num_candidates: int = 16
    seed: int = 0
    rank_by: str = "expression"

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.rank_by not in RANKS:
            raise ValueError(f"rank_by must be one of {', '.join(RANKS)}, got {self.rank_by!r}")
        if self.rank_by == "bound" and self.target not in ("higher", "lower"):
            raise ValueError(f'rank_by "bound" needs the target "higher" or "lower", got {self.target!r}')
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

    @property
    def column(self) -> int:
        """Column of `Predictor.predict_batches` to search by."""
        return 0 if self.rank_by == "expression" else 1 if self.target == "higher" else 2

    def search(self, space: Space, goal: Goal) -> Search:
        """Begin a search. Its seed depends on the start and the designs found before, not on the other starts."""
        if self.method in ("greedy", "beam"):
            return search_beam(space, goal, 1 if self.method == "greedy" else self.beam_width)
        if self.method == "gradient":
            return search_by_gradient(space, goal, self.num_candidates)
        random = np.random.default_rng([self.seed, len(space.found), zlib.crc32(space.start.tobytes())])
        return search_by_evolution(space, goal, self.population, self.generations, random)


def design(
    predictor: PredictorLike,
    starts: Sequence[str],
    options: SearchOptions | None = None,
    *,
    constraints: Constraints | None = None,
    training_sequences: Sequence[str] | str | Path | None = None,
    should_stop: Callable[[int], bool | None] | None = None,
    verbose: bool = False,
) -> list[Design]:
    """Design promoters with a target expression by substitutions in starts.

    Scores are rounded to 1e-5 standard deviations, and ties go to the first sequence. Rounding in float32, and thus the
    batch size, changes the designs only if a score lies on the border of two steps.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts. Use float32 or float64 weights: half
        precision hides small effects.
    starts : sequence of str
        DNA of A, C, G and T, with or without the constant flanks. Flanks are not edited. See `random_starts`.
    options : SearchOptions, optional
        How to search. Default: greedily for higher expression with at most ten edits.
    constraints : Constraints, optional
        Constraints on every sequence of the search. A start that breaks one is rejected.
    training_sequences : sequence of str, or str or Path, optional
        Sequences, or a promoter table, for `nearest_training_distance`.
    should_stop : callable, optional
        Called after each round with the number of predictions so far. If it returns True, the search ends with the best
        designs so far.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    list of Design
        In the order of the starts, the best design of each start first. If no sequence is better, the design is the
        start without edits.

    Raises
    ------
    ValueError
        If `rank_by="bound"` and the model has no intervals, or a start is not DNA, is too long or breaks a constraint
        (the message names it).
    FileNotFoundError
        If there is no checkpoint, or no table of training sequences.

    Examples
    --------
    >>> rules = Constraints(gc_range=(0.3, 0.6), forbidden_sites=("GAATTC",))
    >>> search = SearchOptions(max_edits=2)
    >>> designs = design("runs/mine/final", ["TTTATATAAGGC"], search, constraints=rules)  # doctest: +SKIP
    >>> designs[0].edits  # doctest: +SKIP
    ((3, 'A', 'G'), (8, 'A', 'C'))
    """
    predictor = as_predictor(predictor)
    designer = _Designer(predictor, options or SearchOptions(), constraints, training_sequences)
    parts = variable_parts(encode_sequences(predictor.tokenizer, starts))
    for index, part in enumerate(parts):
        if problem := designer.explain(part):
            raise ValueError(f"start {index}: {problem}")
    designs: list[Design] = []
    with progress_bar("predictions", verbose=verbose) as progress:

        def report(num_predictions: int) -> bool | None:
            progress.update(num_predictions - progress.n)
            return should_stop is not None and should_stop(num_predictions)

        for first in range(0, len(parts), ROWS_AT_ONCE):
            designs += designer.design(parts[first : first + ROWS_AT_ONCE], first, report)
    return designs


def random_starts(
    predictor: PredictorLike,
    num_starts: int = 1,
    *,
    length: int | None = None,
    gc: float | None = None,
    constraints: Constraints | None = None,
    seed: int = 0,
) -> list[str]:
    """Draw random promoters to start from. Each has its own seed, so a larger number only adds promoters.

    Parameters
    ----------
    predictor : Predictor
        Predictor for the designs.
    num_starts, length, gc : int, int, float
        Number, length (default: 80 nt, at most the strand length) and GC fraction (default: 0.5, or the middle of
        `gc_range`).
    constraints : Constraints, optional
        Constraints on the promoters.
    seed : int
        Seed of the promoters.

    Returns
    -------
    list of str
        Variable parts, with the constant flanks if the tokenizer always trims them.

    Raises
    ------
    ValueError
        If an option is invalid, or no promoter meets the constraints.
    """
    tokenizer, constraints = as_predictor(predictor).tokenizer, constraints or Constraints()
    length = min(DEFAULT_LENGTH, tokenizer.strand_length) if length is None else length
    if not 1 <= length <= tokenizer.strand_length:
        raise ValueError(f"length must be 1 to strand_length = {tokenizer.strand_length}, got {length}")
    if num_starts < 1:
        raise ValueError(f"num_starts must be at least 1, got {num_starts}")
    if gc is None:
        gc = 0.5 if constraints.gc_range is None else sum(constraints.gc_range) / 2
    if not 0 <= gc <= 1:
        raise ValueError(f"gc must be a fraction, got {gc}")
    drawn = random_promoters(num_starts, length, gc, Rules(constraints, tokenizer), seed)
    return [with_flanks(tokenizer, spell(ids)) for ids in drawn]


class _Designer:
    """A predictor with rules and options, ready to design from variable parts."""

    def __init__(
        self,
        predictor: Predictor,
        options: SearchOptions,
        constraints: Constraints | None,
        training_sequences: Sequence[str] | str | Path | None,
    ):
        self.config, self.options = predictor.config, options
        self.rules = Rules(constraints or Constraints(), predictor.tokenizer)
        self.oracle = Oracle(predictor, options.column)
        self.has_intervals = self.config.interval_quantile(90 if options.column else None) is not None
        low, high = (self.config.expression_mean + side * OUT_OF_RANGE * self.config.expression_std for side in (-1, 1))
        if not isinstance(options.target, str) and not low <= options.target <= high:
            logger.warning(
                "the target %g is outside %.2f to %.2f, %g standard deviations around the mean of the training data: "
                "few training rows lie there, and the designs will most likely not reach it",
                options.target, low, high, OUT_OF_RANGE,
            )  # fmt: skip
        self.training = None
        if training_sequences is not None:
            self.training = TrainingStrands(predictor.tokenizer, training_sequences)

    def explain(self, ids: np.ndarray) -> str:
        """Return the problem of a start (length,); empty if none."""
        unknown = np.flatnonzero(ids >= NUM_BASES)
        if unknown.size:
            return f"position {unknown[0] + 1} (counted from 1) is not A, C, G or T"
        broken = self.rules.explain(ids)
        return "" if broken is None else f"breaks a constraint: {broken}"

    def design(
        self, starts: Sequence[np.ndarray], first: int, should_stop: Callable[[int], bool | None]
    ) -> list[Design]:
        """Design from starts (length,) together; `first` is the index of the first one among all starts."""
        if not len(starts):
            return []
        known: list[dict[bytes, list[float]]] = [{} for _ in starts]
        found = self._search(starts, known, should_stop)
        designs = [
            self._to_design(ids, answer, known[index], first + index)
            for index, (ids, answers) in enumerate(zip(starts, found, strict=True))
            for answer in answers
        ]
        if self.training is None:
            return designs
        strands = [pad_centered(answer[None], self.config.strand_length) for answers in found for answer in answers]
        distances = self.training.distance_to(np.concatenate(strands)).tolist()
        return [one._replace(nearest_training_distance=near) for one, near in zip(designs, distances, strict=True)]

    def _search(
        self,
        starts: Sequence[np.ndarray],
        known: Sequence[dict[bytes, list[float]]],
        should_stop: Callable[[int], bool | None],
    ) -> list[np.ndarray]:
        """Find the answers (found, length) of each start: the first answers of all starts, then the second ones."""
        goal = Goal(self.options.target, float(self.config.expression_std))
        found = [np.empty((0, ids.size), np.uint8) for ids in starts]
        for rank in range(self.options.num_designs):
            spaces = {
                index: Space(ids, self.rules, self.options.max_edits, found[index], self.options.min_distance)
                for index, ids in enumerate(starts)
                if len(found[index]) == rank
            }
            searches = {index: self.options.search(space, goal) for index, space in spaces.items()}
            is_stopped = run_searches(searches, known, self.oracle, should_stop)
            for index, space in spaces.items():
                answer = _pick(space, goal, known[index], self.oracle.column)
                found[index] = np.concatenate([found[index], answer])
            if is_stopped:
                break
        return found

    def _to_design(self, start: np.ndarray, answer: np.ndarray, known: dict[bytes, list[float]], index: int) -> Design:
        before, after = spell(start), spell(answer)
        edits = tuple((i, *pair) for i, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])
        value, *bounds = known[answer.tobytes()]
        is_far = abs(value - self.config.expression_mean) > OUT_OF_RANGE * self.config.expression_std
        return Design(before, after, known[start.tobytes()][0], value, edits, None, bool(is_far), index, *bounds)


def _pick(space: Space, goal: Goal, known: dict[bytes, list[float]], column: int) -> np.ndarray:
    """Return the best sequence predicted, (1, length), or (0, length) if none is as good as the start."""
    ids = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1)
    scores = goal.score(np.array([values[column] for values in known.values()]))
    fit = np.flatnonzero(space.may_end(ids) & (scores >= scores[0]))  # the start was predicted first
    return ids[fit[best_first(scores[fit])[:1]]]


def design_file(
    predictor: PredictorLike,
    starts: str | Path | Sequence[str],
    output: str | Path,
    search: SearchOptions | None = None,
    *,
    constraints: Constraints | None = None,
    training_sequences: Sequence[str] | str | Path | None = None,
    fasta: str | Path | None = None,
    options: FileOptions | None = None,
) -> FileResult:
    """Design promoters for every row of a file, or every sequence of a list, in a stream; see `predict_file`.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts.
    starts : str, Path or sequence of str
        TSV, CSV, XLSX, FASTA or Parquet, see `open_table`; or a list of sequences.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`, with the columns `row` (of the starts, from 1), `name` (if they have one), `rank`
        (from 1), `start`, `sequence` (variable parts), `start_expression`, `expression` (assay units),
        `expression_low` and `expression_high` (if the model has prediction intervals), `num_edits`, `edits` (such as
        `A12G C40T`, positions from 1), `nearest_training_distance`, `out_of_range` (see `Design`) and `problem`. Starts
        that cannot be used have one line with the reason.
    search, constraints, training_sequences
        See `design`.
    fasta : str or Path, optional
        FASTA file to write the designs to as well.
    options : FileOptions, optional
        Columns, strictness, overwriting, resuming, progress.

    Returns
    -------
    FileResult
        `details` has `num_designs`, `num_unchanged` (designs without an edit), `num_out_of_range`, `median_change` of
        expression (assay units), and for a numeric target `num_reached` (designs within 0.05 standard deviations)
        and `nearest` (the expression closest to it).

    Raises
    ------
    ValueError, OSError
        As `design` and `predict_file`.
    """
    options = options or FileOptions()
    files = [path for path in (starts, training_sequences) if isinstance(path, (str, Path))]
    check_files(output, options, (predictor, *files))
    if fasta is not None:
        check_free(fasta, options.overwrite, (predictor, *files))
        if Path(fasta).resolve() == Path(output).resolve():
            raise ValueError(f"{output} cannot be both the table and the FASTA file")
    predictor = as_predictor(predictor)
    if isinstance(starts, (str, Path)):
        table = open_table(starts, sequence_column=options.sequence_column, batch_rows=ROWS_AT_ONCE)
    else:
        table = _table_of(starts)
    designer = _Designer(predictor, search or SearchOptions(), constraints, training_sequences)
    task = _DesignTask(designer, table, predictor, options.name_column)
    task.settings = {
        "starts": None if isinstance(starts, (str, Path)) else list(starts), "options": repr((search, constraints)),
        "columns": [table.columns.sequence, options.name_column],
    }  # fmt: skip
    with ExitStack() as stack:
        if fasta is not None and os.environ.get("RANK", "0") == "0":
            path = stack.enter_context(new_file(fasta))
            task.records = stack.enter_context(path.open("w", encoding="utf-8"))
        return run_task(task, predictor, table, output, options, files)


def _table_of(sequences: Sequence[str]) -> PromoterTable:
    """Make a table of sequences in memory."""

    def read_batches(_: PromoterTable) -> Iterator[TableBatch]:
        for first in range(0, len(sequences), ROWS_AT_ONCE):
            some = sequences[first : first + ROWS_AT_ONCE]
            yield TableBatch(pa.table({"sequence": some}), np.arange(first, first + len(some)) + 1)

    return PromoterTable("the list of starts", Columns("sequence"), "list", "start", read_batches, len(sequences))


class _DesignTask(LineTask):
    """One line per design."""

    records: IO[str] | None = None

    def __init__(self, designer: _Designer, table: PromoterTable, predictor: Predictor, name_column: str | None):
        super().__init__(table, predictor.tokenizer, name_column)
        self.designer = designer
        bounds = ("expression_low", "expression_high") if designer.has_intervals else ()
        kinds = {"rank": "int64", "start": "string", "sequence": "string", "start_expression": "float64"}
        kinds |= dict.fromkeys(("expression", *bounds), "float64") | {"num_edits": "int64", "edits": "string"}
        kinds |= {"nearest_training_distance": "int64", "out_of_range": "bool"}
        self.fields = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in kinds.items()])
        self.counts = {"num_designs": 0, "num_unchanged": 0, "num_out_of_range": 0}
        self.changes: list[float] = []
        self.expressions: list[float] = []

    def explain(self, ids: np.ndarray) -> str:
        return self.designer.explain(ids)

    def results(self, ids: list[np.ndarray]) -> Iterator[list[Design]]:
        designs = self.designer.design(ids, 0, lambda _: None)
        for _, some in groupby(designs, key=lambda one: one.start_index):
            yield list(some)

    def columns_of(self, result: list[Design]) -> Mapping[str, Any]:
        columns = {name: [getattr(one, name) for one in result] for name in Design._fields if name in self.fields.names}
        edits = [" ".join(f"{ref}{at + 1}{alt}" for at, ref, alt in one.edits) for one in result]
        num_edits = [len(one.edits) for one in result]
        return columns | {"rank": np.arange(len(result)) + 1, "edits": edits, "num_edits": num_edits}

    def columns_of_problem(self, batch: TableBatch, row: int) -> Mapping[str, Any]:
        return {"start": batch.table[self.table.columns.sequence][row].as_py()}

    def add_to_summary(self, lines: pa.Table) -> None:
        designs = lines.filter(pc.equal(lines[PROBLEM], ""))
        self.counts["num_designs"] += len(designs)
        self.counts["num_unchanged"] += int(pc.sum(pc.equal(designs["num_edits"], 0)).as_py() or 0)
        self.counts["num_out_of_range"] += int(pc.sum(designs["out_of_range"]).as_py() or 0)
        self.changes += pc.subtract(designs["expression"], designs["start_expression"]).to_pylist()
        self.expressions += designs["expression"].to_pylist()
        for row in designs.to_pylist() if self.records is not None else ():
            name = "_".join((row.get("name") or "design").split()) + f"_{row['row']}_{row['rank']}"
            self.records.write(f">{name} expression={row['expression']:.6g}\n{row['sequence']}\n")

    def summary(self) -> dict[str, float]:
        details = self.counts | {"median_change": float(np.median(self.changes)) if self.changes else float("nan")}
        if isinstance(self.designer.options.target, str) or not self.expressions:
            return details
        distances = np.abs(np.array(self.expressions) - self.designer.options.target)
        reached = int((distances <= REACHED * self.designer.config.expression_std).sum())
        return details | {"num_reached": reached, "nearest": self.expressions[int(distances.argmin())]}
