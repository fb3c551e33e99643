"""Tokenizer of promoter DNA."""

from .tokenization_kmer import (  # noqa: F401
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
