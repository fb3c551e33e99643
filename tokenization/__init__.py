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

TOKENIZER_SETTINGS = ("kmer_size", "strand_length", "flank5", "flank3", "trimming")

__all__ = [
    "FLANK3",
    "FLANK5",
    "MISSING_WORDS",
    "PROBLEMS",
    "TOKENIZER_SETTINGS",
    "KmerTokenizer",
    "StrandBatch",
    "is_missing",
    "reverse_complement",
    "strip_marks",
]
