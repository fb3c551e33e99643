#!/usr/bin/env python
"""Design promoters in silico: edit given or random starts for higher, lower or a target expression.

    python scripts/design.py MODEL OUTPUT --starts FILE --target higher --max_edits 5
    python scripts/design.py MODEL OUTPUT --random 10 --target 12.5 --gc_range 0.3 0.6 --forbid GAATTC GGTCTC

MODEL is a checkpoint folder or a name on the Hub. FILE is a TSV, CSV, XLSX, FASTA or Parquet file of starts. OUTPUT is
a .tsv, .csv or .parquet file with one line per design: row of FILE (from 1), its name if it has one, rank, start,
sequence, their predictions (in assay units), expression_low and expression_high if the model has prediction intervals,
num_edits, edits (such as A12G, positions from 1 in the variable part), nearest_training_distance (positions that differ
from the nearest sequence of --training; empty without it), out_of_range (predicted beyond 3 standard deviations of the
training data) and `problem`.
"""

import argparse
from pathlib import Path

from modeling_macaron.analysis import command_line
from modeling_macaron.analysis.command_line import plural
from modeling_macaron.analysis.constraints import Constraints
from modeling_macaron.analysis.design import RANKS, SearchOptions, design_file, random_starts
from modeling_macaron.analysis.design_search import METHODS
from modeling_macaron.analysis.files import FileResult
from modeling_macaron.machine import run_command


def parse_target(text: str) -> str | float:
    """Parse `higher`, `lower` or a number."""
    if text in ("higher", "lower"):
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected higher, lower or a number in assay units, got {text!r}") from None


def parse_positions(text: str) -> range:
    """Parse a position from 1 such as `12`, or an inclusive range such as `1-5`, as indices from 0."""
    first, _, last = text.partition("-")
    try:
        positions = range(int(first) - 1, int(last or first))
    except ValueError:
        positions = range(0)
    if not positions or positions[0] < 0:
        raise argparse.ArgumentTypeError(f"expected a position from 1 such as 12, or a range such as 1-5, got {text!r}")
    return positions


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the search."""
    parser.add_argument(
        "--rank_by",
        choices=RANKS,
        default="expression",
        help="bound: search by the lower end of the 90 %% interval, or the upper end for --target lower",
    )
    parser.add_argument("--max_edits", type=int, default=10, help="maximum substitutions per start (%(default)s)")
    parser.add_argument("--method", choices=METHODS, default="greedy", help="search method (%(default)s)")
    parser.add_argument("--num_designs", type=int, default=1, metavar="N", help="designs per start (%(default)s)")
    parser.add_argument("--min_distance", type=int, default=2, help="minimum differences of two designs (%(default)s)")
    parser.add_argument("--beam_width", type=int, default=10, help="sequences in the beam (%(default)s)")
    parser.add_argument("--population", type=int, default=64, help="sequences in the evolution (%(default)s)")
    parser.add_argument("--generations", type=int, default=30, help="generations of the evolution (%(default)s)")
    parser.add_argument("--num_candidates", type=int, default=16, help="substitutions chosen by gradient (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of random starts and evolution (%(default)s)")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("model", help="checkpoint folder or name on the Hub")
    parser.add_argument("output", type=Path, help="file to write: .parquet, .csv or .tsv")
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--starts", type=Path, metavar="FILE", help="file with sequences to start from")
    origin.add_argument("--random", type=int, dest="num_starts", metavar="N", help="start from N random promoters")
    parser.add_argument("--length", type=int, metavar="NT", help="length of random promoters (80, or a strand)")
    parser.add_argument("--gc", type=float, help="GC fraction of random promoters (0.5, or the middle of --gc_range)")
    parser.add_argument(
        "--target",
        type=parse_target,
        default="higher",
        help="higher, lower or an expression; a number counts as reached within 0.05 standard deviations",
    )
    add_search_options(parser)
    parser.add_argument("--gc_range", type=float, nargs=2, metavar=("MIN", "MAX"), help="GC fractions of a design")
    parser.add_argument("--forbid", nargs="+", default=[], metavar="SITE", help="IUPAC sites to avoid on both strands")
    parser.add_argument(
        "--fix", nargs="+", default=[], type=parse_positions, metavar="POS", help="positions to keep, such as 12 or 1-5"
    )
    parser.add_argument("--training", type=Path, metavar="FILE", help="training table, for nearest_training_distance")
    parser.add_argument("--fasta", type=Path, metavar="FILE", help="also write the designs as FASTA")
    command_line.add_run(parser, strict="stop at the first start that cannot be used")
    command_line.add_model(parser, dtype="convert the weights; half precision hides small effects")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and design."""
    args = build_parser().parse_args(argv)
    result = command_line.run(lambda: _design(args))
    if not command_line.is_main_process():
        return
    details, num_designs = result.details, int(result.details["num_designs"])
    print(f"{plural(num_designs, 'design')} for {plural(result.num_rows, 'start')} written to {args.output}")
    if num_designs:
        print(f"median predicted change: {details['median_change']:+.3f} assay units")
    if "nearest" in details:
        reached = f"{details['num_reached']} of {num_designs} reached {args.target:g}"
        print(f"{reached}; nearest {details['nearest']:.2f}")
    if result.num_problems:
        print(f"{plural(result.num_problems, 'start')} could not be used: the column `problem` gives the reason")
    if unchanged := details["num_unchanged"]:
        print(f"{plural(unchanged, 'design')} without an edit: no edit brought the start closer to the target")
    if far := details["num_out_of_range"]:
        print(f"{plural(far, 'design')} predicted beyond 3 standard deviations of the training data: `out_of_range`")
    if num_designs and args.training is None:
        print("`nearest_training_distance` is empty: --training FILE compares the designs with the training sequences")
    command_line.report_malformed(result, args.starts)


def _design(args: argparse.Namespace) -> FileResult:
    search = SearchOptions(**{name: getattr(args, name) for name in SearchOptions.__dataclass_fields__})
    positions = tuple(position for part in args.fix for position in part)
    constraints = Constraints(args.gc_range and tuple(args.gc_range), tuple(args.forbid), positions)
    predictor, starts = command_line.load_predictor(args, args.starts, args.training), args.starts
    if starts is None:
        starts = random_starts(
            predictor, args.num_starts, length=args.length, gc=args.gc, constraints=constraints, seed=args.seed
        )
    return design_file(
        predictor, starts, args.output, search, constraints=constraints, training_sequences=args.training,
        fasta=args.fasta, options=command_line.file_options(args),
    )  # fmt: skip


if __name__ == "__main__":
    run_command(main)
