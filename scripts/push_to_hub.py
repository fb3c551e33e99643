#!/usr/bin/env python
"""Push a trained model folder to the Hugging Face Hub.

    python scripts/push_to_hub.py FOLDER REPO_ID [--private] [--revision BRANCH]

FOLDER is OUTPUT/final of a training: weights, config, tokenizer, their code and the model card. An incomplete folder is
not uploaded. The token comes from `hf auth login`, HF_TOKEN or --token.
"""

import argparse
import sys
from pathlib import Path

from modeling_macaron.hub import push_folder


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and push."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="model folder")
    parser.add_argument("repo_id", help="NAME or OWNER/NAME; created if needed")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="branch to push to, created if needed (default: main)")
    parser.add_argument("--commit_message", help="commit message")
    parser.add_argument("--token", help="access token with write permission")
    args = vars(parser.parse_args(argv))
    try:
        url = push_folder(args.pop("folder"), args.pop("repo_id"), **args)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(url)


if __name__ == "__main__":
    main()
