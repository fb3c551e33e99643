"""DNA as text and as token ids: bases, complements, padding and variable parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenization import TOKENIZER_SETTINGS, KmerTokenizer, StrandBatch, reverse_complement
from tokenization.tokenization_kmer import N_ID

BASES = "ACGT"  # token ids 0 to 3
NUM_BASES = len(BASES)
IUPAC = {
    "A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
_COMPLEMENT = str.maketrans("ACGTUNRYSWKMBDHVacgtunryswkmbdhv", "TGCAANYRSWMKVHDBtgcaanyrswmkvhdb")
_BASE_BYTES = np.frombuffer(b"ACGTN", np.uint8)  # token ids 0 to 4


def reverse_complement_text(sequence: str) -> str:
    """Reverse complement of DNA with IUPAC codes; U becomes A."""
    return sequence.translate(_COMPLEMENT)[::-1]


def normalize(text: str) -> str:
    """Write DNA in upper case, with U as T."""
    return text.upper().replace("U", "T")


def spell(ids: np.ndarray) -> str:
    """Write token ids (length,) of A, C, G, T and N as text."""
    return _BASE_BYTES[ids].tobytes().decode()


def encode_bases(sequence: str) -> np.ndarray:
    """Token ids (length,) uint8 of a text of A, C, G, T and N."""
    return np.array(["ACGTN".index(base) for base in sequence], dtype=np.uint8)


def pad_centered(ids: np.ndarray, strand_length: int) -> np.ndarray:
    """Pad token ids (sequences, length) with N to (sequences, strand_length); an extra N goes to the right."""
    left = (strand_length - ids.shape[1]) // 2
    strands = np.full((len(ids), strand_length), N_ID, dtype=np.uint8)
    strands[:, left : left + ids.shape[1]] = ids
    return strands


def both_strands(strands: np.ndarray) -> np.ndarray:
    """Append the reverse complement to padded strands (rows, strand_length), as the model reads them."""
    return np.concatenate([strands, reverse_complement(strands)], axis=1)


def with_flanks(tokenizer: KmerTokenizer, sequence: str) -> str:
    """Add the constant flanks to a variable part if the tokenizer always trims them."""
    return sequence.join((tokenizer.flank5, tokenizer.flank3)) if tokenizer.trimming == "always" else sequence


def turn_around(strands: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Reverse-complement the variable parts of padded strands (rows, strand_length); padding as by the tokenizer."""
    turned = reverse_complement(strands)
    odd = (strands.shape[1] - lengths) % 2 == 1
    turned[odd] = np.roll(turned[odd], -1, axis=1)
    return turned


def without_trimming(tokenizer: KmerTokenizer) -> KmerTokenizer:
    """Return a tokenizer for variable parts, which trims no flanks."""
    return KmerTokenizer(**{name: getattr(tokenizer, name) for name in TOKENIZER_SETTINGS} | {"trimming": "never"})


def encode_sequences(tokenizer: KmerTokenizer, sequences: Sequence[str]) -> StrandBatch:
    """Encode sequences. Raises a `ValueError` that names the first one that is not DNA, masked, empty or too long."""
    if isinstance(sequences, str):
        raise ValueError("`sequences` must be a list of sequences, got one str")
    sequences = list(sequences)
    if not all(isinstance(sequence, str) for sequence in sequences):
        tokenizer(sequences)  # raises
    strands = tokenizer.encode_strands(*string_buffers(pa.array(sequences, pa.large_string())))
    if strands.problem.any():
        tokenizer(sequences)  # raises unless a base is masked
        index = int(np.flatnonzero(strands.problem)[0])
        raise ValueError(f"sequence {index} of the batch: a masked base cannot be used")
    return strands


def explain_rows(tokenizer: KmerTokenizer, column: pa.ChunkedArray | pa.Array, strands: StrandBatch) -> list[str]:
    """Describe the problem of each row (batch,); empty if it has none."""
    problems = [""] * len(strands.problem)
    rows = np.flatnonzero(strands.problem).tolist()
    texts = column.take(pa.array(rows, pa.int64())).cast(pa.large_string()).to_pylist()
    for row, text in zip(rows, texts, strict=True):
        problems[row] = tokenizer.explain(text or "", int(strands.problem[row]), int(strands.lengths[row]))
    return problems


def variable_parts(strands: StrandBatch) -> list[np.ndarray]:
    """Token ids (length,) uint8 of the variable part of each row without a problem."""
    starts = (strands.ids.shape[1] - strands.lengths) // 2
    rows = zip(strands.ids, starts, strands.lengths, strands.problem, strict=True)
    return [ids[start : start + length] for ids, start, length, problem in rows if not problem]


def string_buffers(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Bytes (uint8) and offsets (batch + 1,) int64 of a text column, without a Python object per row; null is ""."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = pc.fill_null(array.cast(pa.large_string()), "")
    if len(array) == 0:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, texts = array.buffers()
    offsets = np.frombuffer(offsets, np.int64, len(array) + 1, 8 * array.offset)
    start, end = int(offsets[0]), int(offsets[-1])
    texts = np.frombuffer(texts, np.uint8, end - start, start) if end > start else np.zeros(0, np.uint8)
    return texts, offsets - start


class Difference(NamedTuple):
    """Difference of two sequences outside their common ends.

    Attributes
    ----------
    position : int
        First position of the reference that changes, or before which bases are inserted, from 0.
    removed, inserted : str
        Bases of the reference, and those of the alternative that replace them.
    """

    position: int
    removed: str
    inserted: str


def where_they_differ(reference: str, alternative: str) -> Difference:
    """Find the difference of two sequences outside their common ends.

    Parameters
    ----------
    reference, alternative : str
        Sequences.

    Returns
    -------
    Difference
        As far to the right as possible. Empty, at the end, if the sequences are equal.

    Examples
    --------
    >>> where_they_differ("ACGT", "ATGT")
    Difference(position=1, removed='C', inserted='T')
    >>> where_they_differ("ACGT", "ACT")
    Difference(position=2, removed='G', inserted='')
    """
    start = _num_shared(reference, alternative)
    end = _num_shared(reference[start:][::-1], alternative[start:][::-1])
    return Difference(start, reference[start : len(reference) - end], alternative[start : len(alternative) - end])


def _num_shared(first: str, second: str) -> int:
    """Length of the common prefix of two texts."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
