"""Buffer accepted rows and assign them to splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_macaron.data.clusters import find_clusters, first_rows, pack_strands, unpack_strands
from modeling_macaron.data.rows import EncodedRows, are_missing_words, hash_strands, mix64, parse_values
from modeling_macaron.io.tables import PromoterTable, TableBatch

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {"train": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2}


class Division(NamedTuple):
    """How rows are divided and stored, see `prepare_dataset`."""

    split_by: str
    cluster_kmer: int
    cluster_column: str | None
    average_duplicates: bool
    validation_fraction: float
    seed: int
    weight_column: str | None = None


class StoredRows(NamedTuple):
    """Rows to be stored, in the order of the table; every array is (rows,)."""

    positions: np.ndarray  # among the accepted rows: all, or the first of those with equal sequences
    hashes: np.ndarray  # uint64, of the strands
    labels: np.ndarray  # float32
    counts: np.ndarray | None  # how many rows were averaged
    weights: np.ndarray | None  # float32; for averaged rows their sum
    clusters: np.ndarray | None  # numbers from 0
    splits: np.ndarray  # index into `SPLITS`
    num_repeated: int  # accepted rows that repeat the sequence of an earlier one


class KeptRows:
    """Accepted rows of a table: what splits need in memory, the other columns in a file, which the caller removes."""

    def __init__(self, path: Path, table: PromoterTable, division: Division, extra_columns: Sequence[str]):
        self._path, self._table, self._division, self._extra_columns = path, table, division, extra_columns
        cluster = ["cluster"] if division.split_by == "cluster" else []
        count = ["count"] if division.average_duplicates else []
        weight = ["weight"] if division.weight_column is not None else []
        for name in extra_columns:
            if name in ("input_ids", "labels", "row", *cluster, *count, *weight):
                raise ValueError(f"extra column {name!r} has the name of a column of the data set; rename it")
        self._columns: dict[str, list[np.ndarray]] = {}
        self._strands: np.ndarray | None = None
        self._cluster_numbers: dict[str, int] = {}
        self._schema: pa.Schema | None = None
        self._file: pa.RecordBatchStreamWriter | None = None

    def __enter__(self) -> KeptRows:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, batch: TableBatch, rows: EncodedRows) -> None:
        """Take the accepted rows of a batch."""
        kept = np.flatnonzero(rows.reasons == 0)
        ids = rows.ids[kept]
        found = {
            "hashes": hash_strands(ids, self._division.seed),
            "labels": rows.labels[kept],
            "strands": pack_strands(ids),
        }
        if self._division.weight_column is not None:
            found["weights"] = self._read_weights(batch, kept)
        if self._table.columns.split is not None:
            found["splits"] = self._read_splits(batch)[kept]
        columns = {"row": pa.array(batch.numbers)}
        if self._division.cluster_column is not None:
            columns["cluster"] = _column(batch, self._division.cluster_column, "cluster")
            found["clusters"] = self._number_clusters(columns["cluster"].take(pa.array(kept)), batch.numbers[kept])
        columns |= {name: _column(batch, name, "extra") for name in self._extra_columns}
        for name, values in found.items():
            self._columns.setdefault(name, []).append(values)
        table = pa.table(columns).take(pa.array(kept))
        if self._file is None:
            self._schema = table.schema
            self._file = pa.ipc.new_stream(str(self._path), self._schema)
        self._file.write_table(table.cast(self._schema))

    def divide(self, strand_length: int, verbose: bool) -> StoredRows:
        """Average duplicates, find clusters and assign splits."""
        columns = {name: np.concatenate(self._columns.pop(name)) for name in list(self._columns)}
        self._strands, hashes, splits = columns["strands"], columns["hashes"], columns.get("splits")
        first = first_rows(hashes)
        num_repeated = int(np.count_nonzero(first != np.arange(len(first))))
        clusters = columns.get("clusters")
        if clusters is None and self._division.split_by == "cluster":
            clusters = self._find_clusters(first, strand_length, verbose)
        labels, weights, counts = columns["labels"], columns.get("weights"), None
        positions = np.arange(len(first))
        if self._division.average_duplicates:
            groups = first if splits is None else first_rows(hashes ^ splits.astype(np.uint64))
            sizes = np.bincount(groups, minlength=len(groups))
            positions = np.flatnonzero(sizes)
            totals = counts = sizes[positions]
            if weights is not None:
                totals = np.bincount(groups, weights)[positions]
                labels, weights = np.multiply(labels, weights, dtype=np.float64), totals.astype(np.float32)
            labels = (np.bincount(groups, labels)[positions] / totals).astype(np.float32)
        hashes = hashes[positions]
        clusters, splits = (None if column is None else column[positions] for column in (clusters, splits))
        if splits is None and clusters is None:
            splits = hashes < np.uint64(self._division.validation_fraction * 2**64)
        elif splits is None:
            splits = split_clusters(clusters, hashes, self._division.validation_fraction)
        return StoredRows(positions, hashes, labels, counts, weights, clusters, splits.astype(np.int8), num_repeated)

    def read(self, stored: StoredRows, strand_length: int) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Yield the rows to be stored, as tables, with their splits (rows,)."""
        last = 0
        with pa.OSFile(str(self._path)) as file:
            for batch in pa.ipc.open_stream(file):
                first, last = last, last + batch.num_rows
                mine = slice(*np.searchsorted(stored.positions, (first, last)))
                positions = stored.positions[mine]
                kept = pa.Table.from_batches([batch]).take(pa.array(positions - first))
                ids = unpack_strands(self._strands[positions], strand_length)
                columns = {
                    "input_ids": pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1)), strand_length),
                    "labels": pa.array(stored.labels[mine]),
                    "row": kept["row"],
                }
                if stored.clusters is not None:
                    columns["cluster"] = pa.array(stored.clusters[mine], pa.int64())
                if stored.counts is not None:
                    columns["count"] = pa.array(stored.counts[mine])
                if stored.weights is not None:
                    columns["weight"] = pa.array(stored.weights[mine])
                columns |= {name: kept[name] for name in kept.column_names if name != "row"}  # its clusters too
                yield pa.table(columns), stored.splits[mine]

    def _find_clusters(self, first: np.ndarray, strand_length: int, verbose: bool) -> np.ndarray:
        """Find the cluster (rows,) of each row; `first` (rows,) is the first row of an equal sequence."""
        rows = np.flatnonzero(first == np.arange(len(first)))
        kmer = self._division.cluster_kmer
        clusters = find_clusters(self._strands, strand_length, kmer, rows=rows, verbose=verbose)
        return clusters[np.searchsorted(rows, first)]

    def _read_splits(self, batch: TableBatch) -> np.ndarray:
        """Index into `SPLITS` of each row of a batch, by the split column."""
        table, column = self._table, self._table.columns.split
        texts = pc.utf8_trim_whitespace(batch.table[column].cast(pa.large_string()))
        found = pc.index_in(pc.utf8_lower(texts), value_set=pa.array(list(_SPLIT_NAMES), pa.large_string()))
        unknown = np.flatnonzero(found.is_null().to_numpy())
        if unknown.size:
            value, number = texts[int(unknown[0])].as_py(), batch.numbers[unknown[0]]
            raise ValueError(
                f"{table.path}, {table.unit} {number}: split {value!r} in column {column!r} is unknown; "
                "expected train, validation (valid, val, dev) or test"
            )
        return np.array(list(_SPLIT_NAMES.values()), np.int8)[found.to_numpy()]

    def _read_weights(self, batch: TableBatch, kept: np.ndarray) -> np.ndarray:
        """Weights of the accepted rows of a batch, float32."""
        name = self._division.weight_column
        column = _column(batch, name, "weight")
        weights, reasons = parse_values(
            self._table.values_of(batch.table, name), f"{self._table.path}, column {name!r}"
        )
        if (wrong := kept[(reasons[kept] != 0) | (weights[kept] <= 0)]).size:
            reason = f"weight {column[int(wrong[0])].as_py()!r} in column {name!r} is not a positive number"
            raise self._table.error_at(int(batch.numbers[wrong[0]]), reason)
        return weights[kept]

    def _number_clusters(self, column: pa.ChunkedArray, numbers: np.ndarray) -> np.ndarray:
        """Give numbers to the clusters of the table, from 0 in the order of their first rows."""
        texts = pc.fill_null(pc.utf8_trim_whitespace(column.cast(pa.large_string())), "")
        texts = texts.combine_chunks()
        missing = np.flatnonzero(pc.or_(pc.equal(texts, ""), are_missing_words(texts)).to_numpy(zero_copy_only=False))
        if missing.size:
            text = texts[int(missing[0])].as_py()
            reason = f"no cluster in column {self._division.cluster_column!r}" + (f": {text!r}" if text else "")
            raise self._table.error_at(int(numbers[missing[0]]), reason)
        values = texts.dictionary_encode()
        known = self._cluster_numbers
        found = [known.setdefault(value, len(known)) for value in values.dictionary.to_pylist()]
        return np.array(found, np.int32)[values.indices.to_numpy()]


def _column(batch: TableBatch, name: str, kind: str) -> pa.ChunkedArray:
    """Take a column of a batch."""
    if name not in batch.table.column_names:
        raise ValueError(f"{kind} column {name!r} is not there; the columns are {batch.table.column_names}")
    return batch.table[name]


def split_clusters(clusters: np.ndarray, hashes: np.ndarray, validation_fraction: float) -> np.ndarray:
    """Choose whole clusters for validation, in an order that depends only on their sequences and the seed."""
    # Clusters are taken as long as they fit. The smallest one left is added if that comes nearer to the requested share
    # (at least one row), unless it is the last one for training.
    sizes = np.bincount(clusters)
    smallest = np.full(len(sizes), 2**64 - 1, np.uint64)
    np.minimum.at(smallest, clusters, hashes)
    left = np.argsort(mix64(smallest), kind="stable")
    is_chosen = np.zeros(len(sizes), bool)
    target = room = max(1, round(validation_fraction * len(clusters)))
    while (left := left[~is_chosen[left]]).size:
        fitting = left[sizes[left] <= room]
        chosen = fitting[: np.searchsorted(np.cumsum(sizes[fitting]), room, side="right")]
        if not chosen.size:
            break
        is_chosen[chosen] = True
        room -= int(sizes[chosen].sum())
    if room and left.size > 1:
        least = left[np.argmin(sizes[left])]
        is_chosen[least] |= room == target or sizes[least] < 2 * room
    return is_chosen[clusters]
