#!/usr/bin/env python
"""Convert weights of the original TensorFlow implementation to a folder for the Hub.

    python scripts/convert_tf_checkpoint.py SOURCE OUTPUT_DIR [--config JSON] [--overwrite]

SOURCE is the prefix of a TensorFlow checkpoint (needs the extra `tensorflow`) or a .safetensors file with the
original's variable names. Shapes give the architecture; JSON (a file or text) gives the other config fields:
'{"num_expression_positions": 32, "expression_mean": 11.15, "expression_std": 2.35}'.
"""

import argparse
import json
import sys
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from modeling_macaron.conversion import convert_checkpoint


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="prefix of a TensorFlow checkpoint, or a .safetensors file")
    parser.add_argument("output_dir", type=Path, help="folder to write")
    parser.add_argument("--config", help="JSON (file or text) with config fields that do not follow from shapes")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT_DIR if it holds a model")
    args = parser.parse_args(argv)
    try:
        is_file = args.config and not args.config.lstrip().startswith("{")
        fields = json.loads(Path(args.config).read_text(encoding="utf-8") if is_file else args.config or "{}")
        model = convert_checkpoint(args.source, args.output_dir, overwrite=args.overwrite, **fields)
    except (ValueError, OSError, ImportError, SafetensorError, StrictDataclassError) as error:
        sys.exit(f"error: {error}")
    print(f"{model.num_parameters():,} parameters written to {args.output_dir}")
    for name in ("num_expression_positions", "gate_activation", "expression_mean", "expression_std"):
        print(f"  {name} = {getattr(model.config, name)} (not stored in the weights; set it with --config)")


if __name__ == "__main__":
    main()
