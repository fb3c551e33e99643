#!/usr/bin/env python
"""Predict the expression of every promoter in a file.

    python scripts/predict.py MODEL INPUT OUTPUT
    python scripts/predict.py MODEL PROMOTERS.bed OUTPUT --genome GENOME.fa
    accelerate launch --num_processes 4 scripts/predict.py MODEL INPUT OUTPUT      (four GPUs)

MODEL is a checkpoint folder or a name on the Hub. INPUT is a TSV, CSV, XLSX, FASTA or Parquet file (text also as .gz or
.zst), or a BED of six columns whose intervals are read from the genome's FASTA, on their strand. OUTPUT is a .tsv,
.csv or .parquet file with the columns of INPUT, `predicted_expression`, `problem` and, depending on the model,
`expression_low`, `expression_high` (prediction interval) and `unlike_training`. OUTPUT appears when it is complete.
Until then finished rows are in OUTPUT.parts, and --resume continues from there.
"""

import argparse
from pathlib import Path

from modeling_macaron.analysis import command_line
from modeling_macaron.analysis.command_line import plural
from modeling_macaron.analysis.predict import predict_file
from modeling_macaron.machine import run_command


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_line.make_parser(__doc__)
    command_line.add_files(parser)
    parser.add_argument("--genome", type=Path, help="FASTA of the genome, plain or bgzipped, for a BED of intervals")
    parser.add_argument("--coverage", type=int, help="coverage of the prediction intervals, in percent (90)")
    parser.add_argument("--deduplicate", action="store_true", help="compute equal sequences only once")
    command_line.add_run(parser, name_column=False)
    command_line.add_model(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and predict."""
    args = build_parser().parse_args(argv)
    result = command_line.run(
        lambda: predict_file(
            command_line.load_predictor(args, args.genome), args.source, args.output, genome=args.genome,
            coverage=args.coverage, deduplicate=args.deduplicate, options=command_line.file_options(args),
        )
    )  # fmt: skip
    if not command_line.is_main_process():
        return
    print(f"{plural(result.num_rows, 'row')} written to {args.output}")
    if result.num_problems:
        reasons = ", ".join(f"{count:,} x {reason}" for reason, count in result.reasons[:5])
        print(f"{result.num_problems:,} of them could not be predicted ({reasons}): see the column `problem`")
    if num_unlike := result.details["num_unlike"]:
        rows = plural(num_unlike, "row") + (" is" if num_unlike == 1 else " are")
        print(f"{rows} unlike the model's training rows, where predictions are extrapolations: see `unlike_training`")
    num_long = sum(count for reason, count in result.reasons if reason.endswith("that the model reads"))
    if 2 * num_long > result.num_rows:
        print("The model removes the constant flanks of its own construct only: remove other flanks first.")
    command_line.report_malformed(result, args.source)


if __name__ == "__main__":
    run_command(main)
