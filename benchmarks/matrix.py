"""Run the tests on the lowest and the newest versions that `pyproject.toml` allows, on every Python.

    pip install uv
    python -m benchmarks.matrix                    # or: make test-matrix

For the lowest versions on the oldest Python, and the newest ones on each, uv makes an environment with the extras
`train` and `analysis`, and the quick tests run there. (Newer Pythons have no builds of the oldest numpy and its like.)
Writes JSON into `results/reliability/`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import RESULTS, Results, describe_machine
from benchmarks.peak_memory import ROOT

OUTPUT = RESULTS / "reliability" / "matrix.json"
COMBINATIONS = ("3.10-lowest", "3.10-newest", "3.11-newest", "3.12-newest", "3.13-newest")
ENDS = {"lowest": "lowest-direct", "newest": "highest"}
TOOLS = ("hypothesis>=6.100", "pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.5")
# Those that start processes again and again are left to `make test`.
TESTS = (
    "tests/test_attention_macaron.py", "tests/test_configuration_macaron.py", "tests/test_hub_folder.py",
    "tests/test_layers_macaron.py", "tests/test_modeling_macaron.py", "tests/test_modeling_training.py",
    "tests/test_overlap.py", "tests/test_pipeline_macaron.py", "tests/test_tables.py", "tests/tokenization",
    "tests/metrics", "tests/training/test_collator.py", "tests/training/test_data.py", "tests/training/test_sources.py",
    "tests/training/test_trainer.py", "tests/analysis/test_design.py", "tests/analysis/test_evaluation.py",
    "tests/analysis/test_genome_variants.py", "tests/analysis/test_mutagenesis.py", "tests/analysis/test_predict.py",
    "tests/analysis/test_sequence_plots.py", "tests/analysis/test_variants.py",
)  # fmt: skip
SHOWN = ("torch", "transformers", "datasets", "accelerate", "huggingface-hub", "numpy", "pyarrow", "pandas")


def versions_in(python: Path) -> dict[str, str]:
    """Versions of the packages that matter in an environment."""
    code = "from importlib.metadata import version; print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    done = subprocess.run(
        [python, "-c", f"import json, sys; {code}", *SHOWN], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def run_tests(python: Path, tests: list[str]) -> tuple[int, int, str]:
    """Count the passed and failed tests of an environment; with the last lines of what pytest says."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "CI")}
    command = [python, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-m", "not slow", "-n", "2",
               "--dist", "loadfile", *tests]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|error)", done.stdout[-300:])}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    return counts.get("passed", 0), failed if done.returncode else 0, done.stdout[-4000:]


def run(results: Results, combinations: list[str], tests: list[str], folder: Path, output: Path) -> None:
    """Test each combination.

    Parameters
    ----------
    results : Results
        Gets a row for each.
    combinations : list of str
        Of a Python and an end of the ranges, such as `"3.12-newest"`.
    tests : list of str
        Files and folders.
    folder : Path
        For the environments, each removed when it is done.
    output : Path
        JSON file, written after each combination.
    """
    for combination in combinations:
        python, end = combination.split("-")
        place = folder / combination
        began = time.monotonic()
        subprocess.run(["uv", "venv", "--quiet", "--no-python-downloads", "--python", python, place], check=True)
        there = place / "bin/python"
        subprocess.run(
            ["uv", "pip", "install", "--quiet", "--python", there, "--resolution", ENDS[end],
             "--editable", f"{ROOT}[train,analysis]", *TOOLS], check=True,
        )  # fmt: skip
        passed, failed, told = run_tests(there, tests)
        results.row("matrix", python=python, end=end, passed=passed, failed=failed,
                    seconds=round(time.monotonic() - began), **versions_in(there))  # fmt: skip
        results.check(f"Python {python}, {end}: tests that failed", float(failed or not passed), 0.0)
        results.save(output)
        if failed or not passed:
            print(told, flush=True)
        shutil.rmtree(place)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--combinations", nargs="+", default=list(COMBINATIONS), help="of a Python and an end")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="files and folders")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    args = parser.parse_args(argv)
    if shutil.which("uv") is None:
        parser.error("uv is not installed: pip install uv")
    results = Results("matrix", describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        run(results, args.combinations, args.tests, Path(folder), args.output)
    print(f"\nwritten to {args.output}")
    return results.exit_code


if __name__ == "__main__":
    sys.exit(main())
