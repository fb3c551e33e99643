#!/usr/bin/env python
"""Predict the expression of every promoter in a file.

    python scripts/predict.py MODEL INPUT OUTPUT
    accelerate launch --num_processes 4 scripts/predict.py MODEL INPUT OUTPUT      (four GPUs)

MODEL is a checkpoint folder or a name on the Hub; INPUT is a TSV, CSV, FASTA or Parquet file (text also as .gz or
.zst); OUTPUT is a .tsv, .csv or .parquet file with the columns of INPUT, `predicted_expression` and `problem`.
It appears when it is complete; until then what is done stands in the folder OUTPUT.parts, from which --resume goes on.
"""

import argparse
import os
import sys
from pathlib import Path

from modeling_macaron.analysis.predict_file import predict_file


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder or name on the Hub")
    parser.add_argument("input", type=Path, help="file with sequences")
    parser.add_argument("output", type=Path, help="file to write: .parquet, .csv or .tsv")
    parser.add_argument("--sequence_column", help="column of the DNA; its position, from 0, where there is no header")
    parser.add_argument("--resume", action="store_true", help="go on with what an interrupted run has left")
    parser.add_argument("--strict", action="store_true", help="stop at a row that cannot be predicted")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT where it exists")
    parser.add_argument("--batch_size", type=int, default=256, help="sequences through the model at once (%(default)s)")
    parser.add_argument("--merged", action="store_true", help="merge the attention's projections: same numbers, faster")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="convert the weights")
    parser.add_argument(
        "--compile", action="store_true", help="compile the model: later start, faster; for large files"
    )
    parser.add_argument("--deduplicate", action="store_true", help="compute sequences that are equal once")
    parser.add_argument("--device", help="for example cuda:1 or cpu; default: the GPU where there is one")
    args = parser.parse_args(argv)
    try:
        result = predict_file(
            args.model,
            args.input,
            args.output,
            sequence_column=args.sequence_column,
            resume=args.resume,
            strict=args.strict,
            overwrite=args.overwrite,
            batch_size=args.batch_size,
            device=args.device,
            merged=args.merged,
            dtype=args.dtype,
            compile_model=args.compile,
            deduplicate=args.deduplicate,
            verbose=True,
        )
    except (ValueError, OSError, MemoryError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: --resume goes on with the rows that are done")
    if int(os.environ.get("RANK", "0")) > 0:
        return  # the first process speaks for all
    print(f"{result.num_rows:,} rows written to {args.output}")
    if result.num_problems:
        print(f"{result.num_problems:,} of them could not be predicted: their column `problem` says why")
    if result.num_malformed:
        print(f"{result.num_malformed:,} lines of {args.input} are no rows and were left out")


if __name__ == "__main__":
    main()
