#!/usr/bin/env python
"""Prepare a table of promoters and their expression as a memory-mapped data set for training, with a report."""

import argparse
import sys

from modeling_macaron.data.clusters import DEFAULT_KMER
from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.report import format_report
from modeling_macaron.data.sources import DEFAULT_DATASET, open_source
from tokenization import FLANK3, FLANK5, TOKENIZER_SETTINGS, KmerTokenizer


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    source = parser.add_argument_group("source")
    source.add_argument(
        "--source",
        help="a .tsv, .csv, .xlsx, .parquet or .fasta file (text also .gz or .zst), 'simulate', or a data set on the "
        f"Hub as owner/name; without it {DEFAULT_DATASET}",
    )
    source.add_argument("--sequence_column", help="name, or 0, 1, 2, ... without a header; else the usual names")
    source.add_argument(
        "--value_column", nargs="+",
        help="the same for the expression; several columns are averaged without missing values; in FASTA the key "
        "before '='",
    )  # fmt: skip
    source.add_argument("--split_column", help="column with train, validation or test")
    source.add_argument("--config", help="configuration of a data set on the Hub")
    source.add_argument(
        "--revision", help="commit, tag or branch of a data set on the Hub; the default data set is pinned"
    )
    source.add_argument("--hub_split", help="use and divide only this split of a data set on the Hub")
    source.add_argument("--num_sequences", type=int, help="promoters to simulate (100,000 without it)")
    source.add_argument("--extra_columns", nargs="*", help="other columns to keep")
    output = parser.add_argument_group("output")
    output.add_argument("--output", required=True, help="folder to write")
    output.add_argument("--overwrite", action="store_true", help="replace an existing data set")
    output.add_argument(
        "--split_by", choices=("cluster", "row"), default="cluster",
        help="cluster: keep near-copies together; row: keep only identical sequences together",
    )  # fmt: skip
    output.add_argument(
        "--cluster_kmer", type=int, default=DEFAULT_KMER, help="nt, up to 32, that near-copies have in common"
    )
    output.add_argument("--cluster_column", help="column with cluster names, instead of near-copies")
    output.add_argument("--weight_column", help="column with the weight (positive) of each row in the training loss")
    output.add_argument(
        "--average_duplicates", action="store_true", help="store equal sequences once, with the mean of their values"
    )
    output.add_argument("--validation_fraction", type=float, default=0.05, help="share of rows for validation")
    output.add_argument("--seed", type=int, default=0, help="seed of the split and of the simulation")
    output.add_argument("--strict", action="store_true", help="stop at the first rejected row")
    sequence = parser.add_argument_group("sequence")
    sequence.add_argument(
        "--init_from", help="checkpoint folder or Hub model to fine-tune: its tokenizer settings become the defaults"
    )
    unless_given = {"default": argparse.SUPPRESS}  # then the tokenizer's or the checkpoint's own
    sequence.add_argument("--flank5", help=f"constant 5' end, '' for none (default: {FLANK5})", **unless_given)
    sequence.add_argument("--flank3", help=f"constant 3' end, '' for none (default: {FLANK3})", **unless_given)
    sequence.add_argument(
        "--trimming", choices=("auto", "always", "never"), help="when to cut these ends (default: auto)", **unless_given
    )
    sequence.add_argument(
        "--strand_length", type=int, help="longest variable part in nt (default: 100)", **unless_given
    )
    sequence.add_argument("--kmer_size", type=int, help="k-mer length in nt (default: 10)", **unless_given)
    return parser.parse_args(argv)


def make_tokenizer(args: argparse.Namespace) -> KmerTokenizer:
    """Make the default or the checkpoint's tokenizer, with the given options; lengths must match the checkpoint."""
    given = {name: getattr(args, name) for name in TOKENIZER_SETTINGS if hasattr(args, name)}
    if args.init_from is None:
        return KmerTokenizer(**given)
    from modeling_macaron.loading import load_settings

    config, tokenizer = load_settings(args.init_from)
    settings = {name: getattr(tokenizer, name) for name in TOKENIZER_SETTINGS}
    for name in ("kmer_size", "strand_length"):
        of_model = getattr(config, name)
        if settings[name] != of_model:
            raise ValueError(f"the checkpoint {args.init_from} has {name} {of_model}, its tokenizer {settings[name]}")
        if given.get(name, of_model) != of_model:
            raise ValueError(f"--{name} is {of_model} in {args.init_from}, got {given[name]}: leave it out")
    return KmerTokenizer(**{**settings, **given})


def main(argv: list[str] | None = None) -> None:
    """Prepare a data set."""
    args = parse_arguments(argv)
    try:
        tokenizer = make_tokenizer(args)
        table = open_source(
            args.source,
            sequence_column=args.sequence_column,
            value_column=args.value_column,
            split_column=args.split_column,
            config=args.config,
            revision=args.revision,
            hub_split=args.hub_split,
            num_sequences=args.num_sequences,
            seed=args.seed,
        )
        report = prepare_dataset(
            table,
            args.output,
            tokenizer=tokenizer,
            split_by=args.split_by,
            cluster_kmer=args.cluster_kmer,
            cluster_column=args.cluster_column,
            weight_column=args.weight_column,
            average_duplicates=args.average_duplicates,
            validation_fraction=args.validation_fraction,
            seed=args.seed,
            strict=args.strict,
            overwrite=args.overwrite,
            extra_columns=args.extra_columns,
            details={"init_from": args.init_from},
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
