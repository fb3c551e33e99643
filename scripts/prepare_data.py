#!/usr/bin/env python
"""Prepare a table of promoters and their expression as a memory-mapped data set for training, with a report."""

import argparse
import sys

from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.report import format_report
from modeling_macaron.data.sources import DEFAULT_DATASET, open_source
from modeling_macaron.data.splits import Division
from tokenization import FLANK3, FLANK5, TOKENIZER_SETTINGS, KmerTokenizer

SOURCE_OPTIONS = ("source", "sequence_column", "value_column", "split_column", "config", "revision", "hub_split")
SOURCE_OPTIONS += ("num_sequences", "seed")
OUTPUT_OPTIONS = ("overwrite", "strict", "extra_columns", *Division._fields)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; only options of the tokenizer that are given are set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument_group("source").add_argument
    add("--source", help="a .tsv, .csv, .xlsx, .parquet or .fasta file (text also .gz or .zst), 'simulate', or a data "
        f"set on the Hub as owner/name (default: {DEFAULT_DATASET})")  # fmt: skip
    add("--sequence_column", help="name, or 0, 1, 2, ... without a header (default: usual names)")
    add("--value_column", nargs="+", help="columns of the expression, averaged without missing values; in FASTA "
        "the key before '='")  # fmt: skip
    add("--split_column", help="column with train, validation or test")
    add("--config", help="configuration of a data set on the Hub")
    add("--revision", help="commit, tag or branch of a data set on the Hub; the default data set is pinned")
    add("--hub_split", help="use only this split of a data set on the Hub, and split it anew")
    add("--num_sequences", type=int, default=100_000, help="promoters to simulate")
    add("--extra_columns", nargs="*", help="other columns to keep")
    add = parser.add_argument_group("output").add_argument
    add("--output", required=True, help="folder to write")
    add("--overwrite", action="store_true", help="replace an existing data set")
    add("--split_by", choices=("cluster", "row"), default="cluster", help="keep near-copies together, or only "
        "identical sequences")  # fmt: skip
    add("--cluster_kmer", type=int, default=Division().cluster_kmer, help="length in nt, up to 32, of the k-mer that "
        "near-copies share")  # fmt: skip
    add("--cluster_column", help="column with cluster names, instead of near-copies")
    add("--weight_column", help="column with the weight (positive) of each row in the training loss")
    add("--average_duplicates", action="store_true", help="store equal sequences once, with the mean of their values")
    add("--validation_fraction", type=float, default=0.05, help="share of rows for validation")
    add("--seed", type=int, default=0, help="seed of the split and of the simulation")
    add("--strict", action="store_true", help="stop at the first rejected row")
    add = parser.add_argument_group("sequence", argument_default=argparse.SUPPRESS).add_argument
    add("--init_from", default=None, help="checkpoint folder or Hub model to fine-tune: its tokenizer settings become "
        "the defaults")  # fmt: skip
    add("--flank5", help=f"constant 5' end, '' for none (default: {FLANK5})")
    add("--flank3", help=f"constant 3' end, '' for none (default: {FLANK3})")
    add("--trimming", choices=("auto", "always", "never"), help="when to cut these ends (default: auto)")
    add("--strand_length", type=int, help="longest variable part in nt (default: 100)")
    add("--kmer_size", type=int, help="k-mer length in nt (default: 10)")
    return parser.parse_args(argv)


def make_tokenizer(args: argparse.Namespace) -> KmerTokenizer:
    """Make the default or the checkpoint's tokenizer, with the given options; lengths must match the checkpoint."""
    given = {name: getattr(args, name) for name in TOKENIZER_SETTINGS if hasattr(args, name)}
    if args.init_from is None:
        return KmerTokenizer(**given)
    from modeling_macaron.loading import load_settings

    config, tokenizer = load_settings(args.init_from)
    settings = {name: getattr(tokenizer, name) for name in TOKENIZER_SETTINGS} | given
    for name in ("kmer_size", "strand_length"):
        if settings[name] != getattr(config, name):
            raise ValueError(f"{name} is {getattr(config, name)} in {args.init_from}, got {settings[name]}")
    return KmerTokenizer(**settings)


def main(argv: list[str] | None = None) -> None:
    """Prepare a data set."""
    args = parse_arguments(argv)
    try:
        tokenizer = make_tokenizer(args)
        table = open_source(**{name: getattr(args, name) for name in SOURCE_OPTIONS})
        options = {name: getattr(args, name) for name in OUTPUT_OPTIONS}
        report = prepare_dataset(table, args.output, tokenizer=tokenizer, verbose=True, **options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")
    print(format_report(report))
    print(f"{'written to':<11} {args.output} (with report.json)")


if __name__ == "__main__":
    main()
