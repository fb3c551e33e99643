#!/usr/bin/env python
"""Predict every single substitution of every promoter in a file, or knock out windows.

    python scripts/mutagenesis.py MODEL INPUT OUTPUT
    python scripts/mutagenesis.py MODEL INPUT OUTPUT --window 10 --method shuffle

MODEL is a checkpoint folder or a name on the Hub. INPUT is a TSV, CSV, XLSX, FASTA or Parquet file (text also as .gz or
.zst). OUTPUT is a .tsv, .csv or .parquet file with one line per mutant: row of INPUT (from 1), its name if it has one,
position in the variable part (from 1), ref, alt, predicted_reference, delta (mutant minus original, in assay units) and
`problem`.
"""

import argparse

from modeling_macaron.analysis import command_line
from modeling_macaron.analysis.files import FileResult
from modeling_macaron.analysis.mutagenesis import mutagenesis_file
from modeling_macaron.analysis.mutants import WINDOW_METHODS, WindowEdits
from modeling_macaron.machine import run_command


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_line.make_parser(__doc__)
    command_line.add_files(parser)
    parser.add_argument("--window", type=int, metavar="NT", help="knock out windows of this length instead")
    parser.add_argument("--step", type=int, default=1, help="distance between window starts (%(default)s)")
    parser.add_argument("--method", choices=WINDOW_METHODS, default="shuffle", help="window replacement (%(default)s)")
    parser.add_argument("--num_shuffles", type=int, default=10, help="shuffles per window (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the shuffles (%(default)s)")
    command_line.add_figures(parser)
    parser.add_argument("--same_scale", action="store_true", help="draw all figures to one scale")
    command_line.add_run(parser)
    command_line.add_model(parser, dtype="convert the weights; half precision hides small effects")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and mutate."""
    args = build_parser().parse_args(argv)
    result = command_line.run(lambda: _mutate(args))
    command_line.report_lines(result, args.source, args.output)


def _mutate(args: argparse.Namespace) -> FileResult:
    windows = None
    if args.window is not None:
        windows = WindowEdits(args.window, args.step, args.method, args.num_shuffles, args.seed)
    figures = command_line.figures_of(args, same_scale=args.same_scale)
    predictor, options = command_line.load_predictor(args), command_line.file_options(args)
    return mutagenesis_file(predictor, args.source, args.output, windows=windows, figures=figures, options=options)


if __name__ == "__main__":
    run_command(main)
