#!/usr/bin/env python
"""Attribute the predicted expression of every promoter in a file to its bases, by gradients.

    python scripts/attribution.py MODEL INPUT OUTPUT
    python scripts/attribution.py MODEL INPUT OUTPUT --method gradient_x_input --plots figures

MODEL is a checkpoint folder or a name on the Hub; INPUT is a TSV, CSV, XLSX, FASTA or Parquet file (text also as .gz or
.zst); OUTPUT is a .tsv, .csv or .parquet file with one line per base: row of INPUT (from 1), its name if it has one,
position in the variable part (from 1), base, attribution, predicted_expression, predicted_baseline (in assay units)
and `problem`.
"""

import argparse
import sys

from modeling_macaron.analysis import command_line
from modeling_macaron.analysis.attribution_file import BASELINES, METHODS, attribution_file


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command_line.add_files(parser)
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=64, help="steps of the integrated gradients (%(default)s)")
    parser.add_argument("--baseline", choices=BASELINES, default="n", help="start of the paths (%(default)s)")
    command_line.add_figures(parser, same_scale=True)
    command_line.add_rows(parser)
    command_line.add_names(parser)
    command_line.add_batches(parser, batch_size=64, of="points")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and attribute."""
    args = build_parser().parse_args(argv)
    command_line.prepare_process()
    try:
        result = attribution_file(**vars(args), verbose=True)
    except (ValueError, OSError, MemoryError) as error:
        sys.exit(f"error: {error}")
    command_line.report_lines(result, args.source, args.output)


if __name__ == "__main__":
    main()
