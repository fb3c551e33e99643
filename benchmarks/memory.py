"""Measure the peak memory of prediction, variants, mutagenesis and attribution over the number of sequences.

    python -m benchmarks.memory

Each verb runs as its command line in a process of its own, on random promoters, with a model so small that the rows and
not the model decide: all of a file's rows in memory would be seen at once. Writes JSON into `results/memory/`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch

from benchmarks.figures import RESULTS, Results, describe_machine, result_path
from benchmarks.peak_memory import run_script
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from tokenization import KmerTokenizer

FOLDER = RESULTS / "memory"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
ALLOWED_GROWTH = 1.25  # of the peak, from the smallest file that fills the buffers to the largest
STRAND_LENGTH = 12
_BLOCK_ROWS = 100_000
VERBS = ("predict", "variants", "mutagenesis", "attribution")


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
    """Write random promoters, each with a position and alleles of a substitution, in blocks."""
    generator = np.random.default_rng(0)
    letters = np.array(list("ACGT"))
    writer = None
    for start in range(0, rows, _BLOCK_ROWS):
        ids = generator.integers(0, 4, (min(_BLOCK_ROWS, rows - start), STRAND_LENGTH))
        positions = generator.integers(0, STRAND_LENGTH, len(ids))
        reference = ids[np.arange(len(ids)), positions]
        table = pa.table({
            "sequence": pa.array(np.ascontiguousarray(letters[ids]).view(f"U{STRAND_LENGTH}").ravel()),
            "position": pa.array(positions + 1),
            "ref": pa.array(letters[reference]),
            "alt": pa.array(letters[(reference + 1) % 4]),
        })  # fmt: skip
        writer = writer or pa.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def run(results: Results, sizes: list[int], verbs: list[str], folder: Path) -> None:
    """Measure each verb on each size, and compare the peak of the largest file with that of the second smallest.

    Parameters
    ----------
    results : Results
        Gets the figures.
    sizes : list of int
        Rows of the files, in increasing order.
    verbs : list of str
        Of `VERBS`.
    folder : Path
        For inputs and outputs.
    """
    make_checkpoint(folder / "model")
    for rows in sizes:
        write_promoters(folder / f"{rows}.parquet", rows)
    for verb in verbs:
        peaks = {}
        for rows in sizes:
            output = folder / "output.parquet"
            paths = [str(path) for path in (folder / "model", folder / f"{rows}.parquet", output)]
            seconds, peaks[rows] = run_script(verb, *paths)
            written = pa.parquet.read_metadata(output).num_rows
            output.unlink()
            results.row("memory", verb=verb, rows=rows, lines=written, seconds=seconds, peak_memory_mb=peaks[rows])
        first, last = sizes[min(1, len(sizes) - 1)], sizes[-1]
        name = f"{verb}: peak memory of {last:,} rows against {first:,}"
        results.figure(name, peaks[last] / peaks[first], "x", bar=ALLOWED_GROWTH, lower_is_better=True)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="rows of the files")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS), help="by default all")
    parser.add_argument("--output", type=Path, help="JSON file to write; default: results/memory/MACHINE.json")
    args = parser.parse_args(argv)
    if args.output is not None and (args.output.is_dir() or args.output.suffix != ".json"):
        parser.error(f"--output {args.output}: name a file that ends in .json")
    machine = describe_machine()
    print(f"{machine['name']}, torch {machine['versions']['torch']}")
    results = Results("memory", machine)
    with tempfile.TemporaryDirectory() as folder:
        run(results, sorted(args.sizes), args.verbs, Path(folder))
    output = args.output or result_path(machine, FOLDER)
    results.save(output)
    print(f"\nwritten to {output}")
    return results.exit_code


if __name__ == "__main__":
    sys.exit(main())
