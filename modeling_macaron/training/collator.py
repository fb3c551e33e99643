"""Batches for the model: both strands, standardized labels, masked nucleotides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from modeling_macaron.data.rows import mix64
from tokenization import reverse_complement
from tokenization.tokenization_kmer import MASK_ID, N_ID

STRANDS = ("independent", "paired")
_IGNORE = -100
_EVALUATION_EPOCH = -1
_AUGMENTATION = 0x5C1F7  # keeps its random numbers apart from those of the masks


def _uniform(seed: int, epoch: int | np.ndarray, rows: np.ndarray, positions: int) -> np.ndarray:
    """Uniform numbers (batch, positions) in [0, 1), hashed from seed, epoch, row and position.

    The masks of a row therefore do not depend on its batch, process or worker, nor on an interruption of the training.
    """
    state = mix64(np.uint64(seed) ^ mix64(np.asarray(epoch, np.int64).astype(np.uint64)))
    state = mix64(state ^ mix64(rows.astype(np.uint64)))
    bits = mix64(state[:, None] + np.arange(1, positions + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)) * 2.0**-53


def shift_padding(forward: np.ndarray, draws: np.ndarray, max_shift: int) -> np.ndarray:
    """Shift strands (batch, length) within their N padding by up to `max_shift` nt, uniformly by draws (batch,)."""
    length = forward.shape[1]
    is_base = forward != N_ID
    left, right = is_base.argmax(axis=1), is_base[:, ::-1].argmax(axis=1)
    low, high = -np.minimum(left, max_shift), np.minimum(right, max_shift)
    shift = low + np.floor(draws * (high - low + 1)).astype(np.int64)
    return np.take_along_axis(forward, (np.arange(length) - shift[:, None]) % length, axis=1)


@dataclass(frozen=True)
class PromoterCollator:
    """Collate forward strands into model inputs.

    Parameters
    ----------
    expression_mean, expression_std : float
        Mean and standard deviation of the training labels, in assay units; labels are standardized with them.
    mask_probability : float
        Share of the nucleotides other than N that are masked; 5 % in the paper.
    strands : str
        `"independent"` masks each strand on its own, as the original does, so that the other strand nearly always
        shows the masked nucleotide. `"paired"` masks a nucleotide on both strands.
    reverse_probability : float
        Share of the training rows read as their reverse complement.
    max_shift : int
        Largest random shift of a training row within its padding, in nucleotides.
    seed : int
        Seed of masks and augmentation, which depend only on seed, epoch, row and position.
    evaluation : bool
        Return unmasked `input_ids` and, beside them, `masked_input_ids` with the same masks in every epoch.
    with_rows : bool
        Also return the number of each row in the source.
    """

    expression_mean: float
    expression_std: float
    mask_probability: float = 0.05
    strands: str = "independent"
    reverse_probability: float = 0.0
    max_shift: int = 0
    seed: int = 0
    evaluation: bool = False
    with_rows: bool = False

    def __post_init__(self):
        if not 0 <= self.mask_probability < 1:
            raise ValueError(f"`mask_probability` must be in [0, 1), got {self.mask_probability}")
        if self.strands not in STRANDS:
            raise ValueError(f"`strands` must be one of {STRANDS}, got {self.strands!r}")
        if not 0 <= self.reverse_probability <= 1:
            raise ValueError(f"`reverse_probability` must be in [0, 1], got {self.reverse_probability}")
        if self.max_shift < 0:
            raise ValueError(f"`max_shift` must be at least 0, got {self.max_shift}")

    def for_evaluation(self) -> PromoterCollator:
        """Return this collator with `evaluation=True`."""
        return replace(self, evaluation=True, with_rows=False)

    def __call__(self, batch: Mapping | Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """Collate a batch.

        Parameters
        ----------
        batch : Mapping or sequence of Mapping
            A batch of `PromoterDataset`, or rows of a `datasets.Dataset` with `input_ids`, `labels`, `row` and,
            optionally, `weight` and `epoch` (default: 0).

        Returns
        -------
        dict[str, torch.Tensor]
            `input_ids` (batch, 2 * strand_length) int64, masked for training; `labels` (batch,) float32, standardized;
            `masked_nucleotides` (batch, 2 * strand_length) int64, -100 at unmasked positions. For training also
            `most_masked`, an int bound on the masked nucleotides of a row, and `row_weights` (batch,) float32 if the
            rows have a `weight`. For evaluation also `masked_input_ids`. With `with_rows` also `row` (batch,) int64.

        Raises
        ------
        ValueError
            If a column is missing: a Trainer with `remove_unused_columns=True` removes `row`.
        """
        if not isinstance(batch, Mapping):
            if not isinstance(batch[0], Mapping) or not {"input_ids", "labels", "row"} <= batch[0].keys():
                raise ValueError(
                    "PromoterCollator needs the columns input_ids, labels and row: pass remove_unused_columns=False to "
                    "TrainingArguments"
                )
            epochs = np.asarray([row.get("epoch", 0) for row in batch])
            names = ("input_ids", "labels", "row", "weight")
            batch = {name: np.asarray([row[name] for row in batch]) for name in names if name in batch[0]}
            batch["epoch"] = epochs
        forward = np.asarray(batch["input_ids"], dtype=np.uint8)
        if not self.evaluation and (self.reverse_probability or self.max_shift):
            forward = self._augment(forward, np.asarray(batch["row"]), batch.get("epoch", 0))
        input_ids = np.concatenate([forward, reverse_complement(forward)], axis=1)
        epoch = _EVALUATION_EPOCH if self.evaluation else batch.get("epoch", 0)
        masked = self._draw_mask(np.asarray(batch["row"]), epoch, forward.shape[1]) & (input_ids != N_ID)
        masked_input_ids = torch.from_numpy(np.where(masked, np.uint8(MASK_ID), input_ids)).long()
        labels = (np.asarray(batch["labels"], dtype=np.float64) - self.expression_mean) / self.expression_std
        collated = {
            "input_ids": torch.from_numpy(input_ids).long() if self.evaluation else masked_input_ids,
            "labels": torch.from_numpy(labels.astype(np.float32)),
            "masked_nucleotides": torch.from_numpy(np.where(masked, input_ids.astype(np.int64), _IGNORE)),
        }
        if self.evaluation:
            collated["masked_input_ids"] = masked_input_ids
        else:
            collated["most_masked"] = max(
                self._usual_most_masked(masked.shape[1]), int(masked.sum(axis=1).max(initial=0))
            )
            if "weight" in batch:
                collated["row_weights"] = torch.from_numpy(np.array(batch["weight"], dtype=np.float32))
        if self.with_rows:
            collated["row"] = torch.from_numpy(np.array(batch["row"], dtype=np.int64))
        return collated

    def _usual_most_masked(self, length: int) -> int:
        """Bound on the masked nucleotides of a row, six standard deviations above the mean: the same in all batches."""
        mean = self.mask_probability * length
        variance = mean * (1 - self.mask_probability) * (2 if self.strands == "paired" else 1)
        return math.ceil(mean + 6 * math.sqrt(variance))

    def _augment(self, forward: np.ndarray, rows: np.ndarray, epoch: int | np.ndarray) -> np.ndarray:
        """Reverse-complement and shift forward strands (batch, strand_length) at random."""
        turn, shift = _uniform(self.seed ^ _AUGMENTATION, epoch, rows, 2).T
        forward = np.where(turn[:, None] < self.reverse_probability, reverse_complement(forward), forward)
        return shift_padding(forward, shift, self.max_shift) if self.max_shift else forward

    def _draw_mask(self, rows: np.ndarray, epoch: int | np.ndarray, strand_length: int) -> np.ndarray:
        """Draw the positions (batch, 2 * strand_length) to mask."""
        if self.strands == "independent":
            return _uniform(self.seed, epoch, rows, 2 * strand_length) < self.mask_probability
        forward = _uniform(self.seed, epoch, rows, strand_length) < self.mask_probability
        return np.concatenate([forward, forward[:, ::-1]], axis=1)
