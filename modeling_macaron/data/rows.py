"""Encode the rows of a promoter table, and explain why rows are rejected."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_macaron.dna import string_buffers
from modeling_macaron.io.tables import PromoterTable
from tokenization import MISSING_WORDS, PROBLEMS, KmerTokenizer

REASONS = (*PROBLEMS, "missing value", "value is not a number", "value too large for float32")
TOO_LONG = PROBLEMS.index("longer than strand_length")
_NO_VALUE, _NOT_A_NUMBER, _TOO_LARGE = range(len(PROBLEMS), len(REASONS))

_NUMBER = r"(?i)^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)$"


class EncodedRows(NamedTuple):
    """Rows of a batch: ids (batch, strand_length) uint8, labels in assay units, indices into `REASONS` (0: kept)."""

    ids: np.ndarray
    labels: np.ndarray
    reasons: np.ndarray
    lengths: np.ndarray
    trimmed: np.ndarray

    @property
    def rejected(self) -> np.ndarray:
        """Indices of the rows that are rejected for a reason other than length."""
        return np.flatnonzero((self.reasons > 0) & (self.reasons != TOO_LONG))


def encode_rows(rows: pa.Table, table: PromoterTable, tokenizer: KmerTokenizer) -> EncodedRows:
    """Encode sequences and values of a batch; errors in sequence or value come before an excessive length."""
    strands = tokenizer.encode_strands(*string_buffers(rows[table.columns.sequence]))
    labels, value_reasons = _mean_values(rows, table)
    reasons = np.where((strands.problem == 0) | (strands.problem == TOO_LONG), value_reasons, strands.problem)
    reasons = np.where(reasons == 0, strands.problem, reasons)
    return EncodedRows(strands.ids, labels, reasons, strands.lengths, strands.trimmed)


def explain_row(
    rows: pa.Table, encoded: EncodedRows, index: int, table: PromoterTable, tokenizer: KmerTokenizer
) -> str:
    """Explain why a row is rejected."""
    reason = int(encoded.reasons[index])
    if reason < len(PROBLEMS):
        text = rows[table.columns.sequence][index].as_py() or ""
        return tokenizer.explain(text, reason, int(encoded.lengths[index]))
    values = [rows[name][index].as_py() for name in (table.columns.value, *table.replicates)]
    has_comma = reason == _NOT_A_NUMBER and any("," in str(value) for value in values)
    return f"{REASONS[reason]}: {', '.join(map(repr, values))}" + " (decimal commas?)" * has_comma


def _mean_values(rows: pa.Table, table: PromoterTable) -> tuple[np.ndarray, np.ndarray]:
    """Average the replicates of each row, ignoring missing values; returns values and reasons as `parse_values`."""
    names = (table.columns.value, *table.replicates)
    parsed = [parse_values(table.values_of(rows, name), f"{table.path}, column {name!r}") for name in names]
    values, reasons = (np.stack(arrays) for arrays in zip(*parsed, strict=True))
    has_value = reasons == 0
    count = has_value.sum(axis=0)
    mean = (values.sum(axis=0, where=has_value, dtype=np.float64) / np.maximum(count, 1)).astype(np.float32)
    wrong = np.where(reasons == _NO_VALUE, 0, reasons).max(axis=0)
    reason = np.where((wrong == 0) & (count == 0), _NO_VALUE, wrong).astype(np.uint8)
    return np.where(reason == 0, mean, np.float32(0)), reason


def parse_values(column: pa.ChunkedArray | pa.Array, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Read values (batch,), text or numbers, as float32 (0 if missing) and indices into `REASONS` (0: fine)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    reasons = np.zeros(len(array), dtype=np.uint8)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = pc.utf8_trim_whitespace(array)
        array = pc.if_else(pc.or_(pc.equal(array, ""), are_missing_words(array)), None, array)
        numbers = pc.if_else(pc.match_substring_regex(array, _NUMBER), array, None).cast(pa.float64())
        reasons[numbers.is_null().to_numpy(zero_copy_only=False)] = _NOT_A_NUMBER
    elif pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        numbers = array.cast(pa.float64(), safe=False)
    else:
        raise ValueError(f"{where} holds {array.type}; expected numbers")
    values = pc.fill_null(numbers, 0.0).to_numpy(zero_copy_only=False)
    reasons[np.abs(values) > np.finfo(np.float32).max] = _TOO_LARGE
    reasons[array.is_null().to_numpy(zero_copy_only=False) | np.isnan(values)] = _NO_VALUE
    return np.where(reasons == 0, values, 0.0).astype(np.float32), reasons


def are_missing_words(texts: pa.Array) -> pa.Array:
    """Find the usual words for a missing value in trimmed texts (batch,)."""
    return pc.is_in(pc.utf8_upper(texts), pa.array(sorted(MISSING_WORDS), texts.type))


def hash_strands(ids: np.ndarray, seed: int) -> np.ndarray:
    """Hash rows of token ids (batch, length) to (batch,) uint64, the same on every machine."""
    padded = np.pad(ids, ((0, 0), (0, -ids.shape[1] % 8)))
    words = np.ascontiguousarray(padded.view("<u8").T).astype(np.uint64, copy=False)
    state = mix64(np.full(len(ids), seed % 2**64, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    for word in words:
        state = mix64(state ^ word)
    return state


def mix64(state: np.ndarray) -> np.ndarray:
    """Apply the finalizer of SplitMix64 (Steele et al., OOPSLA 2014) to uint64 of any shape: a bijection."""
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
