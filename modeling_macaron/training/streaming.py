"""Training rows that are read while they are needed: Parquet files larger than the disk, or on the Hub."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from huggingface_hub.errors import HTTPError  # of the client that it uses, which is not the same in every version

from modeling_macaron.tables import Columns, find_columns, string_buffers
from tokenization import KmerTokenizer

from .rows import parse_values

logger = logging.getLogger(__name__)

_BATCH_ROWS = 1_000
_ROWS_OF_A_FILE = 2**40  # a row's number is its file's times this, and its place in the file


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
            self._filesystem, path = fsspec.core.url_to_fs(files)
            self._paths = sorted(self._filesystem.glob(path))
        except FileNotFoundError:  # no such data set on the Hub
            self._paths = []
        except (OSError, ValueError, ImportError, HTTPError) as error:
            raise ValueError(f"{files} cannot be opened: {' '.join(str(error).split())}") from error
        if not self._paths:
            raise FileNotFoundError(f"there are no files {files}")
        self._files, self._tokenizer, self._seed, self._buffer_rows = files, tokenizer, seed, buffer_rows
        letters = ("input_ids", np.uint8, (tokenizer.strand_length,))
        self._row_type = np.dtype([letters, ("labels", np.float32), ("row", np.int64)])
        next(self._read_file(0, Counter()), None)

    @property
    def settings(self) -> dict[str, str | int]:
        """What the order of the rows depends on: a run can be resumed with the same only."""
        return {
            "stream": self._files,
            "files": len(self._paths),
            "stream_buffer": self._buffer_rows,
            "seed": self._seed,
        }

    def begin_epoch(self, epoch: int) -> None:
        """Do nothing: the passes of a stream follow each other by themselves."""

    def name_row(self, row: int) -> str:
        """Tell where a row stands.

        Parameters
        ----------
        row : int
            As iteration gives it.

        Returns
        -------
        str
            Its number in its file, from 1 on, and the file.
        """
        return f"row {row % _ROWS_OF_A_FILE} of {self._name_file(row // _ROWS_OF_A_FILE)}"

    def __iter__(self) -> Iterator[dict]:
        """Give rows without end.

        Yields
        ------
        dict
            `input_ids` (strand_length,) uint8, `labels` float32 in assay units, `row` int (see `name_row`), and `epoch`
            int, the pass, in each of which masks are drawn anew.
        """
        for turn in count():
            rng, tally = np.random.default_rng([self._seed, turn]), Counter()
            batches = (
                batch for file in rng.permutation(len(self._paths)) for batch in self._read_file(int(file), tally)
            )
            for ids, label, row in self._shuffle(batches, rng):
                yield {"input_ids": ids, "labels": label, "row": int(row), "epoch": turn}
            if not tally["kept"]:
                raise ValueError(
                    f"{self._files}: no row is a promoter with a value ({tally['refused']:,} were left out)"
                )
            if tally["refused"]:
                logger.warning(
                    "%s: %s rows are no promoters with a value and were left out", self._files, tally["refused"]
                )

    def _name_file(self, file: int) -> str:
        """Give a file's path, or its address where it is none of this machine."""
        return self._filesystem.unstrip_protocol(self._paths[file]).removeprefix("file://")

    def _read_file(self, file: int, tally: Counter) -> Iterator[np.ndarray]:
        """Give the rows of a file batch by batch, (batch,) of `_row_type`, and count what is kept and refused."""
        name = self._name_file(file)
        try:
            with self._filesystem.open(self._paths[file]) as opened, pyarrow.parquet.ParquetFile(opened) as parquet:
                columns, _ = find_columns(parquet.schema_arrow.names, Columns(None, None, None), name, True)
                first = file * _ROWS_OF_A_FILE + 1
                for batch in parquet.iter_batches(_BATCH_ROWS, columns=[columns.sequence, columns.value]):
                    strands = self._tokenizer.encode_strands(*string_buffers(batch.column(columns.sequence)))
                    where = f"{name}, column {columns.value!r}"
                    values, reasons = parse_values(batch.column(columns.value), where)
                    fine = np.flatnonzero((strands.problem == 0) & (reasons == 0))
                    rows = np.empty(len(fine), self._row_type)
                    rows["input_ids"], rows["labels"], rows["row"] = strands.ids[fine], values[fine], first + fine
                    tally.update(kept=len(fine), refused=batch.num_rows - len(fine))
                    first += batch.num_rows
                    yield rows
        except (pa.ArrowException, OSError, HTTPError) as error:
            raise ValueError(f"{name} cannot be read as Parquet: {' '.join(str(error).split())}") from error

    def _shuffle(self, batches: Iterable[np.ndarray], rng: np.random.Generator) -> Iterator[np.void]:
        """Give rows in another order: each takes the place of a random one of those that are held, which then comes."""
        held, filled = np.empty(self._buffer_rows, self._row_type), 0
        for batch in batches:
            fitting = batch[: len(held) - filled]
            held[filled : filled + len(fitting)] = fitting
            filled += len(fitting)
            for start in range(len(fitting), len(batch), len(held)):
                coming = batch[start : start + len(held)]
                places = rng.choice(len(held), len(coming), replace=False)
                yield from held[places]
                held[places] = coming
        yield from held[rng.permutation(filled)]
