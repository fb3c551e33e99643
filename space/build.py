"""Assemble the folder of a Hugging Face Space.

    python -m space.build OUTPUT
    hf upload me/my-space OUTPUT --repo-type space

The folder contains the demo, the library, the tokenizer and the checkpoint.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from modeling_macaron.atomic import new_folder
from modeling_macaron.loading import check_checkpoint_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("space", "modeling_macaron", "tokenization")
AT_THE_TOP = ("README.md", "requirements.txt")
LAUNCHER = '''"""Start the demo; a Space runs this file."""

from pathlib import Path

from space.app import main

main(["--checkpoint", str(Path(__file__).with_name("checkpoint"))])
'''


def build_space(output: str | Path, checkpoint: str | Path, overwrite: bool = False) -> None:
    """Assemble a Space. `overwrite` replaces an existing folder only if it has an `app.py`."""
    check_checkpoint_name(checkpoint)
    if not Path(checkpoint).is_dir():
        raise FileNotFoundError(f"there is no checkpoint folder {checkpoint}")
    with new_folder(output, overwrite=overwrite, marker="app.py", inputs=(checkpoint,)) as folder:
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", *AT_THE_TOP)
        for package in PACKAGES:
            shutil.copytree(ROOT / package, folder / package, ignore=ignored)
        shutil.copytree(checkpoint, folder / "checkpoint")
        for name in AT_THE_TOP:
            shutil.copy(ROOT / "space" / name, folder / name)
        (folder / "app.py").write_text(LAUNCHER)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints/macaron-promoter-library")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    options = parser.parse_args(argv)
    try:
        build_space(options.output, options.checkpoint, options.overwrite)
    except OSError as error:
        sys.exit(f"error: {error}")
    print(f"Wrote {options.output}. Push it with: hf upload OWNER/NAME {options.output} --repo-type space")


if __name__ == "__main__":
    main()
