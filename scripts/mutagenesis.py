#!/usr/bin/env python
"""Predict every single substitution of every promoter in a file, or knock out windows of it.

    python scripts/mutagenesis.py MODEL INPUT OUTPUT
    python scripts/mutagenesis.py MODEL INPUT OUTPUT --window 10 --method shuffle

MODEL is a checkpoint folder or a name on the Hub; INPUT is a TSV, CSV, FASTA or Parquet file (text also as .gz or
.zst); OUTPUT is a .tsv, .csv or .parquet file with a line for each mutant: row of INPUT (from 0), position in the
variable part (from 0), ref, alt, predicted_reference, delta (in assay units) and `problem`.
"""

import argparse
import sys
from pathlib import Path

from modeling_macaron.analysis.mutagenesis import mutagenesis_file
from modeling_macaron.analysis.mutants import WINDOW_METHODS


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder or name on the Hub")
    parser.add_argument("source", type=Path, metavar="input", help="file with sequences")
    parser.add_argument("output", type=Path, help="file to write: .parquet, .csv or .tsv")
    parser.add_argument("--window", type=int, metavar="NT", help="knock out windows of this length instead")
    parser.add_argument("--step", type=int, default=1, help="distance between the starts of two windows (%(default)s)")
    parser.add_argument("--method", choices=WINDOW_METHODS, default="shuffle", help="how a window goes (%(default)s)")
    parser.add_argument("--num_shuffles", type=int, default=10, help="shuffles of each window (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the shuffles (%(default)s)")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="folder for figures of the first sequences")
    parser.add_argument("--num_plots", type=int, default=10, metavar="N", help="how many of them (%(default)s)")
    parser.add_argument("--sequence_column", help="column of the DNA; its position, from 0, where there is no header")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT and figures where they exist")
    parser.add_argument("--batch_size", type=int, default=256, help="mutants through the model at once (%(default)s)")
    parser.add_argument("--merged", action="store_true", help="merge the attention's projections: same numbers, faster")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="convert the weights; half precision hides small effects",
    )
    parser.add_argument(
        "--compile", dest="compile_model", action="store_true", help="compile the model: later start, faster"
    )
    parser.add_argument("--device", help="for example cuda:1 or cpu; default: the GPU where there is one")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and mutate."""
    args = build_parser().parse_args(argv)
    try:
        result = mutagenesis_file(**vars(args), verbose=True)
    except (ValueError, OSError, MemoryError) as error:
        sys.exit(f"error: {error}")
    print(f"{result.num_lines:,} lines for {result.num_rows:,} rows written to {args.output}")
    if result.num_problems:
        print(f"{result.num_problems:,} rows could not be predicted: the column `problem` of their line says why")
    if result.num_malformed:
        print(f"{result.num_malformed:,} lines of {args.source} are no rows and were left out")


if __name__ == "__main__":
    main()
