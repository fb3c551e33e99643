#!/usr/bin/env python
"""Turn a table of promoters and their expression into a memory-mapped data set for training, with a report."""

import argparse
import sys

from modeling_macaron.training.data import prepare_dataset
from modeling_macaron.training.report import format_report
from modeling_macaron.training.sources import DEFAULT_DATASET, open_source
from tokenization import FLANK3, FLANK5, KmerTokenizer


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    source = parser.add_argument_group("source")
    source.add_argument(
        "--source",
        help="a .tsv, .csv, .xlsx, .parquet or .fasta file (text also .gz or .zst), 'simulate', or a data set on the "
        f"Hub as owner/name; if left out, {DEFAULT_DATASET}",
    )
    source.add_argument("--sequence_column", help="name; without header 0, 1, 2, ...; else found by usual names")
    source.add_argument("--value_column", help="the same for the expression; in FASTA the key before '='")
    source.add_argument("--split_column", help="column that says train, validation or test")
    source.add_argument("--config", help="configuration of a data set on the Hub")
    source.add_argument("--hub_split", help="use only this split of a data set on the Hub, and split it anew")
    source.add_argument("--num_sequences", type=int, help="promoters to simulate (100,000 if left out)")
    source.add_argument("--extra_columns", nargs="*", help="further columns to keep")
    output = parser.add_argument_group("output")
    output.add_argument("--output", required=True, help="folder to be written")
    output.add_argument("--overwrite", action="store_true", help="replace a data set that stands there")
    output.add_argument("--validation_fraction", type=float, default=0.05, help="share of rows for validation")
    output.add_argument("--seed", type=int, default=0, help="seed of the split and of the simulation")
    output.add_argument("--strict", action="store_true", help="stop at the first row that is refused")
    sequence = parser.add_argument_group("sequence")
    sequence.add_argument("--flank5", default=FLANK5, help="constant 5' end of the construct ('' for none)")
    sequence.add_argument("--flank3", default=FLANK3, help="constant 3' end of the construct ('' for none)")
    sequence.add_argument("--trimming", choices=("auto", "always", "never"), default="auto", help="when to cut flanks")
    sequence.add_argument("--strand_length", type=int, default=100, help="longest variable part in nt")
    sequence.add_argument("--kmer_size", type=int, default=10, help="k-mer length in nt")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Prepare a data set."""
    args = parse_arguments(argv)
    try:
        tokenizer = KmerTokenizer(args.kmer_size, args.strand_length, args.flank5, args.flank3, args.trimming)
        table = open_source(
            args.source,
            sequence_column=args.sequence_column,
            value_column=args.value_column,
            split_column=args.split_column,
            config=args.config,
            hub_split=args.hub_split,
            num_sequences=args.num_sequences,
            seed=args.seed,
        )
        report = prepare_dataset(
            table,
            args.output,
            tokenizer=tokenizer,
            validation_fraction=args.validation_fraction,
            seed=args.seed,
            strict=args.strict,
            overwrite=args.overwrite,
            extra_columns=args.extra_columns,
            verbose=True,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")
    print(format_report(report))
    print(f"{'written to':<11} {args.output} (with report.json)")


if __name__ == "__main__":
    main()
