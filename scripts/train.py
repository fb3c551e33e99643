#!/usr/bin/env python
"""Train the model: a YAML recipe, and options that override it.

    accelerate launch scripts/train.py configs/one_gpu.yaml --dataset DIR --output_dir OUTPUT [--any_option value]

OUTPUT/final is then a folder for the Hub. `--help` lists every option.
"""

import sys

from huggingface_hub.errors import StrictDataclassError

from modeling_macaron.training.arguments import parse_recipe
from modeling_macaron.training.run import train


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    try:
        final = train(*parse_recipe(sys.argv[1:] if argv is None else argv))
    except (ValueError, OSError, StrictDataclassError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command with --resume_from_checkpoint auto goes on from the last checkpoint")
    if final is not None:
        print(f"the model is in {final}")


if __name__ == "__main__":
    main()
