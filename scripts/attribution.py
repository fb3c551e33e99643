#!/usr/bin/env python
"""Attribute the predicted expression of every promoter in a file to its bases, by gradients.

    python scripts/attribution.py MODEL INPUT OUTPUT
    python scripts/attribution.py MODEL INPUT OUTPUT --method gradient_x_input --plots figures

MODEL is a checkpoint folder or a name on the Hub. INPUT is a TSV, CSV, XLSX, FASTA or Parquet file (text also as .gz or
.zst). OUTPUT is a .tsv, .csv or .parquet file with one line per base: row of INPUT (from 1), its name if it has one,
position in the variable part (from 1), base, attribution, predicted_expression, predicted_baseline (in assay units)
and `problem`.
"""

import argparse

from modeling_macaron.analysis import command_line
from modeling_macaron.analysis.attribution import BASELINES, METHODS, attribution_file
from modeling_macaron.analysis.files import FileResult
from modeling_macaron.machine import run_command


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_line.make_parser(__doc__)
    command_line.add_files(parser)
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=64, help="steps of the integrated gradients (%(default)s)")
    parser.add_argument("--baseline", choices=BASELINES, default="n", help="start of the paths (%(default)s)")
    command_line.add_figures(parser)
    parser.add_argument("--same_scale", action="store_true", help="draw all figures to one scale")
    command_line.add_run(parser)
    command_line.add_model(parser, dtype="convert the weights; half precision is coarse")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and attribute."""
    args = build_parser().parse_args(argv)
    result = command_line.run(lambda: _attribute(args))
    command_line.report_lines(result, args.source, args.output)


def _attribute(args: argparse.Namespace) -> FileResult:
    figures = command_line.figures_of(args, same_scale=args.same_scale)
    predictor, options = command_line.load_predictor(args), command_line.file_options(args)
    settings = {name: getattr(args, name) for name in ("method", "steps", "baseline")}
    return attribution_file(predictor, args.source, args.output, **settings, figures=figures, options=options)


if __name__ == "__main__":
    run_command(main)
