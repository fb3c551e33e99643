"""Encode sequences and take their variable parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from modeling_macaron.io.tables import string_buffers
from tokenization import KmerTokenizer, StrandBatch

_LETTER_BYTES = np.frombuffer(b"ACGTN", np.uint8)  # token ids 0 to 4


def encode_sequences(tokenizer: KmerTokenizer, sequences: Sequence[str]) -> StrandBatch:
    """Encode sequences. Raises a `ValueError` naming the first that is not DNA, masked, empty or too long."""
    if isinstance(sequences, str):
        raise ValueError("`sequences` must be a list of sequences, got one str")
    sequences = list(sequences)
    if not all(isinstance(sequence, str) for sequence in sequences):
        tokenizer(sequences)  # raises
    strands = tokenizer.encode_strands(*string_buffers(pa.array(sequences, pa.large_string())))
    if strands.problem.any():
        tokenizer(sequences)  # raises unless a base is masked
        index = int(np.flatnonzero(strands.problem)[0])
        raise ValueError(f"sequence {index} of the batch: a masked letter is not a base")
    return strands


def explain_rows(tokenizer: KmerTokenizer, column: pa.ChunkedArray | pa.Array, strands: StrandBatch) -> list[str]:
    """Describe the problem of each row (batch,); empty if it has none."""
    problems = [""] * len(strands.problem)
    rows = np.flatnonzero(strands.problem).tolist()
    for row, text in zip(
        rows, column.take(pa.array(rows, pa.int64())).cast(pa.large_string()).to_pylist(), strict=True
    ):
        problems[row] = tokenizer.explain(text or "", int(strands.problem[row]), int(strands.lengths[row]))
    return problems


def variable_slices(strands: StrandBatch) -> list[slice]:
    """Slice of each row's variable part in its strand (batch,); empty if the row has a problem."""
    lengths = np.where(strands.problem == 0, strands.lengths, 0)
    starts = (strands.ids.shape[1] - lengths) // 2
    return [slice(start, start + length) for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]


def variable_parts(strands: StrandBatch) -> list[np.ndarray]:
    """Token ids (length,) uint8 of the variable part of each row without a problem."""
    rows = zip(strands.ids, variable_slices(strands), strands.problem, strict=True)
    return [ids[part] for ids, part, problem in rows if not problem]


def spell_letters(letters: np.ndarray) -> str:
    """Write token ids (length,) of A, C, G, T and N as text."""
    return _LETTER_BYTES[letters].tobytes().decode()
