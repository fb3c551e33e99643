"""Baseline that every model must beat: ridge regression on k-mer counts of both strands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import DatasetDict, load_from_disk
from scipy import sparse
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from modeling_macaron.io.tables import open_table, string_buffers
from tokenization import KmerTokenizer
from tokenization.tokenization_kmer import MOST_LETTERS

from .encoding import explain_rows

KMER_SIZES = (1, 2, 3, 4, 5)
ALPHAS = tuple(float(alpha) for alpha in np.logspace(0, 4, 9))
MAX_TRAINING_ROWS = 100_000
SPLIT_COLUMN = "split"
TRAIN_SPLIT = "train"

_N_ID = 4
_ALPHA_ROWS = 10_000  # the best penalty is noise over signal, which more rows do not change
_BATCH_ROWS = 8_192  # of a table
_BATCH_LETTERS = 200 * _BATCH_ROWS
_SEED = 0


class TrainingRows(NamedTuple):
    """Rows that a baseline is trained on.

    Attributes
    ----------
    ids : numpy.ndarray
        (rows, length) uint8 letter ids of the forward strand with its flanks, N where there is no letter.
    values : numpy.ndarray
        (rows,) float64 expression in assay units.
    available : int
        Usable rows in the source, from which `rows` were drawn at random.
    """

    ids: np.ndarray
    values: np.ndarray
    available: int


def encode_constructs(sequences: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Encode sequences (rows,) as they are, flanks included: k-mers across the flanks' ends count too.

    Returns
    -------
    ids : numpy.ndarray
        (rows, length of the longest) uint8 letter ids of the forward strand.
    problems : list of str
        (rows,) why a sequence cannot be used; empty where it can.
    """
    letters, offsets = string_buffers(sequences)
    longest = int(np.diff(offsets).max(initial=1))
    tokenizer = KmerTokenizer(kmer_size=1, strand_length=min(longest, MOST_LETTERS), trimming="never")
    strands = tokenizer.encode_strands(letters, offsets)
    return strands.ids, explain_rows(tokenizer, sequences, strands)


def _attach_flanks(strands: np.ndarray, flank5: str, flank3: str) -> np.ndarray:
    """Put the flanks back on trimmed strands (rows, length), centred in N: (rows, length + both flanks)."""
    left, right = (np.array(["ACGT".index(letter) for letter in flank], np.uint8) for flank in (flank5, flank3))
    known = strands != _N_ID
    starts = known.argmax(axis=1)
    ends = strands.shape[1] - known[:, ::-1].argmax(axis=1)
    ids = np.pad(strands, ((0, 0), (left.size, right.size)), constant_values=_N_ID)
    rows = np.arange(len(ids))[:, None]
    ids[rows, starts[:, None] + np.arange(left.size)] = left
    ids[rows, left.size + ends[:, None] + np.arange(right.size)] = right
    return ids


def _canonical_columns(kmer_size: int) -> np.ndarray:
    """Column (4 ** k,) of each k-mer code; a k-mer and its reverse complement share one."""
    codes = np.arange(4**kmer_size)
    reverse, rest = np.zeros_like(codes), codes.copy()
    for _ in range(kmer_size):
        reverse = reverse * 4 + 3 - rest % 4
        rest //= 4
    return np.unique(np.minimum(codes, reverse), return_inverse=True)[1]


def _count_batch(ids: np.ndarray, kmer_size: int) -> np.ndarray:
    """Count one k-mer size, (batch, columns); a window with a letter that is not A, C, G or T does not count."""
    columns = _canonical_columns(kmer_size)
    num_columns = int(columns.max()) + 1
    num_windows = max(ids.shape[1] - kmer_size + 1, 0)
    codes = np.zeros((len(ids), num_windows), dtype=np.int64)
    known = np.ones(codes.shape, dtype=bool)
    for start in range(kmer_size):
        letters = ids[:, start : start + num_windows]
        codes = codes * 4 + letters % 4
        known &= letters < _N_ID
    cells = np.arange(len(ids))[:, None] * num_columns + columns[codes]
    return np.bincount(cells[known], minlength=len(ids) * num_columns).reshape(len(ids), num_columns)


def kmer_counts(ids: np.ndarray) -> sparse.csr_matrix:
    """Count the k-mers of `KMER_SIZES` on both strands.

    Parameters
    ----------
    ids : numpy.ndarray
        (rows, length) letter ids of the forward strand: A 0, C 1, G 2, T 3, anything else is no letter.

    Returns
    -------
    scipy.sparse.csr_matrix
        (rows, 692) float64. A k-mer and its reverse complement are one column, since on two strands together they
        occur equally often: 2 + 10 + 32 + 136 + 512 columns for k = 1 to 5.
    """
    rows = max(_BATCH_LETTERS // max(ids.shape[1], 1), 1)
    batches = [
        sparse.csr_matrix(
            np.concatenate([_count_batch(ids[start : start + rows], size) for size in KMER_SIZES], axis=1),
            dtype=np.float64,
        )
        for start in range(0, len(ids), rows)
    ]
    return sparse.vstack(batches, format="csr")


def fit_ridge(ids: np.ndarray, values: np.ndarray) -> Pipeline:
    """Train ridge regression on k-mer counts.

    The penalty is the one of `ALPHAS` with the smallest leave-one-out error on at most 10,000 random training rows.

    Parameters
    ----------
    ids : numpy.ndarray
        (rows, length) letter ids of the forward strand.
    values : numpy.ndarray
        (rows,) expression in assay units.

    Returns
    -------
    sklearn.pipeline.Pipeline
        `predict(ids)` gives expression in assay units; the last step is a `Ridge` with its `alpha`.
    """
    counts = kmer_counts(ids)
    chosen = np.random.default_rng(_SEED).permutation(len(values))[:_ALPHA_ROWS]
    alpha = float(RidgeCV(alphas=ALPHAS).fit(counts[chosen], values[chosen]).alpha_)
    ridge = Ridge(alpha=alpha, solver="sparse_cg", tol=1e-6).fit(counts, values)
    return make_pipeline(FunctionTransformer(kmer_counts), ridge)


def read_splits(folder: str | Path) -> list[str]:
    """Names of the splits of a data set folder of scripts/prepare_data.py.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is no such folder.
    """
    return list(_load_folder(folder))


def _load_folder(folder: str | Path) -> DatasetDict:
    if not (Path(folder) / "report.json").is_file():
        raise FileNotFoundError(f"{folder}: no data set of scripts/prepare_data.py (report.json is missing)")
    data = load_from_disk(str(folder))
    if not isinstance(data, DatasetDict):
        raise ValueError(f"{folder}: no data set of scripts/prepare_data.py (it has no splits)")
    return data


def read_folder(folder: str | Path, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read one split of a data set folder of scripts/prepare_data.py; flanks are put back where most rows had them.

    Parameters
    ----------
    folder : str or Path
        The folder.
    split : str
        `train`, `validation` or `test`.

    Yields
    ------
    ids : numpy.ndarray
        (rows, length) uint8 letter ids of the forward strand with its flanks, N where there is no letter.
    values : numpy.ndarray
        (rows,) float64 expression in assay units.

    Raises
    ------
    ValueError
        If the data set has no such split.
    FileNotFoundError
        If it is no such folder.
    """
    data = _load_folder(folder)
    if split not in data:
        raise ValueError(f"{folder}: no split `{split}` in this data set; it has {', '.join(data)}")
    report = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    tokenizer = report["tokenizer"]
    was_trimmed = 2 * report["rows_trimmed"] > report["rows_read"]
    flanks = (tokenizer["flank5"], tokenizer["flank3"]) if was_trimmed else ("", "")
    for table in data[split].with_format("arrow").iter(65_536):
        strands = table["input_ids"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
        yield _attach_flanks(strands, *flanks), table["labels"].to_numpy().astype(np.float64)


def _batches_of_table(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give ids and values of a promoter table, of its rows `train` where it has a column `split`."""
    source = open_table(path, require_value=True, batch_rows=_BATCH_ROWS)
    for batch in source:
        table = batch.table
        ids, problems = encode_constructs(table[source.columns.sequence])
        values = pd.to_numeric(source.values_of(table).to_pandas(), errors="coerce").to_numpy(np.float64)
        usable = np.isfinite(values) & np.array([problem == "" for problem in problems], bool)
        if SPLIT_COLUMN in table.column_names:
            usable &= (table[SPLIT_COLUMN].to_pandas() == TRAIN_SPLIT).to_numpy()
        yield ids[usable], values[usable]


def _stack(first: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Stack letter ids (rows, length) of two lengths."""
    length = max(first.shape[1], other.shape[1])
    wide = (np.pad(ids, ((0, 0), (0, length - ids.shape[1])), constant_values=_N_ID) for ids in (first, other))
    return np.concatenate(list(wide))


def _draw(batches: Iterable[tuple[np.ndarray, np.ndarray]], max_rows: int) -> TrainingRows | None:
    """Draw `max_rows` random rows from a stream: those with the smallest random keys."""
    random = np.random.default_rng(_SEED)
    kept: tuple[np.ndarray, ...] | None = None
    available = 0
    for ids, values in batches:
        available += len(values)
        new = (ids, values, random.random(len(values)))
        kept = (
            new if kept is None else (_stack(kept[0], ids), *map(np.concatenate, zip(kept[1:], new[1:], strict=True)))
        )
        if len(kept[1]) > max_rows:
            smallest = np.argpartition(kept[2], max_rows)[:max_rows]
            kept = tuple(column[smallest] for column in kept)
    return TrainingRows(kept[0], kept[1], available) if available else None


def read_training_rows(source: str | Path, *, max_rows: int = MAX_TRAINING_ROWS) -> TrainingRows:
    """Read what the baseline is trained on.

    Parameters
    ----------
    source : str or Path
        A promoter table with expression (of one with a column `split` the rows `train`), or a data set folder made by
        `scripts/prepare_data.py` (its split `train`).
    max_rows : int
        Larger sources are sampled at random, with a fixed seed.

    Returns
    -------
    TrainingRows
        Rows whose sequence cannot be used, or without a finite value, are left out.

    Raises
    ------
    FileNotFoundError, ValueError
        Where there is nothing to read, or fewer than ten usable rows in it.
    """
    path = Path(source)
    rows = _draw(read_folder(path, TRAIN_SPLIT) if path.is_dir() else _batches_of_table(path), max_rows)
    if rows is None or rows.available < 10:
        found = 0 if rows is None else rows.available
        raise ValueError(f"{path}: {found} usable training rows for the baseline, at least 10 are needed")
    return rows


def shared_sequences(ids: np.ndarray, others: np.ndarray) -> int:
    """Count rows of `ids` (rows, length) whose sequence, N at both ends aside, is also in `others` (rows, length)."""
    padding = bytes([_N_ID])
    known = {row.tobytes().strip(padding) for row in others}
    return sum(row.tobytes().strip(padding) in known for row in ids)
