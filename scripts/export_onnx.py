#!/usr/bin/env python
"""Export a model's expression prediction to ONNX, for programs without PyTorch.

    python scripts/export_onnx.py MODEL OUTPUT

MODEL is a checkpoint folder or a name on the Hub. OUTPUT is a .onnx file with the input `input_ids`
(batch, 2 * strand_length) and the output `expression` (batch,) in assay units. The export is compared with PyTorch
before OUTPUT is written.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

from modeling_macaron.analysis import command_line
from modeling_macaron.export import export_onnx


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder or name on the Hub")
    parser.add_argument("output", type=Path, help="file to write: .onnx")
    projections = parser.add_mutually_exclusive_group()
    help_merged = "merge the attention projections (default: if it adds no parameters and no arithmetic)"
    projections.add_argument("--merged", action="store_true", default=None, help=help_merged)
    projections.add_argument("--separate", dest="merged", action="store_false", help="keep them as they are")
    parser.add_argument("--opset", type=int, help="version of the ONNX operators (default: chosen by torch)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument("--no_check", dest="check", action="store_false", help="do not compare with PyTorch")
    args = parser.parse_args(argv)
    command_line.prepare_process()
    warnings.simplefilter("ignore", FutureWarning)  # the exporter's own
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        result = export_onnx(
            args.model, args.output, merged=args.merged, opset=args.opset, overwrite=args.overwrite, check=args.check
        )
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(f"{result.path} written: {result.num_bytes / 1e6:,.1f} MB, opset {result.opset}")
    if result.error is not None:
        print(f"largest difference from PyTorch: {result.error:.1e} standard deviations of expression")


if __name__ == "__main__":
    main()
