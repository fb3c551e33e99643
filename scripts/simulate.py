#!/usr/bin/env python
"""Simulate a table of promoters with planted yeast motifs, for experiments with a known ground truth.

    python scripts/simulate.py OUTPUT --num_sequences 1000 --seed 0

OUTPUT is a .parquet, .csv or .tsv file with `sequence`, `expression` and `expression_noise_free`; Parquet also holds
the planted motifs.
"""

import argparse
import sys
from pathlib import Path

from modeling_macaron.atomic import check_free
from modeling_macaron.data.simulation import simulate
from modeling_macaron.io.table_writer import write_table


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="file to write: .parquet, .csv or .tsv")
    parser.add_argument("--num_sequences", type=int, default=1000, help="promoters (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed (%(default)s)")
    parser.add_argument("--noise", type=float, default=1.0, help="standard deviation of the noise (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    args = parser.parse_args(argv)
    columns = ["sequence", "expression", "expression_noise_free"]
    if args.output.suffix == ".parquet":
        columns += ["motif", "motif_start", "motif_strand"]
    try:
        check_free(args.output, args.overwrite)
        with write_table(args.output) as write:
            for batch in simulate(args.num_sequences, seed=args.seed, noise=args.noise):
                write(batch.table.select(columns))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.num_sequences:,} simulated promoters written to {args.output}")


if __name__ == "__main__":
    main()
