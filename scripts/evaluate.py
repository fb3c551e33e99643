#!/usr/bin/env python
"""Score a model folder, or a file of predictions, on measured promoters.

Prints the categories of the Random Promoter DREAM Challenge 2022 with Pearson and Spearman correlations as a Markdown
table, with the official scores where all nine categories are there, and writes the figures as JSON.

    python scripts/evaluate.py --model runs/mine/final --table data/promoters --split validation --output score.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modeling_macaron.analysis import command_line
from modeling_macaron.analysis.evaluation import evaluate_files, format_table


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="model folder (or name on the Hub)")
    source.add_argument("--predictions", type=Path, help="table with row_id and prediction (.parquet, .csv, .tsv)")
    parser.add_argument(
        "--table", type=Path, required=True,
        help="measured table: sequence, activity (or expression ...), row_id; optional flags high, low, yeast, random, "
        "challenging, leaderboard_public, and split; or a data set folder of prepare_data.py",
    )  # fmt: skip
    parser.add_argument("--pairs", type=Path, help="pairs of its rows: kind, alt_row_id, ref_row_id, optionally public")
    parser.add_argument("--sequence_column", help="column of the sequence, where its name is not one of the usual")
    parser.add_argument("--value_column", help="column of the measured value, where its name is not one of the usual")
    parser.add_argument("--split", help="score only this split of the table; then no official score is claimed")
    parser.add_argument(
        "--baseline_train", type=Path,
        help="training rows of the ridge baseline: a promoter table (its rows train where it has a column split) or "
        "a data set folder of prepare_data.py; without it there is no baseline",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--plots", type=Path, help="folder for a scatter plot of each category")
    command_line.add_overwrite(parser)
    parser.add_argument(
        "--intervals", type=int, metavar="N",
        help="number of bootstrap resamples for 95 %% confidence intervals of the correlations (1000 will do); rows of "
        "one cluster are drawn together",
    )  # fmt: skip
    parser.add_argument(
        "--cluster_column", default="cluster",
        help="column that names the cluster of each row, for --intervals (default: cluster); row_id where every row "
        "stands alone",
    )  # fmt: skip
    parser.add_argument(
        "--calibrate", dest="calibrate_model", action="store_true",
        help="write prediction intervals into the model folder's config.json, from the errors on these rows, which the "
        "model must not be trained on",
    )  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=256, help="sequences per forward pass (default: 256)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    arguments = build_parser().parse_args(argv)
    command_line.prepare_process()
    try:
        result = evaluate_files(**vars(arguments), verbose=sys.stderr.isatty())
    except (ValueError, OSError, MemoryError) as error:
        sys.exit(f"error: {error}")
    print(format_table(result))
    if result["run"].get("extra_predictions"):
        print(f"note: {result['run']['extra_predictions']} predictions of rows that are not scored were ignored")
    print(f"figures: {arguments.output}" + (f", plots: {arguments.plots}" if arguments.plots else ""))


if __name__ == "__main__":
    # This file has the name of the library `evaluate`, which the metric imports: its folder must not come first.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    main()
