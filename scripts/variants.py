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
from pathlib import Path

from modeling_macaron.analysis import command_line
from modeling_macaron.analysis.figures import VariantFigures
from modeling_macaron.analysis.files import FileResult
from modeling_macaron.analysis.variants import OVERFLOW, variants_file
from modeling_macaron.machine import run_command

VCF_SUFFIXES = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")
ROLES = ("reference", "alternative", "sequence", "position")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_line.make_parser(__doc__)
    command_line.add_files(parser, source="table, VCF or BCF")
    parser.add_argument("--genome", type=Path, help="FASTA of the genome, plain or bgzipped, for a VCF")
    parser.add_argument("--promoters", type=Path, help="BED of the promoters, six columns, for a VCF")
    parser.add_argument("--reference_column", help="column of the reference sequence or allele")
    parser.add_argument("--alternative_column", help="column of the alternative sequence or allele")
    parser.add_argument("--sequence_column", help="column of the sequence that contains the variant")
    parser.add_argument("--position_column", help="column of the position of the first base of ref")
    parser.add_argument("--position_base", type=int, choices=(0, 1), help="position of the first base (1, as in VCF)")
    parser.add_argument(
        "--overflow", choices=OVERFLOW, default="refuse",
        help="report a variable part longer than the model reads as a problem, or trim its 5' end (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--both_orientations", action="store_true", help="average over both orientations")
    command_line.add_figures(parser, of="promoters")
    command_line.add_run(parser, "stop at the first malformed line or variant without an effect", sequence_column=False)
    command_line.add_model(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and predict."""
    args = build_parser().parse_args(argv)
    result = command_line.run(lambda: _predict(args))
    if not command_line.is_main_process():
        return
    print(f"{command_line.plural(result.num_rows, 'variant')} written to {args.output}")
    if result.num_problems:
        print(f"{result.num_problems:,} of them could not be predicted: the column `problem` gives the reason")
    command_line.report_malformed(result, args.source)


def _predict(args: argparse.Namespace) -> FileResult:
    """Predict a table or a VCF."""
    is_vcf = args.source.name.lower().endswith(VCF_SUFFIXES)
    columns = {role: getattr(args, f"{role}_column") for role in ROLES if getattr(args, f"{role}_column") is not None}
    if not is_vcf and (args.genome or args.promoters):
        raise ValueError(f"--genome and --promoters are for a VCF ({', '.join(VCF_SUFFIXES)}), not for {args.source}")
    if is_vcf and not (args.genome and args.promoters):
        raise ValueError("a VCF needs --genome (FASTA) and --promoters (BED)")
    if is_vcf and (columns or args.name_column or args.position_base is not None):
        raise ValueError("--position_base and the names of columns are for a table, not for a VCF")
    options = {
        "figures": command_line.figures_of(args, VariantFigures), "options": command_line.file_options(args),
        "overflow": args.overflow, "both_orientations": args.both_orientations,
    }  # fmt: skip
    if not is_vcf:
        base = 1 if args.position_base is None else args.position_base
        predictor = command_line.load_predictor(args)
        return variants_file(predictor, args.source, args.output, columns=columns, position_base=base, **options)
    try:
        from modeling_macaron.analysis.genome_variants import vcf_file
    except ImportError as error:
        raise ImportError(f'{error}; pip install "macaron-promoter[analysis]"') from error
    predictor = command_line.load_predictor(args, args.genome, args.promoters)
    return vcf_file(predictor, args.source, args.genome, args.promoters, args.output, **options)


if __name__ == "__main__":
    run_command(main)
