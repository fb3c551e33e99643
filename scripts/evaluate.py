#!/usr/bin/env python
"""Score a model folder, or a file of predictions, on measured promoters.

Prints the Pearson and Spearman correlations of the categories of the Random Promoter DREAM Challenge 2022 as a Markdown
table, with the official scores if all nine categories are present, and writes them as JSON.

    python scripts/evaluate.py --model runs/mine/final --table data/promoters --split validation --output score.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modeling_macaron.analysis import command_line


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="model folder (or name on the Hub)")
    source.add_argument("--predictions", type=Path, help="table with row_id and prediction (.parquet, .csv, .tsv)")
    parser.add_argument(
        "--table", type=Path, required=True,
        help="measured table: sequence, activity (or expression ...), row_id and, optionally, split and the flags "
        "high, low, yeast, random, challenging, leaderboard_public; or a data set folder of prepare_data.py",
    )  # fmt: skip
    parser.add_argument("--pairs", type=Path, help="row pairs: kind, alt_row_id, ref_row_id and, optionally, public")
    parser.add_argument("--sequence_column", help="sequence column, if its name is not a usual one")
    parser.add_argument("--value_column", help="value column, if its name is not a usual one")
    parser.add_argument("--split", help="score only this split of the table, without official scores")
    baseline = "promoter table, or data set folder of prepare_data.py, to train a ridge baseline on (its split train)"
    parser.add_argument("--baseline_train", type=Path, help=baseline)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--plots", type=Path, help="folder for a scatter plot of each category")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    intervals = "bootstrap resamples of clusters for 95 %% confidence intervals of the correlations, for example 1000"
    parser.add_argument("--intervals", type=int, metavar="N", help=intervals)
    clusters = "cluster of each row, for --intervals (default: cluster); row_id if the rows are independent"
    parser.add_argument("--cluster_column", default="cluster", help=clusters)
    calibrate = "write prediction intervals from these rows, not used in training, to the model folder's config.json"
    parser.add_argument("--calibrate", action="store_true", help=calibrate)
    parser.add_argument("--batch_size", type=int, default=256, help="sequences per forward pass (default: 256)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    from modeling_macaron.evaluation.report import format_table
    from modeling_macaron.evaluation.score import EvaluationOptions, evaluate_files

    arguments = vars(build_parser().parse_args(argv))
    command_line.prepare_process()
    inputs = {name: arguments.pop(name) for name in ("table", "output", "model", "predictions", "pairs", "split")}
    try:
        options = EvaluationOptions(**arguments, verbose=sys.stderr.isatty())
        result = evaluate_files(**inputs, options=options)
    except (ValueError, OSError, MemoryError) as error:
        sys.exit(f"error: {error}")
    print(format_table(result))
    if result["run"].get("extra_predictions"):
        print(f"note: {result['run']['extra_predictions']} predictions of rows that are not scored were ignored")
    print(f"figures: {inputs['output']}" + (f", plots: {options.plots}" if options.plots else ""))


if __name__ == "__main__":
    # This file must not shadow the library `evaluate`, which the metric imports.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    main()
