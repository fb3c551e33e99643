"""Tokenizer of promoter DNA."""

from .tokenization_kmer import FLANK3, FLANK5, PROBLEMS, KmerTokenizer, StrandBatch, reverse_complement

__all__ = ["FLANK3", "FLANK5", "PROBLEMS", "KmerTokenizer", "StrandBatch", "reverse_complement"]
