#!/usr/bin/env python
"""Train the model from a YAML recipe and options that override it.

    python scripts/train.py configs/one_gpu.yaml --dataset DIR --output_dir OUTPUT [--any_option value]

OUTPUT/final is a complete folder for the Hub. `--help` lists every option.
"""

import json
import sys

from huggingface_hub.errors import StrictDataclassError
from yaml import YAMLError

from modeling_macaron.analysis.command_line import prepare_process
from modeling_macaron.machine import run_command
from modeling_macaron.training.arguments import parse_recipe
from modeling_macaron.training.model_card import TRAINING_FACTS, compare_with_ridge
from modeling_macaron.training.run import train


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    prepare_process()
    try:
        final = train(*parse_recipe(sys.argv[1:] if argv is None else argv))
    except (ValueError, OSError, ImportError, FloatingPointError, StrictDataclassError, YAMLError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command with --resume_from_checkpoint auto continues from the last checkpoint")
    if final is not None:
        facts = json.loads((final / TRAINING_FACTS).read_text(encoding="utf-8"))
        r, rho = facts["metrics"]["pearson_r"], facts["metrics"]["spearman_rho"]
        best = facts["best_step"] or facts["steps"]
        print(
            f"{facts['steps']:,} steps in {facts['run_seconds'] / 60:.1f} min; on {facts['validation_rows']:,} "
            f"validation rows Pearson r {r:.3f}, Spearman rho {rho:.3f} (best: step {best:,})"
        )
        if ridge := compare_with_ridge(facts):
            print(ridge)
        print(f"the model is in {final}; its card and figures are there too")


if __name__ == "__main__":
    run_command(main)
