"""Check and time inference, training and data on this machine's processor.

    python -m benchmarks.cpu

Prints the figures and writes them as JSON. Fails if an equality does not hold, but not for slow timings.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from datasets import disable_progress_bars

from benchmarks import data, inference, training
from benchmarks.figures import Results, describe_machine, make_parser, result_path
from benchmarks.models import SIZES

PARTS = {
    "inference": inference.run,
    "preparation": data.run_preparation,
    "tokenizer": data.run_tokenizer,
    "reading": data.run_reading,
    "training": training.run,
}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = make_parser("cpu", __doc__, "of the whole benchmark, results/MACHINE.json")
    rows = data.CHALLENGE_ROWS
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--size", choices=SIZES, default="paper", help="model of inference and training")
    parser.add_argument("--rows", type=int, default=rows, help="of the largest table (%(default)s)")
    args = parser.parse_args(argv)
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
