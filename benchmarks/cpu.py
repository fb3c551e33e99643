"""Check and time inference, training and data on this machine's processor.

    python -m benchmarks.cpu

Prints each figure beside its bar, writes them as JSON, and fails where an equality does not hold (never for a time).
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
from benchmarks.challenge_table import CHALLENGE_ROWS
from benchmarks.figures import Results, describe_machine, result_path

PARTS: dict[str, Callable[[Results, argparse.Namespace, Path], None]] = {
    "inference": lambda results, args, folder: inference.run(results, args.size, folder),
    "training": lambda results, args, folder: training.run(results, args.size, folder),
    "preparation": lambda results, args, folder: data.run_preparation(results, args.rows, folder),
    "tokenizer": lambda results, args, folder: data.run_tokenizer(results, args.rows, folder),
    "reading": lambda results, args, folder: data.run_reading(results, args.rows, folder),
    "bulk": lambda results, args, folder: data.run_bulk_prediction(results, args.rows, folder),
}


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run the parts; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--size", choices=inference.SIZES, default="paper", help="model of inference and training")
    parser.add_argument("--rows", type=int, default=CHALLENGE_ROWS, help="of the largest table, > 10,000 (%(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file to write; default, for the whole: results/MACHINE.json")
    args = parser.parse_args(argv)
    if args.rows <= 10_000:
        parser.error(f"--rows must be more than 10,000, got {args.rows}")
    if args.output is not None and (args.output.is_dir() or args.output.suffix != ".json"):
        parser.error(f"--output {args.output}: name a file that ends in .json")
    disable_progress_bars()
    machine = describe_machine()
    results = Results("cpu", machine)
    print(f"{machine['name']}, torch {machine['versions']['torch']}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        for part in args.only:
            print(f"\n{part}", flush=True)
            PARTS[part](results, args, Path(folder))
    is_whole = (set(args.only), args.size, args.rows) == (set(PARTS), "paper", CHALLENGE_ROWS)
    output = args.output or (result_path(machine) if is_whole else None)
    if output is not None:
        results.save(output)
    failed = [check.name for check in results.checks if not check.holds]
    where = f"written to {output}" if output else "not written, since this is not the whole benchmark: name an --output"
    print(f"\n{where}; {len(results.checks)} equalities, {len(failed)} of them fail")
    return results.exit_code


if __name__ == "__main__":
    sys.exit(main())
