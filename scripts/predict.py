#!/usr/bin/env python
"""Predict the expression of every promoter in a file.

    python scripts/predict.py MODEL INPUT OUTPUT
    python scripts/predict.py MODEL PROMOTERS.bed OUTPUT --genome GENOME.fa
    accelerate launch --num_processes 4 scripts/predict.py MODEL INPUT OUTPUT      (four GPUs)

MODEL is a checkpoint folder or a name on the Hub; INPUT is a TSV, CSV, XLSX, FASTA or Parquet file (text also as .gz or
.zst), or a BED of six columns whose intervals are read from the genome's FASTA, on their strand; OUTPUT is a .tsv,
.csv or .parquet file with the columns of INPUT, `predicted_expression`, `problem` and, depending on the model,
`expression_low`, `expression_high` (prediction interval) and `unlike_training`. OUTPUT appears when it is complete;
until then finished rows are in OUTPUT.parts, and --resume continues from there.
"""

import argparse
import os
import sys
from pathlib import Path

from modeling_macaron.analysis import command_line
from modeling_macaron.analysis.predict_file import predict_file
from modeling_macaron.io.parts import parts_folder
from modeling_macaron.machine import run_command
from tokenization.tokenization_kmer import PROBLEMS, TOO_LONG


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command_line.add_files(parser)
    parser.add_argument("--genome", type=Path, help="FASTA of the genome, plain or bgzipped, for a BED of intervals")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    command_line.add_rows(parser)
    command_line.add_batches(parser)
    command_line.add_speed(parser)
    parser.add_argument("--coverage", type=int, help="coverage of the prediction intervals, in percent (90)")
    parser.add_argument("--deduplicate", action="store_true", help="compute equal sequences only once")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and predict."""
    args = build_parser().parse_args(argv)
    command_line.prepare_process()
    is_main = int(os.environ.get("RANK", "0")) == 0
    if args.resume and is_main and not (parts_folder(args.output).is_dir() or os.path.exists(args.output)):
        print(f"no interrupted run of {args.output} was found: starting from the beginning")
    try:
        result = predict_file(**vars(args), verbose=True)
    except (ValueError, OSError, MemoryError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: --resume goes on with the rows that are done")
    if not is_main:
        return
    print(f"{command_line.plural(result.num_rows, 'row')} written to {args.output}")
    if result.num_problems:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.reasons)
        print(f"{result.num_problems:,} of them could not be predicted ({reasons}): see the column `problem`")
    if result.num_unlike:
        rows = command_line.plural(result.num_unlike, "row") + (" is" if result.num_unlike == 1 else " are")
        print(f"{rows} unlike the model's training rows, where predictions are extrapolations: see `unlike_training`")
    if 2 * dict(result.reasons).get(PROBLEMS[TOO_LONG], 0) > result.num_rows:
        print("The model removes the constant flanks of its own construct only: remove other flanks first.")
    command_line.report_malformed(result, args.source)


if __name__ == "__main__":
    run_command(main)
