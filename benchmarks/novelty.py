"""Measure which sequences `unlike_training` flags.

    python -m benchmarks.novelty --table yeast_public.parquet [--other human_wtc11.parquet]

As in training, 3-mers come from split `train` of the table and the limit from split `validation`. Prints the share of
flagged sequences of 80 nt: validation rows, their dinucleotide shuffles, the middle of sequences of another table,
random DNA of several GC contents, and repeats.

Results for 67,000 rows of yeast promoters (native and random) and for the challenge's designed library:

=============================  =====  =======
sequences                      yeast  library
=============================  =====  =======
validation rows                0.5 %    0.5 %
their dinucleotide shuffles    0.4 %    1.0 %
human promoters                 35 %     18 %
random, 15 % GC                 22 %     86 %
random, 30 % GC                0.1 %    2.6 %
random, 50 % GC                0.5 %    0.0 %
random, 70 % GC                 74 %     34 %
random, 85 % GC                100 %    100 %
repeats of 1 to 3 nt           100 %    100 %
=============================  =====  =======
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.figures import make_parser
from benchmarks.pages import table
from modeling_macaron import MacaronConfig
from modeling_macaron.dna import encode_bases, string_buffers
from modeling_macaron.training.metrics import trimer_settings
from tokenization import KmerTokenizer

LENGTH = 80
_MOST = 2_000  # sequences of each kind except validation rows
_REPEATS = ("A", "C", "AT", "CG", "AC", "AAT", "CAG")


def dinucleotide_shuffle(ids: np.ndarray, random: np.random.Generator, tries: int = 1_000) -> np.ndarray:
    """Shuffle token ids (length,) and keep the count of each pair: swap segments with equal ends."""
    shuffled = ids.tolist()
    for a, b, c, d in np.sort(random.integers(0, len(ids), (tries, 4)), axis=1).tolist():
        if a < b < c < d and shuffled[a] == shuffled[c] and shuffled[b] == shuffled[d]:
            shuffled[a:d] = shuffled[c:d] + shuffled[b:c] + shuffled[a:b]
    return np.array(shuffled, np.uint8)


def read_strands(tokenizer: KmerTokenizer, sequences: pd.Series) -> np.ndarray:
    """Token ids (rows, 80) of the valid sequences."""
    strands = tokenizer.encode_strands(*string_buffers(pa.array(sequences, pa.large_string())))
    return strands.ids[strands.problem == 0]


def kinds(validation: np.ndarray, other: Path | None) -> dict[str, np.ndarray]:
    """Token ids (sequences, length) by kind."""
    random = np.random.default_rng(0)
    whole = validation[(validation < 4).all(axis=1)][:_MOST]
    found = {
        "validation rows": validation,
        "their dinucleotide shuffles": np.stack([dinucleotide_shuffle(row, random) for row in whole]),
    }
    if other is not None:
        column = pd.read_parquet(other, columns=["sequence"])["sequence"].drop_duplicates()
        drawn = column.sample(min(_MOST, len(column)), random_state=0)
        middles = pd.Series([text[(len(text) - LENGTH) // 2 :][:LENGTH] for text in drawn])
        tokenizer = KmerTokenizer(strand_length=LENGTH, trimming="never")
        found[f"middle of {other.stem}"] = read_strands(tokenizer, middles)
    for gc in (0.15, 0.3, 0.5, 0.7, 0.85):
        shares = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
        found[f"random, {gc:.0%} GC"] = random.choice(4, (_MOST, LENGTH), p=shares).astype(np.uint8)
    return found | {"repeats": np.stack([encode_bases((word * LENGTH)[:LENGTH]) for word in _REPEATS])}


def main(argv: list[str] | None = None) -> None:
    """Print the rates."""
    parser = make_parser("novelty", __doc__)
    parser.add_argument("--table", type=Path, required=True, help="Parquet table with `sequence` and `split`")
    parser.add_argument("--other", type=Path, help="Parquet table with `sequence`")
    args = parser.parse_args(argv)
    rows = pd.read_parquet(args.table, columns=["sequence", "split"])
    tokenizer = KmerTokenizer(strand_length=LENGTH)
    trained, validation = (
        read_strands(tokenizer, rows["sequence"][rows["split"] == split]) for split in ("train", "validation")
    )
    config = MacaronConfig(strand_length=LENGTH, **trimer_settings(trained, validation))
    lines = [
        [kind, f"{len(ids):,}", f"{config.unlike_training(ids).mean():.1%}"]
        for kind, ids in kinds(validation, args.other).items()
    ]
    print(table([["sequences", "n", "flagged"], *lines], ["---", "---:", "---:"]), end="")


if __name__ == "__main__":
    sys.exit(main())
