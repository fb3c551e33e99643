"""Mutants of promoters in batches: single substitutions, and windows that are shuffled, masked or deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modeling_macaron.dna import NUM_BASES, pad_centered
from tokenization.tokenization_kmer import N_ID

WINDOW_METHODS = ("shuffle", "n", "delete")


@dataclass(frozen=True)
class Substitutions:
    """All single substitutions, ordered by position, then A, C, G, T."""

    def explain(self, ids: np.ndarray) -> str:
        """Return an empty text, since every sequence can be mutated."""
        return ""

    def count(self, ids: np.ndarray) -> int:
        """Count three mutants per base and four per N of `ids` (length,)."""
        return NUM_BASES * len(ids) - int((ids < NUM_BASES).sum())

    def places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position and new base of each mutant, (mutants,) each."""
        return np.nonzero(ids[:, None] != np.arange(NUM_BASES))

    def make(self, ids: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Make the mutants (mutants, length) with these indices."""
        positions, bases = self.places(ids)
        mutants = np.repeat(ids[None], len(indices), axis=0)
        mutants[np.arange(len(indices)), positions[indices]] = bases[indices]
        return mutants


@dataclass(frozen=True)
class WindowEdits:
    """Knock-outs of every `step`-th window, see `window_scan`; all sequences share the permutations of `"shuffle"`."""

    window: int
    step: int = 1
    method: str = "shuffle"
    num_shuffles: int = 10
    seed: int = 0

    def __post_init__(self):
        if self.method not in WINDOW_METHODS:
            raise ValueError(f"method must be one of {', '.join(WINDOW_METHODS)}, got {self.method!r}")
        for name, least in (("window", 1), ("step", 1), ("num_shuffles", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.method == "shuffle" and self.window < 2:
            raise ValueError("a window of 1 nt cannot be shuffled; choose a longer one or another method")

    @property
    def repeats(self) -> int:
        """Number of mutants per window."""
        return self.num_shuffles if self.method == "shuffle" else 1

    def explain(self, ids: np.ndarray) -> str:
        """Return the problem of a sequence that is too short; empty if none."""
        least = self.window + (self.method == "delete")
        return "" if len(ids) >= least else f"{len(ids)} nt are fewer than the {least} that a window needs"

    def starts(self, length: int) -> np.ndarray:
        """First position of each window of a sequence of `length`, (windows,) int64."""
        return np.arange(0, length - self.window + 1, self.step)

    def count(self, ids: np.ndarray) -> int:
        """Count the windows of `ids` (length,), times the shuffles."""
        return self.repeats * len(self.starts(len(ids)))

    def make(self, ids: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Knock out one window in each mutant, (mutants, length), or shorter by a window for `"delete"`."""
        starts = self.starts(len(ids))[indices // self.repeats]
        columns = starts[:, None] + np.arange(self.window)
        if self.method == "delete":
            kept = np.arange(len(ids) - self.window)
            return ids[kept + self.window * (kept >= starts[:, None])]
        mutants = np.repeat(ids[None], len(indices), axis=0)
        new = N_ID
        if self.method == "shuffle":
            # a generator's first permutations do not depend on how many follow, so not on the length
            num_starts = len(ids) - self.window + 1
            unchanged = np.broadcast_to(np.arange(self.window), (num_starts, self.repeats, self.window))
            permutations = np.random.default_rng(self.seed).permuted(unchanged, axis=-1)
            new = ids[starts[:, None] + permutations[starts, indices % self.repeats]]
        np.put_along_axis(mutants, columns, new, axis=1)
        return mutants


Edits = Substitutions | WindowEdits


class MutantStrands:
    """Padded strands of sequences, each followed by its mutants. Slicing makes them on demand.

    `Predictor.predict_batches` slices it like an array (strands, strand_length), so batches are filled across
    sequences.
    """

    def __init__(self, parts: Sequence[np.ndarray], edits: Edits, strand_length: int):
        self.parts, self.edits, self.strand_length = parts, edits, strand_length
        self.sizes = np.array([1 + edits.count(part) for part in parts], dtype=np.int64)
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Make the strands of a slice, (rows, strand_length) uint8."""
        start, stop, _ = rows.indices(len(self))
        pieces = [np.empty((0, self.strand_length), np.uint8)]
        while start < stop:
            sequence = int(np.searchsorted(self._ends, start, side="right"))
            end = min(stop, int(self._ends[sequence]))
            first = int(self._ends[sequence] - self.sizes[sequence])
            pieces += self._strands_of(self.parts[sequence], np.arange(start - first, end - first))
            start = end
        return np.concatenate(pieces)

    def _strands_of(self, ids: np.ndarray, indices: np.ndarray) -> list[np.ndarray]:
        """Strands of one sequence: 0 is the sequence, the others are its mutants."""
        pieces = [ids[None]] if indices[0] == 0 else []
        mutants = indices[indices > 0] - 1
        if len(mutants):
            pieces.append(self.edits.make(ids, mutants))
        return [pad_centered(piece, self.strand_length) for piece in pieces]
