"""Batches for the model: both strands, standardized labels, masked nucleotides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from modeling_macaron.data.rows import mix64
from modeling_macaron.dna import both_strands
from tokenization import reverse_complement
from tokenization.tokenization_kmer import MASK_ID, N_ID

_IGNORE = -100
_EVALUATION_EPOCH = -1
_AUGMENTATION = 0x5C1F7  # separates its random numbers from those of the masks


def _uniform(seed: int, epoch: int | np.ndarray, rows: np.ndarray, positions: int) -> np.ndarray:
    """Hash seed, epoch, row and position to uniform numbers in [0, 1) of shape (batch, positions)."""
    state = mix64(np.uint64(seed) ^ mix64(np.asarray(epoch, np.int64).astype(np.uint64)))
    state = mix64(state ^ mix64(rows.astype(np.uint64)))
    bits = mix64(state[:, None] + np.arange(1, positions + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True)
class PromoterCollator:
    """Collate forward strands into both strands with masks; standardize labels with `expression_mean` and `_std`.

    Masks and augmentation depend only on seed, epoch, row and position. For evaluation, sequences are not augmented and
    their masks are the same in every epoch.
    """

    expression_mean: float
    expression_std: float
    mask_probability: float = 0.05  # share of the nucleotides other than N that are masked
    strands: str = "independent"  # as in the original; "paired" masks a nucleotide on both strands
    reverse_probability: float = 0.0  # share of the training rows read as their reverse complement
    max_shift: int = 0  # largest random shift of a training row within its padding, in nt
    seed: int = 0
    evaluation: bool = False

    def __post_init__(self):
        valid = {
            "mask_probability": 0 <= self.mask_probability < 1,
            "strands": self.strands in ("independent", "paired"),
            "reverse_probability": 0 <= self.reverse_probability <= 1,
            "max_shift": self.max_shift >= 0,
        }
        for name, is_valid in valid.items():
            if not is_valid:
                raise ValueError(f"`{name}` cannot be {getattr(self, name)!r}")

    def for_evaluation(self) -> PromoterCollator:
        """Return this collator with `evaluation=True`."""
        return replace(self, evaluation=True)

    def __call__(self, batch: Mapping | Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """Collate a batch of `PromoterDataset`, or rows with its fields (`weight` and `epoch` are optional).

        Returns `input_ids` (batch, 2 * strand_length) int64, masked for training, `labels` (batch,) float32,
        `masked_nucleotides` (batch, 2 * strand_length) int64 with -100 at unmasked positions, and `row` (batch,) int64,
        the row number in the source. Training batches also have `most_masked`, an int bound on the masked nucleotides
        of a row, and `row_weights` (batch,) float32 if rows have a `weight`. Evaluation batches have
        `masked_input_ids`.
        """
        if not isinstance(batch, Mapping):
            names = [name for name in ("input_ids", "labels", "row", "weight", "epoch") if name in batch[0]]
            batch = {name: np.asarray([row[name] for row in batch]) for name in names}
        rows = np.asarray(batch["row"])
        epoch = _EVALUATION_EPOCH if self.evaluation else batch.get("epoch", 0)
        forward = np.asarray(batch["input_ids"], dtype=np.uint8)
        if not self.evaluation and (self.reverse_probability or self.max_shift):
            forward = self._augment(forward, rows, epoch)
        input_ids = both_strands(forward)
        masked = self._draw_mask(rows, epoch, forward.shape[1]) & (input_ids != N_ID)
        masked_input_ids = torch.from_numpy(np.where(masked, np.uint8(MASK_ID), input_ids)).long()
        labels = (np.asarray(batch["labels"], dtype=np.float64) - self.expression_mean) / self.expression_std
        collated = {
            "input_ids": torch.from_numpy(input_ids).long() if self.evaluation else masked_input_ids,
            "labels": torch.from_numpy(labels.astype(np.float32)),
            "masked_nucleotides": torch.from_numpy(np.where(masked, input_ids.astype(np.int64), _IGNORE)),
            "row": torch.from_numpy(rows.astype(np.int64)),
        }
        if self.evaluation:
            collated["masked_input_ids"] = masked_input_ids
        else:
            found = int(masked.sum(axis=1).max(initial=0))
            collated["most_masked"] = max(self._usual_most_masked(masked.shape[1]), found)
            if "weight" in batch:
                collated["row_weights"] = torch.from_numpy(np.array(batch["weight"], dtype=np.float32))
        return collated

    def _usual_most_masked(self, length: int) -> int:
        """Bound the masked nucleotides of a row by the mean plus six standard deviations, equal for all batches."""
        mean = self.mask_probability * length
        variance = mean * (1 - self.mask_probability) * (2 if self.strands == "paired" else 1)
        return math.ceil(mean + 6 * math.sqrt(variance))

    def _augment(self, forward: np.ndarray, rows: np.ndarray, epoch: int | np.ndarray) -> np.ndarray:
        """Randomly reverse-complement forward strands (batch, strand_length), and shift them within their padding."""
        turn, draws = _uniform(self.seed ^ _AUGMENTATION, epoch, rows, 2).T
        forward = np.where(turn[:, None] < self.reverse_probability, reverse_complement(forward), forward)
        is_base = forward != N_ID
        left, right = is_base.argmax(axis=1), is_base[:, ::-1].argmax(axis=1)
        low, high = -np.minimum(left, self.max_shift), np.minimum(right, self.max_shift)
        shift = low + np.floor(draws * (high - low + 1)).astype(np.int64)
        length = forward.shape[1]
        return np.take_along_axis(forward, (np.arange(length) - shift[:, None]) % length, axis=1)

    def _draw_mask(self, rows: np.ndarray, epoch: int | np.ndarray, strand_length: int) -> np.ndarray:
        """Draw the positions (batch, 2 * strand_length) to mask."""
        if self.strands == "independent":
            return _uniform(self.seed, epoch, rows, 2 * strand_length) < self.mask_probability
        forward = _uniform(self.seed, epoch, rows, strand_length) < self.mask_probability
        return np.concatenate([forward, forward[:, ::-1]], axis=1)
