"""Execute notebooks and save the outputs: `python -m tests.notebooks.execute NOTEBOOK...`.

A notebook is written after all its cells have run, without times and versions.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_TIMEOUT = 600  # seconds; minutes where several tests share a core


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a copy of a notebook in a fresh kernel with working directory `folder`. Does not change the file."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def main(argv: list[str] | None = None) -> None:
    """Execute notebooks in place."""
    for path in map(Path, sys.argv[1:] if argv is None else argv):
        started = time.monotonic()
        nbformat.write(execute(path, path.parent), path)
        print(f"{path}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
