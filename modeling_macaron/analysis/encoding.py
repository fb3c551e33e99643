"""Sequences as the letters of their variable parts, for verbs that change or weigh single bases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from modeling_macaron.io.tables import string_buffers
from tokenization import KmerTokenizer, StrandBatch

_LETTER_BYTES = np.frombuffer(b"ACGTN", np.uint8)  # of letter ids 0 to 4


def encode_sequences(tokenizer: KmerTokenizer, sequences: Sequence[str]) -> StrandBatch:
    """Encode sequences that must all be fine.

    Parameters
    ----------
    tokenizer : KmerTokenizer
        The model's.
    sequences : sequence of str
        DNA, with or without the constant flanks.

    Returns
    -------
    StrandBatch
        Without a problem in any row.

    Raises
    ------
    ValueError
        On a sequence that is no DNA, masked, empty or too long; the message tells which.
    """
    if isinstance(sequences, str):
        raise ValueError("`sequences` must be a list of sequences, got one str")
    sequences = list(sequences)
    if not all(isinstance(sequence, str) for sequence in sequences):
        tokenizer(sequences)  # raises
    strands = tokenizer.encode_strands(*string_buffers(pa.array(sequences, pa.large_string())))
    if strands.problem.any():
        tokenizer(sequences)  # raises, with the letter and its position
        index = int(np.flatnonzero(strands.problem)[0])
        raise ValueError(f"sequence {index} of the batch: a masked letter is no base")
    return strands


def explain_rows(tokenizer: KmerTokenizer, column: pa.ChunkedArray | pa.Array, strands: StrandBatch) -> list[str]:
    """Say what is wrong with each row of a column of sequences.

    Parameters
    ----------
    tokenizer : KmerTokenizer
        The model's.
    column : pyarrow.ChunkedArray or pyarrow.Array
        (batch,) the sequences.
    strands : StrandBatch
        (batch, strand_length) what the tokenizer made of them.

    Returns
    -------
    list of str
        (batch,), empty where a row has no problem.
    """
    problems = [""] * len(strands.problem)
    rows = np.flatnonzero(strands.problem).tolist()
    for row, text in zip(
        rows, column.take(pa.array(rows, pa.int64())).cast(pa.large_string()).to_pylist(), strict=True
    ):
        problems[row] = tokenizer.explain(text or "", int(strands.problem[row]), int(strands.lengths[row]))
    return problems


def variable_slices(strands: StrandBatch) -> list[slice]:
    """Find where the variable part of each row lies between its padding.

    Parameters
    ----------
    strands : StrandBatch
        (batch, strand_length).

    Returns
    -------
    list of slice
        (batch,), empty slices where a row has a problem.
    """
    lengths = np.where(strands.problem == 0, strands.lengths, 0)
    starts = (strands.ids.shape[1] - lengths) // 2
    return [slice(start, start + length) for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]


def variable_parts(strands: StrandBatch) -> list[np.ndarray]:
    """Take the letters of each row that has no problem, without the padding.

    Parameters
    ----------
    strands : StrandBatch
        (batch, strand_length).

    Returns
    -------
    list of numpy.ndarray
        (length,) uint8 letter ids each.
    """
    rows = zip(strands.ids, variable_slices(strands), strands.problem, strict=True)
    return [ids[part] for ids, part, problem in rows if not problem]


def spell_letters(letters: np.ndarray) -> str:
    """Write letter ids (length,) of A, C, G, T and N as text."""
    return _LETTER_BYTES[letters].tobytes().decode()
