"""Measure the peak memory of prediction, variants, mutagenesis and attribution by number of sequences.

    python -m benchmarks.memory

Each command runs in its own process on random promoters. The model is so small that memory depends only on the rows.
Writes JSON into `results/memory/`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch

from benchmarks.figures import RESULTS, Results, describe_machine, make_parser, result_path, run_script
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from tokenization import KmerTokenizer

SIZES = (1_000, 10_000, 100_000, 1_000_000)
STRAND_LENGTH = 12
COMMANDS = ("predict", "variants", "mutagenesis", "attribution")


def make_checkpoint(folder: Path) -> None:
    """Save a model of a few hundred parameters with its tokenizer."""
    torch.manual_seed(0)
    config = MacaronConfig(
        strand_length=STRAND_LENGTH, kmer_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, head_dim=8,
        intermediate_size=8, conv_kernel_size=3, num_expression_positions=1,
    )  # fmt: skip
    MacaronForExpressionPrediction(config).save_pretrained(folder)
    KmerTokenizer(kmer_size=3, strand_length=STRAND_LENGTH).save_pretrained(folder)


def write_promoters(path: Path, rows: int) -> None:
    """Write random promoters, each with a position and the alleles of a substitution."""
    generator = np.random.default_rng(0)
    bases = np.array(list("ACGT"))
    ids = generator.integers(0, 4, (rows, STRAND_LENGTH))
    positions = generator.integers(0, STRAND_LENGTH, rows)
    reference = ids[np.arange(rows), positions]
    table = pa.table({
        "sequence": pa.array(bases[ids].view(f"U{STRAND_LENGTH}").ravel()),
        "position": pa.array(positions + 1),
        "ref": pa.array(bases[reference]),
        "alt": pa.array(bases[(reference + 1) % 4]),
    })  # fmt: skip
    pa.parquet.write_table(table, path, row_group_size=100_000)


def run(results: Results, sizes: list[int], commands: list[str], folder: Path) -> None:
    """Measure each command on files of increasing numbers of rows."""
    make_checkpoint(folder / "model")
    for rows in sizes:
        write_promoters(folder / f"{rows}.parquet", rows)
    for command in commands:
        for rows in sizes:
            output = folder / "output.parquet"
            seconds, peak = run_script(command, folder / "model", folder / f"{rows}.parquet", output)
            lines = pa.parquet.read_metadata(output).num_rows
            output.unlink()
            results.row("memory", command=command, rows=rows, lines=lines, seconds=seconds, peak_memory_mb=peak)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = make_parser("memory", __doc__, "results/memory/MACHINE.json")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="rows of the files")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="default: all")
    args = parser.parse_args(argv)
    machine = describe_machine()
    results = Results("memory", machine)
    with tempfile.TemporaryDirectory() as folder:
        run(results, sorted(args.sizes), args.commands, Path(folder))
    return results.finish(args.output or result_path(machine, RESULTS / "memory"))


if __name__ == "__main__":
    sys.exit(main())
