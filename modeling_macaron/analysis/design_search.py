"""Searches for better sequences, a few substitutions from a start: each asks for predictions and is sent them.

A search is a generator that yields a `Request` and is sent what the model says, so that many of them can share full
batches. None of them draws on anything but its own seed. Greedy and evolutionary design of promoters by a model's
predictions: Vaishnav et al. 2022, Nature 603:455 (genetic algorithm); de Almeida et al. 2024, Nature 626:207.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np

from .constraints import Rules
from .mutants import NUM_BASES

METHODS = ("greedy", "beam", "evolution", "gradient")

_DECIMALS = 5  # of a score, in standard deviations: the rounding of float32 stays below
_MAX_TRIES = 20  # rounds of children that may break the rules
_TOURNAMENT = 3
_ELITE_SHARE = 8


class Request(NamedTuple):
    """Sequences (rows, length) of which values (rows,) or, with `gradient`, gradients (rows, length, 4) are wanted."""

    letters: np.ndarray
    gradient: bool = False


Search = Generator[Request, np.ndarray, None]


class Goal(NamedTuple):
    """What is wanted: `"higher"`, `"lower"` or an expression in assay units; `scale` is its standard deviation."""

    target: str | float
    scale: float

    def score(self, values: np.ndarray) -> np.ndarray:
        """Score expression (rows,), more is better, in standard deviations; equal up to rounding is equal."""
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
        (length,) uint8 letter ids.
    rules : Rules
        The constraints.
    max_edits : int
        Most substitutions from the start.
    found : numpy.ndarray
        (found, length) answers that the next one must differ from ...
    min_distance : int
        ... at so many positions.
    """

    start: np.ndarray
    rules: Rules
    max_edits: int
    found: np.ndarray
    min_distance: int

    def num_edits(self, letters: np.ndarray) -> np.ndarray:
        """Count the substitutions of sequences (rows, length) from the start, (rows,)."""
        return (letters != self.start).sum(axis=1)

    def distances(self, letters: np.ndarray) -> np.ndarray:
        """Hamming distance of sequences (rows, length) to the nearest answer found, (rows,); their length if none."""
        distances = np.full(len(letters), letters.shape[1])
        for answer in self.found:
            distances = np.minimum(distances, (letters != answer).sum(axis=1))
        return distances

    def may_end(self, letters: np.ndarray) -> np.ndarray:
        """Which of sequences (rows, length) are far enough from the answers found, (rows,)."""
        return (self.distances(letters) >= self.min_distance) | (not len(self.found))

    def may_pass(self, letters: np.ndarray) -> np.ndarray:
        """Which of sequences (rows, length) keep to the rules and can still get far enough from the answers found."""
        num_edits = self.num_edits(letters)
        far = self.distances(letters) + self.max_edits - num_edits >= self.min_distance
        allowed = (num_edits <= self.max_edits) & (far | (not len(self.found)))
        allowed[allowed] = self.rules.allow(letters[allowed])
        return allowed

    def neighbours(self, letters: np.ndarray) -> np.ndarray:
        """Every allowed substitution where `letters` (length,) is as the start: (neighbours, length), by position."""
        free = self.rules.free_positions(letters.size)
        free = free[letters[free] == self.start[free]]
        rows, bases = np.nonzero(letters[free, None] != np.arange(NUM_BASES))
        mutants = np.repeat(letters[None], len(rows), axis=0)
        mutants[np.arange(len(rows)), free[rows]] = bases
        return mutants[self.may_pass(mutants)]


def best_first(scores: np.ndarray) -> np.ndarray:
    """Order of scores (rows,) from the best; of equal ones the first stays first."""
    return np.argsort(-scores, kind="stable")


def search_greedy(space: Space, goal: Goal) -> Search:
    """Take the best single substitution, again and again, until none is an improvement or the edits are used up."""
    state = space.start
    score = goal.score((yield Request(state[None])))[0]
    for _ in range(space.max_edits):
        candidates = space.neighbours(state)
        if not len(candidates):
            return
        scores = goal.score((yield Request(candidates)))
        best = int(scores.argmax())
        if scores[best] <= score:
            return
        state, score = candidates[best], scores[best]


def search_beam(space: Space, goal: Goal, width: int) -> Search:
    """Keep the best `width` sequences with one edit, then with two, ...; the greedy line is always one of them.

    So a beam finds what `search_greedy` finds or better, which is not so where only the best are kept.
    """
    yield Request(space.start[None])
    states = space.start[None]
    for _ in range(space.max_edits):
        groups = [space.neighbours(state) for state in states]
        candidates, num_line = np.concatenate(groups), len(groups[0])
        if not len(candidates):
            return
        _, first = np.unique(candidates, axis=0, return_index=True)
        candidates = candidates[np.sort(first)]  # the children of the greedy line come first and stay
        scores = goal.score((yield Request(candidates)))
        order = best_first(scores)
        if num_line:
            line = int(scores[:num_line].argmax())
            order = np.concatenate([[line], order[order != line]])
        states = candidates[order[:width]]


def search_by_gradient(space: Space, goal: Goal, num_candidates: int) -> Search:
    """Greedy, but only the `num_candidates` substitutions that a gradient says are best are predicted.

    The change by a substitution is, to first order, the gradient at the new letter minus that at the old one.
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
    """Let a population evolve: the best stay, the others are children of tournament winners, crossed and mutated."""
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
    """Make `count` sequences that may be answers, (count, length); fewer where the rules leave hardly any."""
    kept = np.empty((0, space.start.size), np.uint8)
    for _ in range(_MAX_TRIES):
        if len(kept) < count:
            new = make(count)
            kept = np.concatenate([kept, new[space.may_pass(new) & space.may_end(new)]])
    return kept[:count]


def _mutate(letters: np.ndarray, edits: np.ndarray, space: Space, random: np.random.Generator) -> np.ndarray:
    """Substitute random letters, `edits` (rows,) in each row; what is too many edits from the start is taken back."""
    letters, free = letters.copy(), space.rules.free_positions(space.start.size)
    for row, count in enumerate(edits):
        positions = random.permutation(free)[:count]
        letters[row, positions] = (letters[row, positions] + random.integers(1, NUM_BASES, positions.size)) % NUM_BASES
        changed = random.permutation(np.flatnonzero(letters[row] != space.start))
        excess = changed[space.max_edits :]
        letters[row, excess] = space.start[excess]
    return letters
