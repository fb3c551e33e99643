"""Training rows that are read while they are needed: Parquet files larger than the disk, or on the Hub."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from itertools import count
from math import gcd
from typing import NamedTuple

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
_UNITS_OF_A_SHARD = 4  # so many at least, so that shards have about as many rows each


class _Unit(NamedTuple):
    """What a shard reads at a time: a file, one of its row groups, or each `parts`-th row of one."""

    file: int
    group: int | None = None
    part: int = 0
    parts: int = 1


class StreamedPromoters(torch.utils.data.IterableDataset):
    """Rows of Parquet files, again and again, in an order that the seed alone decides.

    In each pass the files (their row groups, where files are few) are dealt anew to shards; rows come from one shard
    after the other. Each process reads shards of its own, and the rows of a global batch do not depend on the number of
    processes. A shard that is through begins its next pass at once: passes of shards of unequal length overlap. A run
    that is resumed reads again what it had read, and goes on with the next row.

    Parameters
    ----------
    files : str
        A path, a glob, or `hf://datasets/OWNER/NAME/PATTERN`.
    tokenizer : KmerTokenizer
        It trims and pads, and tells what is no promoter: such rows are left out and counted.
    seed : int
        Of the order: files are shuffled, and rows within a buffer.
    buffer_rows : int
        Rows that are held in memory to be shuffled, all shards together.
    num_shards : int
        The number of processes must divide it. Each shard has a file open.

    Raises
    ------
    FileNotFoundError
        If there are no such files.
    ValueError
        If they are no Parquet, or have no column of sequences or of values.
    """

    def __init__(
        self, files: str, tokenizer: KmerTokenizer, *, seed: int = 0, buffer_rows: int = 100_000, num_shards: int = 8
    ):
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
        self._num_shards, self._mine = num_shards, range(num_shards)
        next(self._read(_Unit(0), Counter()), None)
        self._units = self._cut(num_shards)

    @property
    def settings(self) -> dict[str, str | int]:
        """What the order of the rows depends on: a run can be resumed with the same only."""
        return {
            "stream": self._files,
            "files": len(self._paths),
            "stream_buffer": self._buffer_rows,
            "stream_shards": self._num_shards,
            "seed": self._seed,
        }

    def share(self, process: int, num_processes: int) -> StreamedPromoters:
        """Give what one of several processes reads.

        Parameters
        ----------
        process : int
            From 0 on.
        num_processes : int
            All of them; it divides the number of shards.

        Returns
        -------
        StreamedPromoters
            Every `num_processes`-th of the shards. As many rows of all shares are those that the whole stream gives.
        """
        share = copy(self)
        share._mine = self._mine[process::num_processes]
        return share

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
        tallies: dict[int, list[Counter]] = defaultdict(list)
        shards = [self._read_shard(shard, tallies) for shard in self._mine]
        while True:
            for shard in shards:
                yield next(shard)

    def _cut(self, num_shards: int) -> list[_Unit]:
        """Cut the files into units: about as many for each shard."""
        if num_shards == 1 or len(self._paths) >= _UNITS_OF_A_SHARD * num_shards:
            return [_Unit(file) for file in range(len(self._paths))]
        groups = []
        for file in range(len(self._paths)):
            with self._open(file) as parquet:
                groups += [(file, group) for group in range(parquet.num_row_groups)]
        if len(groups) >= _UNITS_OF_A_SHARD * num_shards or not groups:
            return [_Unit(*group) for group in groups]
        parts = num_shards // gcd(num_shards, len(groups))
        return [_Unit(*group, part, parts) for group in groups for part in range(parts)]

    def _read_shard(self, shard: int, tallies: dict[int, list[Counter]]) -> Iterator[dict]:
        """Give the rows of a shard without end, and note by pass what it keeps and refuses."""
        held = max(self._buffer_rows // self._num_shards, 1)
        for turn in count():
            tally, rng = Counter(), np.random.default_rng([self._seed, turn, shard])
            order = np.random.default_rng([self._seed, turn]).permutation(len(self._units))
            batches = (
                batch for unit in order[shard :: self._num_shards] for batch in self._read(self._units[unit], tally)
            )
            for ids, label, row in self._shuffle(batches, rng, held):
                yield {"input_ids": ids, "labels": label, "row": int(row), "epoch": turn}
            if not tally["kept"]:
                self._check_there_is_a_row()
            tallies[turn].append(tally)
            if len(tallies[turn]) == len(self._mine) and (refused := sum(tallies.pop(turn), Counter())["refused"]):
                logger.warning("%s: %s rows are no promoters with a value and were left out", self._files, refused)

    def _check_there_is_a_row(self) -> None:
        """Look for one in all files: a shard without any would look for ever."""
        tally = Counter()
        if not any(len(batch) for unit in self._units for batch in self._read(unit, tally)):
            raise ValueError(f"{self._files}: no row is a promoter with a value ({tally['refused']:,} were left out)")

    def _name_file(self, file: int) -> str:
        """Give a file's path, or its address where it is none of this machine."""
        return self._filesystem.unstrip_protocol(self._paths[file]).removeprefix("file://")

    @contextmanager
    def _open(self, file: int) -> Iterator[pyarrow.parquet.ParquetFile]:
        """Open a file; what goes wrong while it is read is told with its name."""
        try:
            with self._filesystem.open(self._paths[file]) as opened, pyarrow.parquet.ParquetFile(opened) as parquet:
                yield parquet
        except (pa.ArrowException, OSError, HTTPError) as error:
            message = " ".join(str(error).split())
            raise ValueError(f"{self._name_file(file)} cannot be read as Parquet: {message}") from error

    def _read(self, unit: _Unit, tally: Counter) -> Iterator[np.ndarray]:
        """Give the rows of a unit batch by batch, (batch,) of `_row_type`, and count what is kept and refused."""
        name = self._name_file(unit.file)
        with self._open(unit.file) as parquet:
            columns, _ = find_columns(parquet.schema_arrow.names, Columns(None, None, None), name, True)
            groups = range(parquet.num_row_groups) if unit.group is None else [unit.group]
            place = sum(parquet.metadata.row_group(group).num_rows for group in range(unit.group or 0)) + 1
            for batch in parquet.iter_batches(_BATCH_ROWS, groups, columns=[columns.sequence, columns.value]):
                mine = np.arange((unit.part - place) % unit.parts, batch.num_rows, unit.parts)
                rows, fine = self._encode(batch.take(pa.array(mine)) if unit.parts > 1 else batch, columns, name)
                rows["row"] = unit.file * _ROWS_OF_A_FILE + place + mine[fine]
                tally.update(kept=len(fine), refused=len(mine) - len(fine))
                place += batch.num_rows
                yield rows

    def _encode(self, batch: pa.RecordBatch, columns: Columns, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Make (kept,) of `_row_type`, without numbers, of the promoters with a value, and tell which they are."""
        strands = self._tokenizer.encode_strands(*string_buffers(batch.column(columns.sequence)))
        values, reasons = parse_values(batch.column(columns.value), f"{name}, column {columns.value!r}")
        fine = np.flatnonzero((strands.problem == 0) & (reasons == 0))
        rows = np.empty(len(fine), self._row_type)
        rows["input_ids"], rows["labels"] = strands.ids[fine], values[fine]
        return rows, fine

    def _shuffle(self, batches: Iterable[np.ndarray], rng: np.random.Generator, size: int) -> Iterator[np.void]:
        """Give rows in another order: each takes the place of a random one of those that are held, which then comes."""
        held, filled = np.empty(size, self._row_type), 0
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
