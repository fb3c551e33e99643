#!/usr/bin/env python
"""Predict variant effects: expression of the alternative allele minus that of the reference allele.

    python scripts/variants.py MODEL TABLE OUTPUT
    python scripts/variants.py MODEL VARIANTS.vcf OUTPUT --genome GENOME.fa --promoters PROMOTERS.bed

MODEL is a checkpoint folder or a name on the Hub. TABLE (TSV, CSV, XLSX or Parquet) has pairs of sequences (columns
reference_sequence, alternative_sequence) or variants within a sequence (sequence, position, ref, alt). A VCF (or BCF)
needs the genome's FASTA and a BED of the promoters with their strand; it gives one line per variant, alternative allele
and promoter. OUTPUT is a .tsv, .csv or .parquet file with `reference_expression`, `alternative_expression`, `delta`
(alternative minus reference) and `problem`, the reason for a missing delta.
"""

import argparse
import sys
from pathlib import Path

from modeling_macaron.analysis import command_line
from modeling_macaron.analysis.predict import FilePrediction
from modeling_macaron.analysis.variants import variants_file

VCF_SUFFIXES = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")
OPTIONS = (
    *("both_orientations", "plots", "num_plots", "plot_format", "strict", "overwrite", "overflow"),
    *("batch_size", "device", "merged", "dtype", "compile_model"),
)
COLUMNS = (
    "name_column",
    "reference_column",
    "alternative_column",
    "sequence_column",
    "position_column",
    "position_base",
)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command_line.add_files(parser, source="table, VCF or BCF")
    parser.add_argument("--genome", type=Path, help="FASTA of the genome, plain or bgzipped, for a VCF")
    parser.add_argument("--promoters", type=Path, help="BED of the promoters, six columns, for a VCF")
    parser.add_argument("--reference_column", help="column of the reference sequence or allele")
    parser.add_argument("--alternative_column", help="column of the alternative sequence or allele")
    parser.add_argument("--sequence_column", help="column of the sequence that contains the variant")
    parser.add_argument("--name_column", help="column of the promoter names, for the figures")
    parser.add_argument("--position_column", help="column of the position of the first base of ref")
    parser.add_argument("--position_base", type=int, choices=(0, 1), help="position of the first base (1, as in VCF)")
    parser.add_argument(
        "--overflow", choices=("refuse", "trim"), default="refuse",
        help="report a variable part longer than the model reads as a problem, or trim its 5' end (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--both_orientations", action="store_true", help="average over both orientations")
    command_line.add_figures(parser, of="promoters")
    parser.add_argument("--strict", action="store_true", help="stop at the first variant without an effect or bad line")
    command_line.add_batches(parser)
    command_line.add_speed(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and predict."""
    args = build_parser().parse_args(argv)
    command_line.prepare_process()
    try:
        result = _predict(args)
    except (ValueError, OSError, MemoryError, ImportError) as error:
        sys.exit(f"error: {error}")
    print(f"{command_line.plural(result.num_rows, 'variant')} written to {args.output}")
    if result.num_problems:
        print(f"{result.num_problems:,} of them could not be predicted: the column `problem` says why")
    command_line.report_malformed(result, args.source)


def _predict(args: argparse.Namespace) -> FilePrediction:
    """Predict a table or a VCF."""
    is_vcf = args.source.name.lower().endswith(VCF_SUFFIXES)
    columns = {name: getattr(args, name) for name in COLUMNS if getattr(args, name) is not None}
    options = {name: getattr(args, name) for name in OPTIONS} | {"verbose": True}
    if not is_vcf:
        if args.genome or args.promoters:
            raise ValueError(
                f"--genome and --promoters are for a VCF ({', '.join(VCF_SUFFIXES)}), not for {args.source}"
            )
        return variants_file(args.model, args.source, args.output, **columns, **options)
    if not (args.genome and args.promoters):
        raise ValueError("a VCF needs --genome (FASTA) and --promoters (BED)")
    if columns:
        raise ValueError(f"--{next(iter(columns))} is for a table, not for a VCF")
    try:
        from modeling_macaron.analysis.genome_variants import vcf_file
    except ImportError as error:
        raise ImportError(f'{error}; pip install -e ".[analysis]" in a clone of the repository') from error
    return vcf_file(args.model, args.source, args.genome, args.promoters, args.output, **options)


if __name__ == "__main__":
    main()
