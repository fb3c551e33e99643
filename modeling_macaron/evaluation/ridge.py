"""Baseline for every model: ridge regression on k-mer counts of both strands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from modeling_macaron.dna import explain_rows, string_buffers
from modeling_macaron.io.tables import open_table
from tokenization import KmerTokenizer
from tokenization.tokenization_kmer import MOST_LETTERS, N_ID

from .measurements import read_prepared

KMER_SIZES = (1, 2, 3, 4, 5)
ALPHAS = tuple(float(alpha) for alpha in np.logspace(0, 4, 9))
MAX_TRAINING_ROWS = 100_000

_ALPHA_ROWS = 10_000  # more rows do not change the best penalty
_BATCH_BASES = 1_600_000
_SEED = 0


class TrainingRows(NamedTuple):
    """Rows for training a baseline."""

    ids: np.ndarray  # (rows, length) uint8 token ids of the forward strand with its flanks, padded with N
    values: np.ndarray  # (rows,) float64 expression in assay units
    available: int  # usable rows in the source, from which the rows were drawn at random


def encode_constructs(sequences: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Encode sequences (rows,) with their flanks, since k-mers across the flanks' ends count too.

    Returns
    -------
    ids : numpy.ndarray
        (rows, length of the longest) uint8 token ids of the forward strand, padded with N.
    problems : list of str
        (rows,) why a sequence cannot be used; empty if it can.
    """
    letters, offsets = string_buffers(sequences)
    longest = int(np.diff(offsets).max(initial=1))
    tokenizer = KmerTokenizer(kmer_size=1, strand_length=min(longest, MOST_LETTERS), trimming="never")
    strands = tokenizer.encode_strands(letters, offsets)
    return strands.ids, explain_rows(tokenizer, sequences, strands)


def _canonical_columns(kmer_size: int) -> np.ndarray:
    """Column (4 ** k,) of each k-mer code; a k-mer and its reverse complement share one."""
    digits = np.indices((4,) * kmer_size).reshape(kmer_size, -1)
    powers = 4 ** np.arange(kmer_size)
    return np.unique(np.minimum(powers[::-1] @ digits, powers @ (3 - digits)), return_inverse=True)[1]


def _count_batch(ids: np.ndarray, kmer_size: int) -> np.ndarray:
    """Count the k-mers of one size, (batch, columns), without those that contain N."""
    columns = _canonical_columns(kmer_size)
    num_columns = int(columns.max()) + 1
    num_windows = max(ids.shape[1] - kmer_size + 1, 0)
    codes = np.zeros((len(ids), num_windows), dtype=np.int64)
    known = np.ones(codes.shape, dtype=bool)
    for start in range(kmer_size):
        bases = ids[:, start : start + num_windows]
        codes = codes * 4 + bases % 4
        known &= bases < N_ID
    cells = np.arange(len(ids))[:, None] * num_columns + columns[codes]
    return np.bincount(cells[known], minlength=len(ids) * num_columns).reshape(len(ids), num_columns)


def kmer_counts(ids: np.ndarray) -> sparse.csr_matrix:
    """Count the k-mers of both strands of token ids (rows, length), (rows, 692) float64.

    A k-mer and its reverse complement share a column, since they occur equally often on the two strands together.
    """
    rows = max(_BATCH_BASES // max(ids.shape[1], 1), 1)
    batches = (ids[start : start + rows] for start in range(0, len(ids), rows))
    counts = (np.concatenate([_count_batch(batch, size) for size in KMER_SIZES], axis=1) for batch in batches)
    return sparse.vstack([sparse.csr_matrix(batch, dtype=np.float64) for batch in counts], format="csr")


def fit_ridge(ids: np.ndarray, values: np.ndarray) -> Pipeline:
    """Train ridge regression on k-mer counts.

    The penalty is chosen from `ALPHAS` by the leave-one-out error on at most 10,000 random training rows.

    Parameters
    ----------
    ids : numpy.ndarray
        (rows, length) token ids of the forward strand.
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


def _read_frames(path: Path) -> Iterator[pd.DataFrame]:
    """Yield `sequence`, `activity` and, if there is one, `split` of a table or a folder of prepare_data.py."""
    if path.is_dir():
        yield from read_prepared(path)
        return
    source = open_table(path, require_value=True, batch_rows=8_192)
    for table, _ in source:
        columns = {"sequence": table[source.columns.sequence], "activity": source.values_of(table)}
        columns |= {"split": table["split"]} if "split" in table.column_names else {}
        yield pa.table(columns).to_pandas()


def read_training_rows(source: str | Path, *, max_rows: int = MAX_TRAINING_ROWS) -> TrainingRows:
    """Read training rows for the baseline.

    Parameters
    ----------
    source : str or Path
        A promoter table with expression, or a data set folder of scripts/prepare_data.py. If it has splits, only the
        rows of `train` are used.
    max_rows : int
        Larger sources are sampled at random, with a fixed seed.

    Returns
    -------
    TrainingRows
        Without rows whose sequence cannot be used or whose value is not finite.

    Raises
    ------
    FileNotFoundError, ValueError
        If the source is missing or has fewer than ten usable rows.
    """
    random = np.random.default_rng(_SEED)
    kept, available = None, 0
    for frame in _read_frames(Path(source)):
        frame["activity"] = pd.to_numeric(frame["activity"], errors="coerce").astype(np.float64)
        _, problems = encode_constructs(pa.array(frame["sequence"], pa.large_string()))
        usable = np.isfinite(frame["activity"]) & (np.array(problems, dtype=str) == "")
        if "split" in frame.columns:
            usable &= frame["split"] == "train"
        frame = frame[usable]
        available += len(frame)
        kept = pd.concat([kept, frame.assign(key=random.random(len(frame)))], ignore_index=True)
        if len(kept) > max_rows:
            kept = kept.nsmallest(max_rows, "key").sort_index()
    if available < 10:
        raise ValueError(f"{source}: {available} usable training rows for the baseline, at least 10 are needed")
    ids, _ = encode_constructs(pa.array(kept["sequence"], pa.large_string()))
    return TrainingRows(ids, kept["activity"].to_numpy(), available)


def shared_sequences(ids: np.ndarray, others: np.ndarray) -> int:
    """Count rows of `ids` (rows, length) whose sequence, without N at its ends, is also in `others` (rows, length)."""
    padding = bytes([N_ID])
    known = {row.tobytes().strip(padding) for row in others}
    return sum(row.tobytes().strip(padding) in known for row in ids)
