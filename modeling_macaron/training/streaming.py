"""Training rows streamed from Parquet files that are larger than the disk or on the Hub."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import partial
from heapq import heapify, heapreplace
from itertools import count
from math import ceil
from typing import NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch

from modeling_macaron.data.clusters import KeySet
from modeling_macaron.data.rows import parse_values
from modeling_macaron.io.tables import Columns, find_columns, parquet_texts, string_buffers
from tokenization import KmerTokenizer

logger = logging.getLogger(__name__)

_BATCH_ROWS = 8_000
_ROWS_OF_A_FILE = 2**40  # row number: file * this + place in the file
_UNITS_OF_A_SHARD = 4  # about, if row groups are small enough
_LEFT_OUT = {
    "rejected": "are no promoters with a value",
    "held_out": "are held out for validation or test, or near-copies of such rows",
}
_UNEVEN = 1.3  # most of a shard's size over the mean, if row groups can be divided
_ANY_COLUMNS = Columns(None, None, None)


def _is_read_error(error: Exception) -> bool:
    """Whether an error comes from a file or its file system, whose client may define its own errors."""
    is_from_library = type(error).__module__ != "builtins"
    is_known = isinstance(error, (OSError, ValueError, RuntimeError))
    return (is_from_library or is_known) and not isinstance(error, MemoryError)


class _Unit(NamedTuple):
    """Part of a shard: a file, neighbouring row groups of a file, or every `parts`-th row of those."""

    file: int
    size: float  # bytes, about
    groups: range | None = None
    first_row: int = 0
    part: int = 0
    parts: int = 1


class StreamedPromoters(torch.utils.data.IterableDataset):
    """Endless stream of the rows of Parquet files, in an order that depends on the seed only.

    Each pass assigns files, or row groups of large files, to shards of about equal size and takes one row from each
    shard in turn. Each process reads its own shards, and the rows of a global batch do not depend on the number of
    processes. A finished shard starts its next pass at once, so passes of different shards may overlap. If row groups
    are too few or too large, several shards read the same one and share its rows. A resumed run skips the rows that
    were already used by reading them again.

    Parameters
    ----------
    files : str
        A path, a glob, or `hf://datasets/OWNER/NAME/PATTERN`.
    tokenizer : KmerTokenizer
        Trims and pads the sequences. Rows that it rejects are skipped and counted.
    seed : int
        Seed of the order of files and rows.
    buffer_rows : int
        Rows held in memory for shuffling, over all shards; at least one per shard.
    num_shards : int
        A multiple of the number of processes. Each shard keeps a file open and two columns of a row group in memory.
    columns : Columns
        Names of the sequence and value columns, if they are not the usual ones.
    held_out : KeySet, optional
        Strands, such as those of the validation split, that are skipped and counted, near-copies included.

    Raises
    ------
    FileNotFoundError
        If no file matches.
    ValueError
        If a file is not Parquet or lacks a sequence or value column, if no row is a promoter with a value, or if
        `buffer_rows` or `num_shards` is below 1.
    """

    def __init__(
        self,
        files: str,
        tokenizer: KmerTokenizer,
        *,
        seed: int = 0,
        buffer_rows: int = 100_000,
        num_shards: int = 8,
        columns: Columns = _ANY_COLUMNS,
        held_out: KeySet | None = None,
    ):
        if buffer_rows < 1 or num_shards < 1:
            raise ValueError(f"a stream needs a buffer and shards, got {buffer_rows} rows and {num_shards} shards")
        try:
            self._filesystem, path = fsspec.core.url_to_fs(files)
            found = sorted(self._filesystem.glob(path, detail=True).items())
        except FileNotFoundError:  # no such data set on the Hub
            found = []
        except MemoryError:
            raise
        except Exception as error:  # each file system has its own errors
            raise ValueError(f"{files} cannot be opened: {' '.join(str(error).split())}") from error
        sizes = {path: about.get("size") or 1 for path, about in found if self._is_file(path, about["type"])}
        if not sizes:
            is_folder = bool(found) and self._filesystem.isdir(path)
            hint = f": it is a folder, name what is in it: {files.rstrip('/')}/*.parquet" if is_folder else ""
            raise FileNotFoundError(f"there are no files {files}{hint}")
        self._paths, self._bytes = list(sizes), sum(sizes.values())
        self._files, self._tokenizer, self._seed, self._buffer_rows = files, tokenizer, seed, buffer_rows
        ids = ("input_ids", np.uint8, (tokenizer.strand_length,))
        self._row_type = np.dtype([ids, ("labels", np.float32), ("row", np.int64)])
        self._num_shards, self._mine, self._num_processes = num_shards, range(num_shards), 1
        self._columns, self._held_out = columns, held_out
        self._footers: dict[int, pyarrow.parquet.FileMetaData] = {}  # of divided files
        self._units = self._cut(list(sizes.values()))
        self._check_there_is_a_row()

    @property
    def settings(self) -> dict[str, str | int]:
        """Settings that determine the order of the rows; a resumed run needs the same ones."""
        columns = {f"{role}_column": name for role, name in self._columns._asdict().items() if name is not None}
        return {
            "stream": self._files,
            "files": len(self._paths),
            "bytes": self._bytes,
            "stream_buffer": self._buffer_rows,
            "stream_shards": self._num_shards,
            **columns,
            "seed": self._seed,
        }

    def share(self, process: int, num_processes: int) -> StreamedPromoters:
        """Return the stream of one process (from 0); the first n rows of all are the stream's first."""
        if self._num_shards % num_processes:
            raise ValueError(
                f"the number of shards must be a multiple of the number of processes, {num_processes}, "
                f"got {self._num_shards}"
            )
        share = copy(self)
        share._mine, share._num_processes = range(self._num_shards)[process::num_processes], num_processes
        return share

    def begin_epoch(self, epoch: int) -> None:
        """Do nothing: each row carries its epoch."""

    def name_row(self, row: int) -> str:
        """Describe a row by its number in its file, from 1, and the file."""
        return f"row {row % _ROWS_OF_A_FILE} of {self._name_file(row // _ROWS_OF_A_FILE)}"

    def __iter__(self) -> Iterator[dict]:
        """Yield rows without end: `input_ids` (strand_length,), `labels` in assay units, `row` and `epoch`."""
        tally = Counter()
        shards = [self._read_shard(shard, tally) for shard in self._mine]
        while True:
            for shard in shards:
                yield next(shard)

    def _is_file(self, path: str, kind: str) -> bool:
        """Whether a glob result is a file or a link to one, which local file systems call `other`."""
        return kind == "file" or (kind == "other" and self._filesystem.isfile(path))

    def _cut(self, sizes: list[int]) -> list[_Unit]:
        """Divide files of these sizes (bytes) into units that make up shards of about equal size."""
        if self._num_shards == 1:
            return [_Unit(file, size) for file, size in enumerate(sizes)]
        fair = sum(sizes) / self._num_shards
        runs = [run for file, size in enumerate(sizes) for run in self._cut_file(file, size, fair / _UNITS_OF_A_SHARD)]
        for most in (float("inf"), *(fair / share for share in range(1, _UNITS_OF_A_SHARD + 1))):
            units = [
                run._replace(size=run.size / parts, part=part, parts=parts)
                for run in runs
                for parts in [ceil(run.size / most) or 1]
                for part in range(parts)
            ]
            fullest = max(sum(unit.size for unit in shard) for shard in self._assign(units, 0))
            if len(units) >= self._num_shards and fullest <= _UNEVEN * fair:
                break
        parts = max((unit.parts for unit in units), default=1)
        if parts > 1 and os.environ.get("RANK", "0") == "0":
            logger.warning(
                "%s: row groups are read up to %s times in each pass, as there are few for %s shards; smaller ones, or "
                "fewer shards, are quicker", self._files, parts, self._num_shards,
            )  # fmt: skip
        return units

    def _cut_file(self, file: int, size: int, most: float) -> list[_Unit]:
        """Divide a file of `size` bytes into runs of row groups of about `most` bytes."""
        if size <= most:
            return [_Unit(file, size)]
        with self._open(file) as parquet:
            footer = self._footers[file] = parquet.metadata
        rows = np.array([footer.row_group(group).num_rows for group in range(footer.num_row_groups)], np.int64)
        starts, total = np.cumsum(rows) - rows, int(rows.sum())
        numbers = (starts + rows / 2) * size // (most * max(total, 1))  # run of each group
        runs = []
        for number in np.unique(numbers[rows > 0]):
            groups = np.flatnonzero(numbers == number)
            part = size * int(rows[groups].sum()) / total
            runs.append(_Unit(file, part, range(int(groups[0]), int(groups[-1]) + 1), int(starts[groups[0]])))
        return runs

    def _assign(self, units: list[_Unit], turn: int) -> list[list[_Unit]]:
        """Assign the units of a pass, each to the smallest shard so far and the largest first, in random order."""
        rng = np.random.default_rng([self._seed, turn])
        order = rng.permutation(len(units)).tolist()
        heap = [(0.0, tie, shard, []) for shard, tie in enumerate(rng.permutation(self._num_shards).tolist())]
        heapify(heap)
        for place in sorted(range(len(order)), key=lambda place: -units[order[place]].size):
            size, tie, shard, places = heap[0]
            places.append(place)
            heapreplace(heap, (size + units[order[place]].size, tie, shard, places))
        by_shard = {shard: places for _, _, shard, places in heap}
        return [[units[order[place]] for place in sorted(by_shard[shard])] for shard in range(self._num_shards)]

    def _read_shard(self, shard: int, tally: Counter) -> Iterator[dict]:
        """Yield the rows of a shard without end."""
        held, note = max(self._buffer_rows // self._num_shards, 1), partial(self._count, tally)
        for turn in count():
            rng = np.random.default_rng([self._seed, turn, shard])
            batches = (batch for unit in self._assign(self._units, turn)[shard] for batch in self._read(unit, note))
            for ids, label, row in self._shuffle(batches, rng, held):
                yield {"input_ids": ids, "labels": label, "row": int(row), "epoch": turn}

    def _check_there_is_a_row(self) -> None:
        """Raise if no row is usable, as a shard would search forever."""
        tally = Counter()
        if not any(len(batch) for unit in self._units for batch in self._read(unit, tally.update)):
            held_out = f", and {tally['held_out']:,} held out for validation or test" if tally["held_out"] else ""
            raise ValueError(
                f"{self._files}: no row is a promoter with a value ({tally['rejected']:,} were left out{held_out})"
            )

    def _name_file(self, file: int) -> str:
        """Path of a local file, or address of a remote one."""
        return self._filesystem.unstrip_protocol(self._paths[file]).removeprefix("file://")

    @contextmanager
    def _open(self, file: int) -> Iterator[pyarrow.parquet.ParquetFile]:
        """Open a file as Parquet."""
        with ExitStack() as stack:
            with self._naming_file(file):
                opened = stack.enter_context(self._filesystem.open(self._paths[file]))
                parquet = stack.enter_context(pyarrow.parquet.ParquetFile(opened, metadata=self._footers.get(file)))
            yield parquet

    def _batches(
        self, file: int, parquet: pyarrow.parquet.ParquetFile, groups: Iterable[int], columns: Columns
    ) -> Iterator[pa.RecordBatch]:
        """Read the two columns of row groups."""
        batches = parquet.iter_batches(_BATCH_ROWS, groups, columns=[columns.sequence, columns.value])
        while True:
            with self._naming_file(file):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    @contextmanager
    def _naming_file(self, file: int) -> Iterator[None]:
        """Turn read errors into a `ValueError` that names the file."""
        try:
            yield
        except Exception as error:
            if not _is_read_error(error):
                raise
            message = " ".join(str(error).split())
            raise ValueError(f"{self._name_file(file)} cannot be read as Parquet: {message}") from error

    def _read(self, unit: _Unit, note: Callable[[Counter], None]) -> Iterator[np.ndarray]:
        """Yield the rows of a unit in batches (batch,) of `_row_type`; count those kept, rejected and held out."""
        name = self._name_file(unit.file)
        with self._open(unit.file) as parquet:
            texts_of = partial(parquet_texts, parquet)
            columns, _ = find_columns(parquet.schema_arrow.names, self._columns, name, True, texts_of)
            groups = range(parquet.num_row_groups) if unit.groups is None else unit.groups
            place = unit.file * _ROWS_OF_A_FILE + unit.first_row + 1
            for batch in self._batches(unit.file, parquet, groups, columns):
                mine = (place + np.arange(batch.num_rows)) % unit.parts == unit.part
                rows, fine = self._encode(batch, mine, columns, name)
                rows["row"] = place + fine
                place += batch.num_rows
                kept = rows if self._held_out is None else rows[~self._held_out.find(rows["input_ids"])]
                note(Counter(kept=len(kept), held_out=len(rows) - len(kept), rejected=int(mine.sum()) - len(rows)))
                yield kept

    def _count(self, tally: Counter, some: Counter) -> None:
        """Count rows; warn of skipped ones at the first, at 10, 100, ... of them."""
        before = tally.copy()
        tally.update(some)
        for kind, why in _LEFT_OUT.items():
            if tally[kind] and (not before[kind] or len(str(tally[kind])) > len(str(before[kind]))):
                number, total = f"{tally[kind]:,}", f"{tally.total():,}"
                who = f"this process (of {self._num_processes}) has" if self._num_processes > 1 else "were"
                logger.warning("%s: %s of %s rows that %s read %s, and left out", self._files, number, total, who, why)

    def _encode(
        self, batch: pa.RecordBatch, mine: np.ndarray, columns: Columns, name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode this unit's usable rows as (kept,) of `_row_type` without `row`, and return their indices too."""
        strands = self._tokenizer.encode_strands(*string_buffers(batch.column(columns.sequence)))
        values, reasons = parse_values(batch.column(columns.value), f"{name}, column {columns.value!r}")
        fine = np.flatnonzero(mine & (strands.problem == 0) & (reasons == 0))
        rows = np.empty(len(fine), self._row_type)
        rows["input_ids"], rows["labels"] = strands.ids[fine], values[fine]
        return rows, fine

    def _shuffle(self, batches: Iterable[np.ndarray], rng: np.random.Generator, size: int) -> Iterator[np.void]:
        """Shuffle rows with a buffer: each new row replaces a random one, which is yielded."""
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
