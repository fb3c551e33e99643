"""Random promoter tables in the shape of the challenge's training file, of any number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from modeling_macaron.atomic import new_file
from tokenization import FLANK3, FLANK5

CHALLENGE_ROWS = 6_739_258
_BLOCK_ROWS = 100_000
_USUAL_LENGTH = 80
_LENGTHS = range(57, 107)  # of the variable part; 0.02 % of the challenge's rows are longer than 100


def random_sequences(num_rows: int, seed: int = 0) -> pa.StringArray:
    """Draw constructs of random variable parts between the challenge's flanks.

    Parameters
    ----------
    num_rows : int
        Number of sequences. Four of five have 110 nt, the others 87 to 136; 0.4 % hold an N.
    seed : int
        Seed.

    Returns
    -------
    pyarrow.StringArray
        (num_rows,) sequences.
    """
    rng = np.random.default_rng(seed)
    away = np.abs(np.array(_LENGTHS) - _USUAL_LENGTH)
    shares = np.where(away == 0, 0.82, 0.18 * 0.5**away / (0.5 ** away[away > 0]).sum())
    lengths = rng.choice(_LENGTHS, num_rows, p=shares / shares.sum())
    width = len(FLANK5) + max(_LENGTHS) + len(FLANK3)
    letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, (num_rows, width), np.uint8)]
    with_n = np.flatnonzero(rng.random(num_rows) < 0.004)
    letters[with_n, len(FLANK5) + rng.integers(0, min(_LENGTHS), len(with_n))] = ord("N")
    letters[:, : len(FLANK5)] = np.frombuffer(FLANK5.encode(), np.uint8)
    ends = len(FLANK5) + lengths
    letters[np.arange(num_rows)[:, None], ends[:, None] + np.arange(len(FLANK3))] = np.frombuffer(
        FLANK3.encode(), np.uint8
    )
    ends = ends + len(FLANK3)
    kept = letters[np.arange(width) < ends[:, None]]
    offsets = np.concatenate([[0], np.cumsum(ends)]).astype(np.int32)
    return pa.StringArray.from_buffers(num_rows, pa.py_buffer(offsets), pa.py_buffer(kept))


def random_values(num_rows: int, seed: int = 0) -> pa.StringArray:
    """Draw expression values as text: 58 % whole, the others with 15 or 16 digits, as in the challenge's."""
    rng = np.random.default_rng(seed)
    numbers = np.clip(rng.normal(11.1, 2.35, num_rows), 0, 17)
    whole = rng.random(num_rows) < 0.58
    texts = pa.array(np.where(whole, np.round(numbers), numbers)).cast(pa.string())
    return pc.replace_substring_regex(texts, r"\.0$", "")


def challenge_batches(num_rows: int, seed: int = 0) -> Iterator[pa.Table]:
    """Give (rows) of `sequence` and `expression` in blocks; the first rows of a longer table are a shorter one's."""
    for start in range(0, num_rows, _BLOCK_ROWS):
        rows = min(_BLOCK_ROWS, num_rows - start)
        columns = [make(_BLOCK_ROWS, seed + start).slice(0, rows) for make in (random_sequences, random_values)]
        yield pa.table(columns, names=["sequence", "expression"])


def write_challenge_table(path: str | Path, num_rows: int = CHALLENGE_ROWS, seed: int = 0) -> None:
    """Write a tab-separated file without header, about 120 bytes a row.

    Parameters
    ----------
    path : str or Path
        File to write: `.tsv`, or `.tsv.gz` to compress it.
    num_rows : int
        Rows.
    seed : int
        Seed.
    """
    compression = "gzip" if str(path).endswith(".gz") else None
    options = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with new_file(path) as partial, pa.output_stream(str(partial), compression=compression) as stream:
        for table in challenge_batches(num_rows, seed):
            pyarrow.csv.write_csv(table, stream, options)
