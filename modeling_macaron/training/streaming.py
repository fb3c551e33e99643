"""Training rows that are read while they are needed: Parquet files larger than the disk, or on the Hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import count

import datasets
import numpy as np
import pyarrow as pa
import torch

from modeling_macaron.tables import Columns, find_columns, string_buffers
from tokenization import KmerTokenizer

logger = logging.getLogger(__name__)

_BATCH_ROWS = 1_000
_ROWS_OF_A_PASS = 2**40  # numbers of rows are never the same in two passes, so that masks are drawn anew


class StreamedPromoters(torch.utils.data.IterableDataset):
    """Rows of Parquet files, again and again, in an order that depends on the seed and the pass alone.

    One process reads and the Trainer hands each its share, so the rows of a global batch do not depend on the number of
    processes. A run that is resumed reads again what it had read, and goes on with the next row.

    Parameters
    ----------
    files : str
        A path, a glob, or `hf://datasets/OWNER/NAME/PATTERN`.
    tokenizer : KmerTokenizer
        It trims and pads, and tells what is no promoter: such rows are left out and counted.
    seed : int
        Of the order: files are shuffled, and rows within a buffer.
    buffer_rows : int
        Rows that are held in memory to be shuffled.

    Raises
    ------
    FileNotFoundError
        If there are no such files.
    ValueError
        If they are no Parquet, or have no column of sequences or of values.
    """

    def __init__(self, files: str, tokenizer: KmerTokenizer, *, seed: int = 0, buffer_rows: int = 100_000):
        try:
            stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
            names = stream.column_names or list(next(iter(stream)))
        except (ValueError, pa.ArrowException, datasets.exceptions.DatasetGenerationError, StopIteration) as error:
            if "valid data file" in str(error):
                raise FileNotFoundError(f"there are no files {files}") from error
            raise ValueError(f"{files} cannot be read as Parquet: {error}") from error
        self._columns, _ = find_columns(names, Columns(None, None, None), files, require_value=True)
        self._stream = stream.select_columns([self._columns.sequence, self._columns.value])
        self._files, self._tokenizer, self._seed, self._buffer_rows = files, tokenizer, seed, buffer_rows

    def begin_epoch(self, epoch: int) -> None:
        """Do nothing: the passes of a stream follow each other by themselves."""

    def __iter__(self) -> Iterator[dict]:
        """Give rows without end: `input_ids` (strand_length,) uint8, `labels` float32 in assay units, `row` int."""
        for turn in count():
            rows, refused = 0, 0
            for batch in self._shuffled(turn).with_format("arrow").iter(_BATCH_ROWS):
                strands = self._tokenizer.encode_strands(*string_buffers(batch.column(self._columns.sequence)))
                values = batch.column(self._columns.value).cast(pa.float32()).to_numpy(zero_copy_only=False)
                fine = (strands.problem == 0) & np.isfinite(values)
                refused += int((~fine).sum())
                for ids, value in zip(strands.ids[fine], values[fine], strict=True):
                    yield {"input_ids": ids, "labels": value, "row": turn * _ROWS_OF_A_PASS + rows}
                    rows += 1
            if not rows:
                raise ValueError(f"{self._files}: no row is a promoter with a value ({refused:,} were left out)")
            if refused:
                logger.warning("%s: %s rows are no promoters with a value and were left out", self._files, refused)

    def _shuffled(self, turn: int) -> datasets.IterableDataset:
        """Give the stream in the order of a pass."""
        (seed,) = np.random.SeedSequence([self._seed, turn]).generate_state(1)
        return self._stream.shuffle(seed=int(seed), buffer_size=self._buffer_rows)
