"""Prepared promoters, read from memory-mapped Arrow in batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch

from modeling_macaron.data.clusters import DEFAULT_KMER, KeySet
from tokenization import KmerTokenizer


class PromoterDataset(torch.utils.data.Dataset):
    """Rows of one split: `input_ids` (strand_length,), `labels` in assay units, `row` and, optionally, `weight`."""

    def __init__(self, split: datasets.Dataset, strand_length: int):
        self.has_weights = "weight" in split.column_names
        self._numbers = ("labels", "row", "weight") if self.has_weights else ("labels", "row")
        self._split = split.select_columns(["input_ids", *self._numbers]).with_format("arrow")
        self._strand_length = strand_length
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # shared with worker processes

    def __len__(self) -> int:
        return len(self._split)

    @property
    def labels(self) -> np.ndarray:
        """Measured values (rows,) float64."""
        return self._split.select_columns(["labels"])[:].column("labels").to_numpy().astype(np.float64)

    def some_strands(self, most: int) -> np.ndarray:
        """Forward strands (rows, strand_length) of up to `most` evenly spaced rows."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(int))
        return self.__getitems__(rows.tolist())["input_ids"]

    def begin_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the masks depend."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict:
        """Read one row as a batch."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict:
        """Read `input_ids` (batch, strand_length), `labels`, `row` and `weight` (batch,), and the epoch."""
        table = self._split[list(indices)]
        input_ids = table.column("input_ids").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return {
            "input_ids": input_ids.reshape(-1, self._strand_length),
            **{name: table.column(name).to_numpy() for name in self._numbers},
            "epoch": int(self._epoch),
        }


class PreparedData:
    """Splits and report of a folder written by `scripts/prepare_data.py`."""

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / "report.json").is_file():
            raise FileNotFoundError(f"{folder} is not a prepared data set: make one with scripts/prepare_data.py")
        try:
            self.report: dict = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            self.tokenizer = KmerTokenizer(**self.report["tokenizer"])
            self.expression_mean = float(self.report["expression_mean"])
            self.expression_std = float(self.report["expression_std"])
            splits = datasets.load_from_disk(str(folder))
            self.train = PromoterDataset(splits["train"], self.tokenizer.strand_length)
            self.validation = PromoterDataset(splits["validation"], self.tokenizer.strand_length)
            self._held_out = [split for name, split in splits.items() if name != "train"]
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(f"{folder}: not a readable prepared data set ({error}); prepare it again") from error

    def held_out(self) -> KeySet:
        """Keys of the validation and test strands, to keep these and their near-copies out of training."""
        formatted = (
            split.select_columns(["input_ids"]).with_format("numpy", dtype=np.uint8) for split in self._held_out
        )
        strands = (batch["input_ids"] for split in formatted for batch in split.iter(10_000))
        return KeySet(strands, self.report.get("cluster_kmer", DEFAULT_KMER))
