"""Buffer accepted rows and assign them to splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_macaron.data.clusters import DEFAULT_KMER, MAX_KMER, find_clusters, first_rows
from modeling_macaron.data.rows import EncodedRows, are_missing_words, hash_strands, mix64, parse_values
from modeling_macaron.io.tables import PromoterTable, TableBatch

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {"train": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2}


class Division(NamedTuple):
    """Options that divide and store rows.

    Attributes
    ----------
    split_by : str
        `"cluster"`: near-copies stay in one split. Two rows are near-copies if their variable parts are equal or
        reverse complements, or share `cluster_kmer` nt on either strand. Rows linked by near-copies form a cluster. N
        matches nothing. `"row"`: only identical sequences stay in one split.
    cluster_kmer : int
        Length of the shared k-mer, 1 to 32 nt.
    cluster_column : str, optional
        Column of the table with clusters to use instead.
    weight_column : str, optional
        Column of the table with the positive weight of each row in the training loss. Validation, and the mean and
        standard deviation of the expression, ignore it.
    average_duplicates : bool
        Store only the first of rows with equal variable parts (in each split, if the table has splits), with the mean
        of their values and their number in the column `count`. With weights, store the weighted mean and the sum of
        the weights.
    validation_fraction : float
        Share of the rows for validation, between 0 and 1, where the table has no split column.
    seed : int
        Seed of the split, 0 or more. The order of the rows does not matter.
    """

    split_by: str = "cluster"
    cluster_kmer: int = DEFAULT_KMER
    cluster_column: str | None = None
    weight_column: str | None = None
    average_duplicates: bool = False
    validation_fraction: float = 0.05
    seed: int = 0

    def check(self, extra_columns: Sequence[str] = ()) -> None:
        """Raise a `ValueError` if a field is out of range, or an extra column has the name of a stored one."""
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be between 0 and 1, got {self.validation_fraction}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if self.split_by not in ("cluster", "row"):
            raise ValueError(f"split_by must be 'cluster' or 'row', got {self.split_by!r}")
        if not 1 <= self.cluster_kmer <= MAX_KMER:
            raise ValueError(f"cluster_kmer must be 1 to {MAX_KMER}, got {self.cluster_kmer}")
        if self.cluster_column is not None and self.split_by == "row":
            raise ValueError("cluster_column is for split_by 'cluster', got 'row'")
        added = {"cluster": self.split_by == "cluster", "count": self.average_duplicates, "weight": self.weight_column}
        for name in extra_columns:
            if name in ("input_ids", "labels", "row") or added.get(name):
                raise ValueError(f"extra column {name!r} has the name of a column of the data set; rename it")


class StoredRows(NamedTuple):
    """Rows to be stored, in the order of the table; all arrays are (rows,)."""

    table: pa.Table  # of all accepted rows, with the columns to be stored, memory-mapped where they are large
    positions: np.ndarray  # in `table`: all, or the first of those with equal sequences
    hashes: np.ndarray  # uint64, of the strands
    labels: np.ndarray  # float32
    weights: np.ndarray | None  # float32; for averaged rows their sum
    clusters: np.ndarray | None  # numbers from 0
    splits: np.ndarray  # index into `SPLITS`
    num_repeated: int  # accepted rows that repeat the sequence of an earlier one


class KeptRows:
    """Accepted rows of a table. Numbers for the splits stay in memory, and columns to store go to a file."""

    def __init__(self, path: Path, table: PromoterTable, division: Division, extra_columns: Sequence[str]):
        self._path, self._table, self._division, self._extra_columns = path, table, division, extra_columns
        self._columns: dict[str, list[np.ndarray]] = {}
        self._cluster_numbers: dict[str, int] = {}
        self._file: pa.RecordBatchStreamWriter | None = None
        self._schema: pa.Schema | None = None

    def __enter__(self) -> KeptRows:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, batch: TableBatch, rows: EncodedRows) -> None:
        """Take the accepted rows of a batch."""
        kept = np.flatnonzero(rows.reasons == 0)
        batch = TableBatch(batch.table.take(pa.array(kept)), batch.numbers[kept])
        ids, division = rows.ids[kept], self._division
        found = {"hashes": hash_strands(ids, division.seed), "labels": rows.labels[kept]}
        columns = {
            "input_ids": pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1)), ids.shape[1]),
            "row": pa.array(batch.numbers),
        }
        if division.weight_column is not None:
            found["weights"] = self._read_weights(batch, division.weight_column)
        if self._table.columns.split is not None:
            found["splits"] = self._read_splits(batch, self._table.columns.split)
        if division.cluster_column is not None:
            columns["cluster"] = _column(batch, division.cluster_column, "cluster")
            found["clusters"] = self._read_clusters(batch, division.cluster_column)
        for name, values in found.items():
            self._columns.setdefault(name, []).append(values)
        columns |= {name: _column(batch, name, "extra") for name in self._extra_columns}
        table = pa.table(columns)
        if self._file is None:
            self._schema = table.schema
            self._file = pa.ipc.new_stream(str(self._path), self._schema)
        self._file.write_table(table.cast(self._schema))

    def divide(self, verbose: bool) -> StoredRows:
        """Average duplicates, find clusters and assign splits; call it after leaving the context."""
        table = pa.ipc.open_stream(pa.memory_map(str(self._path))).read_all()
        columns = {name: np.concatenate(self._columns.pop(name)) for name in list(self._columns)}
        hashes, labels, weights = columns["hashes"], columns["labels"], columns.get("weights")
        clusters, splits = columns.get("clusters"), columns.get("splits")
        added = {}
        if clusters is None and self._division.split_by == "cluster":
            chunks = [chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in table["input_ids"].chunks]
            clusters = find_clusters(chunks, self._division.cluster_kmer, verbose)
            added["cluster"] = clusters.astype(np.int64)
        first = first_rows(hashes)
        num_repeated = int(np.count_nonzero(first != np.arange(len(first))))
        positions = np.arange(len(first))
        if self._division.average_duplicates:
            groups = first if splits is None else first_rows(hashes ^ splits.astype(np.uint64))
            positions = np.flatnonzero(groups == positions)
            added["count"] = np.bincount(groups)[groups]
            labels, weights = _average(groups, labels, weights)
        if weights is not None:
            added["weight"] = weights
        stored = {"input_ids": table["input_ids"], "labels": labels, "row": table["row"], **added}
        table = pa.table(stored | {name: table[name] for name in table.column_names if name not in stored})
        hashes, labels, weights, clusters, splits = (
            None if column is None else column[positions] for column in (hashes, labels, weights, clusters, splits)
        )
        if splits is None and clusters is None:
            splits = hashes < np.uint64(self._division.validation_fraction * 2**64)
        elif splits is None:
            splits = split_clusters(clusters, hashes, self._division.validation_fraction)
        return StoredRows(table, positions, hashes, labels, weights, clusters, splits.astype(np.int8), num_repeated)

    def _read_splits(self, batch: TableBatch, name: str) -> np.ndarray:
        """Index into `SPLITS` of each row, by the split column."""
        names = pa.array(list(_SPLIT_NAMES), pa.large_string())
        found = pc.index_in(pc.utf8_lower(_texts(_column(batch, name, "split"))), value_set=names)
        self._reject(batch, found.is_null(), name, "split", "not train, validation (valid, val, dev) or test")
        return np.array(list(_SPLIT_NAMES.values()), np.int8)[found.to_numpy()]

    def _read_weights(self, batch: TableBatch, name: str) -> np.ndarray:
        """Weights of rows, float32."""
        _column(batch, name, "weight")
        values = self._table.values_of(batch.table, name)
        weights, reasons = parse_values(values, f"{self._table.path}, column {name!r}")
        self._reject(batch, (reasons != 0) | (weights <= 0), name, "weight", "not a positive number")
        return weights

    def _read_clusters(self, batch: TableBatch, name: str) -> np.ndarray:
        """Numbers of the clusters of the table, from 0 in the order of their first rows."""
        texts = _texts(batch.table[name])
        self._reject(batch, pc.or_(pc.equal(texts, ""), are_missing_words(texts)), name, "cluster", "missing")
        values, known = texts.dictionary_encode(), self._cluster_numbers
        found = [known.setdefault(value, len(known)) for value in values.dictionary.to_pylist()]
        return np.array(found, np.int32)[values.indices.to_numpy()]

    def _reject(self, batch: TableBatch, is_wrong: np.ndarray | pa.Array, name: str, role: str, reason: str) -> None:
        """Raise for the first wrong value of a column."""
        for row in np.flatnonzero(is_wrong)[:1]:
            value = batch.table[name][int(row)].as_py()
            raise self._table.error_at(int(batch.numbers[row]), f"{role} {value!r} in column {name!r} is {reason}")


def _average(
    groups: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean label, and sum of the weights if there are any, of the group of each row (rows,)."""
    totals = np.bincount(groups, weights)[groups]
    if weights is not None:
        labels, weights = np.multiply(labels, weights, dtype=np.float64), totals.astype(np.float32)
    return (np.bincount(groups, labels)[groups] / totals).astype(np.float32), weights


def _column(batch: TableBatch, name: str, role: str) -> pa.ChunkedArray:
    """Take a column of a batch."""
    if name not in batch.table.column_names:
        raise ValueError(f"there is no {role} column {name!r}; the columns are {batch.table.column_names}")
    return batch.table[name]


def _texts(column: pa.ChunkedArray) -> pa.Array:
    """Fields of a column without white space around them; null is ""."""
    return pc.fill_null(pc.utf8_trim_whitespace(column.cast(pa.large_string())), "").combine_chunks()


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
