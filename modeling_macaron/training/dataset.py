"""Prepared promoters, read from memory-mapped Arrow a batch at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch

from modeling_macaron.data.clusters import DEFAULT_KMER, KeySet
from tokenization import KmerTokenizer

_ROWS_AT_A_TIME = 10_000


class PromoterDataset(torch.utils.data.Dataset):
    """Rows of one split; a batch is read with one look-up and stays numpy arrays.

    Parameters
    ----------
    split : datasets.Dataset
        With `input_ids` (strand_length uint8), `labels` (float32, assay units), `row` (int64) and, optionally,
        `weight` (float32).
    strand_length : int
        Letters of a row.
    """

    def __init__(self, split: datasets.Dataset, strand_length: int):
        self.has_weights = "weight" in split.column_names
        self._numbers = ("labels", "row", "weight") if self.has_weights else ("labels", "row")
        self._split = split.select_columns(["input_ids", *self._numbers]).with_format("arrow")
        self._strand_length = strand_length
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by worker processes too

    def __len__(self) -> int:
        return len(self._split)

    @property
    def labels(self) -> np.ndarray:
        """Values of all rows, (rows,) float64 in assay units."""
        return self._split.select_columns(["labels"])[:].column("labels").to_numpy().astype(np.float64)

    def some_strands(self, most: int) -> np.ndarray:
        """Forward strands (rows, strand_length) of `most` rows at even distances, or of all if they are fewer."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(int))
        return self.__getitems__(rows.tolist())["input_ids"]

    def begin_epoch(self, epoch: int) -> None:
        """Tell which pass over the data begins; the masks are drawn anew in each."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict:
        """One row, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict:
        """Read rows.

        Parameters
        ----------
        indices : sequence of int
            Rows of the split.

        Returns
        -------
        dict
            `input_ids` (batch, strand_length) uint8, `labels` (batch,) float32 in assay units, `row` (batch,) int64,
            `weight` (batch,) float32 where the rows have one, `epoch` int.
        """
        table = self._split[list(indices)]
        input_ids = table.column("input_ids").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return {
            "input_ids": input_ids.reshape(-1, self._strand_length),
            **{name: table.column(name).to_numpy() for name in self._numbers},
            "epoch": int(self._epoch),
        }


class PreparedData:
    """A folder that `scripts/prepare_data.py` wrote: its splits and its report.

    Parameters
    ----------
    folder : str or Path
        The folder.

    Raises
    ------
    FileNotFoundError
        If the folder or its report is not there.
    ValueError
        If it cannot be read, or has no training or validation rows.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / "report.json").is_file():
            raise FileNotFoundError(
                f"{folder}: no prepared data set (report.json is missing); make one with scripts/prepare_data.py"
            )
        try:
            self.report: dict = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            self.tokenizer = KmerTokenizer(**self.report["tokenizer"])
            self.expression_mean = float(self.report["expression_mean"])
            self.expression_std = float(self.report["expression_std"])
            splits = datasets.load_from_disk(str(folder))
            self.train = PromoterDataset(splits["train"], self.tokenizer.strand_length)
            self.validation = PromoterDataset(splits["validation"], self.tokenizer.strand_length)
            self._splits = splits
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(f"{folder}: not a readable prepared data set ({error}); prepare it again") from error
        if not len(self.train) or not len(self.validation):
            raise ValueError(f"{folder}: {len(self.train)} training and {len(self.validation)} validation rows")

    def held_out(self) -> KeySet:
        """Collect the keys of validation and test strands, which must not be trained on, nor must their near-copies.

        Near-copies have as long a stretch in common as those by which the rows were divided. Where rows were divided
        one by one, only equal strands and reverse complements have a key in common.
        """
        return KeySet(self._held_out_strands(), self.report.get("cluster_kmer", DEFAULT_KMER))

    def _held_out_strands(self) -> Iterator[np.ndarray]:
        for name, split in self._splits.items():
            if name != "train":
                rows = PromoterDataset(split, self.tokenizer.strand_length)
                for start in range(0, len(rows), _ROWS_AT_A_TIME):
                    yield rows.__getitems__(range(start, min(start + _ROWS_AT_A_TIME, len(rows))))["input_ids"]
