"""Check and time inference, training and data on this machine's processor.

    python -m benchmarks.cpu

Prints each figure, writes them as JSON, and fails where an equality does not hold (never for a time).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import disable_progress_bars

from benchmarks import data, inference, training
from benchmarks.figures import Results, add_output, describe_machine, make_parser, result_path

PARTS: dict[str, Callable[[Results, argparse.Namespace, Path], None]] = {
    "inference": lambda results, args, folder: inference.run(results, args.size, folder),
    "preparation": lambda results, args, folder: data.run_preparation(results, args.rows, folder),
    "tokenizer": lambda results, args, folder: data.run_tokenizer(results, args.rows, folder),
    "reading": lambda results, args, folder: data.run_reading(results, args.rows, folder),
    "training": lambda results, args, folder: training.run(results, args.size, folder),
}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = make_parser("cpu", __doc__)
    rows = data.CHALLENGE_ROWS
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--size", choices=inference.SIZES, default="paper", help="model of inference and training")
    parser.add_argument("--rows", type=int, default=rows, help="of the largest table, > 10,000 (%(default)s)")
    add_output(parser, "of the whole benchmark, results/MACHINE.json")
    args = parser.parse_args(argv)
    if args.rows <= 10_000:
        parser.error(f"--rows must be more than 10,000, got {args.rows}")
    disable_progress_bars()
    machine = describe_machine()
    results = Results("cpu", machine)
    print(f"{machine['name']}, torch {machine['versions']['torch']}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        for part in args.only:
            print(f"\n{part}", flush=True)
            PARTS[part](results, args, Path(folder))
    is_whole = (set(args.only), args.size, args.rows) == (set(PARTS), "paper", rows)
    return results.finish(args.output or (result_path(machine) if is_whole else None))


if __name__ == "__main__":
    sys.exit(main())
