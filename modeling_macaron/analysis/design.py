"""Design promoters in silico: from a start, by a few substitutions, to more, less or a wanted expression.

A design is as good as the model is there. The more edits, the farther it may lead from what the model has seen, and a
search finds the model's errors as readily as real effects: keep `max_edits` small, read `out_of_range` and
`nearest_training_distance`, and measure what matters.
"""

from __future__ import annotations

import logging
import sys
import zlib
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_macaron.configuration_macaron import MacaronConfig
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.io.tables import open_table
from modeling_macaron.loading import load_model
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import KmerTokenizer

from .constraints import Constraints, Rules, random_promoters
from .design_oracle import Oracle, SearchStopped, run_searches
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
from .encoding import encode_sequences, spell_letters, variable_parts
from .mutants import NUM_BASES, pad_centered
from .nearest import TrainingStrands
from .predict import check_batch_size

logger = logging.getLogger(__name__)

DEFAULT_LENGTH = 80  # nt of the challenge's variable part
OUT_OF_RANGE = 3.0  # standard deviations of expression in training
REACHED = 0.05  # a design within this many standard deviations has reached the target

RANKS = ("expression", "bound")
STARTS_AT_ONCE = 16  # searches that share batches; what each has seen is held in memory


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
    expression_low, expression_high : float or None
        Interval of 90 % of the expression, None where the model has none.
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


class SearchOptions(NamedTuple):
    """Options of a search; see `design`."""

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

    def check(self) -> None:
        """Reject options that make no search."""
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
        """Column of `predict_bounds` to search by."""
        return 0 if self.rank_by == "expression" else 1 if self.target == "higher" else 2

    def most_predictions(self, num_free: int) -> int:
        """Upper bound on predictions for a start with `num_free` editable positions."""
        an_edit = max((NUM_BASES - 1) * num_free, 1)
        most = {
            "greedy": self.max_edits * an_edit,
            "beam": (1 + (self.max_edits - 1) * self.beam_width) * an_edit,
            "gradient": self.max_edits * self.num_candidates,
            "evolution": self.population * (self.generations + 1),
        }
        return 1 + self.num_designs * most[self.method]

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
    rank_by: str = "expression",
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
    rank_by : str
        `"expression"`, or `"bound"`: search and rank by the interval of 90 %, by its lower end for the target
        `"higher"` and by its upper end for `"lower"`, so that an uncertain prediction does not win by its mean.
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
        On options that make no search, on `rank_by="bound"` and a model without intervals, and on a start that is not
        DNA, is too long or breaks a constraint (the message says which).
    FileNotFoundError
        If there is no checkpoint, or no table of training sequences.

    Examples
    --------
    >>> rules = Constraints(gc_range=(0.3, 0.6), forbidden_sites=("GAATTC",))
    >>> designs = design("runs/mine/final", ["TTTATATAAGGC"], max_edits=2, constraints=rules)  # doctest: +SKIP
    >>> designs[0].edits  # doctest: +SKIP
    ((3, 'A', 'G'), (8, 'A', 'C'))
    """
    options = SearchOptions(target, max_edits, method, num_designs, min_distance, beam_width, population, generations,
                            num_candidates, seed, rank_by)  # fmt: skip
    options.check()
    check_batch_size(batch_size)
    if isinstance(training_sequences, (str, Path)):
        open_table(training_sequences)
    model, tokenizer = load_model(model, tokenizer, device, merged=merged)
    designer = Designer(
        model, tokenizer, options, constraints, training_sequences, batch_size=batch_size, verbose=verbose
    )
    letters = designer.random_starts(num_starts, length, gc) if starts is None else designer.encode_all(starts)
    designs: list[Design] = []
    with designer.progress(letters, verbose=verbose) as progress:
        for first in range(0, len(letters), STARTS_AT_ONCE):
            designs += designer.design_next(letters[first : first + STARTS_AT_ONCE], first, progress)
    return designs


class Designer:
    """A model with rules and a way to search, ready to design from encoded starts.

    Parameters
    ----------
    model, tokenizer
        From `load_model`.
    options : SearchOptions
        How to search.
    constraints : Constraints, optional
        See `design`.
    training_sequences : sequence of str, or str or Path, optional
        See `design`; they are read here.
    batch_size : int
        Sequences that go through the model at once.
    verbose : bool
        Show a progress bar while the training sequences are read.
    """

    def __init__(
        self,
        model: MacaronForExpressionPrediction,
        tokenizer: KmerTokenizer,
        options: SearchOptions,
        constraints: Constraints | None = None,
        training_sequences: Sequence[str] | str | Path | None = None,
        *,
        batch_size: int = 256,
        verbose: bool = False,
    ):
        self.tokenizer, self.options = tokenizer, options
        self.rules = Rules(constraints or Constraints(), tokenizer)
        self._oracle = Oracle(model, tokenizer, batch_size, options.column)
        self.has_intervals = model.config.interval_quantile(90 if options.column else None) is not None
        _warn_of_far_target(options.target, model.config)
        self._training = None
        if training_sequences is not None:
            self._training = TrainingStrands(tokenizer, training_sequences, verbose=verbose)

    def random_starts(self, num_starts: int, length: int | None, gc: float | None) -> list[np.ndarray]:
        """Draw starts; see `design`.

        Returns
        -------
        list of numpy.ndarray
            (length,) uint8 letter ids each.

        Raises
        ------
        ValueError
            If the numbers make no start, or the rules leave none.
        """
        return _random_starts(self.rules, self.tokenizer, num_starts, length, gc, self.options.seed)

    def encode_all(self, starts: Sequence[str]) -> list[np.ndarray]:
        """Encode starts that must all be fine.

        Parameters
        ----------
        starts : sequence of str
            See `design`.

        Returns
        -------
        list of numpy.ndarray
            (length,) uint8 letter ids of each variable part.

        Raises
        ------
        ValueError
            Naming the first that is not.
        """
        if isinstance(starts, str):
            raise ValueError("`starts` must be a list of sequences, got one str")
        if not len(starts):
            return []
        letters = variable_parts(encode_sequences(self.tokenizer, starts))
        for index, part in enumerate(letters):
            problem = self.explain(part)
            if problem:
                raise ValueError(f"start {index}: {problem}")
        return letters

    def explain(self, letters: np.ndarray) -> str:
        """Say why nothing can be designed from the variable part `letters` (length,); an empty text if all is well."""
        unknown = np.flatnonzero(letters >= NUM_BASES)
        if unknown.size:
            return f"position {unknown[0] + 1} (counted from 1) is none of A, C, G and T"
        broken = self.rules.explain(letters)
        return "" if broken is None else f"breaks a constraint: {broken}"

    def most_predictions(self, starts: Sequence[np.ndarray]) -> int:
        """Most predictions that the designs from encoded starts take."""
        return sum(self.options.most_predictions(self.rules.free_positions(part.size).size) for part in starts)

    def progress(self, starts: Iterable[np.ndarray], *, verbose: bool) -> tqdm:
        """Make a bar of the predictions for encoded starts, after a line that estimates their time, by one batch."""
        most, first = 0, None
        for part in starts:
            most, first = most + self.most_predictions([part]), part if first is None else first
        if verbose and first is not None:
            seconds = most * self._oracle.seconds_per_prediction(first, most)
            print(f"at most {most:,} predictions, which take about {_duration(seconds)}", file=sys.stderr)
        return progress_bar("predictions", most, verbose=verbose)

    def reached(self, expressions: Sequence[float]) -> tuple[int, float]:
        """Count the expressions that reach a target in numbers, and find the nearest; 0 and NaN if there is none."""
        if isinstance(self.options.target, str) or not len(expressions):
            return 0, float("nan")
        values = np.asarray(expressions)
        distances = np.abs(values - self.options.target)
        num_reached = int((distances <= REACHED * self._oracle.model.config.expression_std).sum())
        return num_reached, float(values[distances.argmin()])

    def design_next(self, starts: Sequence[np.ndarray], first: int, progress: tqdm) -> list[Design]:
        """Design from some starts and lower the bar's total by unused predictions."""
        before = progress.n
        designs = self.design(starts, first, progress)
        progress.total = (progress.total or 0) + progress.n - before - self.most_predictions(starts)
        return designs

    def design(self, starts: Sequence[np.ndarray], first: int, progress: tqdm) -> list[Design]:
        """Design from some starts side by side.

        Parameters
        ----------
        starts : sequence of numpy.ndarray
            (length,) uint8 letter ids each, of A, C, G and T; all of them are searched at once.
        first : int
            Index of the first of them among all starts.
        progress : tqdm
            Counts the predictions. Where its `set_postfix` raises `SearchStopped`, the answer is the best of what was
            predicted until then.

        Returns
        -------
        list of Design
            In the order of the starts, the best of each first.
        """
        if not len(starts):
            return []
        known: list[dict[bytes, list[float]]] = [{} for _ in starts]
        found = _search_group(self._oracle, starts, self.rules, self.options, known, progress)
        config = self._oracle.model.config
        designs = [
            _to_design(letters, answer, known[index], first + index, config)
            for index, (letters, answers) in enumerate(zip(starts, found, strict=True))
            for answer in answers
        ]
        if self._training is None:
            return designs
        length = self.tokenizer.strand_length
        strands = [pad_centered(answer[None], length) for answers in found for answer in answers]
        distances = self._training.distance_to(np.concatenate(strands)).tolist()
        return [one._replace(nearest_training_distance=near) for one, near in zip(designs, distances, strict=True)]


def _duration(seconds: float) -> str:
    """Write a time in the unit that fits."""
    unit, size = next((pair for pair in (("hours", 3600), ("minutes", 60)) if seconds >= 2 * pair[1]), ("seconds", 1))
    return f"{seconds / size:,.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"


def _warn_of_far_target(target: str | float, config: MacaronConfig) -> None:
    """Say so where a target lies where hardly anything was measured."""
    low, high = (config.expression_mean + side * OUT_OF_RANGE * config.expression_std for side in (-1, 1))
    if not isinstance(target, str) and not low <= target <= high:
        logger.warning(
            "the target %g lies outside %.2f to %.2f, %g standard deviations around the mean of the training data: "
            "hardly anything was measured there, and the designs will most likely end short of it",
            target, low, high, OUT_OF_RANGE,
        )  # fmt: skip


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


def _search_group(
    oracle: Oracle,
    starts: Sequence[np.ndarray],
    rules: Rules,
    options: SearchOptions,
    known: Sequence[dict[bytes, list[float]]],
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
        is_stopped = False
        try:
            run_searches(searches, known, oracle, progress)
        except SearchStopped:
            is_stopped = True
        for index, space in spaces.items():
            found[index] = np.concatenate([found[index], _pick(space, goal, known[index], oracle.column)])
        if is_stopped:
            break
    return found


def _pick(space: Space, goal: Goal, known: dict[bytes, list[float]], column: int) -> np.ndarray:
    """Choose the best of all that was predicted, (1, length), or (0, length) where nothing is as good as the start."""
    letters = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1)
    scores = goal.score(np.array([values[column] for values in known.values()]))
    fit = np.flatnonzero(space.may_end(letters) & (scores >= scores[0]))  # the start was the first to be predicted
    return letters[fit[best_first(scores[fit])[:1]]]


def _to_design(start: np.ndarray, answer: np.ndarray, known: dict[bytes, list[float]], index: int, config) -> Design:
    """Write out an answer (length,) to a start (length,)."""
    before, after = spell_letters(start), spell_letters(answer)
    edits = tuple((i, *pair) for i, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])
    value, *bounds = known[answer.tobytes()]
    is_far = abs(value - config.expression_mean) > OUT_OF_RANGE * config.expression_std
    return Design(before, after, known[start.tobytes()][0], value, edits, None, bool(is_far), index, *bounds)
