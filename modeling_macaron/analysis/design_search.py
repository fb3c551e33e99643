"""Search methods as generators that request predictions, so that many searches share full batches.

Greedy and evolutionary design of promoters by a model's predictions: Vaishnav et al. 2022, Nature 603:455 (genetic
algorithm); de Almeida et al. 2024, Nature 626:207.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import numpy as np

from modeling_macaron.analysis.attribution import GRADIENT_SHARE, as_one_hot_module, gradients_at
from modeling_macaron.analysis.constraints import Rules
from modeling_macaron.dna import NUM_BASES, pad_centered
from modeling_macaron.predictor import Predictor

METHODS = ("greedy", "beam", "evolution", "gradient")

_DECIMALS = 5  # of a score in standard deviations; float32 errors are smaller
_MAX_TRIES = 20  # attempts to make children that meet the rules
_TOURNAMENT = 3
_ELITE_SHARE = 8


class Request(NamedTuple):
    """Request for the values (rows,) or, with `gradient`, gradients (rows, length, 4) of sequences (rows, length)."""

    ids: np.ndarray
    gradient: bool = False


Search = Generator[Request, np.ndarray, None]


class Goal(NamedTuple):
    """Target: `"higher"`, `"lower"` or an expression in assay units; `scale` is its standard deviation."""

    target: str | float
    scale: float

    def score(self, values: np.ndarray) -> np.ndarray:
        """Score expression (rows,) in rounded standard deviations; higher is better."""
        if self.target == "higher":
            wanted = values
        elif self.target == "lower":
            wanted = -values
        else:
            wanted = -np.abs(values - self.target)
        return np.round(wanted / self.scale, _DECIMALS)


class Space(NamedTuple):
    """Sequences that a search may visit.

    Attributes
    ----------
    start : numpy.ndarray
        (length,) uint8 token ids.
    rules : Rules
        The constraints.
    max_edits : int
        Maximum number of substitutions from the start.
    found : numpy.ndarray
        (found, length) earlier answers.
    min_distance : int
        Minimum Hamming distance of the next answer to the earlier ones.
    """

    start: np.ndarray
    rules: Rules
    max_edits: int
    found: np.ndarray
    min_distance: int

    def num_edits(self, ids: np.ndarray) -> np.ndarray:
        """Count the substitutions of sequences (rows, length) from the start, (rows,)."""
        return (ids != self.start).sum(axis=1)

    def distances(self, ids: np.ndarray) -> np.ndarray:
        """Hamming distance of sequences (rows, length) to the nearest answer found, (rows,); their length if none."""
        distances = np.full(len(ids), ids.shape[1])
        for answer in self.found:
            distances = np.minimum(distances, (ids != answer).sum(axis=1))
        return distances

    def may_end(self, ids: np.ndarray) -> np.ndarray:
        """Whether sequences (rows, length) are far enough from the answers found, (rows,)."""
        return (self.distances(ids) >= self.min_distance) | (not len(self.found))

    def may_pass(self, ids: np.ndarray) -> np.ndarray:
        """Whether sequences (rows, length) meet the rules and can get far enough from the answers found, (rows,)."""
        num_edits = self.num_edits(ids)
        far = self.distances(ids) + self.max_edits - num_edits >= self.min_distance
        allowed = (num_edits <= self.max_edits) & (far | (not len(self.found)))
        allowed[allowed] = self.rules.allow(ids[allowed])
        return allowed

    def neighbours(self, ids: np.ndarray) -> np.ndarray:
        """Make allowed substitutions at unedited positions of `ids` (length,): (neighbours, length), by position."""
        free = self.rules.free_positions(ids.size)
        free = free[ids[free] == self.start[free]]
        rows, bases = np.nonzero(ids[free, None] != np.arange(NUM_BASES))
        mutants = np.repeat(ids[None], len(rows), axis=0)
        mutants[np.arange(len(rows)), free[rows]] = bases
        return mutants[self.may_pass(mutants)]


def best_first(scores: np.ndarray) -> np.ndarray:
    """Find the indices that sort scores (rows,) from the best; ties keep their order."""
    return np.argsort(-scores, kind="stable")


def search_beam(space: Space, goal: Goal, width: int) -> Search:
    """Keep the best `width` sequences after each edit.

    The beam always includes the sequence of the greedy search, so its result is at least as good. With a width of 1 the
    search is greedy: it ends when no substitution is an improvement.
    """
    states = space.start[None]
    score = goal.score((yield Request(states)))[0]
    for _ in range(space.max_edits):
        groups = [space.neighbours(state) for state in states]
        candidates, num_line = np.concatenate(groups), len(groups[0])
        if not len(candidates):
            return
        _, first = np.unique(candidates, axis=0, return_index=True)
        candidates = candidates[np.sort(first)]  # children of the greedy sequence stay first
        scores = goal.score((yield Request(candidates)))
        order = best_first(scores)
        if width == 1 and scores[order[0]] <= score:
            return
        if num_line:
            line = int(scores[:num_line].argmax())
            order = np.concatenate([[line], order[order != line]])
        states, score = candidates[order[:width]], scores[order[0]]


def search_by_gradient(space: Space, goal: Goal, num_candidates: int) -> Search:
    """Search greedily among the `num_candidates` substitutions with the best gradients.

    The change by a substitution is, to first order, the gradient at the new base minus that at the old one.
    """
    state = space.start
    value = (yield Request(state[None]))[0]
    for _ in range(space.max_edits):
        candidates = space.neighbours(state)
        if not len(candidates):
            return
        gradient = (yield Request(state[None], gradient=True))[0]
        rows = np.arange(len(candidates))
        positions = (candidates != state).argmax(axis=1)
        changes = gradient[positions, candidates[rows, positions]] - gradient[positions, state[positions]]
        candidates = candidates[best_first(goal.score(value + changes))[:num_candidates]]
        values = yield Request(candidates)
        scores = goal.score(values)
        best = int(scores.argmax())
        if scores[best] <= goal.score(value):
            return
        state, value = candidates[best], values[best]


def search_by_evolution(
    space: Space, goal: Goal, population: int, generations: int, random: np.random.Generator
) -> Search:
    """Evolve a population: keep the best, and fill up with crossed and mutated children of tournament winners."""
    yield Request(space.start[None])

    def founders(count: int) -> np.ndarray:
        edits = random.integers(1, space.max_edits + 1, count)
        return _mutate(np.repeat(space.start[None], count, axis=0), edits, space, random)

    adults = np.concatenate([space.start[None], _breed(founders, population - 1, space)])
    scores = goal.score((yield Request(adults)))
    for _ in range(generations):
        order = best_first(scores)
        adults, scores = adults[order], scores[order]
        elite = adults[: max(population // _ELITE_SHARE, 1)]

        def children(count: int, adults: np.ndarray = adults) -> np.ndarray:
            winners = random.integers(0, len(adults), (2, count, _TOURNAMENT)).min(axis=2)  # the best has number 0
            crossed = np.where(random.random((count, space.start.size)) < 0.5, adults[winners[0]], adults[winners[1]])
            return _mutate(crossed, random.poisson(1.0, count), space, random)

        adults = np.concatenate([elite, _breed(children, population - len(elite), space)])
        scores = goal.score((yield Request(adults)))


def _breed(make: Callable[[int], np.ndarray], count: int, space: Space) -> np.ndarray:
    """Make up to `count` sequences that may be answers, (count, length); fewer if the rules exclude most."""
    kept = np.empty((0, space.start.size), np.uint8)
    for _ in range(_MAX_TRIES):
        if len(kept) < count:
            new = make(count)
            kept = np.concatenate([kept, new[space.may_pass(new) & space.may_end(new)]])
    return kept[:count]


def _mutate(ids: np.ndarray, edits: np.ndarray, space: Space, random: np.random.Generator) -> np.ndarray:
    """Make `edits` (rows,) random substitutions in each row, and undo those beyond the maximum."""
    ids, free = ids.copy(), space.rules.free_positions(space.start.size)
    for row, count in enumerate(edits):
        positions = random.permutation(free)[:count]
        ids[row, positions] = (ids[row, positions] + random.integers(1, NUM_BASES, positions.size)) % NUM_BASES
        changed = random.permutation(np.flatnonzero(ids[row] != space.start))
        excess = changed[space.max_edits :]
        ids[row, excess] = space.start[excess]
    return ids


class Oracle:
    """Values and gradients of groups of sequences, in full batches.

    `column` is the value to search by: 0 the expression, 1 its lower bound, 2 its upper bound.
    """

    def __init__(self, predictor: Predictor, column: int = 0):
        self.predictor, self.column, self.num_predictions = predictor, column, 0
        self.module = as_one_hot_module(predictor)

    def values(self, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Predict groups of sequences (rows, length); see `Predictor.predict_batches` for (rows, 3 or 1)."""
        strands = self._pad(groups)
        self.num_predictions += len(strands)
        return _divide(self.predictor.predict_strands(strands), groups)

    def gradients(self, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Gradients (rows, length, 4) of the expression at each group of sequences (rows, length)."""
        one_hot = np.eye(NUM_BASES + 1, NUM_BASES)[self._pad(groups)].transpose(0, 2, 1)
        size, length = max(self.predictor.batch_size // GRADIENT_SHARE, 1), self.predictor.config.strand_length
        with self.predictor.explain_lack_of_memory():
            found = [gradients_at(self.module, one_hot[i : i + size]) for i in range(0, len(one_hot), size)]
        pieces = _divide(np.concatenate(found).transpose(0, 2, 1), groups)
        starts = [(length - ids.shape[1]) // 2 for ids in groups]
        spans = zip(pieces, starts, groups, strict=True)
        return [piece[:, start : start + ids.shape[1]] for piece, start, ids in spans]

    def _pad(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([pad_centered(ids, self.predictor.config.strand_length) for ids in groups])


def _divide(rows: np.ndarray, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(rows, np.cumsum([len(ids) for ids in groups])[:-1])


def run_searches(
    searches: dict[int, Search],
    known: Sequence[dict[bytes, list[float]]],
    oracle: Oracle,
    should_stop: Callable[[int], bool | None],
) -> bool:
    """Run searches together, and return whether they were stopped.

    `known` holds the predictions of each start by token ids and is updated. `should_stop(num_predictions)` is called
    after each round of predictions.
    """
    waiting = {index: next(search) for index, search in searches.items()}
    while waiting:
        replies = _answer(waiting, known, oracle)
        if should_stop(oracle.num_predictions):
            return True
        for index, reply in replies.items():
            try:
                waiting[index] = searches[index].send(reply)
            except StopIteration:
                del waiting[index]
    return False


def _answer(
    waiting: dict[int, Request], known: Sequence[dict[bytes, list[float]]], oracle: Oracle
) -> dict[int, np.ndarray]:
    """Answer the requests of all searches; no sequence of a start is predicted twice."""
    sloped = {index: request.ids for index, request in waiting.items() if request.gradient}
    valued = {index: request.ids for index, request in waiting.items() if not request.gradient}
    replies = dict(zip(sloped, oracle.gradients(list(sloped.values())), strict=True)) if sloped else {}
    new = {}
    for index, ids in valued.items():
        unknown = {row.tobytes(): row for row in ids if row.tobytes() not in known[index]}
        if unknown:
            new[index] = np.stack(list(unknown.values()))
    for (index, ids), values in zip(new.items(), oracle.values(list(new.values())) if new else [], strict=True):
        known[index].update(zip((row.tobytes() for row in ids), values.tolist(), strict=True))
    for index, ids in valued.items():
        replies[index] = np.array([known[index][row.tobytes()][oracle.column] for row in ids])
    return replies
