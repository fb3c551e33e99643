"""Mutants of promoters in batches: single substitutions, and windows that are shuffled, masked or deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tokenization.tokenization_kmer import N_ID

BASES = "ACGT"  # token ids 0 to 3
NUM_BASES = len(BASES)
WINDOW_METHODS = ("shuffle", "n", "delete")


class Edits(Protocol):
    """Edits of a sequence; its mutants are numbered."""

    min_length: int

    def count(self, letters: np.ndarray) -> int:
        """Count the mutants of `letters` (length,)."""

    def make(self, letters: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Make the mutants (mutants, length after the edit) with these numbers."""


class Substitutions:
    """All single substitutions, ordered by position, then A, C, G, T."""

    min_length = 1

    def count(self, letters: np.ndarray) -> int:
        """Count three mutants per base and four per N of `letters` (length,)."""
        return NUM_BASES * len(letters) - int((letters < NUM_BASES).sum())

    def places(self, letters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position and new base of each mutant, (mutants,) each."""
        return np.nonzero(letters[:, None] != np.arange(NUM_BASES))

    def make(self, letters: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Make the mutants (mutants, length)."""
        positions, bases = self.places(letters)
        mutants = np.repeat(letters[None], len(indices), axis=0)
        mutants[np.arange(len(indices)), positions[indices]] = bases[indices]
        return mutants


class WindowEdits:
    """Knock-outs of every `step`-th window, see `window_scan`; all sequences share the permutations of `"shuffle"`."""

    def __init__(self, window: int, step: int, method: str, num_shuffles: int, seed: int):
        if method not in WINDOW_METHODS:
            raise ValueError(f"method must be one of {', '.join(WINDOW_METHODS)}, got {method!r}")
        for name, value in (("window", window), ("step", step), ("num_shuffles", num_shuffles)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if method == "shuffle" and window < 2:
            raise ValueError("a window of 1 nt cannot be shuffled; choose a longer one or another method")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.window, self.step, self.method, self.seed = window, step, method, seed
        self.repeats = num_shuffles if method == "shuffle" else 1
        self.min_length = window + (method == "delete")
        self._permutations = np.empty((0, self.repeats, window), dtype=np.int64)

    def starts(self, length: int) -> np.ndarray:
        """First position of each window of a sequence of `length`, (windows,) int64."""
        return np.arange(0, length - self.window + 1, self.step)

    def count(self, letters: np.ndarray) -> int:
        """Count the windows of `letters` (length,), times the shuffles."""
        return self.repeats * len(self.starts(len(letters)))

    def make(self, letters: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Knock out one window in each mutant, (mutants, length), or shorter by a window for `"delete"`."""
        starts = self.starts(len(letters))[indices // self.repeats]
        columns = starts[:, None] + np.arange(self.window)
        if self.method == "delete":
            kept = np.arange(len(letters) - self.window)
            return letters[kept + self.window * (kept >= starts[:, None])]
        mutants = np.repeat(letters[None], len(indices), axis=0)
        new = N_ID
        if self.method == "shuffle":
            permutations = self._permutations_up_to(len(letters))
            new = letters[starts[:, None] + permutations[starts, indices % self.repeats]]
        np.put_along_axis(mutants, columns, new, axis=1)
        return mutants

    def _permutations_up_to(self, length: int) -> np.ndarray:
        """Permutations (starts, repeats, window) for every start; a longer table extends a shorter one."""
        num_starts = length - self.window + 1
        if len(self._permutations) < num_starts:
            unchanged = np.broadcast_to(np.arange(self.window), (num_starts, self.repeats, self.window))
            self._permutations = np.random.default_rng(self.seed).permuted(unchanged, axis=-1)
        return self._permutations


class MutantStrands:
    """Padded strands of sequences, each followed by its mutants, made when a slice is taken.

    `predict_strands` reads it like an array (strands, strand_length), so batches are filled across sequences.
    """

    def __init__(self, letters: Sequence[np.ndarray], edits: Edits, strand_length: int):
        self.letters, self.edits, self.strand_length = letters, edits, strand_length
        self.sizes = np.array([1 + edits.count(part) for part in letters], dtype=np.int64)
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
            pieces += self._strands_of(self.letters[sequence], np.arange(start - first, end - first))
            start = end
        return np.concatenate(pieces)

    def _strands_of(self, letters: np.ndarray, indices: np.ndarray) -> list[np.ndarray]:
        """Strands of one sequence: 0 is the sequence, the others are its mutants."""
        pieces = [letters[None]] if indices[0] == 0 else []
        mutants = indices[indices > 0] - 1
        if len(mutants):
            pieces.append(self.edits.make(letters, mutants))
        return [pad_centered(piece, self.strand_length) for piece in pieces]


def pad_centered(letters: np.ndarray, strand_length: int) -> np.ndarray:
    """Pad token ids (sequences, length) with N to (sequences, strand_length); an odd N goes to the right."""
    left = (strand_length - letters.shape[1]) // 2
    strands = np.full((len(letters), strand_length), N_ID, dtype=np.uint8)
    strands[:, left : left + letters.shape[1]] = letters
    return strands
