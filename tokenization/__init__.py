"""Tokenizer of promoter DNA."""

from .tokenization_kmer import (
    FLANK3,
    FLANK5,
    MISSING_WORDS,
    PROBLEMS,
    KmerTokenizer,
    StrandBatch,
    is_missing,
    reverse_complement,
    strip_marks,
)

__all__ = [
    "FLANK3",
    "FLANK5",
    "MISSING_WORDS",
    "PROBLEMS",
    "KmerTokenizer",
    "StrandBatch",
    "is_missing",
    "reverse_complement",
    "strip_marks",
]
