"""Training rows streamed from Parquet files that are larger than the disk or on the Hub."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from functools import partial
from heapq import heapify, heapreplace
from itertools import count
from typing import NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from huggingface_hub.errors import HTTPError

from modeling_macaron.data.clusters import KeySet
from modeling_macaron.data.rows import parse_values
from modeling_macaron.dna import string_buffers
from modeling_macaron.io.tables import Columns, find_columns, parquet_texts
from tokenization import KmerTokenizer

logger = logging.getLogger(__name__)

_BATCH_ROWS = 8_000
_ROWS_OF_A_FILE = 2**40  # row number: file * this + place in the file
_UNITS_OF_A_SHARD = 4  # approximate
_ANY_COLUMNS = Columns(None, None, None)


class _Unit(NamedTuple):
    """One of `parts` equal ranges of a file's rows."""

    file: int
    size: float  # approximate bytes
    part: int
    parts: int


class StreamedPromoters(torch.utils.data.IterableDataset):
    """Endless stream of the rows of Parquet files, in an order that depends on the seed only.

    Each pass assigns files, or ranges of rows of large files, to shards of about equal size and takes one row from each
    shard in turn. Each process reads its own shards, and the rows of a global batch do not depend on the number of
    processes. A finished shard starts its next pass at once, so passes of different shards may overlap. A row group
    that lies in several ranges is read once for each. A resumed run rereads and skips the rows that
    were already used.

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
        Strands to skip and count, with their near-copies, such as those of the validation split.

    Raises
    ------
    FileNotFoundError, ValueError
        If no file matches, a file cannot be read as Parquet or lacks a column, or no row is a promoter with a value.
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
            raise ValueError(f"--stream_buffer and --stream_shards must be positive, got {buffer_rows}, {num_shards}")
        try:
            self._filesystem, path = fsspec.core.url_to_fs(files)
            found = sorted(self._filesystem.glob(path, detail=True).items())
        except FileNotFoundError:  # no such data set on the Hub
            found = []
        except Exception as error:  # each file system has its own errors
            raise ValueError(f"{files} cannot be opened: {' '.join(str(error).split())}") from error
        sizes = {path: about.get("size") or 1 for path, about in found if about["type"] != "directory"}
        if not sizes:
            raise FileNotFoundError(f"no files match {files}: name Parquet files, for example DIR/*.parquet")
        # These settings determine the order of the rows. A resumed run must have the same ones.
        self.settings = {
            "stream": files, "files": len(sizes), "bytes": sum(sizes.values()), "stream_buffer": buffer_rows,
            "stream_shards": num_shards, "seed": seed,
            **{f"{role}_column": name for role, name in columns._asdict().items() if name is not None},
        }  # fmt: skip
        self._files, self._paths, self._tokenizer, self._seed = files, list(sizes), tokenizer, seed
        ids = ("input_ids", np.uint8, (tokenizer.strand_length,))
        self._row_type = np.dtype([ids, ("labels", np.float32), ("row", np.int64)])
        self._num_shards, self._mine, self._buffer_rows = num_shards, range(num_shards), buffer_rows
        self._columns, self._held_out = columns, held_out
        self._units = []
        for file, size in enumerate(sizes.values()):
            parts = max(round(_UNITS_OF_A_SHARD * num_shards * size / self.settings["bytes"]), 1)
            self._units += [_Unit(file, size / parts, part, parts) for part in range(parts)]
        self._check_there_is_a_row()

    def share(self, process: int, num_processes: int) -> StreamedPromoters:
        """Return the stream of one process (from 0). All processes together read the rows in the stream's order."""
        if self._num_shards % num_processes:
            shards = self._num_shards
            raise ValueError(f"--stream_shards {shards} is not a multiple of the number of processes, {num_processes}")
        share = copy(self)
        share._mine = range(self._num_shards)[process::num_processes]
        return share

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

    def _assign(self, turn: int) -> list[list[_Unit]]:
        """Assign the units of a pass, largest first, each to the smallest shard so far. Order in a shard is random."""
        rng = np.random.default_rng([self._seed, turn])
        units = [self._units[index] for index in rng.permutation(len(self._units))]
        heap = [(0.0, tie, shard, []) for shard, tie in enumerate(rng.permutation(self._num_shards).tolist())]
        heapify(heap)
        for place in sorted(range(len(units)), key=lambda place: -units[place].size):
            size, tie, shard, places = heap[0]
            places.append(place)
            heapreplace(heap, (size + units[place].size, tie, shard, places))
        by_shard = {shard: places for _, _, shard, places in heap}
        return [[units[place] for place in sorted(by_shard[shard])] for shard in range(self._num_shards)]

    def _read_shard(self, shard: int, tally: Counter) -> Iterator[dict]:
        """Yield the rows of a shard without end."""
        held, note = max(self._buffer_rows // self._num_shards, 1), partial(self._count, tally)
        for turn in count():
            rng = np.random.default_rng([self._seed, turn, shard])
            batches = (batch for unit in self._assign(turn)[shard] for batch in self._read(unit, note))
            for ids, label, row in self._shuffle(batches, rng, held):
                yield {"input_ids": ids, "labels": label, "row": int(row), "epoch": turn}

    def _check_there_is_a_row(self) -> None:
        """Raise if no row is usable. Iteration would not end."""
        tally = Counter()
        if not any(len(batch) for unit in self._units for batch in self._read(unit, tally.update)):
            raise ValueError(
                f"{self._files}: no row is a promoter with a value ({tally['rejected']:,} were skipped, and "
                f"{tally['held_out']:,} held out for validation or test)"
            )

    def _name_file(self, file: int) -> str:
        """Path of a local file, or address of a remote one."""
        return self._filesystem.unstrip_protocol(self._paths[file]).removeprefix("file://")

    def _read(self, unit: _Unit, note: Callable[[Counter], None]) -> Iterator[np.ndarray]:
        """Yield the rows of a unit in batches (batch,) of `_row_type`. Counts kept, rejected and held-out rows."""
        name = self._name_file(unit.file)
        try:
            with self._filesystem.open(self._paths[unit.file]) as file, pyarrow.parquet.ParquetFile(file) as parquet:
                texts_of = partial(parquet_texts, parquet)
                columns, _ = find_columns(parquet.schema_arrow.names, self._columns, name, True, texts_of)
                for first, batch in _read_range(parquet, unit, [columns.sequence, columns.value]):
                    rows = self._encode(batch, columns, name)
                    rows["row"] += unit.file * _ROWS_OF_A_FILE + first + 1
                    kept = rows if self._held_out is None else rows[~self._held_out.find(rows["input_ids"])]
                    rejected = batch.num_rows - len(rows)
                    note(Counter(kept=len(kept), held_out=len(rows) - len(kept), rejected=rejected))
                    yield kept
        except (OSError, pa.ArrowException, HTTPError) as error:
            raise ValueError(f"{name} cannot be read as Parquet: {' '.join(str(error).split())}") from error

    def _count(self, tally: Counter, some: Counter) -> None:
        """Count rows. Warn when 1, 10, 100, ... rows are skipped."""
        before = tally["rejected"] + tally["held_out"]
        tally.update(some)
        skipped = tally["rejected"] + tally["held_out"]
        if skipped and (not before or len(str(skipped)) > len(str(before))):
            logger.warning(
                "%s: %s of %s rows read so far are skipped: %s have no valid promoter or value, %s are held out for "
                "validation or test, or near-copies of such rows", self._files, f"{skipped:,}", f"{tally.total():,}",
                f"{tally['rejected']:,}", f"{tally['held_out']:,}",
            )  # fmt: skip

    def _encode(self, batch: pa.RecordBatch, columns: Columns, name: str) -> np.ndarray:
        """Encode the usable rows of a batch as (kept,) of `_row_type`, with their index in the batch as `row`."""
        strands = self._tokenizer.encode_strands(*string_buffers(batch.column(columns.sequence)))
        values, reasons = parse_values(batch.column(columns.value), f"{name}, column {columns.value!r}")
        fine = np.flatnonzero((strands.problem == 0) & (reasons == 0))
        rows = np.empty(len(fine), self._row_type)
        rows["input_ids"], rows["labels"], rows["row"] = strands.ids[fine], values[fine], fine
        return rows

    def _shuffle(self, batches: Iterable[np.ndarray], rng: np.random.Generator, size: int) -> Iterator[np.void]:
        """Shuffle rows with a buffer. Each new row replaces a random one, which is yielded."""
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


def _read_range(
    parquet: pyarrow.parquet.ParquetFile, unit: _Unit, columns: list[str]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Read two columns of a unit in batches. Yields the index of the first row in the file, and the batch."""
    footer = parquet.metadata
    first, end = (footer.num_rows * part // unit.parts for part in (unit.part, unit.part + 1))
    starts = np.cumsum([0, *(footer.row_group(group).num_rows for group in range(footer.num_row_groups))])
    groups = np.flatnonzero((starts[:-1] < end) & (starts[1:] > first)).tolist()
    place = int(starts[groups[0]]) if groups else end
    for batch in parquet.iter_batches(_BATCH_ROWS, groups, columns=columns):
        low, high = max(first - place, 0), min(end - place, batch.num_rows)
        if low < high:
            yield place + low, batch.slice(low, high - low)
        place += batch.num_rows
        if place >= end:
            return
