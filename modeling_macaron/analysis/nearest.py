"""Distance of sequences to the training sequences of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from modeling_macaron.dna import encode_sequences, string_buffers
from modeling_macaron.io.tables import open_table
from tokenization import KmerTokenizer

_BLOCK_ROWS = 8192  # fits into a processor's cache


def nearest_training_distance(
    tokenizer: KmerTokenizer, sequences: Sequence[str], training_sequences: Sequence[str] | str | Path
) -> np.ndarray:
    """Find the Hamming distance of sequences to the nearest training sequence, on the same strand.

    Sequences are compared without flanks and aligned at their middles, so a difference in length counts too. The speed
    is at least 100 million bases per second.

    Parameters
    ----------
    tokenizer : KmerTokenizer
        The model's tokenizer.
    sequences : sequence of str
        DNA, with or without the constant flanks.
    training_sequences : sequence of str, or str or Path
        DNA, or a table file (see `open_table`). Rows that are not DNA or too long are skipped, as in training.

    Returns
    -------
    numpy.ndarray
        (sequences,) int64 number of positions that differ.

    Raises
    ------
    ValueError
        If a sequence is not DNA, the table cannot be read, or there are no training sequences.
    FileNotFoundError
        If the table does not exist.

    Examples
    --------
    >>> nearest_training_distance(KmerTokenizer(), ["ACGTACGT", "TTTTTTTT"], ["ACGTACGA", "TTTTAAAA"]).tolist()
    [1, 4]
    """
    strands = encode_sequences(tokenizer, sequences).ids
    return TrainingStrands(tokenizer, training_sequences).distance_to(strands)


class TrainingStrands:
    """Training sequences in memory, one byte per base; see `nearest_training_distance`."""

    def __init__(self, tokenizer: KmerTokenizer, training_sequences: Sequence[str] | str | Path):
        blocks = _training_strands(tokenizer, training_sequences)
        self._strands = np.concatenate([np.empty((0, tokenizer.strand_length), np.uint8), *blocks])
        if not len(self._strands):
            raise ValueError("there are no training sequences to compare with")

    def distance_to(self, strands: np.ndarray) -> np.ndarray:
        """Hamming distances (sequences,) int64 of strands (sequences, strand_length) to the training sequences."""
        nearest = np.full(len(strands), self._strands.shape[1] + 1)
        for start in range(0, len(self._strands), _BLOCK_ROWS):
            block = self._strands[start : start + _BLOCK_ROWS]
            for row, ids in enumerate(strands):
                nearest[row] = min(nearest[row], np.count_nonzero(block != ids, axis=1).min())
        return nearest


def _training_strands(tokenizer: KmerTokenizer, training_sequences: Sequence[str] | str | Path) -> Iterator[np.ndarray]:
    """Yield strands (rows, strand_length) of training sequences."""
    if not isinstance(training_sequences, (str, Path)):
        yield encode_sequences(tokenizer, training_sequences).ids
        return
    table = open_table(training_sequences)
    for batch in table:
        strands = tokenizer.encode_strands(*string_buffers(batch.table.column(table.columns.sequence)))
        yield strands.ids[strands.problem == 0]
